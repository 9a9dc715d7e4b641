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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.measurements import HEALTH, BoolArray, Measurements
from esper.folds.monitoring.rules import Labels, source_labels

_ERRORS = HEALTH.index("errors")
_DEPTH, _DEAD, _VARIANCE = "gradient_variance", "dead_neuron_ratio", "activation_variance"
_LEARNT = 8
_TRACKING = 0.1
_IN_A_ROW = 2
_RECOVERED = 0.5
_LEAST_VARIANCE = 1e-20
_LEAST_SPREAD = 0.2
_LONG_AGO = 1 << 30

_Table = npt.NDArray[np.void]
"""An array without dimensions of a `_layout`: its fields are arrays with an entry for each row."""

_NEW: Mapping[str, float | bool] = {
    "known": 0,  # Records that had the row.
    "depth": math.nan,  # Log of the gradient's variance beside the strongest site's, where it had settled; NaN before it was measured.
    "spread": _LEAST_SPREAD,
    "low": 0,  # Records in a row far below.
    "vanishing_for": 0,  # Records since `vanishing` began; 0: it is not under way.
    "settled": math.nan,  # The share of dead units, smoothed; NaN before it was measured.
    "least": math.nan,
    "dying": 0,  # Records in a row far above the least.
    "last": math.nan,
    "repeated": 0,  # Records in a row that measured the very same variance.
    "dead": False,
    "stuck": False,
    "broken": False,  # One entry for each metric and row.
}
"""The fields of a table, with the value of a row that is new. Flags come last, so that the numbers are aligned."""


@lru_cache(maxsize=64)
def _layout(rows: int) -> np.dtype[np.void]:
    return np.dtype([(name, np.array(new).dtype, (len(HEALTH), rows) if name == "broken" else (rows,)) for name, new in _NEW.items()])


@dataclass(frozen=True, slots=True)
class HealthRows:
    """The state of all rows, in the order of the last record. `table` are the bytes of a table of `_layout`.

    `adaptation`: the step of the last adaptation that was seen; `since`: records since then.
    """

    sites: tuple[str, ...]
    seeds: tuple[int | None, ...]
    adaptation: int | None
    since: int
    table: bytes

    def __post_init__(self) -> None:
        size = _layout(len(self.sites)).itemsize
        if len(self.seeds) != len(self.sites) or len(self.table) != size:
            raise ValueError(f"expected as many seeds as sites and a table of {size} bytes, got {len(self.seeds)} and {len(self.table)}")

    def read(self) -> _Table:
        """The table; it cannot be written to."""
        return np.ndarray((), _layout(len(self.sites)), self.table)


def step_rows(rows: HealthRows | None, read: Measurements, settings: DetectorSettings) -> tuple[HealthRows, list[Anomaly]]:
    """`rows` after a health record, and the anomalies that begin in it, by detector and then by row."""
    assert read.sites is not None, "these are measurements of rows"
    assert read.seeds is not None, "a row has a seed where it has a site"
    table = _aligned(rows, read.sites, read.seeds)
    own = np.array([seed is None for seed in read.seeds], np.bool_)
    since = _LONG_AGO if rows is None else rows.since  # Before a run's first record nothing that is watched changed.
    if rows is not None and read.last_adaptation_step != rows.adaptation:
        since = 0
        for name, new in _NEW.items():
            table[name][..., ~own] = new
    factor = settings.adaptation_factor if since < settings.adaptation_records else 1.0
    found = _nonfinite(table, read)
    found += _vanishing(table, own, read, settings, factor)
    found += _dead(table, read, settings, factor)
    found += _stuck(table, read, settings)
    table["known"] += 1
    return HealthRows(read.sites, read.seeds, read.last_adaptation_step, since + 1, table.tobytes()), found


def open_labels(rows: HealthRows) -> set[Labels]:
    """The labels of every open anomaly."""
    table = rows.read()
    lasting = [("nonfinite", metric, flags) for metric, flags in zip(HEALTH, table["broken"], strict=True)]
    lasting += [("vanishing", _DEPTH, table["vanishing_for"]), ("dead", _DEAD, table["dead"]), ("stuck", _VARIANCE, table["stuck"])]
    return {
        source_labels(rows.sites[row], rows.seeds[row], metric, detector)
        for detector, metric, flags in lasting
        for row in np.flatnonzero(flags).tolist()
    }


def _aligned(rows: HealthRows | None, sites: tuple[str, ...], seeds: tuple[int | None, ...]) -> _Table:
    """The rows of the record, each with its state."""
    if rows is not None and (rows.sites, rows.seeds) == (sites, seeds):
        return rows.read().copy()
    table = np.empty((), _layout(len(sites)))
    place = {} if rows is None else {key: row for row, key in enumerate(zip(rows.sites, rows.seeds, strict=True))}
    pairs = [(row, place[key]) for row, key in enumerate(zip(sites, seeds, strict=True)) if key in place]
    now, before = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    for name, new in _NEW.items():
        table[name] = new
        if rows is not None:
            table[name][..., now] = rows.read()[name][..., before]
    return table


def _nonfinite(table: _Table, read: Measurements) -> list[Anomaly]:
    values, measured = (np.stack([part[name] for name in HEALTH]) for part in (read.columns, read.measured))
    bad = measured & ~np.isfinite(values)
    bad[_ERRORS] = values[_ERRORS] > 0
    broken = table["broken"]
    begins = np.argwhere(bad & ~broken).tolist()
    np.copyto(broken, bad, where=measured)
    return [Anomaly(row, "nonfinite", HEALTH[column], float(values[column, row]), None, 1.0) for column, row in begins]


def _vanishing(table: _Table, own: BoolArray, read: Measurements, settings: DetectorSettings, factor: float) -> list[Anomaly]:
    variance = read.columns[_DEPTH]
    measured = read.measured[_DEPTH] & np.isfinite(variance)
    sites = measured & own
    if np.count_nonzero(sites) < 2:
        return []
    depth, lasting = table["depth"].copy(), table["vanishing_for"]
    y = np.log(np.maximum(np.where(measured, variance, 1.0), _LEAST_VARIANCE))
    beside = y - y[sites].max()
    shift = np.where(np.isnan(depth), 0.0, beside - depth)
    spread = np.maximum(table["spread"], _LEAST_SPREAD)
    limit = np.maximum(math.log(settings.depth_factor), settings.depth_spreads * spread) * factor
    learnt = table["known"] >= _LEARNT
    low = np.where(measured & learnt & (shift <= -limit), table["low"] + 1, 0)
    begins = (low >= _IN_A_ROW) & (lasting == 0)
    accepted = lasting >= settings.accepted_after // 10
    over = accepted | (measured & (shift > -_RECOVERED * limit))
    table["low"] = low
    table["vanishing_for"] = np.where(begins, 1, np.where((lasting > 0) & ~over, lasting + 1, 0))
    # What is far below is no part of what is normal, until it has lasted so long that it is.
    tracked = measured & (low == 0) & (table["vanishing_for"] == 0)
    moved = np.where(learnt, np.clip(shift, -3 * spread, 3 * spread), shift)
    table["depth"] = np.where(tracked, np.where(np.isnan(depth), beside, depth + _TRACKING * moved), depth)
    np.copyto(table["depth"], beside, where=accepted & measured)
    np.copyto(table["spread"], table["spread"] + _TRACKING * (1.25 * np.abs(moved) - table["spread"]), where=tracked)
    return [
        Anomaly(row, "vanishing", _DEPTH, float(variance[row]), math.exp(depth[row] + y[sites].max()), float(-shift[row] / spread[row]))
        for row in np.flatnonzero(begins).tolist()
    ]


def _dead(table: _Table, read: Measurements, settings: DetectorSettings, factor: float) -> list[Anomaly]:
    ratio, settled, least = read.columns[_DEAD], table["settled"], table["least"].copy()
    measured = read.measured[_DEAD] & np.isfinite(ratio)
    rise = ratio - least  # NaN where nothing has settled: every comparison with it is false.
    high = measured & (rise >= settings.dead_rise * factor) & (ratio >= settings.dead_ratio)
    table["dying"] = np.where(high, table["dying"] + 1, 0)
    begins = (table["dying"] >= _IN_A_ROW) & ~table["dead"]
    np.copyto(settled, np.where(np.isnan(settled), ratio, settled + _TRACKING * (ratio - settled)), where=measured)
    np.copyto(table["least"], np.fmin(least, settled), where=measured & (table["known"] >= _LEARNT))
    over = measured & (rise < _RECOVERED * settings.dead_rise)
    table["dead"] = (table["dead"] | begins) & ~over
    return [Anomaly(row, "dead", _DEAD, float(ratio[row]), float(least[row]), float(rise[row])) for row in np.flatnonzero(begins).tolist()]


def _stuck(table: _Table, read: Measurements, settings: DetectorSettings) -> list[Anomaly]:
    variance, measured, repeated = read.columns[_VARIANCE], read.measured[_VARIANCE], table["repeated"]
    same = measured & (variance == table["last"]) & (variance != 0)
    np.copyto(repeated, np.where(same, repeated + 1, 1), where=measured)
    stuck = np.where(measured, repeated >= settings.stuck_records, table["stuck"])
    begins = np.flatnonzero(stuck & ~table["stuck"]).tolist()
    table["stuck"] = stuck
    np.copyto(table["last"], variance, where=measured)
    return [Anomaly(row, "stuck", _VARIANCE, float(variance[row]), None, float(repeated[row])) for row in begins]
