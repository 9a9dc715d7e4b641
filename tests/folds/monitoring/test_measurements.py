"""Events become columns of numbers, by stable names and in base units."""

import math

import pytest

from esper.events import topics
from esper.events.codec import decode_payload
from esper.events.fields import Event
from esper.events.kinds import KINDS
from esper.events.kinds.telemetry import (
    CustomMetricRecorded,
    Gpu,
    HealthColumns,
    ResourcesMeasured,
    SeedHealthMeasured,
    StepColumns,
    StepsMeasured,
)
from esper.folds.monitoring.measurements import METRICS, Measurements, is_known, measurements_of
from tests.events.sample_files import payloads

STEPS = StepsMeasured(
    steps=StepColumns(
        step=(7, 8),
        loss=(0.5, math.nan),
        gradient_norm=(1.0, None),
        step_latency_ms=(2.0, 4.0),
        data_wait_ms=(1.0, 0.0),
    ),
    metrics={"accuracy": (0.25, 0.75)},
    learning_rates=(0.1, 0.2),
    live_seeds=1,
    last_adaptation_step=5,
    samples_per_s=100.0,
    memory_bytes=None,
)
HEALTH = SeedHealthMeasured(
    health=HealthColumns(
        site=("0", "0"),
        seed=(None, 2),
        stage=(None, None),
        activation_variance=(1.5, math.inf),
        gradient_variance=(0.5, None),
        dead_neuron_ratio=(0.0, 1.0),
        units=(64, 12),
        avg_correlation=(-0.5, 0.5),
        latency_ms=(None, 3.0),
        errors=(0, 2),
        recovering=(False, False),
        alpha=(None, 0.5),
        ready=(None, False),
        health_score=(1.0, 0.5),
    ),
    last_adaptation_step=None,
)


def resources(*gpus: Gpu, memory: int = 400) -> ResourcesMeasured:
    return ResourcesMeasured(
        cpu_utilization=0.5,
        memory_used_bytes=100,
        memory_total_bytes=memory,
        disk_free_bytes=30,
        disk_total_bytes=40,
        network_received_bytes=7,
        network_sent_bytes=8,
        gpus=gpus,
        log_dropped_samples=3,
    )


def read(event: Event) -> Measurements:
    found = measurements_of(event)
    assert found is not None
    return found


def test_a_span_of_steps_is_columns_by_step_in_base_units() -> None:
    found = read(STEPS)
    assert found.steps is not None
    assert found.steps.tolist() == [7, 8]
    assert found.columns["step_latency_s"].tolist() == [0.002, 0.004]
    assert found.columns["data_wait_s"].tolist() == [0.001, 0.0]
    assert found.columns["metric.accuracy"].tolist() == [0.25, 0.75]
    assert (found.sites, found.seeds, found.last_adaptation_step) == (None, None, 5)


def test_what_changes_slowly_has_one_entry_a_record_and_the_learning_rate_is_the_highest() -> None:
    found = read(STEPS)
    assert found.columns["learning_rate"].tolist() == [0.2]
    assert found.columns["samples_per_s"].tolist() == [100.0]


def test_a_nan_that_was_measured_is_told_from_what_was_not_measured() -> None:
    found = read(STEPS)
    assert found.measured["loss"].tolist() == [True, True]
    assert found.measured["gradient_norm"].tolist() == [True, False]
    assert math.isnan(found.columns["loss"][1])
    assert found.measured["memory_bytes"].tolist() == [False]


def test_a_run_without_parameter_groups_has_no_learning_rate() -> None:
    assert read(STEPS.model_copy(update={"learning_rates": ()})).measured["learning_rate"].tolist() == [False]


def test_health_is_columns_by_site_and_seed() -> None:
    found = read(HEALTH)
    assert (found.sites, found.seeds, found.steps) == (("0", "0"), (None, 2), None)
    assert found.columns["activation_variance"].tolist() == [1.5, math.inf]
    assert found.columns["latency_s"][1] == 0.003
    assert found.columns["errors"].tolist() == [0.0, 2.0]
    assert found.measured["gradient_variance"].tolist() == [True, False]


def test_resources_are_ratios_and_counters() -> None:
    found = read(resources())
    assert {name: column.tolist() for name, column in found.columns.items() if found.measured[name].all()} == {
        "cpu_utilization": [0.5],
        "memory_used_ratio": [0.25],
        "disk_free_bytes": [30.0],
        "disk_free_ratio": [0.75],
        "network_received_bytes": [7.0],
        "network_sent_bytes": [8.0],
        "log_dropped_samples": [3.0],
    }


def test_a_missing_gpu_is_absent_and_one_without_sensors_is_not_measured_there() -> None:
    gpu = Gpu(index=1, name="x", utilization=0.5, memory_used_bytes=1, memory_total_bytes=4, temperature_celsius=None, power_watts=9.0)
    found = read(resources(gpu))
    assert not any(name.startswith("gpu.") for name in read(resources()).columns)
    assert found.columns["gpu.1.memory_used_ratio"].tolist() == [0.25]
    assert not found.measured["gpu.1.temperature_celsius"].any()


def test_a_total_of_nothing_gives_no_ratio() -> None:
    assert not read(resources(memory=0)).measured["memory_used_ratio"].any()


def test_a_custom_metric_goes_by_its_own_name() -> None:
    event = CustomMetricRecorded(name="esper_custom_reward", type="gauge", labels={}, value=2.0, about=None)
    assert read(event).columns["esper_custom_reward"].tolist() == [2.0]


def test_a_custom_metric_with_labels_is_as_many_series_as_they_have_values() -> None:
    labels = {"queue": 'the "fast" \\ one', "b": "2"}
    event = CustomMetricRecorded(name="esper_custom_reward", type="gauge", labels=labels, value=2.0, about=None)
    (name,) = read(event).columns
    assert name == r'esper_custom_reward{b="2",queue="the \"fast\" \\ one"}'
    assert is_known(CustomMetricRecorded.TOPIC, name)


@pytest.mark.parametrize(
    "name",
    [
        *("esper_custom_x{}", 'esper_custom_x{b="1",a="2"}', 'esper_custom_x{a="1",a="2"}', 'esper_custom_x{a="1",}'),
        *(
            'esper_custom_x{a="1" }',
            "esper_custom_x{a=1}",
            'esper_custom_x{a="1"',
            r'esper_custom_x{a="1\"}',
            'esper_custom_x a="1"',
            "custom",
        ),
    ],
)
def test_a_series_that_no_record_can_have_is_not_known(name: str) -> None:
    assert not is_known(CustomMetricRecorded.TOPIC, name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_metric_of_every_sample_is_known_on_its_topic_and_other_kinds_carry_none(kind: type[Event]) -> None:
    for payload in payloads(kind.KIND):
        found = measurements_of(decode_payload(kind.KIND, payload))
        assert (found is not None) == (kind.TOPIC in METRICS)
        names = [] if found is None else list(found.columns)
        assert [name for name in names if not is_known(kind.TOPIC, name)] == []


def test_a_metric_is_known_by_name_or_family_and_on_its_own_topic_alone() -> None:
    assert is_known(topics.STEPS, "loss")
    assert is_known(topics.STEPS, "metric.accuracy")
    assert not is_known(topics.STEPS, "accuracy")
    assert not is_known(topics.RESOURCES, "loss")
    assert not is_known("no.such.topic", "loss")
