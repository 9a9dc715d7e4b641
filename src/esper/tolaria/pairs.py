"""Pairs: the parts of the validation data whose losses are compared without and with a seed, and the way to each part's loss.

A seed is judged by differences of losses over such parts (`esper.tamiyo.evidence`), and a few of them give no confidence. A loss that is a
mean makes one part of a batch, so more is made of it, by the first of these ways that holds for the loss and the data:

* samples: the loss gives one number a sample, or the same number of them for each, one sample after the other.
* unreduced: a loss that takes `reduction`, as torch's own do, is asked for "none": a module, a function, a functools.partial of one. Class
  weights and `ignore_index` of torch's cross entropy weigh the samples as they do in its mean.
* pieces of outputs: the model's output and the targets are cut, and the loss is that of each piece.
* pieces of batches: the batch itself is cut, and model and loss are evaluated on each piece; also with `objective=`.
* batches: each batch is one part.

Batches are cut into as many pieces as give the pairs that are wanted, and are not cut where there are as many batches.

**What is assumed, and checked** before the first step, on every validation batch, in eval mode and without gradient: the mean over the
parts, weighted by their samples, is the loss that the batch has as a whole, within the square root of its type's precision (3e-4 of it in
float32); and calling the loss changes no tensor, number or text that it holds. Losses within a batch (contrastive ones, the worst of a
batch), masks and weights of the user's own do not pass, nor does a loss that draws random numbers: their batches stay whole. What a
function keeps elsewhere is not seen. The user's own loss of each whole batch is what is logged, and trained on, in any case.
"""

import copy
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.errors import DataError
from esper.events.kinds.run import Pairs, PairsOf
from esper.tolaria.objective import Batch, Loss, Objective, Supervised, WithoutMetrics, piece_of, size_of

_PART: Mapping[PairsOf, str] = {
    "samples": "one a sample",
    "unreduced": "one a sample",
    "pieces_of_outputs": "one a piece of a batch",
    "pieces_of_batches": "one a piece of a batch",
    "batches": "one a validation batch",
}


class BatchLosses(NamedTuple):
    """Loss and metrics of a batch of `samples`, as the objective gives them, and the losses of its N parts with the samples of each."""

    loss: Tensor
    metrics: dict[str, Tensor]
    samples: int
    values: Tensor
    weights: Tensor


Measure = Callable[[nn.Module, Batch], BatchLosses]


_WANTED = 64
"""Pairs, as far as the data give them: the standard error is known within 9 % then, and Student's t is near the normal distribution."""


def measure_of(objective: Objective, pairs: Pairs) -> Measure:
    """The way to losses that `pairs` names. Raises DataError where `objective` does not have it: it is another one than it was then."""
    found = _ways(objective, pairs.pieces).get(pairs.of)
    if found is None:
        raise DataError(f"expected the loss that this run began with, of which pairs are had as {pairs.of!r}; got another one")
    return found


def find_pairs(model: nn.Module, batches: Iterable[Batch], objective: Objective, *, length: int, least: int) -> Pairs:
    """The first way that holds for all `batches`, and the reason in words. `length` batches there are, and `least` pairs are needed."""
    pieces = math.ceil(max(_WANTED, least) / max(1, length))
    spare = copy_of(objective)
    ways, name, held = _ways(spare, pieces), _name(objective), _held(spare)
    count, problems = Counter[PairsOf](), dict[PairsOf, str]()
    try:
        for batch in batches:
            loss = spare(model, batch)[0]
            for way in [way for way in ways if way not in problems]:
                parts, problem = _tried(way, ways[way], model, batch, loss)
                count[way] += parts
                problems |= {way: problem} if problem else {}
    except Exception as error:
        problems |= dict.fromkeys(ways, _words(error))
    if not _same(held, _held(spare)):
        problems |= dict.fromkeys([way for way in ways if way != "samples"], f"calling {name} changes what it holds")
    of: PairsOf = next((way for way in ways if way not in problems), "batches")
    reason = {
        "samples": "the loss gives one number a sample",
        "unreduced": f"{name} is asked for reduction='none'",
        "pieces_of_outputs": f"{name} is evaluated on each piece of a batch's outputs",
        "pieces_of_batches": f"{name} is evaluated on each piece of a batch",
        "batches": problems.get("batches") or (next(reversed(problems.values()), "") if pieces > 1 else "there are enough batches"),
    }
    return Pairs(of=of, count=count[of], pieces=pieces if of.startswith("pieces") else 1, reason=reason[of])


def warning(pairs: Pairs, least: int) -> str:
    """A warning about `pairs` before the first step, where `least` are needed: too few, or batches that could not be cut."""
    if pairs.count >= least and (pairs.of != "batches" or pairs.count >= _WANTED):
        return ""
    few = f"; fewer than {least} give no confidence, so that nothing will be grafted" if pairs.count < least else ""
    said = f"a seed is judged by {pairs.count} pairs of losses, {_PART[pairs.of]} ({pairs.reason}){few}"
    return f"{said}: give a loss of one number a sample, or more validation data"


def _ways(objective: Objective, pieces: int) -> dict[PairsOf, Measure]:
    """The ways that may hold for `objective`, the sharpest first; `batches` always does."""
    ways: dict[PairsOf, Measure] = {"samples": partial(given, objective)}
    if isinstance(objective, Supervised):
        if (asked := _asked(objective.loss)) is not None:
            ways["unreduced"] = partial(_unreduced, objective, asked)
        if pieces > 1:
            ways["pieces_of_outputs"] = partial(_pieces_of_outputs, objective, pieces)
    if pieces > 1:
        ways["pieces_of_batches"] = partial(_pieces_of_batches, objective, pieces)
    return ways | {"batches": partial(_whole, objective)}


def _tried(way: PairsOf, measure: Measure, model: nn.Module, batch: Batch, loss: Tensor) -> tuple[int, str]:
    """The parts that `way` makes of `batch`, whose own loss is `loss`, and in words why they do not stand for it; empty: they do."""
    try:
        found = measure(model, batch)
        if way == "batches":
            return 1, ""
        if way == "samples" and (loss.numel() < found.samples or loss.numel() % found.samples):
            return 0, f"the loss gives {loss.numel()} numbers for {found.samples} samples"
        own, mean = float(loss.double().mean()), float((found.values * found.weights).sum() / found.weights.sum())
        tolerance = torch.finfo(loss.dtype).eps ** 0.5 * max(abs(own), float(found.values.abs().mean()))
    except Exception as error:
        return 0, _words(error)
    close = abs(mean - own) <= tolerance
    return len(found.values), "" if close else f"the mean over the parts of a batch is {mean:.6g}, and its own loss {own:.6g}"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]


# The ways


def given(objective: Objective, model: nn.Module, batch: Batch) -> BatchLosses:
    """A part for each sample, where the loss gives as many numbers for each; else the batch as one part."""
    loss, metrics = objective(model, batch)
    size = size_of(batch)
    if loss.numel() % size:
        return _of_pieces(loss, metrics, [loss], [(0, size)])
    return BatchLosses(loss, metrics, size, *_by_sample(loss, None, size))


def _whole(objective: Objective, model: nn.Module, batch: Batch) -> BatchLosses:
    loss, metrics = objective(model, batch)
    return _of_pieces(loss, metrics, [loss], [(0, size_of(batch))])


class _Asked(NamedTuple):
    """A loss that gives what it reduces otherwise; `reduction` is the word for how it does."""

    loss: Loss
    reduction: str


def _unreduced(objective: Supervised, asked: _Asked, model: nn.Module, batch: Batch) -> BatchLosses:
    output, targets = objective.output(model, batch)
    loss, metrics = objective.of_output(output, targets)
    size, each = size_of(batch), asked.loss(output, targets)
    shares = _class_weights(objective.loss, targets, each)
    values, weights = _by_sample(each, shares, size)
    total = each.numel() if shares is None else shares.sum()
    # In a mean the sum is divided by all shares; a sum, and the mean over a batch that is more than one over its numbers, are larger.
    scale = {"sum": total, "batchmean": total / size}.get(asked.reduction, 1.0)
    return BatchLosses(loss, metrics, size, values * scale, weights)


def _pieces_of_outputs(objective: Supervised, pieces: int, model: nn.Module, batch: Batch) -> BatchLosses:
    output, targets = objective.output(model, batch)
    spans = _spans(size_of(batch), pieces)
    losses = [objective.loss(*piece_of((output, targets), spans[-1][1], *span)) for span in spans]  # type: ignore[misc] # a pair, as it was
    return _of_pieces(*objective.of_output(output, targets), losses, spans)


def _pieces_of_batches(objective: Objective, pieces: int, model: nn.Module, batch: Batch) -> BatchLosses:
    alone = replace(objective, metrics={}) if isinstance(objective, Supervised) else objective
    spans = _spans(size_of(batch), pieces)
    losses = [alone(model, piece_of(batch, spans[-1][1], *span))[0] for span in spans]
    return _of_pieces(*objective(model, batch), losses, spans)


def _of_pieces(loss: Tensor, metrics: dict[str, Tensor], losses: list[Tensor], spans: list[tuple[int, int]]) -> BatchLosses:
    values = torch.stack([part.double().mean() for part in losses])
    return BatchLosses(loss, metrics, spans[-1][1], values, values.new_tensor([stop - start for start, stop in spans]))


def _spans(size: int, pieces: int) -> list[tuple[int, int]]:
    """The bounds of at most `pieces` pieces of `size` samples, as equal as can be."""
    pieces = min(pieces, size)
    return [(size * piece // pieces, size * (piece + 1) // pieces) for piece in range(pieces)]


def _by_sample(each: Tensor, shares: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """The mean of `each` sample's numbers, weighted by `shares`, and the sample's weight; samples of no weight are left out. None: all 1.

    Raises DataError where there are not as many numbers for each of `size` samples.
    """
    if each.numel() % size:
        raise DataError(f"expected as many losses for each of {size} samples, got {each.numel()}")
    if shares is None:
        return each.double().reshape(size, -1).mean(1), torch.ones(size, dtype=torch.float64, device=each.device)
    total = shares.reshape(size, -1).sum(1)
    sums, kept = each.double().reshape(size, -1).sum(1), total > 0
    return sums[kept] / total[kept], total[kept] * (size / total.sum())


# What a loss says about itself


def _asked(loss: Loss) -> _Asked | None:
    """The same loss, without reduction; None where it takes none. A module's copy shares its parameters."""
    if isinstance(loss, nn.Module) and isinstance(getattr(loss, "reduction", None), str):
        bare = copy.copy(loss)
        bare.reduction = "none"  # type: ignore[assignment] # a text in every loss that has it
        return _Asked(bare, str(loss.reduction))
    try:
        reduction = inspect.signature(loss).parameters.get("reduction")
    except (TypeError, ValueError):  # Not every callable says what it takes.
        return None
    taking: Callable[..., Tensor] = loss
    return None if reduction is None else _Asked(partial(taking, reduction="none"), str(reduction.default))


def _class_weights(loss: Loss, targets: Tensor, each: Tensor) -> Tensor | None:
    """The share that each number has in the mean of torch's cross entropy of class indices; None, in any other loss: all have the same."""
    inner, given = (loss.func, loss.keywords) if isinstance(loss, partial) else (loss, {})
    if isinstance(inner, nn.CrossEntropyLoss | nn.NLLLoss):
        weight, ignored = inner.weight, inner.ignore_index
    elif inner in (F.cross_entropy, F.nll_loss):
        weight, ignored = given.get("weight"), given.get("ignore_index", -100)
    else:
        return None
    if targets.is_floating_point():  # Probabilities of classes: the mean is over samples.
        return None
    kept = targets != ignored
    shares = kept.double() if weight is None else kept * weight.double()[torch.where(kept, targets, 0)]
    return shares.reshape(each.shape)


def _name(objective: Objective) -> str:
    loss = getattr(objective, "loss", objective)
    loss = loss.func if isinstance(loss, partial) else loss
    return str(getattr(loss, "__qualname__", type(loss).__qualname__))


def copy_of(objective: Objective) -> Objective:
    """The same objective with a copy of its loss, so that calling it leaves no trace; with its loss where that cannot be copied."""
    try:
        match objective:
            case Supervised():
                return replace(objective, loss=copy.deepcopy(objective.loss))
            case WithoutMetrics():
                return replace(objective, loss=copy.deepcopy(objective.loss))
    except Exception:  # noqa: S110 - whatever a class of the user's own raises when it is copied.
        pass
    return objective


def _held(objective: Objective) -> Mapping[str, object]:
    """Contents of the loss of `objective`, by name: numbers, texts, and copies of tensors."""
    loss = getattr(objective, "loss", objective)
    parts = loss.named_modules() if isinstance(loss, nn.Module) else (("", loss),)
    return {f"{name}.{key}": copy.deepcopy(value) for name, part in parts for key, value in _values(part)}


def _values(part: object) -> Iterator[tuple[str, object]]:
    buffers: Mapping[str, object] = part._buffers if isinstance(part, nn.Module) else {}
    for key, value in (*getattr(part, "__dict__", {}).items(), *buffers.items()):
        if isinstance(value, int | float | str | Tensor) and not isinstance(value, nn.Parameter):
            yield key, value


def _same(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    def equal(one: object, other: object) -> bool:
        return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other

    return before.keys() == after.keys() and all(equal(value, after[key]) for key, value in before.items())
