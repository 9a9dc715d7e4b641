"""Detectors over health records, which have a row for each site and seed: all rows at once, a few numbers remembered of each.

  nonfinite    a value that is not finite, or a count of such values since the last record
  vanishing    a layer's gradient variance, beside that of the strongest site, falls far below what it was: saturation starves the layers
               before it, and no norm over all parameters shows that. A single site cannot be compared
  dead         the share of dead units (dormant in the sense of Sokar et al. 2023) rises far above the least that it had settled at
  stuck        an activation variance that repeats itself to the last digit: the same batch, or a meter that stands still

A row is known by site and slot. A row that is not in a record is forgotten. A seed's row begins anew after every adaptation, which may
blend it in, freeze it or replace it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import ConfigDict, model_validator

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.measurements import HEALTH, BoolArray, FloatArray, IntArray, Measurements
from esper.folds.monitoring.saved import SAVED, AsArray

_Floats = Annotated[FloatArray, AsArray("<f8")]
_Ints = Annotated[IntArray, AsArray("<i8")]
_Flags = Annotated[BoolArray, AsArray("|b1")]

_ERRORS = HEALTH.index("errors")
_DEPTH, _DEAD, _VARIANCE = "gradient_variance", "dead_neuron_ratio", "activation_variance"
_LEARNT = 8
_TRACKING = 0.1
_IN_A_ROW = 2
_RECOVERED = 0.5
_LEAST_VARIANCE = 1e-20
_LEAST_SPREAD = 0.2
_LONG_AGO = 1 << 30


@dataclass(frozen=True, slots=True)
class Rows:
    """What is remembered of all rows, in the order of the last record. Arrays have one entry a row; `broken` has one a column and row."""

    __pydantic_config__: ClassVar[ConfigDict] = SAVED
    sites: tuple[str, ...]
    seeds: tuple[int | None, ...]
    adaptation: int | None
    """The step of the last adaptation that was seen."""
    since: int
    """Records since then."""
    known: _Ints
    """Records that had the row."""
    broken: _Flags
    depth: _Floats
    """Log of the gradient's variance beside the strongest site's, where it had settled; NaN before it was measured."""
    spread: _Floats
    low: _Ints
    """Records in a row far below."""
    vanishing_for: _Ints
    """Records since `vanishing` began, 0: it is not under way."""
    settled: _Floats
    """The share of dead units, smoothed; NaN before it was measured."""
    least: _Floats
    dying: _Ints
    """Records in a row far above the least."""
    dead: _Flags
    last: _Floats
    repeated: _Ints
    """Records in a row that measured the very same variance."""
    stuck: _Flags

    @property
    def own(self) -> BoolArray:
        """The rows that are a site's own."""
        return np.array([seed is None for seed in self.seeds], np.bool_)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        size = len(self.sites)
        for name in _FRESH:
            if getattr(self, name).size != size * (len(HEALTH) if name == "broken" else 1):
                raise ValueError(f"expected {name} of {size} rows")
        object.__setattr__(self, "broken", self.broken.reshape(len(HEALTH), size))
        return self


_FRESH: Mapping[str, float | bool] = {
    "known": 0,
    "broken": False,
    "depth": math.nan,
    "spread": _LEAST_SPREAD,
    "low": 0,
    "vanishing_for": 0,
    "settled": math.nan,
    "least": math.nan,
    "dying": 0,
    "dead": False,
    "last": math.nan,
    "repeated": 0,
    "stuck": False,
}
"""The arrays of `Rows`, with the value of a row that is new."""


def step_rows(rows: Rows | None, read: Measurements, settings: DetectorSettings) -> tuple[Rows, list[Anomaly]]:
    """`rows` after a health record, and the anomalies that begin in it, by detector and then by row."""
    rows = _fresh(read) if rows is None else _adapted(_aligned(rows, read), read)
    factor = settings.adaptation_factor if rows.since < settings.adaptation_records else 1.0
    found: list[Anomaly] = []
    rows = _nonfinite(rows, read, found)
    rows = _vanishing(rows, read, settings, factor, found)
    rows = _dead(rows, read, settings, factor, found)
    rows = _stuck(rows, read, settings, found)
    return replace(rows, known=rows.known + 1, since=rows.since + 1), found


def open_anomalies(rows: Rows) -> Iterator[tuple[str, str, str, int | None]]:
    """(detector, metric, site, seed) of every open anomaly."""
    lasting = [("nonfinite", metric, flags) for metric, flags in zip(HEALTH, rows.broken, strict=True)]
    lasting += [("vanishing", _DEPTH, rows.vanishing_for > 0), ("dead", _DEAD, rows.dead), ("stuck", _VARIANCE, rows.stuck)]
    for detector, metric, flags in lasting:
        for row in np.flatnonzero(flags).tolist():
            yield detector, metric, rows.sites[row], rows.seeds[row]


def _fresh(read: Measurements) -> Rows:
    assert read.sites is not None, "these are measurements of rows"
    assert read.seeds is not None, "a row has a seed where it has a site"
    arrays: dict[str, Any] = {name: np.full(len(read.sites), value) for name, value in _FRESH.items()}  # Any: each of its field's type.
    arrays["broken"] = np.zeros((len(HEALTH), len(read.sites)), np.bool_)
    # What came before a run's first record was no change of what is watched: no limit is raised.
    return Rows(read.sites, read.seeds, read.last_adaptation_step, _LONG_AGO, **arrays)


def _aligned(rows: Rows, read: Measurements) -> Rows:
    """The rows of the record, each with what was remembered of it."""
    if (rows.sites, rows.seeds) == (read.sites, read.seeds):
        return rows
    fresh = _fresh(read)
    place = {key: row for row, key in enumerate(zip(rows.sites, rows.seeds, strict=True))}
    pairs = [(row, place[key]) for row, key in enumerate(zip(fresh.sites, fresh.seeds, strict=True)) if key in place]
    now, before = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    for name in _FRESH:
        getattr(fresh, name)[..., now] = getattr(rows, name)[..., before]
    return replace(fresh, adaptation=rows.adaptation, since=rows.since)


def _adapted(rows: Rows, read: Measurements) -> Rows:
    """The rows as they are after an adaptation: seeds begin anew."""
    if read.last_adaptation_step == rows.adaptation:
        return rows
    arrays: dict[str, Any] = {name: np.where(rows.own, getattr(rows, name), value) for name, value in _FRESH.items()}  # Any: as above.
    return replace(rows, adaptation=read.last_adaptation_step, since=0, **arrays)


def _nonfinite(rows: Rows, read: Measurements, found: list[Anomaly]) -> Rows:
    values, measured = (np.stack([part[name] for name in HEALTH]) for part in (read.columns, read.measured))
    bad = measured & ~np.isfinite(values)
    bad[_ERRORS] = values[_ERRORS] > 0
    for column, row in np.argwhere(bad & ~rows.broken).tolist():
        found.append(Anomaly(row, "nonfinite", HEALTH[column], float(values[column, row]), None, 1.0))
    return replace(rows, broken=np.where(measured, bad, rows.broken))


def _vanishing(rows: Rows, read: Measurements, settings: DetectorSettings, factor: float, found: list[Anomaly]) -> Rows:
    variance = read.columns[_DEPTH]
    measured = read.measured[_DEPTH] & np.isfinite(variance)
    sites = measured & rows.own
    if np.count_nonzero(sites) < 2:
        return rows
    y = np.log(np.maximum(np.where(measured, variance, 1.0), _LEAST_VARIANCE))
    beside = y - y[sites].max()
    shift = np.where(np.isnan(rows.depth), 0.0, beside - rows.depth)
    spread = np.maximum(rows.spread, _LEAST_SPREAD)
    limit = np.maximum(math.log(settings.depth_factor), settings.depth_spreads * spread) * factor
    learnt = rows.known >= _LEARNT
    low = np.where(measured & learnt & (shift <= -limit), rows.low + 1, 0)
    begins = (low >= _IN_A_ROW) & (rows.vanishing_for == 0)
    for row in np.flatnonzero(begins).tolist():
        expected = math.exp(rows.depth[row] + y[sites].max())
        found.append(Anomaly(row, "vanishing", _DEPTH, float(variance[row]), expected, float(-shift[row] / spread[row])))
    accepted = rows.vanishing_for >= settings.accepted_after // 10
    over = accepted | (measured & (shift > -_RECOVERED * limit))
    lasting = np.where(begins, 1, np.where((rows.vanishing_for > 0) & ~over, rows.vanishing_for + 1, 0))
    # What is far below is no part of what is normal, until it has lasted so long that it is.
    tracked = measured & (low == 0) & (lasting == 0)
    moved = np.where(learnt, np.clip(shift, -3 * spread, 3 * spread), shift)
    depth = np.where(tracked, np.where(np.isnan(rows.depth), beside, rows.depth + _TRACKING * moved), rows.depth)
    return replace(
        rows,
        depth=np.where(accepted & measured, beside, depth),
        spread=np.where(tracked, rows.spread + _TRACKING * (1.25 * np.abs(moved) - rows.spread), rows.spread),
        low=low,
        vanishing_for=lasting,
    )


def _dead(rows: Rows, read: Measurements, settings: DetectorSettings, factor: float, found: list[Anomaly]) -> Rows:
    ratio = read.columns[_DEAD]
    measured = read.measured[_DEAD] & np.isfinite(ratio)
    rise = ratio - rows.least  # NaN where nothing has settled: every comparison with it is false.
    high = measured & (rise >= settings.dead_rise * factor) & (ratio >= settings.dead_ratio)
    dying = np.where(high, rows.dying + 1, 0)
    begins = (dying >= _IN_A_ROW) & ~rows.dead
    found += [
        Anomaly(row, "dead", _DEAD, float(ratio[row]), float(rows.least[row]), float(rise[row])) for row in np.flatnonzero(begins).tolist()
    ]
    settled = np.where(measured, np.where(np.isnan(rows.settled), ratio, rows.settled + _TRACKING * (ratio - rows.settled)), rows.settled)
    least = np.where(measured & (rows.known >= _LEARNT), np.fmin(rows.least, settled), rows.least)
    over = measured & (rise < _RECOVERED * settings.dead_rise)
    return replace(rows, settled=settled, least=least, dying=dying, dead=(rows.dead | begins) & ~over)


def _stuck(rows: Rows, read: Measurements, settings: DetectorSettings, found: list[Anomaly]) -> Rows:
    variance, measured = read.columns[_VARIANCE], read.measured[_VARIANCE]
    same = measured & (variance == rows.last) & (variance != 0)
    repeated = np.where(same, rows.repeated + 1, np.where(measured, 1, rows.repeated))
    stuck = np.where(measured, repeated >= settings.stuck_records, rows.stuck)
    begins = np.flatnonzero(stuck & ~rows.stuck).tolist()
    found += [Anomaly(row, "stuck", _VARIANCE, float(variance[row]), None, float(repeated[row])) for row in begins]
    return replace(rows, last=np.where(measured, variance, rows.last), repeated=repeated, stuck=stuck)
