"""The condition of a rule in one record, for each set of labels: holds, fails, or has cleared.

A limit is false for NaN, and so is its clearing: NaN neither raises an alert nor resolves one; a pending alert, whose condition must hold
in every value, ends with it. Only the limit `not_finite` is satisfied by NaN, and by the infinities.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.observability import AnomalyDetected
from esper.folds.monitoring.measurements import BoolArray, FloatArray, Measurements, is_series_of
from esper.folds.monitoring.origin import RecentSteps
from esper.folds.monitoring.rules import AnomalySource, EventSource, Labels, Limit, MetricSource, Rule, source_labels

_Values = Mapping[Labels, float | None]
_NONE: _Values = {}


class RuleInput(NamedTuple):
    """Input of a topic's rules: a record with its event, its measurements, the anomalies that begin in it, and the open ones by labels."""

    record: Record
    time_us: int
    event: Event
    read: Measurements | None
    found: Sequence[AnomalyDetected]
    open: Collection[Labels]
    ends: bool
    """The topic ends with the event."""
    recent: RecentSteps = RecentSteps()


class Condition(NamedTuple):
    """A rule's condition in one record: values by labels.

    `holds`: values that satisfy the rule. `fails`: measured values that do not. `clears`: values that let a firing alert end. `ended`: the
    active alerts that an event of `until` ends.
    """

    holds: _Values = _NONE
    fails: _Values = _NONE
    clears: _Values = _NONE
    ended: Collection[Labels] = ()


_NO_DATA = Condition()


def condition_of(rule: Rule, given: RuleInput, active: Collection[Labels]) -> Condition:
    """The condition of `rule` in a record, where its alerts with the labels `active` are pending or firing.

    An event holds each time: events are counted by the caller.
    """
    match rule.source:
        case MetricSource() as source:
            return _NO_DATA if given.read is None else _of_metric(source, given.read, active, lasting=rule.for_s > 0)
        case AnomalySource() as source:
            return _of_anomalies(source, given, active) if active or given.found or given.open else _NO_DATA
        case EventSource() as source:
            return _of_event(source, given.event, active)


def _of_metric(source: MetricSource, read: Measurements, active: Collection[Labels], *, lasting: bool) -> Condition:
    """A column holds where one of its values does; with `lasting` where all do.

    A source that names a metric with labels is about all of its series; a record has one of them.
    """
    metric = source.metric
    if metric not in read.columns:
        metric = next((name for name in read.columns if is_series_of(name, metric)), "")
        if not metric:
            return _NO_DATA
    column, measured = read.columns[metric], read.measured[metric]
    out = _out(source.limit, column) & measured
    if read.sites is not None:
        return _of_rows(source, read, out, active)
    values, out = column[measured], out[measured]
    if not len(values) or not (active or out.any()):
        return _NO_DATA
    key = source_labels(None, None, metric)
    if out.all() if lasting else out.any():
        return Condition(holds={key: _worst(source.limit, values[out])})
    last = {key: float(values[-1])}
    return Condition(fails=last, clears=last if _cleared(source.limit, last[key]) else _NONE)


def _of_rows(source: MetricSource, read: Measurements, out: BoolArray, active: Collection[Labels]) -> Condition:
    assert read.sites is not None, "this is for rows"
    assert read.seeds is not None, "a row has a seed where it has a site"
    column, measured = read.columns[source.metric], read.measured[source.metric]
    holds: dict[Labels, float | None] = {}
    fails: dict[Labels, float | None] = {}
    clears: dict[Labels, float | None] = dict.fromkeys(active)  # What the record does not name is not there any more.
    for row in range(len(column)) if active else np.flatnonzero(out).tolist():
        key, value = source_labels(read.sites[row], read.seeds[row], source.metric), float(column[row])
        if out[row]:
            holds[key] = value
        elif key in clears and measured[row]:
            fails[key] = value
        if key in clears and (out[row] or not measured[row] or not _cleared(source.limit, value)):
            del clears[key]
        elif key in clears:
            clears[key] = value
    return Condition(holds, clears | fails, clears)


def _of_anomalies(source: AnomalySource, given: RuleInput, active: Collection[Labels]) -> Condition:
    """An anomaly that begins in this record holds, and so does one that is open."""
    holds: dict[Labels, float | None] = dict.fromkeys(sorted(key for key in given.open if _concerns(source, key)))
    begun = ((source_labels(one.site, one.seed, one.metric, one.detector), one.value) for one in given.found)
    holds |= {key: value for key, value in begun if _concerns(source, key)}
    over = dict.fromkeys(key for key in active if key not in holds)
    return Condition(holds, over, over)


def _concerns(source: AnomalySource, labels: Labels) -> bool:
    (_, metric), (_, detector) = labels[-2:]
    return detector == source.detector and (source.metric is None or is_series_of(metric, source.metric))


def _of_event(source: EventSource, event: Event, active: Collection[Labels]) -> Condition:
    """An event of `until` ends the active alerts whose labels it does not contradict."""
    if source.kind != event.KIND and not active:
        return _NO_DATA
    about = {name: str(value) for name in ("site", "seed") if (value := getattr(event, name, None)) is not None}
    ended = [key for key in active if all(about.get(name, value) == value for name, value in key)] if event.KIND in source.until else ()
    if source.kind != event.KIND or any(getattr(event, name) != value for name, value in source.where):
        return Condition(ended=ended)
    number = None if source.field is None else getattr(event, source.field)
    value = None if number is None else float(number)
    if source.limit is not None and (value is None or not _out(source.limit, np.array([value]))[0]):
        return Condition(ended=ended)
    return Condition(holds={tuple((name, about[name]) for name in source.by if name in about): value}, ended=ended)


def _out(limit: Limit, column: FloatArray) -> BoolArray:
    # Comparisons with NaN are false: it is never above or below.
    if limit.side == "not_finite":
        return ~np.isfinite(column)
    return column > limit.value if limit.side == "above" else column < limit.value


def _cleared(limit: Limit, value: float) -> bool:
    # False for NaN on every side: what is not a number ends no alert.
    if limit.side == "not_finite":
        return bool(np.isfinite(value))
    return value <= limit.clear if limit.side == "above" else value >= limit.clear


def _worst(limit: Limit, values: FloatArray) -> float:
    if limit.side == "not_finite":
        return float(values[0])
    return float(values.max() if limit.side == "above" else values.min())
