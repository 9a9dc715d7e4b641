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
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from esper.events.fields import Float
from esper.folds.monitoring.detectors.thresholds import DetectorSettings

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
    since: int | None = None
    """The step since which it is so, where that is not the step of `place`."""
    site: str | None = None
    """The site, where it has no row in the record."""


class _OpenAnomaly(NamedTuple):
    """An anomaly that has not ended: the number of the value that it began with, and the level before it."""

    since: int
    level: float


@dataclass
class Series:
    """The state of one metric. Never changed once a state holds it: `step_series` works on a copy."""

    gradient: bool
    signed: bool = False
    """The metric has been negative."""
    count: int = 0
    ring: list[float] = field(default_factory=list)
    ordered: list[float] = field(default_factory=list)
    """The ring, sorted."""
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

    def copy(self) -> "Series":
        """The same, to be changed."""
        changed = ("ring", "ordered", "reversals", "open")
        return Series(**vars(self) | {name: getattr(self, name).copy() for name in changed})

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

    def level(self, size: int, y: float) -> float:
        """The median of the last `size` values, `y` as the last of them."""
        recent = sorted([*self.ring[1 - size :], y])
        return recent[len(recent) // 2]

    def move_past(self) -> None:
        """Moves what was normal to where the level now is: after an adaptation it is another network's past."""
        if self.base is not None:
            moved = self.centre_and_spread()[0] - self.base
            self.means = [mean + moved for mean in self.means]
            self.base += moved
            self.total = 0.0


def step_series(
    series: Series, metric: str, values: Iterable[tuple[float, float, float]], settings: DetectorSettings
) -> tuple[Series, list[Anomaly], list[float]]:
    """`series` after the values of a record, the anomalies that begin, and how far each value stands below its past.

    `values`: one a step, each a value of `metric` (NaN: not measured), the factor that raises the limits there, and, for a gradient's
    series, how far the loss stands below its past.
    """
    passed = _Pass(series.copy(), metric, settings)
    below = [passed.take(place, value, factor, fall) for place, (value, factor, fall) in enumerate(values)]
    return passed.series, passed.found, below


class _Pass:
    """A pass over the values of a record. Most values are calm: only those that could matter are put to the costly tests.

    Of the present value: its place in the record, itself and on the scale (`y`), the factor of its limits, the past's level from below and
    above (`low`, `high`), and its noise.
    """

    def __init__(self, series: Series, metric: str, settings: DetectorSettings) -> None:
        self.series, self.metric, self.settings = series, metric, settings
        self.found: list[Anomaly] = []
        self.place, self.value, self.factor = 0, 0.0, 1.0
        self.y = self.low = self.high = self.noise = 0.0
        # A loss is looked at from `unusual` spreads and the distance `least` on; distances are factors on the logarithmic scale.
        self.unusual = min(settings.spike_spreads, settings.inner_spike_spreads, settings.divergence_spreads)
        self.least = math.log(min(settings.spike_factor, settings.divergence_factor))
        self.swing, self.explosion = math.log(settings.swing_factor), math.log(settings.explosion_factor)
        self.vanishing = math.log(settings.vanishing_factor)

    def take(self, place: int, value: float, factor: float, fall: float) -> float:
        """Takes one value; how far its smoothed level stands below the past, 0 or less."""
        series, below = self.series, 0.0
        if not math.isfinite(value):
            series.repeated = 0
            return below
        if value < 0 and not series.signed:
            series = self.series = Series(series.gradient, signed=True)
        self.place, self.value, self.factor = place, value, factor
        self._stuck()
        y = value if series.signed else math.log(value if value > _TINY else _TINY)  # noqa: FURB136 - max() takes twice as long.
        if series.raised and factor == 1.0:
            series.move_past()
        series.raised = factor > 1.0
        if (known := len(series.ring)) >= _JUDGED:
            centre = series.ordered[known // 2]
            lagged = centre if series.base is None else series.base
            low, high = (centre, lagged) if centre < lagged else (lagged, centre)
            if (noise := series.noise) is None or series.signed or noise < self.settings.least_spread:
                noise = self._noise(centre)
            self.y, self.low, self.high, self.noise = y, low, high, noise
            if series.gradient:
                self._judge_gradient(fall)
            else:
                self._judge_loss()
            below = min(0.0, series.smooth - high)
        series.remember(y)
        if series.count % _BLOCK == 0:
            self._close_block()
        return below

    def _noise(self, centre: float) -> float:
        series, least = self.series, self.settings.least_spread
        if series.signed:
            least *= max(abs(centre), _TINY)
        return max(series.centre_and_spread()[1] if series.noise is None else series.noise, least)

    def _judge_loss(self) -> None:
        series, rise = self.series, self.y - self.low
        unusual = rise >= self.unusual * self.noise and (rise >= self.least or series.signed)
        if unusual or series.open:
            self._spike()
        if unusual or series.count % _EVERY == 0:
            self._divergence()
        if series.count >= _SETTLED:
            swing = self.settings.swing_spreads * self.noise
            self._oscillation((swing if swing > self.swing or series.signed else self.swing) * self.factor)
        else:
            series.extreme = series.smooth

    def _judge_gradient(self, fall: float) -> None:
        if self.series.signed:
            return  # What has been negative has no order of magnitude to keep.
        if self.series.open or self.y - self.low >= self.explosion:
            self._explosion()
        if self.series.open or self.high - self.y >= self.vanishing:
            self._vanishing(fall)

    def _spike(self) -> None:
        centre, spread = self.series.centre_and_spread()
        spread = max(spread, self.noise)
        start = self.series.start
        spreads = self.settings.spike_spreads if start is None or self.y > start else self.settings.inner_spike_spreads
        jump, limit = self.y - centre, spreads * spread * self.factor
        if "spike" in self.series.open:
            if jump < _RECOVERED * limit:
                del self.series.open["spike"]
        elif jump >= limit and jump >= self._distance(self.settings.spike_factor) * self.factor:
            self._begin("spike", centre, jump / spread)

    def _divergence(self) -> None:
        settings = self.settings
        limit = self._distance(settings.divergence_factor)
        far = max(limit, settings.divergence_spreads * self.noise) * self.factor
        began = self.series.open.get("divergence")
        if began is None and self.y - self.low >= far:
            self._begin_above("divergence", far)
        elif self.series.count % _EVERY == 0:
            level = self.series.level(_LONG, self.y)
            if began is not None:
                self._end_if("divergence", began, level < began.level + max(_RECOVERED * limit, self.noise))
            elif level - self.low >= max(self._distance(settings.climb_factor), settings.climb_spreads * self.noise) * self.factor:
                self._begin("divergence", self.low, (level - self.low) / self.noise)

    def _explosion(self) -> None:
        limit = max(self.explosion, self.settings.explosion_spreads * self.noise)
        began = self.series.open.get("explosion")
        if began is None and self.y - self.low >= limit:
            self._begin_above("explosion", limit)
        elif began is not None and self.series.count % _EVERY == 0:
            self._end_if("explosion", began, self.series.level(_SHORT, self.y) < began.level + _RECOVERED * limit)

    def _vanishing(self, fall: float) -> None:
        limit, spreads = self.vanishing * self.factor, self.settings.vanishing_spreads * self.noise * self.factor
        began = self.series.open.get("vanishing")
        if began is None and self.high - self.y >= max(limit, spreads):
            depth = self.high - self.series.level(_SHORT, self.y)
            if depth >= spreads and depth + fall >= limit:
                self._begin("vanishing", self.high, depth / self.noise)
        elif began is not None and self.series.count % _EVERY == 0:
            self._end_if("vanishing", began, self.series.level(_SHORT, self.y) > began.level - _RECOVERED * limit)

    def _oscillation(self, swing: float) -> None:
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
                self._begin("oscillation", self.low, float(len(series.reversals)))
        if series.reversals and series.reversals[0] <= series.count - _MEMORY:
            del series.reversals[0]
            if len(series.reversals) < _RECOVERED * self.settings.swings:
                series.open.pop("oscillation", None)

    def _close_block(self) -> None:
        series = self.series
        mean, (_, spread) = series.block / _BLOCK, series.centre_and_spread()
        series.block = 0.0
        series.start = mean if series.start is None else series.start
        if not series.gradient and len(series.means) >= _LAG + _PAST:
            self._drift(mean)
        series.means = [*series.means, mean][-_BLOCKS:]
        series.spreads = [*series.spreads, spread][-_BLOCKS:]
        means = series.means[-_LAG - _PAST : -_LAG]
        if len(means) >= _PAST // 2:
            series.base, series.noise = median(means), median(series.spreads[-_LAG - _PAST : -_LAG])

    def _drift(self, mean: float) -> None:
        series, settings = self.series, self.settings
        past = series.means[-_LAG - 2 * _PAST : -_LAG]
        level = median(past)
        # Differences of neighbours know nothing of a trend; where a loss wanders, they are as large as it wanders.
        steps = [after - before for before, after in pairwise(past)]
        middle = median(steps)
        wander = 1.4826 * median([abs(one - middle) for one in steps]) / math.sqrt(2)
        least = settings.least_spread * (abs(level) if series.signed else 1.0)
        noise = max(wander, (series.noise or 0.0) / math.sqrt(_BLOCK), least, _TINY)
        residual = (mean - level) / noise
        series.total = max(0.0, series.total + min(residual, _MOST_RESIDUAL) / self.factor - settings.drift_slack)
        began = series.open.get("drift")
        if began is not None:
            self._end_if("drift", began, mean < began.level + settings.drift_slack * noise)
            series.total = 0.0 if "drift" not in series.open else series.total
        elif series.total >= settings.drift_sum:
            self._begin("drift", level, series.total)

    def _stuck(self) -> None:
        series, value = self.series, self.value
        if value != series.last:
            series.last, series.repeated = value, 1
            series.open.pop("stuck", None)
            return
        series.repeated += 1
        if series.repeated >= self.settings.stuck_values and value != 0 and "stuck" not in series.open:
            series.open["stuck"] = _OpenAnomaly(series.count, value)
            self.found.append(Anomaly(self.place, "stuck", self.metric, value, None, float(series.repeated)))

    # What several detectors need

    def _distance(self, factor: float) -> float:
        """A factor as a distance on the scale; a metric that has been negative has no factors, and is judged by spreads alone."""
        return 0.0 if self.series.signed else math.log(factor)

    def _begin_above(self, detector: str, limit: float) -> None:
        rise = self.series.level(_SHORT, self.y) - self.low
        if rise >= limit:
            self._begin(detector, self.low, rise / self.noise)

    def _begin(self, detector: str, level: float, score: float) -> None:
        if detector not in self.series.open:
            self.series.open[detector] = _OpenAnomaly(self.series.count, level)
            expected = level if self.series.signed else math.exp(level)
            self.found.append(Anomaly(self.place, detector, self.metric, self.value, expected, score))

    def _end_if(self, detector: str, began: _OpenAnomaly, recovered: bool) -> None:
        lasted = self.series.count - began.since
        accepted = lasted >= self.settings.accepted_after
        if (recovered and lasted >= _LEAST_STRETCH) or accepted:
            del self.series.open[detector]
        if accepted:
            self.series.move_past()
