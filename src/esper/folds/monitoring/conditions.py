"""The condition of a rule in one record, for each set of labels: holds, fails, or has cleared.

A limit is false for NaN, and so is its clearing: NaN neither raises an alert nor resolves one; a pending alert, whose condition must hold
in every value, ends with it. Only the limit `not_finite` is satisfied by NaN, and by the infinities.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from esper.events.fields import Event
from esper.events.kinds.observability import AnomalyDetected
from esper.folds.monitoring.measurements import BoolArray, FloatArray, Measurements, is_series_of
from esper.folds.monitoring.rules import AnomalySource, EventSource, Labels, Limit, MetricSource, labels_of, source_labels

_Values = Mapping[Labels, float | None]
_NONE: _Values = {}


class Condition(NamedTuple):
    """A rule's condition in one record: values by labels.

    `holds`: values that satisfy the rule. `fails`: measured values that do not. `clears`: values that let a firing alert end.
    """

    holds: _Values = _NONE
    fails: _Values = _NONE
    clears: _Values = _NONE


NO_DATA = Condition()


def of_metric(source: MetricSource, read: Measurements | None, active: Collection[Labels], *, lasting: bool) -> Condition:
    """The condition of a metric. `lasting`: a column holds only where all of its values do, else where one does.

    A source that names a metric with labels is about all of its series; a record has one of them.
    """
    metric = None if read is None else _column(source.metric, read)
    if read is None or metric is None:
        return NO_DATA
    column, measured = read.columns[metric], read.measured[metric]
    out = _out(source.limit, column) & measured
    if read.sites is not None:
        return _of_rows(source, read, out, active)
    if not active and not out.any():
        return NO_DATA
    values, out = column[measured], out[measured]
    if not len(values):
        return NO_DATA
    key: Labels = (("metric", metric),)
    if out.all() if lasting else out.any():
        return Condition(holds={key: _worst(source.limit, values[out])})
    last = float(values[-1])
    return Condition(fails={key: last}, clears={key: last} if _cleared(source.limit, last) else _NONE)


def of_anomalies(
    source: AnomalySource, found: Sequence[AnomalyDetected], opened: Collection[Labels], active: Collection[Labels]
) -> Condition:
    """The condition of anomalies: one that was `found` in this record holds, and so does one that is `opened`."""
    holds: dict[Labels, float | None] = dict.fromkeys(sorted(key for key in opened if _concerns(source, key)))
    holds |= {key: one.value for one in found if _concerns(source, key := source_labels(one.site, one.seed, one.metric, one.detector))}
    over = dict.fromkeys(key for key in active if key not in holds)
    return Condition(holds, over, over)


def of_event(source: EventSource, event: Event) -> Condition:
    """The condition of an event: it holds, or there is no data. Events are counted by the caller."""
    if source.kind != event.KIND or any(getattr(event, name) != value for name, value in source.where):
        return NO_DATA
    number = None if source.field is None else getattr(event, source.field)
    value = None if number is None else float(number)
    if source.limit is not None and (value is None or not _out(source.limit, np.array([value]))[0]):
        return NO_DATA
    return Condition(holds={_chosen(event, source): value})


def ended_by(source: EventSource, event: Event, active: Collection[Labels]) -> tuple[Labels, ...]:
    """The `active` alerts that `event` ends: those whose labels it does not contradict."""
    if event.KIND not in source.until:
        return ()
    about = labels_of(event)
    return tuple(key for key in active if all(about.get(name, value) == value for name, value in key))


def _chosen(event: Event, source: EventSource) -> Labels:
    about = labels_of(event)
    return tuple((name, about[name]) for name in source.by if name in about)


def _column(metric: str, read: Measurements) -> str | None:
    if metric in read.columns:
        return metric
    return next((name for name in read.columns if is_series_of(name, metric)), None)


def _concerns(source: AnomalySource, key: Labels) -> bool:
    return key[-1][1] == source.detector and (source.metric is None or is_series_of(key[-2][1], source.metric))


def _of_rows(source: MetricSource, read: Measurements, out: BoolArray, active: Collection[Labels]) -> Condition:
    assert read.sites is not None, "this is for rows"
    assert read.seeds is not None, "a row has a seed where it has a site"
    column, measured = read.columns[source.metric], read.measured[source.metric]
    rows = range(len(column)) if active else np.flatnonzero(out).tolist()
    holds: dict[Labels, float | None] = {}
    fails: dict[Labels, float | None] = {}
    clears: dict[Labels, float | None] = dict.fromkeys(active)  # What the record does not name is not there any more.
    for row in rows:
        key = source_labels(read.sites[row], read.seeds[row], source.metric)
        value = float(column[row])
        if out[row]:
            holds[key] = value
        elif key in clears and measured[row]:
            fails[key] = value
        if key in clears and (out[row] or not measured[row] or not _cleared(source.limit, value)):
            del clears[key]
        elif key in clears:
            clears[key] = value
    return Condition(holds, clears | fails, clears)


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
