"""Detectors: the anomalies that begin in a record, and those that are open.

One state per topic of a run. An anomaly is announced when it begins and again only after it has ended: one abnormal stretch of one detector
and metric (of one row, in health records) is one AnomalyDetected. Values that are not finite are found in every topic with metrics, and so
are values that disappear (`presence`). The others read the run's losses and gradients (`series`), what harms for good (`progress`), the
pace of steps (`pace`), epochs (`validation`) and the health of sites and seeds (`seed_health`).

Benign adaptations change losses: the limits are raised for a while after `last_adaptation_step`, except those of `nonfinite`, `explosion`
and `stuck`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from esper.events import topics
from esper.events.kinds.observability import AnomalyDetected
from esper.folds.monitoring.detectors.batches import BATCHES, SeenBatches, step_batches
from esper.folds.monitoring.detectors.gone_metrics import GONE, Presence, gone_metric, step_presence
from esper.folds.monitoring.detectors.pace import Pace, step_pace
from esper.folds.monitoring.detectors.progress import HALTED, Progress, step_progress
from esper.folds.monitoring.detectors.seed_health import HealthRows, open_labels, step_rows
from esper.folds.monitoring.detectors.series import Anomaly, Series, step_series
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.detectors.validation_loss import Epochs, open_of, step_epochs, step_samples
from esper.folds.monitoring.measurements import Measurements
from esper.folds.monitoring.rules import Labels, source_labels

_NONFINITE = "nonfinite"
_MOST_METRICS = 128
"""Metrics that may be not finite at a time: those of more are left out."""


_PACE = {"waiting": "data_wait_s", "stall": "data_wait_s", "slower": "step_latency_s", "growing": "memory_bytes"}


@dataclass(frozen=True, slots=True)
class DetectorState:
    """The series of a topic's metrics, or the rows of its health records. `broken`: metrics of the run whose last value was not finite."""

    series: Mapping[str, Series] = field(default_factory=dict)
    rows: HealthRows | None = None
    broken: tuple[str, ...] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    epochs: Epochs = field(default_factory=Epochs)
    batches: SeenBatches = field(default_factory=SeenBatches)
    presence: Presence = field(default_factory=Presence)


def find_anomalies(
    state: DetectorState, topic: str, read: Measurements, settings: DetectorSettings, step: int = 0
) -> tuple[DetectorState, tuple[AnomalyDetected, ...]]:
    """`state` after a record of `topic` at `step` that measured `read`, and the anomalies that begin in it."""
    presence, gone = (state.presence, []) if topic == topics.CUSTOM_METRICS else step_presence(state.presence, read)
    if read.sites is not None:
        rows, found = step_rows(state.rows, read, settings)
        state = DetectorState(rows=rows, presence=presence)
    else:
        broken, found = _not_finite(state.broken, read)
        series = _watched(state.series, read, settings, found)
        progress, pace, epochs, batches = state.progress, state.pace, state.epochs, state.batches
        if topic == topics.STEPS:
            progress = _progressed(progress, read, settings, found)
            pace, begun = step_pace(pace, read, settings) if "data_wait_s" in read.columns else (pace, [])
            batches, repeated = step_batches(batches, read, settings)
            found += begun + repeated
        elif topic == topics.EPOCH:
            epochs, begun = step_epochs(epochs, read, settings)
            epochs, shrunk = step_samples(epochs, read, settings)
            found += begun + shrunk
        # In the order of steps: how they are grouped into records makes no difference to the anomalies.
        found.sort(key=lambda one: (one.place, one.metric, one.detector))
        state = DetectorState(series, None, broken, progress, pace, epochs, batches, presence)
    return state, tuple(_detected(topic, read, one, step) for one in (*found, *gone) if one.detector not in settings.off)


def open_anomalies(state: DetectorState, off: Collection[str] = ()) -> frozenset[Labels]:
    """The labels of the open anomalies, without those of detectors that are `off`."""
    found = set[Labels]() if state.rows is None else open_labels(state.rows)
    found |= {source_labels(None, None, metric, _NONFINITE) for metric in state.broken}
    found |= {source_labels(None, None, metric, detector) for metric, series in state.series.items() for detector in series.open}
    found |= {source_labels(None, None, metric, detector) for metric, progress in state.progress.items() for detector in progress.open}
    found |= {source_labels(None, None, "learning_rate", HALTED) for progress in state.progress.values() if progress.halted}
    found |= {source_labels(None, None, _PACE[detector], detector) for detector in state.pace.open}
    found |= {source_labels(None, None, metric, detector) for metric, detector in open_of(state.epochs)}
    found |= {source_labels(None, None, BATCHES, detector) for detector in state.batches.open}
    for name in state.presence.gone:
        site, metric = gone_metric(name, health=state.rows is not None)
        found.add(source_labels(site, None, metric, GONE))
    return frozenset(labels for labels in found if labels[-1][1] not in off)


def _not_finite(broken: tuple[str, ...], read: Measurements) -> tuple[tuple[str, ...], list[Anomaly]]:
    found: list[Anomaly] = []
    if not broken and np.isfinite(np.concatenate([*read.columns.values()])).all():
        return broken, found
    now = set(broken)
    for metric, column in read.columns.items():
        for index in np.flatnonzero(read.measured[metric]).tolist():
            value = float(column[index])
            if math.isfinite(value):
                now.discard(metric)
            elif metric not in now and len(now) < _MOST_METRICS:
                now.add(metric)
                found.append(Anomaly(index, _NONFINITE, metric, value, None, 1.0))
    return tuple(sorted(now)), found


def _watched(known: Mapping[str, Series], read: Measurements, settings: DetectorSettings, found: list[Anomaly]) -> Mapping[str, Series]:
    """The series after a record: losses first, because a gradient's fall is judged beside the first loss's."""
    names = [name for name in (*settings.losses, *settings.gradients) if name in read.columns]
    if not names:
        return known
    series, falls = dict(known), list[float]()
    for name in names:
        values, gradient = read.columns[name].tolist(), name in settings.gradients
        beside = falls if len(falls) == len(values) else [0.0] * len(values)
        given = zip(values, _factors(read, len(values), settings), beside, strict=True)
        series[name], begun, below = step_series(series.get(name) or Series(gradient), name, given, settings)
        found += begun
        falls = falls or ([] if gradient else below)
    return series


def _progressed(
    known: Mapping[str, Progress], read: Measurements, settings: DetectorSettings, found: list[Anomaly]
) -> Mapping[str, Progress]:
    """The progress of each loss after a record of steps."""
    progress, steps = dict(known), [] if read.steps is None else read.steps.tolist()
    rate = float(read.columns["learning_rate"][0]) if "learning_rate" in read.columns else math.nan
    rate = rate if math.isfinite(rate) else 1.0  # Unknown: as if it never changed.
    for name in (name for name in settings.losses if name in read.columns):
        given = zip(steps, read.columns[name].tolist(), [rate] * len(steps), _factors(read, len(steps), settings), strict=True)
        progress[name], begun = step_progress(progress.get(name) or Progress(), name, given, settings)
        found += begun
    return progress


def _factors(read: Measurements, size: int, settings: DetectorSettings) -> list[float]:
    """The factors by which the limits are raised at each value of the record."""
    last, steps = read.last_adaptation_step, read.steps
    if last is None or steps is None or len(steps) != size:
        return [1.0] * size
    return [settings.adaptation_factor if 0 <= at - last < settings.adaptation_steps else 1.0 for at in steps.tolist()]


def _detected(topic: str, read: Measurements, one: Anomaly, step: int) -> AnomalyDetected:
    if read.steps is not None and one.place < len(read.steps):
        step = int(read.steps[one.place])
    return AnomalyDetected(
        topic=topic,
        detector=one.detector,
        metric=one.metric,
        site=one.site if one.site is not None or read.sites is None else read.sites[one.place],
        seed=None if one.site is not None or read.seeds is None else read.seeds[one.place],
        value=one.value,
        expected=one.expected,
        score=one.score,
        since_step=step if one.since is None else max(0, one.since),
    )
