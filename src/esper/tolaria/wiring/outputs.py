"""Outputs beside their targets: the best constant output, and how the loss takes them when something is changed."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from esper.tolaria.objective import Loss
from esper.tolaria.wiring.judging import InputSeen, OutputSeen
from esper.tolaria.wiring.modules import near_limits

_MOST_SAMPLES = 256
_MOST_NUMBERS = 1 << 20
_FITTING_STEPS = 20
_OTHERS = 0.25
"""The least share of targets that differ from their neighbour's for an exchange of targets to say anything."""


class Kept(NamedTuple):
    """Samples of a batch: inputs, the model's outputs, targets. Shapes: N samples, then any."""

    inputs: Tensor | None
    output: Tensor
    targets: Tensor


def keep(inputs: object, output: object, targets: object) -> Kept | None:
    """A copy of samples from all over a batch; None where they are no tensors with a row a sample, or one sample is too large."""
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor) or not output.dim() or not targets.dim():
        return None
    size = len(output)
    if size < 2 or len(targets) != size or not output.is_floating_point():
        return None
    given = inputs if isinstance(inputs, Tensor) and inputs.dim() and len(inputs) == size else None
    largest = max(one.numel() // size for one in (output, targets, *([] if given is None else [given])))
    samples = min(size, _MOST_SAMPLES, _MOST_NUMBERS // max(1, largest))
    if samples < 2:
        return None
    places = torch.linspace(0, size - 1, samples).long()  # A batch may be sorted.
    copied = (None if one is None else one.detach()[places.to(one.device)] for one in (given, output, targets))
    return Kept(*copied)  # type: ignore[arg-type] # the output and the targets are there


def joined(kept: Sequence[Kept]) -> Kept | None:
    """All samples of `kept` that have the shapes of the last."""
    if not kept:
        return None
    last = kept[-1]
    alike = [one for one in kept if _shapes(one) == _shapes(last)]
    inputs = None if last.inputs is None else torch.cat([one.inputs for one in alike if one.inputs is not None])
    return Kept(inputs, torch.cat([one.output for one in alike]), torch.cat([one.targets for one in alike]))


def _shapes(kept: Kept) -> tuple[object, ...]:
    return (None if kept.inputs is None else kept.inputs.shape[1:], kept.output.shape[1:], kept.targets.shape[1:])


def output_seen(kept: Kept, loss: Loss) -> OutputSeen | None:
    """The outputs as `loss` sees them; None where it cannot be asked again."""
    output, targets = kept.output, kept.targets
    with torch.no_grad():
        given = _loss_of(loss, output, targets)
        if given is None:
            return None
        moved = targets.roll(1, 0)
        others = (
            float((moved != targets).flatten(1).any(1).float().mean()) if targets.dim() > 1 else float((moved != targets).float().mean())
        )
        permuted = _loss_of(loss, output, moved) if others > _OTHERS else None  # Sorted targets change places with their like.
        one_target = _loss_of(loss, output, targets[:1].expand_as(targets).contiguous())
        shifted = _loss_of(loss, output + 1, targets)
        low, high = float(output.min()), float(output.max())
        limits = _limits(low, high)
        flat = 0.0 if limits is None else float(near_limits(output, *limits))
        distribution = low >= 0.0 and _sums_to_one(output, class_dimension(output, targets) or 1)
    return OutputSeen(
        loss=given,
        guessing=guessing(kept, loss),
        permuted=permuted,
        one_target=one_target,
        shifted=shifted,
        of_classes=class_dimension(output, targets) is not None,
        flat=flat,
        distribution=distribution,
        spread=spread(output),
        upside_down=_upside_down(kept, loss),
        zeros=_clipped(output, targets) if low == 0.0 else 0.0,
        ignored=_ignored(output, targets, loss),
    )


def _limits(low: float, high: float) -> tuple[float, float] | None:
    """The ends of the activation that outputs may have; none where they are all 0, as those of a head that begins there."""
    if low == high == 0.0 or not -1.0 <= low <= high <= 1.0:
        return None
    return (0.0 if low >= 0.0 else -1.0, 1.0)


def _upside_down(kept: Kept, loss: Loss) -> bool:
    """True where the loss falls as predictions get worse, in both directions where they are numbers."""
    output, targets = kept.output, kept.targets
    ways: list[list[Tensor]]
    classes = class_dimension(output, targets)
    if classes is not None:
        size = output.shape[classes]
        if size < 2 or targets.numel() == 0 or int(targets.min()) < 0 or int(targets.max()) >= size:
            return False
        right = torch.nn.functional.one_hot(targets.long(), size).to(output).movedim(-1, classes)
        ways = [[right * factor for factor in (1.0, 0.0, -1.0, -4.0)]]
    elif targets.numel() == output.numel() and targets.is_floating_point():
        right = targets.reshape(output.shape).to(output)
        step = float(right.double().std()) if right.numel() > 1 else 0.0
        ways = [[right + step * factor for factor in (0.0, sign, 2 * sign, 4 * sign)] for sign in (1, -1)] if step > 0 else []
    else:
        return False
    best, exchanged = _loss_of(loss, right, targets), _loss_of(loss, right.roll(1, 0), targets)
    scale = 0.0 if best is None or exchanged is None else abs(exchanged - best)
    losses = [[_loss_of(loss, output, targets) for output in way] for way in ways]
    known = [[value for value in row if value is not None] for row in losses]
    return bool(known) and all(len(row) == 4 and all(_falls(*pair, scale) for pair in pairwise(row)) for row in known)


def _falls(before: float, after: float, scale: float) -> bool:
    """A loss falls by more than rounding; `scale`: how far it stands between predictions that differ."""
    return before - after > 1e-5 * max(abs(before), abs(after), scale)


def _clipped(output: Tensor, targets: Tensor) -> float:
    """The share of outputs, none below 0, that are exactly 0; 0 where targets are numbers and hardly one of them is below 0."""
    if class_dimension(output, targets) is None and not (targets.is_floating_point() and float((targets < 0).float().mean()) > 0.05):
        return 0.0
    return float((output == 0).float().mean())


def _ignored(output: Tensor, targets: Tensor, loss: Loss) -> float:
    """The share of targets where the loss does not depend on the output."""
    with suppress(Exception), torch.enable_grad():  # The user's code, given what it was not written for.
        asked = output.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(asked, targets).double().mean(), asked)
        classes = class_dimension(output, targets)
        per_target = gradient.abs().sum(classes) if classes is not None else gradient.abs().reshape(len(gradient), -1).sum(1)
        return float((per_target == 0).float().mean())
    return 0.0


def spread(output: Tensor) -> float:
    """The largest standard deviation of an output between samples, over the size of the largest output."""
    rows = output.detach().double().flatten(1) if output.dim() > 1 else output.detach().double()[:, None]
    size = float(rows.abs().max())
    return float(rows.std(0).max()) / size if size > 0.0 else 0.0


def class_dimension(output: Tensor, targets: Tensor) -> int | None:
    """The dimension of `output` that has a number for each class, where `targets` are classes."""
    if targets.is_floating_point() or targets.is_complex() or output.dim() != targets.dim() + 1:
        return None
    found = (dim for dim in (1, output.dim() - 1) if output.shape[:dim] + output.shape[dim + 1 :] == targets.shape)
    return next(found, None)


def guessing(kept: Kept, loss: Loss) -> float | None:
    """The loss of the best constant output for these targets: candidates, and a descent from the best of them; None: there is none."""
    output, targets = kept.output, kept.targets
    if not output.is_floating_point():
        return None
    found: list[tuple[float, Tensor]] = []
    for start in _starts(output, targets):
        with torch.no_grad():
            value = _loss_of(loss, start.expand_as(output).contiguous(), targets)
        if value is not None:
            found.append((value, start))
    if not found:
        return None
    best, start = min(found, key=lambda one: one[0])
    return min([best, *_descent(loss, start, output, targets)])


def _starts(output: Tensor, targets: Tensor) -> Iterator[Tensor]:
    classes = class_dimension(output, targets)
    if classes is not None:
        size = output.shape[classes]
        inside = targets[(targets >= 0) & (targets < size)].long()
        counts = torch.bincount(inside.flatten().cpu(), minlength=size).to(output)  # On CUDA it is not deterministic.
        shape = [size if dim == classes else 1 for dim in range(output.dim())]
        yield (counts.clamp_min(0.5) / counts.sum().clamp_min(1)).log().reshape(shape)
        yield output.new_zeros(shape)
        return
    yield torch.zeros_like(output[:1])
    yield output.mean(0, keepdim=True)
    if targets.numel() == output.numel():
        wanted = targets.reshape(output.shape).to(output)
        yield wanted.mean(0, keepdim=True)
        yield wanted.median(0, keepdim=True).values


def _descent(loss: Loss, start: Tensor, output: Tensor, targets: Tensor) -> list[float]:
    """Losses on a way down from `start`, those that are numbers."""
    constant = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([constant], max_iter=_FITTING_STEPS, line_search_fn="strong_wolfe")
    seen: list[float] = []

    def measured() -> Tensor:
        optimizer.zero_grad()
        value = loss(constant.expand_as(output), targets).mean()
        value.backward()
        seen.append(float(value.detach()))
        return value

    with suppress(Exception), torch.enable_grad():  # The user's code, given what it was not written for.
        optimizer.step(measured)
    return [value for value in seen if value == value]  # noqa: PLR0124 # NaN is not equal to itself.


def _loss_of(loss: Loss, output: Tensor, targets: Tensor) -> float | None:
    with suppress(Exception):  # The user's code, given what it was not written for.
        value = float(loss(output, targets).double().mean())
        return value if value == value else None  # noqa: PLR0124 # NaN is not equal to itself.
    return None


def _sums_to_one(output: Tensor, dimension: int) -> bool:
    if output.dim() <= dimension or output.shape[dimension] < 2:
        return False
    return bool((output.double().sum(dimension) - 1).abs().max() < 1e-3)


def differs(tensor: Tensor | None) -> bool:
    """Samples are not all the same. Waits for the device."""
    return tensor is not None and bool((tensor != tensor[:1]).any())


def input_seen(batches: Sequence[Tensor]) -> InputSeen | None:
    """The mean and the standard deviation over all numbers; None for other inputs than of floating point."""
    numbers = [one.double().flatten() for one in batches if one.is_floating_point()]
    if not numbers:
        return None
    joined_numbers = torch.cat(numbers)
    return InputSeen(float(joined_numbers.mean()), float(joined_numbers.std()))


def correlations(kept: Kept) -> list[float]:
    """The correlation of each input with the target; none where inputs are not columns of numbers, or the target is not one number."""
    inputs, targets = kept.inputs, kept.targets
    if inputs is None or inputs.dim() != 2 or not inputs.is_floating_point() or targets.numel() != len(targets):
        return []
    columns, target = inputs.double(), targets.double().flatten()
    columns, target = columns - columns.mean(0), target - target.mean()
    size = columns.norm(dim=0) * target.norm()
    return torch.where(size > 0, (columns * target[:, None]).sum(0) / size, 0.0).tolist()
