"""Trends are found in closed windows, said when they change, and are advice."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.events import topics
from esper.events.kinds.observability import TrendDetected, WindowAggregated
from esper.folds.monitoring.trends import TrendSettings, TrendState, _theil_sen, update_trends

SETTINGS = TrendSettings()
BEGAN_S = 1_767_225_600.0


def window(place: int, mean: float, metric: str = "loss") -> WindowAggregated:
    """One closed window of 15 s."""
    return WindowAggregated(
        topic=topics.STEPS,
        metric=metric,
        starts_s=BEGAN_S + place * 15.0,
        length_s=15.0,
        count=10,
        mean=mean,
        minimum=mean,
        maximum=mean,
        standard_deviation=0.0,
    )


def trends(means: Callable[[int], float], count: int, metric: str = "loss", like: TrendSettings = SETTINGS) -> list[TrendDetected]:
    """What is found in so many windows, one after another."""
    found: list[TrendDetected] = []
    state = TrendState()
    for place in range(count):
        state, more = update_trends(state, topics.STEPS, [window(place, means(place), metric)], like)
        found += more
    return found


def findings(means: Callable[[int], float], count: int = 40, metric: str = "loss") -> list[str]:
    """The same, in a word each."""
    return [trend.finding for trend in trends(means, count, metric)]


def noise(place: int) -> float:
    """Something between -1 and 1 that shows no trend."""
    return math.sin(place * place * 1.7)


def test_a_slope_is_told_a_second_with_its_interval_around_it() -> None:
    (trend,) = trends(lambda place: 3.0 * place, 20)
    assert trend.finding == "rising"
    assert trend.slope_per_s == pytest.approx(0.2)
    assert trend.slope_low <= trend.slope_per_s <= trend.slope_high


def test_rising_falling_and_plateau_are_told_apart() -> None:
    assert findings(lambda place: place + noise(place)) == ["rising"]
    assert findings(lambda place: -place + noise(place)) == ["falling"]
    assert findings(lambda place: 1000 + noise(place)) == ["plateau"]
    assert findings(noise) == []


def test_a_third_of_wild_points_moves_no_slope() -> None:
    points = [(place * 15.0, 1e9 if place % 4 == 1 else float(place)) for place in range(32)]
    assert _theil_sen(points, 2.576)[0] == pytest.approx(1 / 15, rel=0.2)


@pytest.mark.whole
def test_the_interval_is_sen_s() -> None:
    from scipy.stats import theilslopes  # Takes most of a second to import.

    points = [(place * 15.0, place + 8 * noise(place)) for place in range(30)]
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for at, a in enumerate(points) for b in points[at + 1 :])
    middle, low, high = _theil_sen(points, 2.576)
    published = theilslopes([mean for _, mean in points], [starts_s for starts_s, _ in points], alpha=0.99)
    assert middle == pytest.approx(published.slope)
    # It rounds ranks to the nearest where this rounds outwards.
    assert 0 <= slopes.index(published.low_slope) - slopes.index(low) <= 1
    assert 0 <= slopes.index(high) - slopes.index(published.high_slope) <= 1


def test_a_finding_is_said_when_it_begins_and_again_when_it_has_changed() -> None:
    assert findings(lambda place: float(min(place, 40)), 120) == ["rising", "plateau"]


def test_fewer_windows_than_needed_show_nothing() -> None:
    assert trends(float, SETTINGS.least - 1) == []


def test_it_is_looked_once_a_minute_of_event_time() -> None:
    often = TrendSettings(every_s=15)
    assert [len(trends(float, count)) for count in (8, 9, 12, 13)] == [0, 1, 1, 1]
    assert len(trends(float, 8, like=often)) == 1


def test_a_limit_ahead_is_told_with_the_time_that_is_left() -> None:
    (trend,) = trends(lambda place: 0.5 - 0.01 * place, 20, "disk_free_ratio")
    assert (trend.finding, trend.limit) == ("limit_ahead", 0.0)
    assert trend.limit_in_s == pytest.approx((0.5 - 0.08) / (0.01 / 15) - 7.5)


def test_a_limit_that_is_far_or_the_other_way_is_not_ahead() -> None:
    assert findings(lambda place: 0.5 - 0.001 * place, 20, "disk_free_ratio") == ["falling"]
    assert findings(lambda place: 0.5 + 0.01 * place, 20, "disk_free_ratio") == ["rising"]
    assert findings(lambda place: 0.5 + 0.01 * place, 20, "gpu.3.memory_used_ratio") == ["limit_ahead"]


@pytest.mark.parametrize("wild", [math.nan, math.inf])
def test_windows_without_a_finite_mean_are_left_out(wild: float) -> None:
    assert findings(lambda place: wild if place % 3 == 0 else float(place)) == ["rising"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=12))
def test_any_finite_means_are_looked_at_without_fault(means: list[float]) -> None:
    trends(lambda place: means[place], len(means), like=TrendSettings(every_s=15))


def test_only_the_newest_windows_are_kept_and_a_metric_nobody_measures_is_forgotten() -> None:
    state = TrendState()
    for place in range(100):
        state, _ = update_trends(state, topics.STEPS, [window(place, 1.0)] + [window(place, 1.0, "gone")] * (place < 50), SETTINGS)
    assert {metric: len(row) for metric, row in state.series.items()} == {"loss": SETTINGS.points}


def test_more_metrics_than_are_followed_are_left_out_and_it_is_said() -> None:
    state, _ = update_trends(TrendState(), topics.STEPS, [window(0, 1.0), window(0, 1.0, "other")], TrendSettings(metrics=1))
    assert (list(state.series), state.full) == (["loss"], True)
