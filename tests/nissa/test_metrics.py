"""The metrics of the synthetic run: counted from its records, absent where nothing was measured, and gone with the run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest

from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.observability import AlertResolved
from esper.events.kinds.telemetry import CustomMetricRecorded, Gpu, StepsMeasured
from esper.nissa.custom_collectors import Collectors
from esper.nissa.custom_metrics import CustomMetrics
from esper.nissa.gauges import read_gauges
from esper.nissa.metric_definitions import SCRAPED
from esper.nissa.metrics import FollowStatus, LogMetrics
from esper.oona.directory import Directory
from tests.folds.histories import fold
from tests.nissa.samples import AGENT_RUN, alert, resources, standing
from tests.synthetic import RUN, write_run

Values = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    """All records of the synthetic run."""
    directory = Directory(tmp_path_factory.mktemp("log"))
    write_run(directory)
    with directory.open(RUN) as log:
        return log.read(limit=10_000).records


def new_metrics() -> LogMetrics:
    """Metrics of no record, with Esper's own gauges."""
    metrics = LogMetrics(CustomMetrics(lambda _samples: None), ["log"])
    Collectors(metrics)
    return metrics


def collected(metrics: LogMetrics) -> Values:
    """Every sample of a scrape, but for those of collectors."""
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {(one.name, tuple(one.labels.values())): one.value for one in samples if "collector" not in one.labels}


def following(metrics: LogMetrics, records: Sequence[Record], *, live: bool = True) -> Values:
    """What is shown once `records` of the synthetic run were taken."""
    metrics.take(RUN, records)
    metrics.status = FollowStatus(polled_at=1.0, caught_up_at=1.0, following=1, live=frozenset({RUN} if live else ()))
    return collected(metrics)


def test_counters_are_there_at_zero_before_anything_happened() -> None:
    values = collected(new_metrics())
    assert values["esper_seed_transitions_total", (Stage.GRAFTING,)] == 0
    assert values["esper_adaptations_refused_total", ("cooldown",)] == 0
    assert values["esper_alerts_total", ("firing", "critical")] == 0
    assert values["esper_alert_notifications_total", ("log", "failed")] == 0
    assert {value for (name, _), value in values.items() if name.endswith("_total")} == {0.0}


def test_gauges_are_absent_before_anything_was_measured() -> None:
    names = {name for name, _ in collected(new_metrics())}
    assert names & set(SCRAPED) == {"esper_alerts_firing"}


def test_transitions_are_counted_by_the_stage_entered(records: tuple[Record, ...]) -> None:
    values = following(new_metrics(), records)
    entered = Counter(event.to_stage for record in records if isinstance(event := decode(record), SeedTransitioned))
    assert {stage: values["esper_seed_transitions_total", (stage,)] for stage in Stage} == {stage: entered[stage] for stage in Stage}
    assert values["esper_seed_activations_total", ()] == entered[Stage.GRAFTING] > 0


def test_what_the_run_lost_and_took_back_is_counted(records: tuple[Record, ...]) -> None:
    values = following(new_metrics(), records)
    dropped = sum(value for (name, _), value in values.items() if name == "esper_samples_dropped_total")
    assert dropped > 0
    assert values["esper_rollbacks_total", ()] == 1
    assert values["esper_adaptations_refused_total", ("finite",)] == 1
    failed = sum(record.type == "esper.kernel.compile-failed.v1" for record in records)
    assert values["esper_kernel_compiles_total", ("failed",)] == failed > 0
    assert values["esper_runs_ended_total", ("finished",)] == 1


def test_seeds_by_stage_are_the_table_that_the_rollback_left(records: tuple[Record, ...]) -> None:
    values = following(new_metrics(), records)
    slots = {labels: value for (name, labels), value in values.items() if name == "esper_seeds"}
    table = Counter(row.stage for row in fold([record for record in records if record.fact is not None]).seeds)
    assert slots == {(stage,): table[stage] for stage in Stage}
    assert values["esper_seeds", (Stage.ROLLED_BACK,)] == 1


def test_steps_are_counted_once_however_many_records_speak_of_them(records: tuple[Record, ...]) -> None:
    metrics = new_metrics()
    values = following(metrics, records)
    assert values["esper_steps_total", ()] == max(record.step for record in records)
    assert following(metrics, records)["esper_steps_total", ()] == values["esper_steps_total", ()]


def test_step_latencies_are_a_histogram_of_every_measured_step(records: tuple[Record, ...]) -> None:
    count = following(new_metrics(), records)["esper_step_duration_seconds_count", ()]
    measured = [event.steps.step_latency_ms for record in records if isinstance(event := decode(record), StepsMeasured)]
    assert count == sum(latency is not None for column in measured for latency in column) > 0


def test_a_latency_that_is_not_finite_has_no_place_in_a_histogram(records: tuple[Record, ...]) -> None:
    event = next(event for record in records if isinstance(event := decode(record), StepsMeasured))
    odd = (1.0, float("nan"), float("inf"), 2.0, None)
    columns = {name: tuple(getattr(event.steps, name)[:5]) for name in type(event.steps).model_fields} | {"step_latency_ms": odd}
    steps = event.steps.model_copy(update=columns)
    values = following(new_metrics(), [standing(event.model_copy(update={"steps": steps, "metrics": {}}), RUN)])
    assert values["esper_step_duration_seconds_count", ()] == 2
    assert values["esper_step_duration_seconds_sum", ()] == pytest.approx(0.003)
    assert values["esper_step_duration_seconds_bucket", ("0.001",)] == 1


def test_the_gauges_of_a_run_are_labelled_with_the_end_of_its_id(records: tuple[Record, ...]) -> None:
    values = following(new_metrics(), records)
    assert values["esper_run_info", (RUN, "7c21ab", "digits")] == 1
    assert values["esper_epoch", ("7c21ab",)] == 14
    assert values["esper_loss", ("7c21ab", "validation")] == pytest.approx(0.2285, abs=1e-4)
    assert values["esper_accuracy_ratio", ("7c21ab", "train")] > 0.9


def many(records: tuple[Record, ...], runs: Sequence[RunId]) -> dict[tuple[str, tuple[str, ...]], float]:
    """The gauges while all of `runs` are live; each has the first records of the synthetic run."""
    metrics = new_metrics()
    for run in runs:
        metrics.take(run, [record._replace(run=run) for record in records[:40]])
    metrics.status = replace(metrics.status, live=frozenset(runs))
    return {(name, tuple(labels)): value for name, value, *labels in read_gauges(metrics) if value is not None}


def test_the_twenty_newest_live_runs_have_gauges_and_every_live_run_is_named(records: tuple[Record, ...]) -> None:
    runs = [RunId(f"019ca945-0a00-7000-8000-0000007c{number:04x}") for number in range(25)]
    values = many(records, runs)
    assert [labels for name, labels in values if name == "esper_epoch"] == [(run[-6:],) for run in reversed(runs[5:])]
    assert {labels for name, labels in values if name == "esper_run_info"} == {(run, run[-6:], "digits") for run in runs}


def test_two_live_runs_whose_ids_end_alike_are_told_apart(records: tuple[Record, ...]) -> None:
    runs = [RunId(f"019ca945-0a00-7000-8000-00000{number}7c21ab") for number in range(2)]
    values = many(records, runs)
    assert {labels for name, labels in values if name == "esper_epoch"} == {(run,) for run in runs}


def test_without_a_live_run_its_gauges_are_absent_and_counters_stay(records: tuple[Record, ...]) -> None:
    values = following(new_metrics(), records, live=False)
    assert not {"esper_run_info", "esper_epoch", "esper_loss", "esper_seeds"} & {name for name, _ in values}
    assert values["esper_epochs_total", ()] == 13


def test_a_run_that_ended_is_forgotten_but_what_it_counted(records: tuple[Record, ...]) -> None:
    metrics = new_metrics()
    before = following(metrics, records)
    metrics.forget(RUN)
    metrics.status = FollowStatus(polled_at=1.0, caught_up_at=1.0)
    assert collected(metrics)["esper_steps_total", ()] == before["esper_steps_total", ()]
    assert metrics.live() == ()


def test_records_that_do_not_decode_are_counted_and_change_nothing(records: tuple[Record, ...]) -> None:
    values = following(new_metrics(), [record._replace(data=b"{}") for record in records])
    assert values["esper_records_unreadable_total", ("telemetry.training.steps",)] > 0
    assert values["esper_epochs_total", ()] == 0


def test_resources_are_those_an_agent_measured_and_a_missing_gpu_is_absent() -> None:
    metrics = new_metrics()
    metrics.take(AGENT_RUN, [standing(resources(), AGENT_RUN, time=datetime.now(UTC))])
    names = {name for name, _ in collected(metrics)}
    assert {"esper_cpu_utilization_ratio", "esper_disk_free_bytes", "esper_network_sent_bytes_total"} <= names
    assert not {name for name in names if name.startswith("esper_gpu")}


def test_a_gpu_has_what_its_driver_says_and_nothing_else() -> None:
    gpu = Gpu(index=1, name="some", utilization=None, memory_used_bytes=5, memory_total_bytes=9, temperature_celsius=40.0, power_watts=None)
    metrics = new_metrics()
    metrics.take(AGENT_RUN, [standing(resources(gpus=(gpu,)), AGENT_RUN, time=datetime.now(UTC))])
    found = {name: value for (name, labels), value in collected(metrics).items() if labels == ("1",)}
    assert found == {"esper_gpu_memory_used_bytes": 5, "esper_gpu_memory_total_bytes": 9, "esper_gpu_temperature_celsius": 40.0}


def test_a_machine_that_was_not_measured_for_a_minute_is_unknown() -> None:
    metrics = new_metrics()
    metrics.take(AGENT_RUN, [standing(resources(), AGENT_RUN, time=datetime.now(UTC) - timedelta(seconds=90))])
    names = {name for name, _ in collected(metrics)}
    assert "esper_resources_measured_timestamp_seconds" in names
    assert "esper_cpu_utilization_ratio" not in names


def test_alerts_fire_until_they_are_resolved() -> None:
    metrics = new_metrics()
    metrics.take_derived([alert(RUN)])
    assert collected(metrics)["esper_alerts_firing", ("critical",)] == 1
    metrics.take_derived([alert(RUN, AlertResolved)])
    values = collected(metrics)
    assert (values["esper_alerts_firing", ("critical",)], values["esper_alerts_total", ("firing", "critical")]) == (0, 1)


def custom(**changes: object) -> CustomMetricRecorded:
    fields = {"name": "esper_custom_length", "type": "gauge", "labels": {}, "value": 1.0, "about": None}
    return CustomMetricRecorded.model_validate(fields | changes)


def test_metrics_of_the_users_own_are_those_of_the_log() -> None:
    metrics = new_metrics()
    taken = [custom(labels={"queue": "a"}), custom(labels={"queue": "b"}), custom(labels={"queue": "a"}, value=7.0)]
    grew = [custom(name="esper_custom_jobs_total", type="counter", value=value) for value in (2.0, 3.0)]
    metrics.take(AGENT_RUN, [standing(event, AGENT_RUN) for event in (*taken, *grew)])
    text = generate_latest(metrics.registry).decode()
    assert 'esper_custom_length{queue="a"} 7.0\nesper_custom_length{queue="b"} 1.0\n' in text
    assert "esper_custom_jobs_total 5.0\n" in text


def test_a_gauge_that_is_no_number_says_so(records: tuple[Record, ...]) -> None:
    metrics = new_metrics()
    event = next(event for record in records if isinstance(event := decode(record), StepsMeasured))
    steps = event.steps.model_copy(update={"loss": (float("nan"),) * len(event.steps.loss)})
    following(metrics, [standing(event.model_copy(update={"steps": steps}), RUN)])
    assert b'esper_step_loss{run="7c21ab"} NaN\n' in generate_latest(metrics.registry)


def test_no_series_tells_when_a_counter_was_made() -> None:
    assert b"_created" not in generate_latest(new_metrics().registry)
