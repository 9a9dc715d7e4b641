"""Custom metrics: what is accepted, what is refused and why, and that a batch is recorded whole or not at all."""

from collections.abc import Mapping, Sequence

import pytest
from pydantic import ValidationError

from esper.errors import LogError
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.nissa.custom_metrics import MOST_CUSTOM_METRICS, MOST_SERIES, CustomBatch, CustomMetrics, RefusedSamplesError


class Recorded(list[CustomMetricRecorded]):
    """What was recorded; `full` refuses everything."""

    full = False

    def record(self, samples: Sequence[CustomMetricRecorded]) -> None:
        if self.full:
            raise LogError("the disk is full")
        self += samples


def batch(*samples: Mapping[str, object]) -> CustomBatch:
    return CustomBatch.model_validate({"samples": [{"name": "length", "type": "gauge", "value": 1.0, **sample} for sample in samples]})


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def metrics(recorded: Recorded) -> CustomMetrics:
    return CustomMetrics(recorded.record)


def test_samples_become_events_under_the_prefix(metrics: CustomMetrics, recorded: Recorded) -> None:
    assert metrics.accept(batch({"labels": {"queue": "a"}, "about": "latest"}, {"name": "esper_custom_other"}).samples) == 2
    assert [(event.name, event.labels, event.about) for event in recorded] == [
        ("esper_custom_length", {"queue": "a"}, "latest"),
        ("esper_custom_other", {}, None),
    ]


@pytest.mark.parametrize(
    "sample",
    [
        {"name": ""},
        {"name": "Length"},
        {"name": "1st"},
        {"name": "length\n"},
        {"name": "a" * 101},
        {"name": "seconds_total"},
        {"name": "length_bucket"},
        {"name": "length", "type": "counter"},
        {"name": "jobs_total", "type": "counter", "value": -1.0},
        {"type": "histogram"},
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": True},
        {"value": "1"},
        {"labels": {"le": "1"}},
        {"labels": {"__name__": "x"}},
        {"labels": {"Queue": "x"}},
        {"labels": {"queue": "a\nb"}},
        {"labels": {"queue": "a\n"}},
        {"labels": {"queue\n": "a"}},
        {"name": "jobs_total\n", "type": "counter"},
        {"labels": {"queue": "a" * 129}},
        {"labels": dict.fromkeys("abcde", "x")},
        {"unknown": 1},
    ],
)
def test_a_sample_outside_the_description_is_refused(sample: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        batch(sample)


def test_four_labels_and_names_of_a_hundred_letters_are_accepted(metrics: CustomMetrics) -> None:
    assert metrics.accept(batch({"name": "a" * 100, "labels": dict.fromkeys("abcd", "x")}).samples) == 1


@pytest.mark.parametrize("second", [{"labels": {"queue": "a"}}, {"name": "esper_custom_length", "labels": {"queue": "a"}}])
def test_other_labels_under_the_same_name_are_refused(metrics: CustomMetrics, recorded: Recorded, second: dict[str, object]) -> None:
    metrics.accept(batch({}).samples)
    with pytest.raises(RefusedSamplesError, match="/samples/1: the metric is known as a gauge with 0 labels"):
        metrics.accept(batch({"name": "other"}, second).samples)
    assert [event.name for event in recorded] == ["esper_custom_length"]


def test_a_batch_that_contradicts_itself_is_refused_whole(metrics: CustomMetrics, recorded: Recorded) -> None:
    with pytest.raises(RefusedSamplesError, match="the metric is known as"):
        metrics.accept(batch({}, {"labels": {"queue": "a"}}).samples)
    assert recorded == []
    assert metrics.accept(batch({"labels": {"queue": "a"}}).samples) == 1


def sample(**changes: object) -> CustomMetricRecorded:
    fields = {"name": "esper_custom_length", "type": "gauge", "labels": {}, "value": 1.0, "about": None}
    return CustomMetricRecorded.model_validate(fields | changes)


def values(metrics: CustomMetrics) -> list[dict[tuple[str, ...], float | None]]:
    return [metric.series for metric in metrics.read().values()]


def test_what_the_log_knows_binds_too(metrics: CustomMetrics) -> None:
    metrics.add(sample(labels={"queue": "a"}))
    with pytest.raises(RefusedSamplesError, match="the metric is known as"):
        metrics.accept(batch({}).samples)


def test_an_accepted_sample_has_a_value_once_it_was_read_from_the_log(metrics: CustomMetrics, recorded: Recorded) -> None:
    metrics.accept(batch({}).samples)
    assert values(metrics) == [{(): None}]
    metrics.add(recorded[0])
    metrics.accept(batch({"value": 7.0}).samples)
    assert values(metrics) == [{(): 1.0}]


def test_a_gauge_is_what_it_was_last_and_a_counter_the_sum_of_what_it_grew_by(metrics: CustomMetrics) -> None:
    for value in (2.0, 3.0):
        metrics.add(sample(value=value))
        metrics.add(sample(name="esper_custom_jobs_total", type="counter", value=value))
    assert values(metrics) == [{(): 5.0}, {(): 3.0}]


def test_the_log_never_brings_more_series_than_may_be(metrics: CustomMetrics) -> None:
    for number in range(MOST_SERIES + 5):
        metrics.add(sample(labels={"n": str(number)}))
    assert [len(series) for series in values(metrics)] == [MOST_SERIES]


def test_a_sample_of_the_log_that_contradicts_its_metric_is_left_out(metrics: CustomMetrics) -> None:
    for event in (sample(), sample(labels={"a": "b"}), sample(type="counter")):
        metrics.add(event)
    assert values(metrics) == [{(): 1.0}]


def test_a_hundred_and_first_series_is_refused_and_the_others_go_on(metrics: CustomMetrics, recorded: Recorded) -> None:
    metrics.accept(batch(*[{"labels": {"n": str(number)}} for number in range(MOST_SERIES)]).samples)
    with pytest.raises(RefusedSamplesError, match=f"at most {MOST_SERIES} series"):
        metrics.accept(batch({"labels": {"n": "0"}}, {"labels": {"n": "one more"}}).samples)
    assert metrics.accept(batch({"labels": {"n": "0"}}).samples) == 1
    assert len(recorded) == MOST_SERIES + 1


def test_one_metric_more_than_may_be_is_refused(metrics: CustomMetrics) -> None:
    metrics.accept(batch(*[{"name": f"m{number}"} for number in range(MOST_CUSTOM_METRICS)]).samples)
    with pytest.raises(RefusedSamplesError, match=f"at most {MOST_CUSTOM_METRICS} metrics"):
        metrics.accept(batch({"name": "one_more"}).samples)


def test_a_batch_that_could_not_be_recorded_defines_nothing(metrics: CustomMetrics, recorded: Recorded) -> None:
    recorded.full = True
    with pytest.raises(LogError):
        metrics.accept(batch({}).samples)
    recorded.full = False
    assert metrics.accept(batch({"labels": {"queue": "a"}}).samples) == 1
