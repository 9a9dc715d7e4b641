"""Slow loaders and steps, memory that grows, and values that disappear."""

import numpy as np
import numpy.typing as npt

from esper.folds.monitoring.detectors.gone_metrics import Presence, step_presence
from esper.folds.monitoring.detectors.pace import Pace, step_pace
from esper.folds.monitoring.measurements import FloatArray, Measurements
from tests.folds.monitoring.made_up import SETTINGS

STEPS = 600
TIME = np.arange(STEPS)


def record(wait: FloatArray, duration: FloatArray, memory: float | None) -> Measurements:
    """A record of ten steps."""
    columns = {"data_wait_s": wait, "step_latency_s": duration, "memory_bytes": np.array([np.nan if memory is None else memory])}
    return Measurements(np.arange(len(wait)), columns, {}, None, None, None)


def found(wait: FloatArray, duration: FloatArray, memory: npt.NDArray[np.floating] | None = None) -> list[str]:
    """The detectors that find something, in records of ten steps."""
    pace, names = Pace(), list[str]()
    for first in range(0, STEPS, 10):
        size = None if memory is None else float(memory[first])
        pace, begun = step_pace(pace, record(wait[first : first + 10], duration[first : first + 10], size), SETTINGS)
        names += [one.detector for one in begun]
    return names


def timed(seconds: float, seed: int = 0) -> FloatArray:
    """Durations as a shared machine has them."""
    made: FloatArray = seconds * np.random.default_rng(seed).lognormal(sigma=0.5, size=STEPS)
    return made


def test_a_steady_pace_is_no_anomaly_whatever_it_is() -> None:
    assert found(timed(0.0001), timed(0.002)) == []
    assert found(timed(0.5), timed(0.1)) == []
    assert found(timed(0.0001) + np.where(TIME % 20 == 0, 1.5, 0.0), timed(0.1)) == []


def test_a_machine_that_is_busy_for_a_while_is_no_anomaly() -> None:
    assert found(timed(0.0001) + np.where((TIME > 300) & (TIME < 340), 0.02, 0.0), timed(0.002) * 2) == []


def test_a_loader_that_takes_most_of_the_time_is_waiting() -> None:
    assert found(timed(0.0001) + np.where(TIME > 300, 0.03, 0.0), timed(0.002)) == ["waiting"]
    assert found(timed(0.0001) + np.where((TIME > 300) & (TIME % 25 == 0), 0.5, 0.0), timed(0.002)) == ["waiting"]


def test_waiting_that_no_person_would_notice_is_none() -> None:
    assert found(timed(0.0001) + np.where(TIME > 300, 0.005, 0.0), timed(0.002)) == []


def test_one_wait_of_seconds_is_a_stall() -> None:
    assert found(timed(0.0001) + np.where(TIME == 333, 5.0, 0.0), timed(0.002)) == ["stall"]


def test_steps_that_take_several_times_as_long_are_slower() -> None:
    assert found(timed(0.0001), timed(0.01) * np.where(TIME > 300, 6.0, 1.0)) == ["slower"]


def test_memory_that_grows_with_every_record_is_growing() -> None:
    assert found(timed(0.0001), timed(0.002), 3e8 + 1e6 * TIME) == ["growing"]
    assert found(timed(0.0001), timed(0.002), 3e8 + 1e6 * np.minimum(TIME, 90)) == []
    assert found(timed(0.0001), timed(0.002), 3e8 + 1e3 * TIME) == []


def test_a_value_that_was_regular_and_is_no_longer_there_is_gone_once() -> None:
    presence, gone = Presence(), list[tuple[int, str]]()
    for number in range(20):
        columns = {"loss": np.ones(10)} | ({"metric.accuracy": np.ones(10)} if number < 8 else {})
        read = Measurements(np.arange(10), columns, {name: np.ones(10, dtype=bool) for name in columns}, None, None, None)
        presence, begun = step_presence(presence, read)
        gone += [(number, one.metric) for one in begun]
    assert gone == [(11, "metric.accuracy")]
    assert presence.gone == ("metric.accuracy",)


def test_a_value_that_comes_now_and_then_is_never_gone() -> None:
    presence = Presence()
    for number in range(40):
        columns = {"loss": np.ones(1)} | ({"metric.rare": np.ones(1)} if number % 5 == 0 else {})
        read = Measurements(None, columns, {name: np.ones(1, dtype=bool) for name in columns}, None, None, None)
        presence, begun = step_presence(presence, read)
        assert begun == []


def test_a_layer_whose_health_is_no_longer_measured_is_gone() -> None:
    presence, gone = Presence(), list[str | None]()
    for number in range(10):
        sites = ("0", "2") if number < 5 else ("0",)
        read = Measurements(None, {}, {}, sites, (None,) * len(sites), None)
        presence, begun = step_presence(presence, read)
        gone += [one.site for one in begun]
    assert gone == ["2"]
