"""The checks of a training's wiring: pure functions of what was measured. None needs torch, a model or the trainer.

A check must be right when it says that training is useless (`warning`) or that the loss is lost (`critical`). What may be meant is `info`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from esper.events.kinds.wiring_findings import WiringCheck
from esper.tolaria.wiring.findings import Finding

_CERTAIN = 0.999
"""The correlation above which an input gives the target away."""
_DROWNED = 3.0
"""The weight decay over its gradient above which nothing of the gradient is left."""
_MANY_STEPS = 10
"""Fewer steps show no course of a loss."""

# Learning rates and steps


def zero_rates(rates: Sequence[float], *, scheduled: bool) -> Iterator[Finding]:
    """Parameter groups whose learning rate is 0 at the first step; a schedule may raise it."""
    zero = [number for number, rate in enumerate(rates) if rate == 0.0]
    if zero and not scheduled:
        measured = "the learning rate is 0" if len(zero) == len(rates) else f"the learning rate of {_groups(zero)} of {len(rates)} is 0"
        yield Finding("learning-rate-zero", measured, groups=zero)


def unchanged_epoch(rates: Sequence[float], coming: Sequence[float]) -> Iterator[Finding]:
    """An epoch after which every parameter is what it was. `rates` were its last; a rate that rises with the next epoch explains it."""
    if not any(rates) and not any(coming):
        yield Finding("learning-rate-zero", "the learning rate is 0, and stays so in the next epoch", groups=range(len(rates)))
    elif any(rates):
        yield Finding("nothing-changes", f"after a whole epoch all parameters are what they were; the learning rate is {max(rates):.3g}")


def too_small(update_ratios: Sequence[float], planned_steps: float, *, rising: bool) -> Iterator[Finding]:
    """Steps so small that all that are planned would not change a ten-thousandth of the weights. A rate that rises may still do so.

    `update_ratios`: size of the change in a step over the size of the weights, each of one looked-at step.
    """
    known = [ratio for ratio in update_ratios if math.isfinite(ratio)]
    if known and not rising and 0.0 < max(known) * planned_steps < 1e-4:
        share = 100 * max(known) * planned_steps
        yield Finding(
            "steps-too-small",
            f"a step changes the weights by {max(known):.1e} of their size, all {planned_steps:,.0f} planned ones by {share:.1g} %",
        )


def exploded(losses: Sequence[float], guessing: float | None, update_ratios: Sequence[float]) -> Iterator[Finding]:
    """Losses of the first steps, of which the last five are all ten times above the first, and above guessing where that is known.

    Where it is not known the steps must be large beside the weights: a loss may begin near 0 and rise as there is more to learn.
    """
    first, last = losses[0], losses[-5:]
    if len(losses) < _MANY_STEPS or not math.isfinite(first):
        return
    scale = max(abs(first), 0.0 if guessing is None else abs(guessing))
    worst = max((ratio for ratio in update_ratios if not math.isnan(ratio)), default=0.0)
    lost = all(not math.isfinite(loss) or loss > first + 9 * scale for loss in last)
    if lost and scale > 0.0 and (guessing is not None or worst > 0.1):
        steps = f"; a step changes the weights by {100 * worst:.3g} % of their size" if worst else ""
        yield Finding("learning-rate-absurd", f"the loss went from {first:.4g} to {last[-1]:.4g} in {len(losses)} steps{steps}")


def decays(ratios: Sequence[tuple[int, float]]) -> Iterator[Finding]:
    """Parameter groups whose weight decay pulls harder than their gradient in every step that was looked at, by number and ratio."""
    least: dict[int, float] = {}
    for group, ratio in ratios:
        least[group] = min(least.get(group, math.inf), ratio)
    strong = {group: ratio for group, ratio in least.items() if ratio > _DROWNED}
    if strong and len(ratios) >= 3 * len(least):
        yield Finding("decay-too-strong", f"at least {min(strong.values()):.3g} times the gradient", groups=sorted(strong))


# Parameters


@dataclass(frozen=True, slots=True)
class ParameterSeen:
    """A trainable parameter in the first epoch.

    `module` has it, `alone`: together with modules below, so that it is judged by itself. `group`: of the optimizer; None: of none.
    `called`: a module that has it was called with gradients on. `gradient`: None: there was none; False: only zeros. `changed`: None: not
    known. `rate`: of its group, the largest.
    """

    name: str
    module: str
    alone: bool
    size: int
    group: int | None
    called: bool
    gradient: bool | None
    changed: bool | None
    rate: float


def parameter_faults(rows: Sequence[ParameterSeen]) -> Iterator[Finding]:
    """Faults that keep parameters from learning: no gradient, no optimizer, no change."""
    if rows and not any(row.changed for row in rows):
        if any(row.rate for row in rows):
            with_gradient = sum(row.gradient is True for row in rows)
            yield Finding("nothing-changes", f"none of {len(rows)} parameters has changed; {with_gradient} of them got a gradient")
        return
    idle = [row for row in rows if not row.gradient and not (row.gradient is None and row.changed)]
    yield from _modules("layer-without-gradient", [row for row in idle if row.called], rows, "no gradient in any step")
    yield from _modules("layer-unused", [row for row in idle if not row.called], rows, "not called where gradients are on")
    outside = [row for row in rows if row.gradient and row.group is None and not row.changed]
    if outside:
        yield Finding("not-in-optimizer", _share(outside, rows, "in no parameter group, and unchanged"), [row.name for row in outside])
    still = [row for row in rows if row.gradient and row.group is not None and row.changed is False and row.rate > 0.0]
    yield from _modules("layer-unchanged", still, rows, "unchanged by every step that was looked at")


def _modules(check: WiringCheck, faulty: Sequence[ParameterSeen], rows: Sequence[ParameterSeen], what: str) -> Iterator[Finding]:
    """A module is at fault where all of its parameters are: a single bias may have no gradient by its nature."""
    names = {row.name for row in faulty}
    whole = {row.module for row in faulty} - {row.module for row in rows if not row.alone and row.name not in names}
    places = list(dict.fromkeys(row.name if row.alone else row.module for row in faulty if row.alone or row.module in whole))
    if places:
        yield Finding(check, _share([row for row in faulty if row.name in places or row.module in places], rows, what), places)


def _share(part: Iterable[ParameterSeen], rows: Iterable[ParameterSeen], what: str) -> str:
    size, total = sum(row.size for row in part), sum(row.size for row in rows)
    return f"{size:,} of {total:,} numbers that could learn: {what}"


# Activations


@dataclass(frozen=True, slots=True)
class ActivationSeen:
    """A module's output in the steps that were looked at: the smallest share of zeros, and of values in the flat of its activation."""

    name: str
    zeros: float
    flat: float


def dead_layers(rows: Sequence[ActivationSeen]) -> Iterator[Finding]:
    """Layers whose output is zero for every sample, or all but one value in a hundred."""
    dead = [row for row in rows if row.zeros > 0.99]
    if dead:
        share = min(row.zeros for row in dead)
        yield Finding("layer-dead", f"at least {100 * share:.4g} % of the outputs are 0", [row.name for row in dead])
    flat = [row for row in rows if row.flat > 0.95]
    if flat:
        share = min(row.flat for row in flat)
        yield Finding("layer-saturated", f"{100 * share:.3g} % of the outputs are at their limits", [row.name for row in flat])


# Outputs and targets


@dataclass(frozen=True, slots=True)
class OutputSeen:
    """Outputs of the model beside their targets, in the steps that were looked at.

    `loss` is of these outputs; `guessing` of the best constant output for the same targets; None: not known. `permuted`: with targets given
    to other samples; `one_target`: with all samples given one of the targets. `shifted`: with 1 added to every output. `of_classes`:
    targets are classes. `flat`: share of values at the ends of 0..1 or -1..1. `distribution`: every row is a probability distribution.
    `spread`: how far outputs differ between samples, over their size. `upside_down`: the loss falls as predictions get worse. `zeros`:
    share of outputs that are exactly 0 where some should be below; `ignored`: share of targets on which the loss does not depend.
    """

    loss: float
    guessing: float | None
    permuted: float | None
    one_target: float | None
    shifted: float | None
    of_classes: bool
    flat: float
    distribution: bool
    spread: float
    upside_down: bool
    zeros: float
    ignored: float


def output_faults(seen: OutputSeen) -> Iterator[Finding]:
    """Outputs that do not fit their targets or their loss, whatever was learnt so far."""
    matters = seen.one_target is not None and abs(seen.one_target - seen.loss) > 0.01 * abs(seen.loss)
    differ = seen.spread > 1e-4  # Those of a head that begins at zero do not.
    if matters and differ and _same(seen.loss, seen.permuted):
        yield Finding("targets-not-paired", f"the loss is {seen.loss:.6g} with targets in order, and with targets that change places")
    if seen.upside_down:
        yield Finding("loss-upside-down", f"it is {seen.loss:.4g} now, and lowest where every prediction is wrong")
    if differ and seen.zeros > 0.1 and (not seen.of_classes or _same(seen.loss, seen.shifted)):
        yield Finding("output-clipped", f"{100 * seen.zeros:.3g} % of outputs are exactly 0, and none is below")
    if seen.ignored > 0.5:
        yield Finding("targets-ignored", f"a change of the output at {100 * seen.ignored:.3g} % of the targets does not change the loss")
    if seen.distribution and _same(seen.loss, seen.shifted):
        yield Finding(
            "probabilities-as-logits", "each output is a probability distribution, and the loss does not change when 1 is added to it"
        )
    if seen.guessing is not None and seen.flat > 0.95 and seen.loss >= seen.guessing:
        measured = f"{100 * seen.flat:.3g} % of outputs are at their limits; the loss is {seen.loss:.4g}, of guessing {seen.guessing:.4g}"
        yield Finding("output-saturated", measured)


def far_off(first_loss: float, seen: OutputSeen) -> Iterator[Finding]:
    """A first loss over classes ten times above guessing."""
    if seen.of_classes and seen.guessing is not None and 0.0 < 10 * seen.guessing < first_loss:
        yield Finding("starts-far-off", f"the first loss is {first_loss:.4g}, of guessing {seen.guessing:.4g}")


def constant_output(spread: float, *, inputs_differ: bool, targets_differ: bool) -> Iterator[Finding]:
    """A prediction that is the same for every sample of the validation data, after the first epoch."""
    if spread < 1e-5 and inputs_differ and targets_differ:
        yield Finding("output-constant", f"outputs differ between samples by {spread:.1g} of their size")


def still_guessing(losses: Sequence[float], guessing: float | None, *, rising: bool) -> Iterator[Finding]:
    """Losses of the first epoch that end at the level of the best constant output, or above and do not fall; a rising rate explains it."""
    if guessing is None or rising or len(losses) < 2 * _MANY_STEPS:
        return
    quarter = max(5, len(losses) // 4)
    first, last = mean(losses[:quarter]), mean(losses[-quarter:])
    falls = last - guessing < 0.7 * (first - guessing) and last > guessing + 0.1 * abs(guessing)
    if not falls and not last < below_guessing(guessing):
        yield Finding("guessing", f"the loss is {last:.4g}, that of the best constant output {guessing:.4g}")


def learns_nothing(
    train: float, validation: Sequence[float], guessing: float | None, steps: int, *, rising: bool = False
) -> Iterator[Finding]:
    """Neither the best validation loss nor, by a tenth, the last training loss of several epochs is better than guessing.

    `validation`: the best loss, then those of the newest epochs; where it still falls by one in fifty of guessing it is on its way, and
    while learning rates are `rising`.
    """
    if guessing is None or rising or len(validation) < 2 or steps < 8 * _MANY_STEPS:
        return
    best, falls = min(validation), validation[-2] - validation[-1] > 0.02 * abs(guessing)
    if not falls and not min(best, train + 0.08 * abs(guessing)) < below_guessing(guessing):
        yield Finding(
            "still-guessing",
            f"after {steps:,} steps the training loss is {train:.4g}, the best validation loss {best:.4g}, "
            f"that of the best constant output {guessing:.4g}",
        )


def below_guessing(guessing: float) -> float:
    """The loss below which something was learnt: one in fifty better than the best constant output."""
    return guessing - 0.02 * abs(guessing)


def verdict(
    loss: float, best: float | None, guessing: float | None, steps: int
) -> Literal["learned", "nothing", "worse than guessing", "unknown"]:
    """The verdict on a training of `steps` steps, by its last and its best validation loss."""
    if guessing is None or best is None or steps < 2 * _MANY_STEPS:
        return "unknown"
    if not best < below_guessing(guessing):
        return "nothing"
    return "learned" if loss < guessing else "worse than guessing"


def _same(loss: float, other: float | None) -> bool:
    """The two losses are one, to the rounding of float32."""
    return other is not None and math.isclose(loss, other, rel_tol=1e-5, abs_tol=1e-12)


# Data


def constant_targets(train: bool, valid: bool) -> Iterator[Finding]:
    """`train`, `valid`: all targets that were looked at are the same."""
    if train and valid:
        yield Finding("targets-constant", "in every batch that was looked at, of training and of validation")


@dataclass(frozen=True, slots=True)
class InputSeen:
    """Inputs of batches that were looked at: their mean and standard deviation over all numbers."""

    mean: float
    deviation: float


def constant_input(constant: Sequence[bool], *, targets_differ: bool) -> Iterator[Finding]:
    """Batches, each with more than one sample, in which every sample has the same input."""
    if constant and all(constant) and targets_differ:
        yield Finding("input-constant", f"in {len(constant)} of {len(constant)} batches all inputs are the same")


def different_inputs(train: InputSeen | None, valid: InputSeen | None) -> Iterator[Finding]:
    """Training and validation inputs whose spread differs more than threefold, or whose means stand three spreads apart."""
    if train is None or valid is None or not min(train.deviation, valid.deviation) > 0.0:
        return
    ratio = train.deviation / valid.deviation
    apart = abs(train.mean - valid.mean) / max(train.deviation, valid.deviation)
    if max(ratio, 1 / ratio) > 3.0 or apart > 3.0:
        measured = (
            f"training inputs have mean {train.mean:.3g} and standard deviation {train.deviation:.3g}, "
            f"validation inputs {valid.mean:.3g} and {valid.deviation:.3g}"
        )
        yield Finding("inputs-differ", measured)


def overlap(found: int, looked_at: int, repeated_share: float) -> Iterator[Finding]:
    """Validation samples that training had too, more than one in twenty and than samples repeat within the training data by nature."""
    share = found / looked_at if looked_at else 0.0
    if share > max(0.05, 3 * repeated_share):
        yield Finding("splits-overlap", f"{found:,} of {looked_at:,} validation samples are training samples")


def given_away(correlations: Sequence[float]) -> Iterator[Finding]:
    """An input, of several, that goes with the target in a straight line."""
    best = max(range(len(correlations)), key=lambda index: abs(correlations[index]), default=None)
    if best is not None and len(correlations) > 1 and abs(correlations[best]) > _CERTAIN:
        yield Finding(
            "target-among-inputs", f"input {best} of {len(correlations)} has a correlation of {correlations[best]:.5f} with the target"
        )


def _groups(numbers: Sequence[int]) -> str:
    return f"group{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
