"""The metrics of the synthetic run: counted from its records, absent where nothing was measured, and gone with the run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.observability import AlertResolved
from esper.events.kinds.telemetry import CustomMetricRecorded, Gpu, StepsMeasured
from esper.folds.run import fold
from esper.nissa.collectors.builtin import PATHS, built_in_model
from esper.nissa.collectors.collector import find_collector
from esper.nissa.metrics.exposition import Exposition
from esper.nissa.metrics.family import Distribution, Sample
from esper.nissa.metrics.model import CUSTOM_SERIES, Model, Progress
from esper.oona.directory import Directory
from tests.nissa.samples import AGENT_RUN, alert, resources, standing
from tests.synthetic import RUN, write_run

Values = dict[tuple[str, tuple[str, ...]], float | Distribution]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    """All records of the synthetic run."""
    directory = Directory(tmp_path_factory.mktemp("log"))
    write_run(directory)
    with directory.open(RUN) as log:
        return log.read(limit=10_000).records


def collected(model: Model) -> Values:
    """Every sample that Esper's own collectors give."""
    samples: Iterable[Sample] = (sample for path in PATHS for sample in find_collector(path).collect(model))
    return {(sample.family.name, sample.labels): sample.value for sample in samples}


def following(model: Model, records: Sequence[Record], *, live: bool = True) -> Values:
    """What is shown once `records` of the synthetic run were taken."""
    model.take(RUN, records)
    model.set_progress(Progress(polled_at=1.0, caught_up_at=1.0, following=1, live=frozenset({RUN} if live else ())))
    return collected(model)


def test_counters_are_there_at_zero_before_anything_happened() -> None:
    values = collected(built_in_model())
    assert values["esper_seed_transitions_total", (Stage.GRAFTING,)] == 0
    assert values["esper_adaptations_refused_total", ("cooldown",)] == 0
    assert values["esper_alerts_total", ("firing", "critical")] == 0
    assert {value for (name, _), value in values.items() if name.endswith("_total")} == {0.0}


def test_gauges_are_absent_before_anything_was_measured() -> None:
    names = {name for name, _ in collected(built_in_model())}
    gauges = {family.name for path in PATHS for family in find_collector(path).families if family.type == "gauge"}
    assert names & gauges == {"esper_alerts_firing"}


def test_transitions_are_counted_by_the_stage_entered(records: tuple[Record, ...]) -> None:
    values = following(built_in_model(), records)
    entered = Counter(event.to_stage for record in records if isinstance(event := decode(record), SeedTransitioned))
    assert {stage: values["esper_seed_transitions_total", (stage,)] for stage in Stage} == {stage: entered[stage] for stage in Stage}
    assert values["esper_seed_activations_total", ()] == entered[Stage.GRAFTING] > 0


def test_what_the_run_lost_and_took_back_is_counted(records: tuple[Record, ...]) -> None:
    values = following(built_in_model(), records)
    dropped = sum(value for (name, _), value in values.items() if name == "esper_samples_dropped_total" and isinstance(value, float))
    assert dropped > 0
    assert values["esper_rollbacks_total", ()] == 1
    assert values["esper_adaptations_refused_total", ("finite",)] == 1
    failed = sum(record.type == "esper.kernel.compile-failed.v1" for record in records)
    assert values["esper_kernel_compiles_total", ("failed",)] == failed > 0
    assert values["esper_runs_ended_total", ("finished",)] == 1


def test_seeds_by_stage_are_the_table_that_the_rollback_left(records: tuple[Record, ...]) -> None:
    values = following(built_in_model(), records)
    slots = {labels: value for (name, labels), value in values.items() if name == "esper_seeds"}
    table = Counter(row.stage for row in fold([record for record in records if record.fact is not None]).seeds)
    assert slots == {(stage,): table[stage] for stage in Stage}
    assert values["esper_seeds", (Stage.ROLLED_BACK,)] == 1


def test_steps_are_counted_once_however_many_records_speak_of_them(records: tuple[Record, ...]) -> None:
    model = built_in_model()
    values = following(model, records)
    assert values["esper_steps_total", ()] == max(record.step for record in records)
    assert following(model, records)["esper_steps_total", ()] == values["esper_steps_total", ()]


def test_step_latencies_are_a_histogram_of_every_measured_step(records: tuple[Record, ...]) -> None:
    value = following(built_in_model(), records)["esper_step_duration_seconds", ()]
    measured = [event.steps.step_latency_ms for record in records if isinstance(event := decode(record), StepsMeasured)]
    assert isinstance(value, Distribution)
    assert sum(value.counts) == sum(latency is not None for column in measured for latency in column) > 0


def test_the_gauges_of_one_run_are_of_the_newest_live_one(records: tuple[Record, ...]) -> None:
    values = following(built_in_model(), records)
    assert values["esper_run_info", (RUN, "digits")] == 1
    assert values["esper_epoch", ()] == 14
    assert values["esper_loss", ("validation",)] == pytest.approx(0.2285, abs=1e-4)
    assert values["esper_accuracy_ratio", ("train",)] > 0.9  # type: ignore[operator] # no histogram


def test_without_a_live_run_its_gauges_are_absent_and_counters_stay(records: tuple[Record, ...]) -> None:
    values = following(built_in_model(), records, live=False)
    assert not {"esper_run_info", "esper_epoch", "esper_loss", "esper_seeds"} & {name for name, _ in values}
    assert values["esper_epochs_total", ()] == 13


def test_a_run_that_ended_is_forgotten_but_what_it_counted(records: tuple[Record, ...]) -> None:
    model = built_in_model()
    before = following(model, records)
    model.forget(RUN)
    model.set_progress(Progress(polled_at=1.0, caught_up_at=1.0))
    assert collected(model)["esper_steps_total", ()] == before["esper_steps_total", ()]
    assert model.live() == ()


def test_records_that_do_not_decode_are_counted_and_change_nothing(records: tuple[Record, ...]) -> None:
    values = following(built_in_model(), [record._replace(data=b"{}") for record in records])
    assert values["esper_records_unreadable_total", ("telemetry.training.steps",)] > 0  # type: ignore[operator] # no histogram
    assert values["esper_epochs_total", ()] == 0


def test_resources_are_those_an_agent_measured_and_a_missing_gpu_is_absent() -> None:
    model = built_in_model()
    model.take(AGENT_RUN, [standing(resources(), AGENT_RUN, time=datetime.now(UTC))])
    names = {name for name, _ in collected(model)}
    assert {"esper_cpu_utilization_ratio", "esper_disk_free_bytes", "esper_network_sent_bytes_total"} <= names
    assert not {name for name in names if name.startswith("esper_gpu")}


def test_a_gpu_has_what_its_driver_says_and_nothing_else() -> None:
    gpu = Gpu(index=1, name="some", utilization=None, memory_used_bytes=5, memory_total_bytes=9, temperature_celsius=40.0, power_watts=None)
    model = built_in_model()
    model.take(AGENT_RUN, [standing(resources(gpus=(gpu,)), AGENT_RUN, time=datetime.now(UTC))])
    found = {name: value for (name, labels), value in collected(model).items() if labels == ("1",)}
    assert found == {"esper_gpu_memory_used_bytes": 5, "esper_gpu_memory_total_bytes": 9, "esper_gpu_temperature_celsius": 40.0}


def test_a_machine_that_was_not_measured_for_a_minute_is_unknown() -> None:
    model = built_in_model()
    model.take(AGENT_RUN, [standing(resources(), AGENT_RUN, time=datetime.now(UTC) - timedelta(seconds=90))])
    names = {name for name, _ in collected(model)}
    assert "esper_resources_measured_timestamp_seconds" in names
    assert "esper_cpu_utilization_ratio" not in names


def test_alerts_fire_until_they_are_resolved() -> None:
    model = built_in_model()
    model.take_derived(RUN, [alert(RUN)])
    assert collected(model)["esper_alerts_firing", ("critical",)] == 1
    model.take_derived(RUN, [alert(RUN, AlertResolved)])
    values = collected(model)
    assert (values["esper_alerts_firing", ("critical",)], values["esper_alerts_total", ("firing", "critical")]) == (0, 1)


def custom(**changes: object) -> CustomMetricRecorded:
    fields = {"name": "esper_custom_length", "type": "gauge", "labels": {}, "value": 1.0, "about": None}
    return CustomMetricRecorded.model_validate(fields | changes)


def written(model: Model) -> str:
    """The exposition of the custom metrics alone."""
    return Exposition(lambda: ((), model.custom())).write("")[0].decode()


def test_a_gauge_of_the_users_own_is_what_it_was_last() -> None:
    model = built_in_model()
    taken = [custom(labels={"queue": "a"}), custom(labels={"queue": "b"}), custom(labels={"queue": "a"}, value=7.0)]
    model.take(AGENT_RUN, [standing(event, AGENT_RUN) for event in taken])
    assert 'esper_custom_length{queue="a"} 7.0\nesper_custom_length{queue="b"} 1.0\n' in written(model)


def test_a_counter_of_the_users_own_is_the_sum_of_what_it_grew_by() -> None:
    model = built_in_model()
    grew = [custom(name="esper_custom_jobs_total", type="counter", value=value) for value in (2.0, 3.0)]
    model.take(AGENT_RUN, [standing(event, AGENT_RUN) for event in grew])
    assert "esper_custom_jobs_total 5.0\n" in written(model)


def test_a_custom_metric_never_has_more_series_than_may_be() -> None:
    model = built_in_model()
    many: list[Event] = [custom(labels={"n": str(number)}) for number in range(CUSTOM_SERIES + 5)]
    model.take(AGENT_RUN, [standing(event, AGENT_RUN) for event in many])
    [metric] = model.custom()
    assert len(metric.series) == CUSTOM_SERIES


def test_a_sample_that_contradicts_its_metric_is_left_out() -> None:
    model = built_in_model()
    model.take(AGENT_RUN, [standing(event, AGENT_RUN) for event in (custom(), custom(labels={"a": "b"}), custom(type="counter"))])
    assert [dict(metric.series) for metric in model.custom()] == [{(): 1.0}]
