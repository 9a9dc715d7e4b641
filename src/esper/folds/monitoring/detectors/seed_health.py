"""Health records, one row a site or seed: detectors that look at all rows at once, and remember a few numbers a row.

  nonfinite    a value that is not finite, or a count of such values since the last record
  vanishing    a layer's gradient variance, beside that of the strongest site, falls far below what it was: saturation starves the layers
               before it, and no norm over all parameters shows that. One site alone has nobody to be compared with
  dead         the share of dead units (dormant in the sense of Sokar et al. 2023) rises far above the least that it had settled at
  stuck        an activation variance that repeats itself to the last digit: the same batch, or a meter that stands still

A row is known by site and slot. One that is not in a record is forgotten, and a seed's rows begin anew after every adaptation: who is
blended in, frozen or replaced is not what it was.
"""

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from esper.errors import DataError
from esper.folds.monitoring.detectors.settings import DetectorSettings
from esper.folds.monitoring.measurements import BoolArray, FloatArray, IntArray, Measurements

COLUMNS = ("activation_variance", "gradient_variance", "dead_neuron_ratio", "avg_correlation", "latency_s", "errors", "health_score")
ERRORS = COLUMNS.index("errors")
DEPTH, DEAD, VARIANCE = "gradient_variance", "dead_neuron_ratio", "activation_variance"
LEARNT = 8
TRACKING = 0.1
IN_A_ROW = 2
RECOVERED = 0.5
LEAST_VARIANCE = 1e-20
LEAST_SPREAD = 0.2
LONG_AGO = 1 << 30


class RowFound(NamedTuple):
    """One anomaly as it began, in one row."""

    row: int
    detector: str
    metric: str
    value: float
    expected: float | None
    score: float


@dataclass(frozen=True, slots=True)
class Rows:
    """What is remembered of all rows, in the order of the last record. Shapes: arrays have one entry a row; `broken` is (COLUMNS, rows)."""

    sites: tuple[str, ...]
    seeds: tuple[int | None, ...]
    adaptation: int | None
    """The step of the last adaptation that was seen."""
    since: int
    """Records since then."""
    own: BoolArray
    """Which rows are a site's own."""
    known: IntArray
    """Records that had the row."""
    broken: BoolArray
    depth: FloatArray
    """Log of the gradient's variance beside the strongest site's, where it had settled; NaN before it was measured."""
    spread: FloatArray
    low: IntArray
    """Records in a row far below."""
    sunk: IntArray
    """Records since `vanishing` began, 0: it is not under way."""
    settled: FloatArray
    """The share of dead units, smoothed; NaN before it was measured."""
    least: FloatArray
    dying: IntArray
    """Records in a row far above the least."""
    dead: BoolArray
    last: FloatArray
    repeated: IntArray
    """Records in a row that measured the very same variance."""
    stuck: BoolArray


class _Array(NamedTuple):
    """An array's type as it is written, and what it says of a row that is new."""

    type: str
    fresh: float


ARRAYS: Mapping[str, _Array] = {
    "known": _Array("<i8", 0),
    "broken": _Array("|b1", False),
    "depth": _Array("<f8", math.nan),
    "spread": _Array("<f8", LEAST_SPREAD),
    "low": _Array("<i8", 0),
    "sunk": _Array("<i8", 0),
    "settled": _Array("<f8", math.nan),
    "least": _Array("<f8", math.nan),
    "dying": _Array("<i8", 0),
    "dead": _Array("|b1", False),
    "last": _Array("<f8", math.nan),
    "repeated": _Array("<i8", 0),
    "stuck": _Array("|b1", False),
}


def watch_rows(rows: Rows | None, read: Measurements, settings: DetectorSettings) -> tuple[Rows, list[RowFound]]:
    """`rows` after a health record, and the anomalies that begin in it, by detector and then by row."""
    rows = _at_first(read) if rows is None else _adapted(_aligned(rows, read), read)
    factor = settings.adaptation_factor if rows.since < settings.adaptation_records else 1.0
    found: list[RowFound] = []
    rows = _nonfinite(rows, read, found)
    rows = _vanishing(rows, read, settings, factor, found)
    rows = _dead(rows, read, settings, factor, found)
    rows = _stuck(rows, read, settings, found)
    return replace(rows, known=rows.known + 1, since=rows.since + 1), found


def under_way(rows: Rows) -> Iterator[tuple[str, str, str, int | None]]:
    """(detector, metric, site, seed) of every anomaly that lasts."""
    lasting = [("nonfinite", metric, flags) for metric, flags in zip(COLUMNS, rows.broken, strict=True)]
    lasting += [("vanishing", DEPTH, rows.sunk > 0), ("dead", DEAD, rows.dead), ("stuck", VARIANCE, rows.stuck)]
    for detector, metric, flags in lasting:
        for row in np.flatnonzero(flags).tolist():
            yield detector, metric, rows.sites[row], rows.seeds[row]


class Packed(NamedTuple):
    """`Rows` as JSON can hold them: arrays as base64 of their little-endian bytes (of 1,000 rows 115 kB)."""

    sites: tuple[str, ...]
    seeds: tuple[int | None, ...]
    adaptation: int | None
    since: int
    arrays: dict[str, str]


def packed(rows: Rows) -> Packed:
    """`rows`, packed; the same rows give the same."""
    arrays = {name: getattr(rows, name).astype(array.type).tobytes() for name, array in ARRAYS.items()}
    written = {name: base64.b64encode(data).decode() for name, data in arrays.items()}
    return Packed(rows.sites, rows.seeds, rows.adaptation, rows.since, written)


def unpacked(value: Packed) -> Rows:
    """The rows that were packed. Raises DataError for anything else."""
    rows = _fresh(value.sites, value.seeds)
    if value.arrays.keys() != ARRAYS.keys():
        raise DataError(f"expected arrays {', '.join(ARRAYS)}, got {', '.join(value.arrays)}")
    try:
        arrays = {
            name: np.frombuffer(base64.b64decode(text, validate=True), ARRAYS[name].type).reshape(getattr(rows, name).shape)
            for name, text in value.arrays.items()
        }
    except ValueError as error:
        raise DataError(f"expected arrays of {len(rows.sites)} rows in base64, got others: {error}") from error
    return Rows(rows.sites, rows.seeds, value.adaptation, value.since, own=rows.own, **arrays)


def _fresh(sites: tuple[str, ...], seeds: tuple[int | None, ...]) -> Rows:
    size = len(sites)
    arrays = {name: np.full(size, array.fresh, array.type) for name, array in ARRAYS.items()}
    arrays["broken"] = np.zeros((len(COLUMNS), size), np.bool_)
    # What came before a run's first record was no change of what is watched: no limit is raised.
    return Rows(sites, seeds, None, LONG_AGO, own=np.array([seed is None for seed in seeds], np.bool_), **arrays)


def _at_first(read: Measurements) -> Rows:
    assert read.sites is not None, "these are readings of rows"
    assert read.seeds is not None, "a row has a seed where it has a site"
    return replace(_fresh(read.sites, read.seeds), adaptation=read.last_adaptation_step)


def _aligned(rows: Rows, read: Measurements) -> Rows:
    """The rows of the record, each with what was remembered of it."""
    if (rows.sites, rows.seeds) == (read.sites, read.seeds):
        return rows
    fresh = _at_first(read)
    place = {key: row for row, key in enumerate(zip(rows.sites, rows.seeds, strict=True))}
    pairs = [(row, place[key]) for row, key in enumerate(zip(fresh.sites, fresh.seeds, strict=True)) if key in place]
    now, before = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    for name in ARRAYS:
        getattr(fresh, name)[..., now] = getattr(rows, name)[..., before]
    return replace(fresh, adaptation=rows.adaptation, since=rows.since)


def _adapted(rows: Rows, read: Measurements) -> Rows:
    """The rows as they are after an adaptation: seeds begin anew."""
    if read.last_adaptation_step == rows.adaptation:
        return rows
    arrays = {name: np.where(rows.own, getattr(rows, name), array.fresh).astype(array.type) for name, array in ARRAYS.items()}
    return Rows(rows.sites, rows.seeds, read.last_adaptation_step, 0, own=rows.own, **arrays)


def _nonfinite(rows: Rows, read: Measurements, found: list[RowFound]) -> Rows:
    values, measured = (np.stack([part[name] for name in COLUMNS]) for part in (read.columns, read.measured))
    bad = measured & ~np.isfinite(values)
    bad[ERRORS] = values[ERRORS] > 0
    for column, row in np.argwhere(bad & ~rows.broken).tolist():
        found.append(RowFound(row, "nonfinite", COLUMNS[column], float(values[column, row]), None, 1.0))
    return replace(rows, broken=np.where(measured, bad, rows.broken))


def _vanishing(rows: Rows, read: Measurements, settings: DetectorSettings, factor: float, found: list[RowFound]) -> Rows:
    variance = read.columns[DEPTH]
    measured = read.measured[DEPTH] & np.isfinite(variance)
    sites = measured & rows.own
    if np.count_nonzero(sites) < 2:
        return rows
    y = np.log(np.maximum(np.where(measured, variance, 1.0), LEAST_VARIANCE))
    beside = y - y[sites].max()
    shift = np.where(np.isnan(rows.depth), 0.0, beside - rows.depth)
    spread = np.maximum(rows.spread, LEAST_SPREAD)
    limit = np.maximum(math.log(settings.depth_factor), settings.depth_spreads * spread) * factor
    learnt = rows.known >= LEARNT
    low = np.where(measured & learnt & (shift <= -limit), rows.low + 1, 0)
    begins = (low >= IN_A_ROW) & (rows.sunk == 0)
    for row in np.flatnonzero(begins).tolist():
        expected = math.exp(rows.depth[row] + y[sites].max())
        found.append(RowFound(row, "vanishing", DEPTH, float(variance[row]), expected, float(-shift[row] / spread[row])))
    accepted = rows.sunk >= settings.accepted_after // 10
    over = accepted | (measured & (shift > -RECOVERED * limit))
    sunk = np.where(begins, 1, np.where((rows.sunk > 0) & ~over, rows.sunk + 1, 0))
    # What is far below is no part of what is normal, until it has lasted so long that it is.
    tracked = measured & (low == 0) & (sunk == 0)
    moved = np.where(learnt, np.clip(shift, -3 * spread, 3 * spread), shift)
    depth = np.where(tracked, np.where(np.isnan(rows.depth), beside, rows.depth + TRACKING * moved), rows.depth)
    return replace(
        rows,
        depth=np.where(accepted & measured, beside, depth),
        spread=np.where(tracked, rows.spread + TRACKING * (1.25 * np.abs(moved) - rows.spread), rows.spread),
        low=low,
        sunk=sunk,
    )


def _dead(rows: Rows, read: Measurements, settings: DetectorSettings, factor: float, found: list[RowFound]) -> Rows:
    ratio = read.columns[DEAD]
    measured = read.measured[DEAD] & np.isfinite(ratio)
    rise = ratio - rows.least  # NaN where nothing has settled: every comparison with it is false.
    high = measured & (rise >= settings.dead_rise * factor) & (ratio >= settings.dead_ratio)
    dying = np.where(high, rows.dying + 1, 0)
    begins = (dying >= IN_A_ROW) & ~rows.dead
    found += [
        RowFound(row, "dead", DEAD, float(ratio[row]), float(rows.least[row]), float(rise[row])) for row in np.flatnonzero(begins).tolist()
    ]
    settled = np.where(measured, np.where(np.isnan(rows.settled), ratio, rows.settled + TRACKING * (ratio - rows.settled)), rows.settled)
    least = np.where(measured & (rows.known >= LEARNT), np.fmin(rows.least, settled), rows.least)
    over = measured & (rise < RECOVERED * settings.dead_rise)
    return replace(rows, settled=settled, least=least, dying=dying, dead=(rows.dead | begins) & ~over)


def _stuck(rows: Rows, read: Measurements, settings: DetectorSettings, found: list[RowFound]) -> Rows:
    variance, measured = read.columns[VARIANCE], read.measured[VARIANCE]
    same = measured & (variance == rows.last) & (variance != 0)
    repeated = np.where(same, rows.repeated + 1, np.where(measured, 1, rows.repeated))
    stuck = np.where(measured, repeated >= settings.stuck_records, rows.stuck)
    begins = np.flatnonzero(stuck & ~rows.stuck).tolist()
    found += [RowFound(row, "stuck", VARIANCE, float(variance[row]), None, float(repeated[row])) for row in begins]
    return replace(rows, last=np.where(measured, variance, rows.last), repeated=repeated, stuck=stuck)
