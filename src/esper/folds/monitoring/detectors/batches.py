"""Batches by the digests of samples of them: one that comes again and again, and epochs in which all come in the same order.

Equal digests are certain: no training is judged by chance here. A training on all data at once has one batch an epoch, and repeats nothing.
"""

from dataclasses import dataclass, replace

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.measurements import Measurements

BATCHES = "batches"
"""The metric of these anomalies."""
_KEPT = 256
"""SeenBatches of an epoch that are compared; a longer epoch is known by its first ones."""
_LEAST = 4
"""Different batches without which an epoch has no order."""
_EPOCHS = 3


@dataclass(frozen=True, slots=True)
class SeenBatches:
    """The newest batch, how often it came in a row, and the batches of this epoch and of the one before."""

    number: int = 0
    sample: str = ""
    repeated: int = 1
    now: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    alike: int = 1
    """Epochs in a row with the same batches in the same order."""
    open: tuple[str, ...] = ()


def step_batches(batches: SeenBatches, read: Measurements, settings: DetectorSettings) -> tuple[SeenBatches, list[Anomaly]]:
    """`batches` after a record of steps, and the anomalies that begin."""
    if not read.batches:
        return batches, []
    found: list[Anomaly] = []
    number, sample, repeated, now, open_now = batches.number, batches.sample, batches.repeated, [*batches.now], set(batches.open)
    for place, (next_number, next_sample) in enumerate(read.batches):
        if next_number <= number:
            batches, begun = _end_epoch(replace(batches, now=tuple(now)), place, open_now)
            now = []
            found += begun
        same = next_sample == sample
        repeated = repeated + (next_number > number) if same else 1
        if repeated >= settings.repeated_batches and "repeated" not in open_now:
            open_now.add("repeated")
            found.append(Anomaly(place, "repeated", BATCHES, float(repeated), None, float(repeated)))
        elif not same:
            open_now.discard("repeated")
        number, sample = next_number, next_sample
        if len(now) < _KEPT:
            now.append(sample)
    state = replace(batches, number=number, sample=sample, repeated=repeated, now=tuple(now), open=tuple(sorted(open_now)))
    return state, found


def _end_epoch(batches: SeenBatches, place: int, open_now: set[str]) -> tuple[SeenBatches, list[Anomaly]]:
    ordered = batches.now == batches.before and len(set(batches.now)) >= _LEAST
    alike = batches.alike + 1 if ordered else 1
    found: list[Anomaly] = []
    if not ordered:
        open_now.discard("unshuffled")
    elif alike == _EPOCHS:
        open_now.add("unshuffled")
        found.append(Anomaly(place, "unshuffled", BATCHES, float(alike), None, float(alike)))
    return replace(batches, before=batches.now, now=(), alike=alike), found
