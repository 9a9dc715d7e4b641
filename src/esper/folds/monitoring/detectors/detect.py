"""Detectors: what in a record is not as it should be, and since when.

One state per topic of a run. An anomaly is announced when it begins and again only after it has ended: one abnormal stretch of one detector
and metric (of one row, in health records) is one AnomalyDetected; `active` says what lasts. Values that are not finite are found in every
watched topic; the other detectors read the run's losses and gradients (`detector_series`) and the health of sites and seeds
(`detector_rows`).

Benign adaptations change losses: the limits are raised for a while after `last_adaptation_step`, but for those of `nonfinite`, `explosion`
and `stuck`.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, get_args

import numpy as np
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from esper.errors import DataError
from esper.events.fields import CONFIG, Event
from esper.events.kinds.observability import AnomalyDetected
from esper.folds.monitoring.detectors.seed_health import Packed, RowFound, Rows, packed, under_way, unpacked, watch_rows
from esper.folds.monitoring.detectors.series import Found, Series, watch
from esper.folds.monitoring.detectors.settings import Detector, DetectorSettings
from esper.folds.monitoring.measurements import Measurements, measurements_of

__all__ = ["DETECTORS", "AnomalyKey", "DetectorSettings", "DetectorState", "active", "detect", "from_form", "initial", "step", "to_form"]

NONFINITE = "nonfinite"
MISSING = "missing"
DETECTORS = frozenset[str](get_args(Detector))
"""Their names, as AnomalyDetected and rules have them."""
MOST_METRICS = 128
"""Metrics that may be not finite at a time: those of more are left out."""


class AnomalyKey(NamedTuple):
    """What an anomaly is known by while it lasts."""

    detector: str
    metric: str
    site: str | None
    seed: int | None


@dataclass(frozen=True, slots=True)
class DetectorState:
    """What the detectors remember of one topic. `broken`: metrics of the run whose last value was not finite."""

    series: Mapping[str, Series] = field(default_factory=dict)
    rows: Rows | None = None
    broken: frozenset[str] = frozenset()


class Detected(NamedTuple):
    """The state after a record, and the anomalies that began in it."""

    state: DetectorState
    found: tuple[AnomalyDetected, ...]


def initial() -> DetectorState:
    """The state before a topic's first record."""
    return DetectorState()


def detect(state: DetectorState, topic: str, event: Event, settings: DetectorSettings) -> Detected:
    """`state` after a record of `topic` that holds `event`; one without readings changes nothing."""
    read = measurements_of(event)
    return Detected(state, ()) if read is None else step(state, topic, read, settings)


def step(state: DetectorState, topic: str, read: Measurements, settings: DetectorSettings) -> Detected:
    """`state` after a record of `topic` that measured `read`."""
    if read.sites is not None:
        rows, begun = watch_rows(state.rows, read, settings)
        return Detected(DetectorState(rows=rows), tuple(_of_row(topic, rows, one) for one in begun if one.detector not in settings.off))
    broken, found = _not_finite(state.broken, read)
    series = _watched(state.series, read, settings, found)
    # In the order of steps: how they were grouped into records makes no difference to what is said.
    found.sort(key=lambda pair: (pair[1].place, pair[0], pair[1].detector))
    said = tuple(_of_run(topic, metric, one) for metric, one in found if one.detector not in settings.off)
    return Detected(DetectorState(series, None, broken), said)


def missing(topic: str, count: int) -> AnomalyDetected:
    """The anomaly of `count` records of telemetry that were written and are not there any more."""
    return AnomalyDetected(
        topic=topic, detector=MISSING, metric="records", site=None, seed=None, value=float(count), expected=0.0, score=float(count)
    )


def active(state: DetectorState, off: Collection[str] = ()) -> frozenset[AnomalyKey]:
    """The anomalies that began and have not ended, but for those of detectors that are `off`."""
    run = {AnomalyKey(NONFINITE, metric, None, None) for metric in state.broken}
    run |= {AnomalyKey(detector, metric, None, None) for metric, series in state.series.items() for detector in series.under_way}
    rows = [] if state.rows is None else [AnomalyKey(*place) for place in under_way(state.rows)]
    return frozenset(key for key in run.union(rows) if key.detector not in off)


def _not_finite(broken: frozenset[str], read: Measurements) -> tuple[frozenset[str], list[tuple[str, Found]]]:
    found: list[tuple[str, Found]] = []
    if not broken and np.isfinite(np.concatenate([*read.columns.values()])).all():
        return broken, found
    now = set(broken)
    for metric, column in read.columns.items():
        for index in np.flatnonzero(read.measured[metric]).tolist():
            value = float(column[index])
            if math.isfinite(value):
                now.discard(metric)
            elif metric not in now and len(now) < MOST_METRICS:
                now.add(metric)
                found.append((metric, Found(index, NONFINITE, value, None, 1.0)))
    return frozenset(now), found


def _watched(
    known: Mapping[str, Series], read: Measurements, settings: DetectorSettings, found: list[tuple[str, Found]]
) -> Mapping[str, Series]:
    """The series after a record: losses first, because a gradient's fall is judged beside the loss's."""
    names = [name for name in (*settings.losses, *settings.gradients) if name in read.columns]
    if not names:
        return known
    series, falls = dict(known), None
    for name in names:
        values = read.columns[name].tolist()
        gradient = name in settings.gradients
        before = series.get(name) or Series(gradient)
        calm = [0.0] * len(values)
        beside = falls if falls is not None and len(falls) == len(values) else calm
        series[name], begun, below = watch(before, values, _factors(read, len(values), settings), beside, settings)
        found += [(name, one) for one in begun]
        falls = below if falls is None and not gradient else falls
    return series


def _factors(read: Measurements, size: int, settings: DetectorSettings) -> list[float]:
    """By how much the limits are raised at each value of the record."""
    last, steps = read.last_adaptation_step, read.steps
    if last is None or steps is None or len(steps) != size:
        return [1.0] * size
    return [settings.adaptation_factor if 0 <= at - last < settings.adaptation_steps else 1.0 for at in steps.tolist()]


def _of_run(topic: str, metric: str, one: Found) -> AnomalyDetected:
    return AnomalyDetected(
        topic=topic, detector=one.detector, metric=metric, site=None, seed=None, value=one.value, expected=one.expected, score=one.score
    )


def _of_row(topic: str, rows: Rows, one: RowFound) -> AnomalyDetected:
    return AnomalyDetected(
        topic=topic,
        detector=one.detector,
        metric=one.metric,
        site=rows.sites[one.row],
        seed=rows.seeds[one.row],
        value=one.value,
        expected=one.expected,
        score=one.score,
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    __pydantic_config__: ClassVar[ConfigDict] = CONFIG
    series: dict[str, Series]
    rows: Packed | None
    broken: list[str]


_KEPT = TypeAdapter(_Kept)


def to_form(state: DetectorState) -> JsonValue:
    """`state` as JSON; the same state gives the same form."""
    rows = None if state.rows is None else packed(state.rows)
    made: JsonValue = json.loads(_KEPT.dump_json(_Kept(dict(state.series), rows, sorted(state.broken))))
    return made


def from_form(value: JsonValue) -> DetectorState:
    """The state that `to_form` wrote. Raises DataError for anything else."""
    try:
        kept = _KEPT.validate_json(json.dumps(value))
    except ValidationError as error:
        raise DataError(f"expected the form of a detectors' state, got another: {error}") from error
    if any(sorted(one.ring) != one.ordered for one in kept.series.values()):
        raise DataError("expected the form of a detectors' state, got a series whose sorted values are not its values")
    return DetectorState(kept.series, None if kept.rows is None else unpacked(kept.rows), frozenset(kept.broken))
