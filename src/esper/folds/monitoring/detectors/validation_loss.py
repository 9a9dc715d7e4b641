"""Validation, epoch by epoch, and its gap to training; from the third value on, and on its own scale whatever its sign and size.

  relapse      from one pair of epochs to the next the validation loss lost what had been learnt, and training did not: its data, their
               preprocessing, or what differs between training and evaluation is broken. What harms both is training's own relapse
  apart        training has fallen, and validation was never better than training in its first epoch: it does not measure the same task
  overfitting  validation has risen for some epochs, while training fell on
  lost         the same, and validation is half worse than it began
  flat         after some epochs neither loss is clearly better than in the first
  stuck        the very same validation loss again and again, while there is still something to learn
  plateau      no better validation loss for many epochs
  shrunk       epochs train on fewer samples than before: a part of the data is gone
  perfect      hardly anything of the first loss is left in validation: such a fit is rare where the target is not among the inputs

`progress` is the distance from the first loss to the best one, at least half the first loss's own size.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.measurements import Measurements

VALIDATION, TRAINING, SHRUNK = "validation.loss", "train.loss", "shrunk"
_SAMPLES = "train.samples"
_KEPT = 24
_PAIR = 2
_STUCK = 4
_APART_AFTER, _FALLEN, _NEAR = 5, 0.2, 0.1
_LEAST_DIFFERENCES = 3
_LOST = 0.5
"""The share of the first loss by which validation stands above it where everything that was learnt is lost."""
_LEFT = 1e-4
"""The share of the first loss below which nothing is left to learn."""
_FLAT_AFTER, _FLAT = 6, (0.02, 0.05)
"""The gains of validation and training that are none; the first epoch's training loss contains its own beginning."""
_RECOVERED = 0.5


@dataclass(frozen=True, slots=True)
class Epochs:
    """The newest losses of validation and training, what they began with, and the best validation loss with its epoch."""

    count: int = 0
    validation: tuple[float, ...] = ()
    training: tuple[float, ...] = ()
    first_training: float = 0.0
    first_validation: float = 0.0
    first: float = 0.0
    best: float = 0.0
    best_at: int = 0
    training_at_best: float = 0.0
    earlier: float | None = None
    """The best of what is no longer kept."""
    samples: float = 0.0
    """The most samples that an epoch trained on."""
    fewer: int = 0
    """Epochs in a row with clearly fewer."""
    open: tuple[str, ...] = ()


def open_of(epochs: Epochs) -> list[tuple[str, str]]:
    """The open anomalies, as metric and detector."""
    shrunk = [(_SAMPLES, SHRUNK)] if epochs.fewer >= _PAIR else []
    return [*((VALIDATION, detector) for detector in epochs.open), *shrunk]


def step_epochs(epochs: Epochs, read: Measurements, settings: DetectorSettings) -> tuple[Epochs, list[Anomaly]]:
    """`epochs` after an epoch, and the anomalies that begin. An epoch without both losses, finite ones, is passed over."""
    pair = [float(read.columns[name][0]) for name in (VALIDATION, TRAINING) if name in read.columns and read.measured[name][0]]
    if len(pair) < 2 or not all(abs(value) < float("inf") for value in pair):
        return epochs, []
    epochs = _with(epochs, *pair)
    holds = {name: (expected, score) for name, expected, score in _findings(epochs, settings)}
    found = [
        Anomaly(0, name, VALIDATION, epochs.validation[-1], expected, score)
        for name, (expected, score) in holds.items()
        if name not in epochs.open
    ]
    # A relapse is seen in the epochs that it begins with, and lasts until validation has come back.
    lasting = {"relapse"} & {*epochs.open} if epochs.validation[-1] - epochs.best >= _RECOVERED * _progress(epochs) else set[str]()
    return replace(epochs, open=tuple(sorted(holds.keys() | lasting))), found


def step_samples(epochs: Epochs, read: Measurements, settings: DetectorSettings) -> tuple[Epochs, list[Anomaly]]:
    """`epochs` after the samples of an epoch, and the anomaly that begins."""
    now = float(read.columns[_SAMPLES][0]) if _SAMPLES in read.columns else 0.0
    if not now > 0:
        return epochs, []
    fewer, most = epochs.fewer + 1 if now < settings.shrunk_share * epochs.samples else 0, max(now, epochs.samples)
    found = [Anomaly(0, SHRUNK, _SAMPLES, now, most, most / now)] if fewer == _PAIR else []
    return replace(epochs, samples=most, fewer=fewer), found


def _with(epochs: Epochs, validation: float, training: float) -> Epochs:
    count = epochs.count + 1
    gone = epochs.validation[0] if len(epochs.validation) == _KEPT else None
    earlier = epochs.earlier if gone is None else gone if epochs.earlier is None else min(gone, epochs.earlier)
    moved = replace(
        epochs,
        count=count,
        validation=(*epochs.validation, validation)[-_KEPT:],
        training=(*epochs.training, training)[-_KEPT:],
        earlier=earlier,
    )
    if count == 1:
        moved = replace(moved, first_training=training, first_validation=validation, first=max(training, validation))
    return replace(moved, best=validation, best_at=count, training_at_best=training) if count == 1 or validation < epochs.best else moved


def _progress(epochs: Epochs) -> float:
    return max(epochs.first - epochs.best, abs(epochs.first) / 2)


def _findings(epochs: Epochs, settings: DetectorSettings) -> list[tuple[str, float | None, float]]:
    """Every finding that holds now: its name, what was expected, and its score."""
    validation, training, count = epochs.validation, epochs.training, epochs.count
    found: list[tuple[str, float | None, float]] = []
    if count >= 2 * _PAIR and (jump := _jump(epochs, settings)):
        found.append(("relapse", max(validation[-2 * _PAIR : -_PAIR]), jump))
    waited, lost = count - epochs.best_at, validation[-1] - epochs.best
    if waited >= settings.overfitting_epochs and training[-1] < epochs.training_at_best:
        share = lost / _progress(epochs) if lost > 0 else 0.0
        if share >= settings.overfitting_share:
            found.append(("overfitting", epochs.best, share))
        if validation[-1] >= epochs.first + _LOST * abs(epochs.first):
            found.append(("lost", epochs.best, share))
    gained = (epochs.first_validation - epochs.best, epochs.first_training - min(training))
    if count >= _FLAT_AFTER and all(gain < share * abs(epochs.first) for gain, share in zip(gained, _FLAT, strict=True)):
        found.append(("flat", epochs.first, float(count)))
    fallen = epochs.first_training - training[-1]
    if count >= _APART_AFTER and fallen >= _FALLEN * abs(epochs.first_training) > 0 and epochs.best_at <= 2:
        near = _NEAR * fallen
        if epochs.best >= epochs.first_training - near and validation[-1] > epochs.best:
            found.append(("apart", epochs.first_training - fallen, (validation[-1] - training[-1]) / fallen))
    left = abs(validation[-1]) > _LEFT * abs(epochs.first) and training[-1] != 0
    if count >= _STUCK and len(set(validation[-_STUCK:])) == 1 and left:
        found.append(("stuck", None, float(_STUCK)))
    if waited >= settings.plateau_epochs:
        found.append(("plateau", epochs.best, float(waited)))
    newest = validation[-_LEAST_DIFFERENCES:]  # A loss that goes below zero passes by it once.
    if count >= _APART_AFTER and min(newest) > 0 and max(newest) <= settings.perfect_share * epochs.first:
        found.append(("perfect", epochs.first, epochs.first / epochs.best))
    return found


def _jump(epochs: Epochs, settings: DetectorSettings) -> float:
    """The rise between the last two pairs of epochs in standard deviations; 0 where it is no relapse of validation alone."""
    validation, training = epochs.validation, epochs.training
    before = validation[:-_PAIR]
    rise = min(validation[-_PAIR:]) - max(before[-_PAIR:])
    moves = [after - one for one, after in pairwise(before)]
    middle = median(moves)
    noise = max(abs(move) for move in moves)
    if len(moves) >= _LEAST_DIFFERENCES:
        noise = 1.4826 * median([abs(move - middle) for move in moves]) / math.sqrt(2)
    best = min(before) if epochs.earlier is None else min(*before, epochs.earlier)
    progress = max(epochs.first - best, abs(epochs.first) / 2)
    worse = min(training[-_PAIR:]) - max(training[-2 * _PAIR : -_PAIR])
    if rise < settings.relapse_share * progress or rise < settings.setback_spreads * noise or worse > settings.overfitting_share * rise:
        return 0.0
    return rise / max(noise, 1e-9 * progress)
