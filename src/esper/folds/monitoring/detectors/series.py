"""Detectors of one run-level metric, value by value, and the series that they read: its recent past and its lagged baseline.

A series remembers the last 64 values (their median and quarter range are the centre and the spread), the last 24 means of 16 values with
the spread at their ends, a smoothed value with its last reversals, and the open anomalies. The baseline is the median of the means that
ended 4 to 12 means ago, the lagged spread likewise: a value is judged by what was normal before it.

The values of a positive metric are on a logarithmic scale, where the noise of a loss is about normal whatever its size (measured: of 119
clean trainings only batches of nine samples went further than 5 spreads above the median of the 64 values before them). A metric that has
been negative once is on its own scale.

The detectors (limits in `thresholds`):
  spike        one value far above the median
  divergence   the level of 7 values, or of 31, far above the lower of median and baseline
  explosion    the same of a gradient norm, by a larger factor and at once
  vanishing    a gradient norm far below the higher of median and baseline, further than the loss has fallen
  drift        a CUSUM (Page 1954, "Continuous Inspection Schemes") of means against the lagged baseline, upwards
  oscillation  reversals of the smoothed value by more than noise
  stuck        the very same value again and again

Everything is a recursion over values: how they were grouped into records makes no difference.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import Annotated, ClassVar, NamedTuple

from pydantic import ConfigDict, Field

from esper.events.fields import Float
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.saved import SAVED

_RING, _BLOCK, _BLOCKS, _JUDGED = 64, 16, 24, 24
_LAG, _PAST = 4, 8
_SHORT, _LONG, _EVERY = 7, 31, 8
_SMOOTHING, _MEMORY, _SETTLED = 0.2, 256, 192
_TINY = 1e-8
_RECOVERED = 0.5
_MOST_RESIDUAL = 8.0
_LEAST_STRETCH = 64


class Anomaly(NamedTuple):
    """An anomaly that begins. `place`: the value or row of the record; `value` and `expected` are in the metric's own unit."""

    place: int
    detector: str
    metric: str
    value: float
    expected: float | None
    score: float


class _OpenAnomaly(NamedTuple):
    """An anomaly that has not ended: the number of the value that it began with, and the level before it."""

    since: int
    level: float


@dataclass(slots=True)
class Series:
    """The state of one metric. Never changed once a state holds it: `step_series` works on a copy."""

    __pydantic_config__: ClassVar[ConfigDict] = SAVED
    gradient: bool
    signed: bool = False
    """The metric has been negative."""
    count: int = 0
    ring: list[float] = field(default_factory=list)
    ordered: Annotated[list[float], Field(exclude=True)] = field(default_factory=list)
    """The ring, sorted; not saved."""
    block: float = 0.0
    """The sum of the values since the last full block."""
    means: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    start: float | None = None
    """The mean of the very first values."""
    base: float | None = None
    noise: float | None = None
    smooth: float = 0.0
    extreme: float = 0.0
    direction: int = 0
    reversals: list[int] = field(default_factory=list)
    total: float = 0.0
    """The CUSUM."""
    last: Float = math.nan
    repeated: int = 0
    raised: bool = False
    """Its limits were raised at the last value."""
    open: dict[str, _OpenAnomaly] = field(default_factory=dict)
    """Open anomalies by detector."""

    def __post_init__(self) -> None:
        if len(self.ordered) != len(self.ring):
            self.ordered = sorted(self.ring)

    def copy(self) -> "Series":
        """The same, to be changed. (`dataclasses.replace` takes three times as long.)"""
        return Series(
            self.gradient,
            self.signed,
            self.count,
            self.ring.copy(),
            self.ordered.copy(),
            self.block,
            self.means.copy(),
            self.spreads.copy(),
            self.start,
            self.base,
            self.noise,
            self.smooth,
            self.extreme,
            self.direction,
            self.reversals.copy(),
            self.total,
            self.last,
            self.repeated,
            self.raised,
            self.open.copy(),
        )

    def remember(self, y: float) -> None:
        """Takes a value, on the scale, into the recent past."""
        ring, ordered = self.ring, self.ordered
        if len(ring) == _RING:
            del ordered[bisect_left(ordered, ring.pop(0))]
        ring.append(y)
        insort(ordered, y)
        self.smooth = y if self.count == 0 else self.smooth + _SMOOTHING * (y - self.smooth)
        self.block += y
        self.count += 1

    def centre_and_spread(self) -> tuple[float, float]:
        """The median of the recent past, and its quarter range as a standard deviation."""
        ordered = self.ordered
        size = len(ordered)
        return ordered[size // 2], (ordered[size * 3 // 4] - ordered[size // 4]) / 1.349

    def move_past(self) -> None:
        """Moves what was normal to where the level now is: after an adaptation it is another network's past."""
        if self.base is not None:
            moved = self.centre_and_spread()[0] - self.base
            self.means = [mean + moved for mean in self.means]
            self.base += moved
            self.total = 0.0

    def settle(self) -> None:
        """Sets baseline and lagged spread to what the means say that are old enough."""
        means, spreads = self.means[-_LAG - _PAST : -_LAG], self.spreads[-_LAG - _PAST : -_LAG]
        if len(means) >= _PAST // 2:
            self.base, self.noise = median(means), median(spreads)


class Values(NamedTuple):
    """A record's values of one metric, one a step (NaN: not measured), and the factor that raises the limits at each of them."""

    metric: str
    values: Sequence[float]
    factors: Sequence[float]


def step_series(
    series: Series, given: Values, falls: Sequence[float], settings: DetectorSettings
) -> tuple[Series, list[Anomaly], list[float]]:
    """`series` after the values of a record, the anomalies that begin, and how far each value stands below its past.

    `falls`: for a gradient's series, how far the loss stands below its past at each value.
    """
    passed = _Pass(series.copy(), given.metric, settings)
    below = [
        passed.take(place, value, factor, fall)
        for place, (value, factor, fall) in enumerate(zip(given.values, given.factors, falls, strict=True))
    ]
    return passed.series, passed.found, below


class _Limits(NamedTuple):
    """Factors as distances on the logarithmic scale; a loss is looked at from `unusual` spreads and the distance `least` on."""

    unusual: float
    least: float
    spike: float
    divergence: float
    climb: float
    explosion: float
    vanishing: float
    swing: float


@lru_cache(maxsize=16)
def _limits(settings: DetectorSettings) -> _Limits:
    return _Limits(
        min(settings.spike_spreads, settings.inner_spike_spreads, settings.divergence_spreads),
        math.log(min(settings.spike_factor, settings.divergence_factor)),
        math.log(settings.spike_factor),
        math.log(settings.divergence_factor),
        math.log(settings.climb_factor),
        math.log(settings.explosion_factor),
        math.log(settings.vanishing_factor),
        math.log(settings.swing_factor),
    )


class _Pass:
    """One pass over the values of a record. Most values are calm: what costs something is asked only of those that could matter."""

    def __init__(self, series: Series, metric: str, settings: DetectorSettings) -> None:
        self.series, self.metric, self.settings, self.limits = series, metric, settings, _limits(settings)
        self.found: list[Anomaly] = []

    def take(self, place: int, value: float, factor: float, fall: float) -> float:
        """Takes one value; how far its smoothed level stands below the past, 0 or less."""
        series, below = self.series, 0.0
        if not math.isfinite(value):
            series.repeated = 0
            return below
        if value < 0 and not series.signed:
            series = self.series = Series(series.gradient, signed=True)
        self._stuck(place, value)
        y = value if series.signed else math.log(value if value > _TINY else _TINY)  # noqa: FURB136 - max() takes twice as long.
        if series.raised and factor == 1.0:
            series.move_past()
        series.raised = factor > 1.0
        if (known := len(series.ring)) >= _JUDGED:
            centre = series.ordered[known // 2]
            lagged = centre if series.base is None else series.base
            low, high = (centre, lagged) if centre < lagged else (lagged, centre)
            noise = series.noise
            if noise is None or series.signed or noise < self.settings.least_spread:
                noise = self._noise(centre)
            now = (place, value, y, low, high, noise, factor)
            if series.gradient:
                self._judge_gradient(now, fall)
            else:
                self._judge_loss(now)
            below = min(0.0, series.smooth - high)
        series.remember(y)
        if series.count % _BLOCK == 0:
            self._close_block(place, value, factor)
        return below

    def _noise(self, centre: float) -> float:
        series, least = self.series, self.settings.least_spread
        if series.signed:
            least *= max(abs(centre), _TINY)
        return max(series.centre_and_spread()[1] if series.noise is None else series.noise, least)

    def _judge_loss(self, now: "_Plain") -> None:
        limits, series = self.limits, self.series
        _, _, y, low, _, noise, factor = now
        rise = y - low
        unusual = rise >= limits.unusual * noise and (rise >= limits.least or series.signed)
        if unusual or series.open:
            self._spike(_Now(*now))
        if unusual or series.count % _EVERY == 0:
            self._divergence(_Now(*now))
        if series.count >= _SETTLED:
            swing = self.settings.swing_spreads * noise
            self._oscillation(now, (swing if swing > limits.swing or series.signed else limits.swing) * factor)
        else:
            series.extreme = series.smooth

    def _judge_gradient(self, now: "_Plain", fall: float) -> None:
        limits, series = self.limits, self.series
        if series.signed:
            return  # What has been negative has no order of magnitude to keep.
        if series.open or now[2] - now[3] >= limits.explosion:
            self._explosion(_Now(*now))
        if series.open or now[4] - now[2] >= limits.vanishing:
            self._vanishing(_Now(*now), fall)

    def _spike(self, now: "_Now") -> None:
        centre, spread = self.series.centre_and_spread()
        spread = max(spread, now.noise)
        start = self.series.start
        spreads = self.settings.spike_spreads if start is None or now.y > start else self.settings.inner_spike_spreads
        jump, limit = now.y - centre, spreads * spread * now.factor
        if "spike" in self.series.open:
            if jump < _RECOVERED * limit:
                del self.series.open["spike"]
        elif jump >= limit and jump >= self._distance(self.limits.spike) * now.factor:
            self._begin(now, "spike", centre, jump / spread)

    def _divergence(self, now: "_Now") -> None:
        settings, factor, rise = self.settings, now.factor, now.y - now.low
        limit = self._distance(self.limits.divergence)
        began = self.series.open.get("divergence")
        if began is None and rise >= max(limit, settings.divergence_spreads * now.noise) * factor:
            rise = self._level(_SHORT, now.y) - now.low
            if rise >= max(limit, settings.divergence_spreads * now.noise) * factor:
                self._begin(now, "divergence", now.low, rise / now.noise)
        elif self.series.count % _EVERY == 0:
            level = self._level(_LONG, now.y)
            if began is not None:
                self._end_if("divergence", began, level < began.level + max(_RECOVERED * limit, now.noise))
            elif level - now.low >= max(self._distance(self.limits.climb), settings.climb_spreads * now.noise) * factor:
                self._begin(now, "divergence", now.low, (level - now.low) / now.noise)

    def _explosion(self, now: "_Now") -> None:
        limit = max(self.limits.explosion, self.settings.explosion_spreads * now.noise)
        began = self.series.open.get("explosion")
        if began is None and now.y - now.low >= limit:
            rise = self._level(_SHORT, now.y) - now.low
            if rise >= limit:
                self._begin(now, "explosion", now.low, rise / now.noise)
        elif began is not None and self.series.count % _EVERY == 0:
            self._end_if("explosion", began, self._level(_SHORT, now.y) < began.level + _RECOVERED * limit)

    def _vanishing(self, now: "_Now", fall: float) -> None:
        settings = self.settings
        limit, spreads = self.limits.vanishing * now.factor, settings.vanishing_spreads * now.noise * now.factor
        began = self.series.open.get("vanishing")
        if began is None and now.high - now.y >= max(limit, spreads):
            depth = now.high - self._level(_SHORT, now.y)
            if depth >= spreads and depth + fall >= limit:
                self._begin(now, "vanishing", now.high, depth / now.noise)
        elif began is not None and self.series.count % _EVERY == 0:
            self._end_if("vanishing", began, self._level(_SHORT, now.y) > began.level - _RECOVERED * limit)

    def _oscillation(self, now: "_Plain", swing: float) -> None:
        series = self.series
        away = series.smooth - series.extreme
        if series.direction == 0:
            if abs(away) > swing:
                series.direction, series.extreme = (1 if away > 0 else -1), series.smooth
        elif away * series.direction > 0:
            series.extreme = series.smooth
        elif -away * series.direction > swing:
            series.direction, series.extreme = -series.direction, series.smooth
            series.reversals.append(series.count)
            if len(series.reversals) >= self.settings.swings:
                self._begin(_Now(*now), "oscillation", now[3], float(len(series.reversals)))
        if series.reversals and series.reversals[0] <= series.count - _MEMORY:
            del series.reversals[0]
            if len(series.reversals) < _RECOVERED * self.settings.swings:
                series.open.pop("oscillation", None)

    def _close_block(self, place: int, value: float, factor: float) -> None:
        series = self.series
        mean, (_, spread) = series.block / _BLOCK, series.centre_and_spread()
        series.block = 0.0
        series.start = mean if series.start is None else series.start
        if not series.gradient and len(series.means) >= _LAG + _PAST:
            self._drift(place, value, mean, factor)
        series.means.append(mean)
        series.spreads.append(spread)
        del series.means[:-_BLOCKS], series.spreads[:-_BLOCKS]
        series.settle()

    def _drift(self, place: int, value: float, mean: float, factor: float) -> None:
        series, settings = self.series, self.settings
        past = series.means[-_LAG - 2 * _PAST : -_LAG]
        level = median(past)
        # Differences of neighbours know nothing of a trend; where a loss wanders, they are as large as it wanders.
        steps = [after - before for before, after in pairwise(past)]
        middle = median(steps)
        wander = 1.4826 * median([abs(one - middle) for one in steps]) / math.sqrt(2)
        noise = max(
            wander, (series.noise or 0.0) / math.sqrt(_BLOCK), settings.least_spread * (abs(level) if series.signed else 1.0), _TINY
        )
        residual = (mean - level) / noise
        series.total = max(0.0, series.total + min(residual, _MOST_RESIDUAL) / factor - settings.drift_slack)
        began = series.open.get("drift")
        if began is not None:
            self._end_if("drift", began, mean < began.level + settings.drift_slack * noise)
            series.total = 0.0 if "drift" not in series.open else series.total
        elif series.total >= settings.drift_sum:
            self._begin(_Now(place, value, mean, level, level, noise, factor), "drift", level, series.total)

    def _stuck(self, place: int, value: float) -> None:
        series = self.series
        if value != series.last:
            series.last, series.repeated = value, 1
            series.open.pop("stuck", None)
            return
        series.repeated += 1
        if series.repeated >= self.settings.stuck_values and value != 0 and "stuck" not in series.open:
            series.open["stuck"] = _OpenAnomaly(series.count, value)
            self.found.append(Anomaly(place, "stuck", self.metric, value, None, float(series.repeated)))

    # What several detectors need

    def _distance(self, limit: float) -> float:
        """A limit that is a factor; a metric that has been negative has no factors, and is judged by spreads alone."""
        return 0.0 if self.series.signed else limit

    def _level(self, size: int, y: float) -> float:
        """The median of the last `size` values, this one included."""
        recent = sorted([*self.series.ring[1 - size :], y])
        return recent[len(recent) // 2]

    def _begin(self, now: "_Now", detector: str, level: float, score: float) -> None:
        if detector not in self.series.open:
            self.series.open[detector] = _OpenAnomaly(self.series.count, level)
            expected = level if self.series.signed else math.exp(level)
            self.found.append(Anomaly(now.place, detector, self.metric, now.value, expected, score))

    def _end_if(self, detector: str, began: _OpenAnomaly, recovered: bool) -> None:
        lasted = self.series.count - began.since
        accepted = lasted >= self.settings.accepted_after
        if (recovered and lasted >= _LEAST_STRETCH) or accepted:
            del self.series.open[detector]
        if accepted:
            self.series.move_past()


class _Now(NamedTuple):
    """The value under judgement: where it stands in its record, itself, on the scale; the past's level from below and above; its noise."""

    place: int
    value: float
    y: float
    low: float
    high: float
    noise: float
    factor: float


_Plain = tuple[int, float, float, float, float, float, float]
"""A `_Now` as it is made for every value: a plain tuple costs a tenth."""
