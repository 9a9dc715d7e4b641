"""Trends: the direction of the means of a metric's closed windows, once a minute of event time. Advice; no rule pages on it.

The slope is the median of the slopes between all pairs of points (Theil 1950; Sen, "Estimates of the Regression Coefficient Based on
Kendall's Tau", 1968): a third of the points may be wild without moving it. Its interval is Sen's, from the variance of Kendall's tau
without ties, n(n-1)(2n+5)/18. Points of training are not independent of one another, so the interval is too narrow.

A finding is announced when it differs from the one before: rising and falling where the interval leaves zero out, plateau where it leaves
no room for a change that matters over the points' span, `limit_ahead` where the slope meets a known limit within the forecast.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from statistics import median_high
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from esper.events.fields import Finite, Float, Part, Positive
from esper.events.kinds.observability import TrendDetected, WindowAggregated
from esper.folds.monitoring.measurements import METRICS, is_known

_Finding = Literal["rising", "falling", "plateau", "limit_ahead"]
_LIMITS = (("disk_free_ratio", 0.0), ("memory_used_ratio", 1.0), ("gpu.*.memory_used_ratio", 1.0))


class TrendSettings(Part):
    """Interval of the search for trends, the windows that a trend is over, and its limits."""

    every_s: Positive = 60
    points: Annotated[int, Field(ge=3, le=256)] = 32
    """The newest windows of a metric that a trend is over, all pairs compared; a metric that none of as many saw is forgotten."""
    least: Annotated[int, Field(ge=3, validate_default=True)] = 8
    """Fewer windows than this show nothing."""
    deviations: Annotated[Finite, Field(gt=0, le=10)] = 2.576
    """Half the width of the interval in standard deviations of the normal distribution: 99 %."""
    plateau_share: Annotated[Finite, Field(ge=0, le=1)] = 0.01
    """What does not matter: a change over the span below this share of the metric's size."""
    forecast_s: Positive = 3600
    """How far ahead a limit is looked for."""
    limits: tuple[tuple[str, Finite], ...] = _LIMITS
    """Metrics, or families of them with a star, and the value that they must not reach."""
    metrics: Annotated[int, Field(ge=1, le=4096)] = 128
    """Most metrics of one topic that are followed: later ones are left out."""

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        for name, _ in limits:
            if not any(name in metrics or is_known(topic, name.replace("*", "0")) for topic, metrics in METRICS.items()):
                raise ValueError(f"expected metrics of watched topics or families of them, {name!r} is none")
        return limits

    @field_validator("least")
    @classmethod
    def _within_points(cls, least: int, info: ValidationInfo) -> int:
        points = info.data.get("points", least)  # Absent where it was refused itself.
        if least > points:
            raise ValueError(f"expected at most the {points} of points: a trend is over no more windows than that")
        return least


_Point = tuple[Float, Float]
"""The start of a closed window in seconds, and the mean of its values."""


@dataclass(frozen=True, slots=True)
class TrendState:
    """The newest windows of each metric, the last interval that was searched, its findings. `full`: some metrics were left out."""

    series: Mapping[str, tuple[_Point, ...]] = field(default_factory=dict)
    looked: int | None = None
    findings: Mapping[str, _Finding] = field(default_factory=dict)
    full: bool = False


def update_trends(
    state: TrendState, topic: str, closed: Sequence[WindowAggregated], settings: TrendSettings
) -> tuple[TrendState, tuple[TrendDetected, ...]]:
    """`state` after the windows that a record closed, and the findings that are new."""
    if not closed:
        return state, ()
    series, full = _followed(state, closed, settings)
    stretch = int(closed[-1].starts_s) // settings.every_s
    if state.looked is None or stretch <= state.looked:
        return TrendState(series, stretch if state.looked is None else state.looked, state.findings, full), ()
    half_s = closed[-1].length_s / 2
    found = [trend for metric, row in series.items() if (trend := _trend_of(topic, metric, row, half_s, settings)) is not None]
    new = tuple(trend for trend in found if state.findings.get(trend.metric) != trend.finding)
    return TrendState(series, stretch, {trend.metric: trend.finding for trend in found}, full), new


def _followed(state: TrendState, closed: Sequence[WindowAggregated], settings: TrendSettings) -> tuple[dict[str, tuple[_Point, ...]], bool]:
    oldest_s = closed[-1].starts_s - settings.points * closed[-1].length_s
    series = {metric: row for metric, row in state.series.items() if row[-1][0] > oldest_s}
    full = state.full
    for one in closed:
        if one.metric not in series and len(series) >= settings.metrics:
            full = True
        elif math.isfinite(one.mean):
            series[one.metric] = (*series.get(one.metric, ()), (one.starts_s, one.mean))[-settings.points :]
    return series, full


def _trend_of(topic: str, metric: str, points: Sequence[_Point], half_s: float, settings: TrendSettings) -> TrendDetected | None:
    """The trend in the points of `metric`, each the mean of a window of twice `half_s`; None where they show none."""
    if len(points) < settings.least:
        return None
    slope, low, high = _theil_sen(points, settings.deviations)
    limit = next((value for name, value in settings.limits if fnmatchcase(metric, name)), None)
    _, last = points[-1]
    # A window's mean stands for its middle; the forecast counts from its end.
    limit_in_s = None
    # Only a slope whose whole interval leads towards the limit forecasts anything.
    if limit is not None and limit != last and (low > 0 if limit > last else high < 0):
        limit_in_s = max((limit - last) / slope - half_s, 0.0)
    ahead = limit_in_s is not None and limit_in_s <= settings.forecast_s
    finding = "limit_ahead" if ahead else _finding(points, low, high, settings)
    if finding is None:
        return None
    return TrendDetected(
        topic=topic,
        metric=metric,
        slope_per_s=slope,
        slope_low=low,
        slope_high=high,
        finding=finding,
        limit=limit if ahead else None,
        limit_in_s=limit_in_s if ahead else None,
    )


def _theil_sen(points: Sequence[_Point], deviations: float) -> tuple[float, float, float]:
    """The median of the slopes a second between all pairs of points, and the ends of Sen's interval around it."""
    count = len(points)
    times, means = np.array(points).T
    first, second = np.triu_indices(count, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # Means near the largest float: an infinite slope sorts to its end.
        slopes = np.sort((means[second] - means[first]) / (times[second] - times[first]))
        middle = float(np.median(slopes))
    half = deviations * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    # Sen's ranks from 1 are (N - C) / 2 and (N + C) / 2 + 1; rounded outwards.
    low = max(math.floor((len(slopes) - half) / 2) - 1, 0)
    high = min(math.ceil((len(slopes) + half) / 2), len(slopes) - 1)
    return middle, float(slopes[low]), float(slopes[high])


def _finding(points: Sequence[_Point], low: float, high: float, settings: TrendSettings) -> _Finding | None:
    span_s = points[-1][0] - points[0][0]
    size = median_high(abs(mean) for _, mean in points)
    if max(abs(low), abs(high)) * span_s <= settings.plateau_share * size:
        return "plateau"
    return "rising" if low > 0 else "falling" if high < 0 else None
