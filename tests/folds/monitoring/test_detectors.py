"""Each detector finds what it is for, and is silent about what it is not for; nothing depends on how steps were cut into records."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError
from esper.events import topics
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.observability import AnomalyDetected
from esper.events.kinds.run import StreamEnded
from esper.folds.monitoring.detectors.detect import DetectorState, find_anomalies, open_anomalies
from esper.folds.monitoring.detectors.thresholds import DETECTORS, DetectorSettings
from esper.folds.monitoring.measurements import FloatArray, Measurements
from esper.folds.monitoring.rules import source_labels
from tests.folds.monitoring.made_up import SETTINGS, detect, followed, load, names, noise, save, spans

CALM = noise(600)
FALLING = noise(600) * np.exp(-np.arange(600) / 150)


def changed(values: FloatArray, first: int, change: Callable[[FloatArray], FloatArray], last: int | None = None) -> FloatArray:
    """The values with a stretch of them changed."""
    made = values.copy()
    made[first:last] = change(made[first:last])
    return made


def swinging(values: FloatArray) -> FloatArray:
    made: FloatArray = values * np.exp(np.sin(np.arange(len(values)) * 2 * np.pi / 24))
    return made


FINDINGS = {
    "one value far above": (changed(CALM, 400, lambda x: x * 4, 401), None, [("spike", "loss")]),
    "a loss that doubles and stays": (
        changed(CALM, 400, lambda x: x * 2),
        None,
        [("spike", "loss"), ("divergence", "loss"), ("drift", "loss")],
    ),
    "a loss that climbs slowly": (
        changed(CALM, 300, lambda x: x * np.exp(np.arange(len(x)) / 300)),
        None,
        [("drift", "loss"), ("divergence", "loss")],
    ),
    "gradients twenty times as large": (CALM, changed(noise(600, seed=2), 400, lambda x: x * 20), [("explosion", "gradient_norm")]),
    "gradients a hundredth": (CALM, changed(noise(600, seed=2), 400, lambda x: x / 100), [("vanishing", "gradient_norm")]),
    "the same loss for ever": (changed(CALM, 400, lambda x: x * 0 + x[0]), None, [("stuck", "loss")]),
    "a loss that swings": (changed(CALM, 300, swinging), None, [("divergence", "loss"), ("oscillation", "loss")]),
}


@pytest.mark.parametrize(("loss", "gradient", "expected"), FINDINGS.values(), ids=FINDINGS)
def test_each_detector_finds_what_it_is_for(loss: FloatArray, gradient: FloatArray | None, expected: list[tuple[str, str]]) -> None:
    assert set(expected) <= set(names(spans(loss, gradient)))


DOUBLED = spans(changed(CALM, 400, lambda x: x * 2))


def test_a_detector_that_is_off_says_nothing_and_others_say_the_same() -> None:
    state, found = followed(DOUBLED[:45], DetectorSettings(off=("divergence", "stuck")))
    assert [one.detector for one in found] == [name for name, _ in names(DOUBLED[:45]) if name != "divergence"]
    assert source_labels(None, None, "loss", "divergence") in open_anomalies(state)
    assert source_labels(None, None, "loss", "divergence") not in open_anomalies(state, ("divergence",))


def test_a_limit_that_is_further_away_finds_less() -> None:
    spiked = spans(changed(CALM, 400, lambda x: x * 2.5, 401))
    assert names(spiked) == [("spike", "loss")]
    assert names(spiked, DetectorSettings(spike_factor=3.0)) == []


SILENT = {
    "noise": (CALM, None),
    "much noise": (noise(600, spread=0.8), noise(600, spread=0.8, seed=3)),
    "a loss that falls": (FALLING, None),
    "a loss that falls at once": (changed(CALM, 400, lambda x: x / 10), None),
    "gradients that fall as the loss does": (FALLING**2, noise(600, seed=2) * np.exp(-np.arange(600) / 80)),
    "gradients that grow slowly": (CALM, noise(600, seed=2) * np.exp(np.arange(600) / 100)),
    "no noise at all": (np.exp(-np.arange(600) / 200), np.exp(-np.arange(600) / 300)),
    "a loss of zero": (np.zeros(600), np.zeros(600)),
    "a loss below zero that falls": (-1.0 - 0.01 * np.arange(600) + 0.1 * np.log(CALM), None),
    "a run that is too short to judge": (np.array([1.0, 9.0, 1.0, 40.0, 2.0]), None),
}


@pytest.mark.parametrize(("loss", "gradient"), SILENT.values(), ids=SILENT)
def test_what_is_normal_is_passed_over(loss: FloatArray, gradient: FloatArray | None) -> None:
    assert names(spans(loss, gradient)) == []


def test_a_run_that_goes_wrong_from_the_start_is_found_soon() -> None:
    _, found = followed(spans(changed(CALM[:60], 30, lambda x: x * np.exp(np.arange(len(x)) / 10))))
    assert {one.detector for one in found} == {"spike", "divergence"}


def test_a_spike_says_what_was_expected_and_how_far_off_it_is() -> None:
    _, (spike,) = followed(spans(changed(CALM, 400, lambda x: x * 0 + 8.0, 401)))
    assert (spike.topic, spike.site, spike.seed, spike.value) == (topics.STEPS, None, None, 8.0)
    assert spike.expected == pytest.approx(1.0, rel=0.1)
    assert spike.score > 10


def test_a_loss_below_zero_is_judged_on_its_own_scale() -> None:
    loss = changed(-5.0 + np.log(CALM), 400, lambda x: x + 3.0, 401)
    assert names(spans(loss)) == [("spike", "loss")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_always_found_and_once_a_stretch(value: float) -> None:
    loss = CALM[:40].copy()
    loss[5:9] = value
    loss[20] = value
    state, found = followed(spans(loss))
    assert [(one.detector, one.metric) for one in found] == [("nonfinite", "loss")] * 2
    assert np.array_equal([one.value for one in found], [value, value], equal_nan=True)
    assert open_anomalies(state) == frozenset()


def test_what_is_not_finite_lasts_until_a_finite_value_is_measured() -> None:
    unmeasured: list[float | None] = [1.0, math.nan, None, None]
    state, _ = followed(spans(unmeasured, cut=(2,)))
    assert open_anomalies(state) == {source_labels(None, None, "loss", "nonfinite")}
    state, _ = followed(spans([1.0]), state=state)
    assert open_anomalies(state) == frozenset()


def test_what_was_not_measured_is_no_anomaly() -> None:
    assert names(spans([None] * 100, [None] * 100)) == []


def test_other_metrics_of_a_record_are_watched_for_values_that_are_not_finite() -> None:
    event = spans(CALM[:2])[0].model_copy(update={"metrics": {"accuracy": (0.5, math.nan)}})
    assert names([event]) == [("nonfinite", "metric.accuracy")]


def test_values_that_are_not_finite_leave_the_series_as_it_was() -> None:
    loss = CALM.copy()
    loss[300:320] = math.nan
    assert names(spans(loss)) == [("nonfinite", "loss")]


def test_an_abnormal_stretch_is_announced_once_and_active_while_it_lasts() -> None:
    events = spans(changed(CALM, 400, lambda x: x * 3, 500))
    during, found = followed(events[:45])
    assert [one.detector for one in found].count("divergence") == 1
    assert source_labels(None, None, "loss", "divergence") in open_anomalies(during)
    after, more = followed(events[45:], state=during)
    assert [one.detector for one in more if one.detector == "divergence"] == []
    assert source_labels(None, None, "loss", "divergence") not in open_anomalies(after)


def test_a_level_that_stays_becomes_normal() -> None:
    quick = DetectorSettings(accepted_after=100)
    state, found = followed(spans(changed(noise(1000), 400, lambda x: x * 3)), quick)
    assert open_anomalies(state) == frozenset()
    assert [one.detector for one in found].count("divergence") == 1


@pytest.mark.parametrize("change", ["spike", "divergence", "drift", "oscillation"])
def test_limits_of_a_loss_are_raised_after_an_adaptation(change: str) -> None:
    risen = {
        "spike": changed(CALM, 405, lambda x: x * 1.9, 406),
        "divergence": changed(CALM, 405, lambda x: x * 1.3),
        "drift": changed(CALM, 405, lambda x: x * 1.12),
        "oscillation": changed(CALM, 400, lambda x: x * np.exp(0.55 * np.sin(np.arange(len(x)) * 2 * np.pi / 24)), 490),
    }[change]
    assert (change, "loss") in names(spans(risen))
    assert (change, "loss") not in names(spans(risen, adapted=400))


def test_explosion_and_what_is_not_finite_are_found_after_an_adaptation_all_the_same() -> None:
    gradient = changed(noise(600, seed=2), 405, lambda x: x * 20)
    loss = CALM.copy()
    loss[407] = math.nan
    found = names(spans(loss, gradient, adapted=400))
    assert ("explosion", "gradient_norm") in found
    assert ("nonfinite", "loss") in found


def test_limits_fall_back_when_the_adaptation_is_long_past() -> None:
    late = changed(CALM, 555, lambda x: x * 1.9, 556)
    assert names(spans(late, adapted=400)) == [("spike", "loss")]


STORMY = np.concatenate([changed(CALM, 250, lambda x: x * 3, 330), changed(noise(300, seed=5), 100, swinging)])
STORMY[[40, 41, 700]] = math.nan


@given(st.sets(st.integers(1, len(STORMY) - 1), max_size=30))
def test_the_cut_of_steps_into_records_makes_no_difference(cut: set[int]) -> None:
    gradient = changed(noise(len(STORMY), seed=2), 500, lambda x: x * 30)
    state, found = followed(spans(STORMY, gradient, cut=cut))
    whole_state, whole_found = followed(spans(STORMY, gradient, cut=(len(STORMY),)))
    assert list(map(repr, found)) == list(map(repr, whole_found))
    assert save(state) == save(whole_state)
    assert len(found) > 5


def test_a_state_is_saved_and_loaded_and_goes_on_as_it_would_have() -> None:
    events = spans(STORMY)
    through, found = DetectorState(), list[AnomalyDetected]()
    for event in events:
        through, begun = detect(load(save(through)), event.TOPIC, event, SETTINGS)
        found += begun
    state, straight = followed(events)
    assert list(map(repr, found)) == list(map(repr, straight))
    assert save(through) == save(state)


def test_a_state_is_not_changed_by_what_comes_after_it() -> None:
    state, _ = followed(spans(CALM))
    before = save(state)
    followed(spans(CALM * 5), state=state)
    assert save(state) == before


@pytest.mark.parametrize("value", [None, [], {}, {"series": {}, "rows": 3}, {"series": 1, "rows": None, "broken": []}])
def test_what_is_no_saved_state_is_refused(value: object) -> None:
    _, cell = json.loads(save(DetectorState()))
    cell["state"]["detectors"] = value or 0
    with pytest.raises(DataError):
        load(json.dumps([3, cell]).encode())


def test_events_without_measurements_change_nothing() -> None:
    state, _ = followed(spans(CALM[:20]))
    assert detect(state, topics.STEPS, StreamEnded(last_step=20), SETTINGS) == (state, ())


def test_readings_of_another_topic_are_watched_under_that_topic() -> None:
    column = np.array([math.nan])
    read = Measurements(None, {"validation.loss": column}, {"validation.loss": np.array([True])}, None, None, None)
    _, (found,) = find_anomalies(DetectorState(), EpochCompleted.TOPIC, read, SETTINGS)
    assert (found.topic, found.detector, found.metric) == (topics.EPOCH, "nonfinite", "validation.loss")


def test_a_metric_that_has_been_negative_has_no_order_of_magnitude_to_lose() -> None:
    column = changed(noise(600) - 1.0, 400, lambda x: x * 50)
    read = Measurements(np.arange(1, 601), {"metric.slope": column}, {"metric.slope": np.ones(600, dtype=bool)}, None, None, None)
    assert find_anomalies(DetectorState(), topics.STEPS, read, DetectorSettings(losses=(), gradients=("metric.slope",)))[1] == ()


def test_so_many_metrics_that_are_not_finite_are_left_out() -> None:
    columns = {f"metric.{number}": np.array([math.nan]) for number in range(200)}
    read = Measurements(None, columns, {name: np.array([True]) for name in columns}, None, None, None)
    state, found = find_anomalies(DetectorState(), topics.STEPS, read, SETTINGS)
    assert len(found) == len(open_anomalies(state)) == 128


def test_every_detector_that_is_found_here_has_a_name_that_rules_may_use() -> None:
    assert {detector for *_, expected in FINDINGS.values() for detector, _ in expected} <= DETECTORS
