"""A window of event time closes once, with the statistics of what was measured in it."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.events import topics
from esper.events.kinds.observability import WindowAggregated
from esper.folds.monitoring.measurements import Measurements, measurements_of
from esper.folds.monitoring.windows import _FEW, WindowSettings, WindowState, update_windows
from tests.folds.monitoring.streams import losses

SETTINGS = WindowSettings(length_s=15)
LIMITED = st.floats(-1e100, 1e100)


def read(*values: float | None) -> Measurements:
    """The readings of as many steps as losses."""
    found = measurements_of(losses(*values))
    assert found is not None
    return found


def windows(*records: tuple[float, tuple[float | None, ...]], settings: WindowSettings = SETTINGS) -> list[WindowAggregated]:
    """The windows that losses at their seconds close, the last one by the stream's end."""
    state = WindowState()
    closed: list[WindowAggregated] = []
    for second, values in records:
        state, more = update_windows(state, topics.STEPS, round(second * 1e6), read(*values), settings)
        closed += more
    return closed + list(update_windows(state, topics.STEPS, 0, None, settings)[1])


def of_loss(*records: tuple[float, tuple[float | None, ...]]) -> list[WindowAggregated]:
    """The same, of the loss alone."""
    return [window for window in windows(*records) if window.metric == "loss"]


def test_a_window_holds_the_records_of_its_stretch_of_time() -> None:
    first, second = of_loss((15, (1.0, 2.0)), (29.999999, (6.0,)), (30, (5.0,)))
    assert (first.starts_s, first.length_s, first.count, first.mean, first.minimum, first.maximum) == (15.0, 15.0, 3, 3.0, 1.0, 6.0)
    assert first.standard_deviation == pytest.approx(statistics.pstdev([1.0, 2.0, 6.0]))
    assert (second.starts_s, second.count, second.mean, second.standard_deviation) == (30.0, 1, 5.0, 0.0)


def test_a_stretch_without_records_has_no_window() -> None:
    assert [window.starts_s for window in of_loss((0, (1.0,)), (100, (1.0,)))] == [0.0, 90.0]


def test_what_was_not_measured_is_not_counted_and_gives_no_window_alone() -> None:
    assert [(window.count, window.mean) for window in of_loss((0, (None, 2.0, None)))] == [(1, 2.0)]
    assert of_loss((0, (None, None))) == []


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [1, 4, _FEW + 4])
def test_a_value_that_is_not_finite_is_not_hidden(wild: float, size: int) -> None:
    (window,) = of_loss((0, (1.0,) * 3), (1, (*(1.0,) * (size - 1), wild)), (2, (1.0,)))
    assert window.count == size + 4
    assert not math.isfinite(window.mean)
    assert not math.isfinite(window.minimum)
    assert not math.isfinite(window.maximum)
    assert math.isnan(window.standard_deviation)


def test_infinities_of_both_signs_and_sums_beyond_every_float_give_no_number() -> None:
    assert math.isnan(of_loss((0, (math.inf, -math.inf)))[0].mean)
    assert math.isnan(of_loss((0, (1e308, 1e308)))[0].mean)


@given(st.lists(st.lists(LIMITED, min_size=1, max_size=_FEW + 8), min_size=1, max_size=5))
def test_statistics_do_not_depend_on_how_values_came_in_records(records: list[list[float]]) -> None:
    values = [value for record in records for value in record]
    (window,) = of_loss(*((0.0, tuple(record)) for record in records))
    size = max(map(abs, values))
    assert (window.count, window.minimum, window.maximum) == (len(values), min(values), max(values))
    assert window.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-9 * size)
    assert window.standard_deviation == pytest.approx(statistics.pstdev(values), rel=1e-6, abs=1e-6 * size)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20).map(sorted))
def test_each_stretch_of_time_is_closed_once_and_in_order(seconds: list[int]) -> None:
    starts = [window.starts_s for window in of_loss(*((second, (1.0,)) for second in seconds))]
    assert starts == sorted({second // 15 * 15.0 for second in seconds})


def test_more_metrics_than_are_followed_are_left_out_and_it_is_said() -> None:
    settings = WindowSettings(metrics=2)
    state, _ = update_windows(WindowState(), topics.STEPS, 0, read(1.0), settings)
    assert (list(state.rows), state.full) == (["loss", "gradient_norm"], True)
    assert not update_windows(WindowState(), topics.STEPS, 0, read(1.0), SETTINGS)[0].full
