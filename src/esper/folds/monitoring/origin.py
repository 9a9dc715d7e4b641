"""The moment that an alert leads to: the step since which it is so, its batch, the layer, and what changed last before it.

It is made of the topic's own records alone: steps carry their batches, learning rates and the last command that was applied.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from esper.events.envelope import EventId, Record
from esper.events.fields import Event, Float
from esper.events.kinds.observability import Origin
from esper.events.kinds.telemetry import SeedHealthMeasured, StepsMeasured

_KEPT = 128
"""Steps whose batches are known: an alarm about what lasts names a step of some blocks before."""


@dataclass(frozen=True, slots=True)
class RecentSteps:
    """The newest steps of a topic with their batches, the learning rates, and the step since which they are so."""

    steps: tuple[int, ...] = ()
    batches: tuple[tuple[int, str], ...] = ()
    rates: tuple[Float, ...] = ()
    rates_since: int | None = None


def update_recent(recent: RecentSteps, event: Event) -> RecentSteps:
    """`recent` after an event of its topic."""
    if not isinstance(event, StepsMeasured) or not event.steps.step:
        return recent
    rates_since = recent.rates_since if event.learning_rates == recent.rates else event.steps.step[0]
    if event.batches is None:
        return RecentSteps((), (), event.learning_rates, rates_since)
    return RecentSteps(
        (*recent.steps, *event.batches.step)[-_KEPT:],
        (*recent.batches, *zip(event.batches.number, event.batches.sample, strict=True))[-_KEPT:],
        event.learning_rates,
        rates_since,
    )


def origin_of(recent: RecentSteps, record: Record, event: Event, labels: Mapping[str, str], since: int | None) -> Origin:
    """The origin of an alert with `labels` that begins in `record`, and has been so since step `since`, or since the record's own."""
    step, layer = record.step if since is None else since, labels.get("site")
    place = bisect_left(recent.steps, step)
    known = place < len(recent.steps) and recent.steps[place] == step
    number, sample = recent.batches[place] if known else (None, None)
    decision: EventId | None = event.last_adaptation if isinstance(event, StepsMeasured | SeedHealthMeasured) else None
    return Origin(
        step=step,
        batch=number,
        sample=sample,
        layer=layer,
        group=event.groups.get(layer) if isinstance(event, SeedHealthMeasured) and layer is not None else None,
        decision=decision,
        rates_since=recent.rates_since,
        command=f"esper show {record.run} --at {record.moment}",
    )


def origin_words(origin: Origin) -> str:
    """An origin in a sentence."""
    parts = [f"since step {origin.step}"]
    if origin.batch is not None:
        parts.append(f"batch {origin.batch} of its epoch, sample {origin.sample}")
    if origin.layer is not None:
        group = "" if origin.group is None else f" (parameter group {origin.group})"
        parts.append(f"layer {origin.layer or 'of the whole model'}{group}")
    if origin.decision is not None:
        parts.append(f"last decision applied before: {origin.decision}")
    if origin.rates_since is not None:
        parts.append(f"learning rates as they are since step {origin.rates_since}")
    return "; ".join(parts)
