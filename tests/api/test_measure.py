"""Metrics of the user's own, measured from what a training calls: where they stand, what is refused, and that training is the same."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import esper
from esper.api.measure import measure
from esper.errors import DataError, EsperError, RuleError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.observability import AlertFiring
from esper.events.kinds.run import RunStarted
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.events.topics import CUSTOM_METRICS
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.observer.rule_files import parse_rules
from esper.oona.directory import Directory
from esper.processes.bound_run import bind_metrics
from esper.processes.recipe import Recipe
from esper.processes.train import fresh_run_id, resume, train
from esper.tolaria.objective import Batch, Objective
from esper.tolaria.trainer import Interrupted
from tests.nissa.server import serving
from tests.recipes import Acting, events, recipe, settings
from tests.tolaria.worlds import STEPS, samples

RUN = RunId("01f00000-0000-7000-8000-000000000001")


class Measuring:
    """The usual objective, which does something with the number of the batch, counted from 1, before it."""

    def __init__(self, act: Callable[[int], object]) -> None:
        self._usual: Objective = recipe().objective
        self._act, self._count = act, 0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if model.training:
            self._count += 1
            self._act(self._count)
        return self._usual(model, batch)


def measured_by(act: Callable[[int], object]) -> Recipe:
    """The tiny training with `act` called at every step."""
    return replace(recipe(), objective=Measuring(act))


def records(directory: Directory, run: RunId) -> tuple[Record, ...]:
    with directory.open(run) as log:
        return log.read(limit=100_000).records


def custom(directory: Directory, run: RunId) -> list[tuple[int, int, float]]:
    """Epoch, step and value of every sample in the log."""
    found = [(record, decode(record)) for record in records(directory, run)]
    return [(record.epoch, record.step, event.value) for record, event in found if isinstance(event, CustomMetricRecorded)]


@pytest.fixture
def said() -> list[CustomMetricRecorded]:
    return []


def test_a_sample_stands_in_the_runs_log_at_its_epoch_and_step(directory: Directory) -> None:
    run = train(measured_by(lambda batch: measure("queue", batch / 2, labels={"kind": "fast"})), settings(epochs=2), directory, RUN).run
    assert custom(directory, run) == [(1 + step // STEPS, step + 1, (step + 1) / 2) for step in range(2 * STEPS)]
    assert events(directory, run, CustomMetricRecorded)[0] == CustomMetricRecorded(
        name="esper_custom_queue", type="gauge", labels={"kind": "fast"}, value=0.5, about=run
    )


def test_what_is_measured_before_there_is_a_run_is_not_recorded(tmp_path: Path) -> None:
    """The first batches are tried before there is a run."""
    model, data = nn.Linear(4, 2), [(torch.randn(5, 4), torch.randint(0, 2, (5,))) for _ in range(3)]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        measure("loss", nn.functional.cross_entropy(output, target))
        return nn.functional.cross_entropy(output, target)

    result = esper.fit(
        model, data, data, loss=loss, optimizer=torch.optim.SGD(model.parameters(), 0.1), epochs=1, grow=None, log=tmp_path, observe=False
    )
    recorded = custom(Directory(tmp_path), result.run)
    assert len(recorded) >= 3
    assert {epoch for epoch, _, _ in recorded} == {1}


def test_it_is_part_of_the_package() -> None:
    assert esper.measure is measure


def test_a_name_that_ends_with_total_is_a_counters(said: list[CustomMetricRecorded]) -> None:
    with bind_metrics(RUN, said.append):
        measure("tokens_total", 512)
    assert [(event.name, event.type, event.value) for event in said] == [("esper_custom_tokens_total", "counter", 512.0)]


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2), torch.tensor([2.0])])
def test_anything_that_is_one_number_is_a_value(said: list[CustomMetricRecorded], value: float) -> None:
    with bind_metrics(RUN, said.append):
        measure("length", value)
    assert [event.value for event in said] == [2.0]


def test_a_loss_that_has_a_gradient_is_a_value_without_a_warning(said: list[CustomMetricRecorded]) -> None:
    torch.set_warn_always(True)  # Else torch says it once in a process, perhaps in another test.
    try:
        with bind_metrics(RUN, said.append):
            measure("loss", torch.tensor(3.0, requires_grad=True) / 2)
    finally:
        torch.set_warn_always(False)
    assert [event.value for event in said] == [1.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure("Length", 1), r"metric Length: expected a name of small letters, .*; got 'Length'"),
        (lambda: measure("", 1), "expected a name"),
        (lambda: measure("x" * 10_000, 1), f"^metric {'x' * 100}: expected a name .*; got '{'x' * 99}$"),
        (lambda: measure("length_sum", 1), "none with _bucket"),
        (lambda: measure("length", math.nan), "metric length: expected a finite number, and none below 0 of a counter; got nan"),
        (lambda: measure("length", -math.inf), "expected a finite number"),
        (lambda: measure("length", 10**400), "expected a finite number"),
        (lambda: measure("length", True), "expected a finite number"),
        (lambda: measure("length", "1"), "expected a finite number"),  # type: ignore[arg-type]
        (lambda: measure("length", torch.ones(2)), "expected a finite number"),
        (lambda: measure("length", np.ones(2)), "expected a finite number"),
        (lambda: measure("jobs_total", -1), "none below 0 of a counter; got -1"),
        (lambda: measure("length", 1, labels={"le": "1"}), "expected at most 4 labels with names like queue"),
        (lambda: measure("length", 1, labels=dict.fromkeys("abcde", "x")), "at most 4 labels"),
        (lambda: measure("length", 1, labels={"queue": 1}), r"got \{'queue': 1\}"),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_a_sample_is_refused_by_its_name(said: list[CustomMetricRecorded], call: Callable[[], object], message: str) -> None:
    with bind_metrics(RUN, said.append), pytest.raises(DataError, match=message):
        call()
    assert said == []


def test_a_metric_keeps_its_labels(said: list[CustomMetricRecorded]) -> None:
    with bind_metrics(RUN, said.append):
        measure("length", 1, labels={"queue": "a"})
        with pytest.raises(DataError, match="metric length: the metric is known as a gauge with 1 labels"):
            measure("length", 1)
    assert len(said) == 1


def test_a_hundred_and_first_series_is_refused(said: list[CustomMetricRecorded]) -> None:
    with bind_metrics(RUN, said.append):
        for number in range(100):
            measure("length", 1, labels={"queue": str(number)})
        with pytest.raises(DataError, match="metric length: expected at most 100 series"):
            measure("length", 1, labels={"queue": "one more"})
    assert len(said) == 100


def test_a_refusal_that_is_caught_lets_training_go_on(directory: Directory) -> None:
    refused: list[str] = []

    def act(_batch: int) -> None:
        try:
            measure("length", math.nan)
        except EsperError as error:
            refused.append(str(error))

    assert train(measured_by(act), settings(epochs=1), directory, RUN).metrics
    assert len(refused) == STEPS


def test_where_nothing_trains_there_is_no_log_to_write_to() -> None:
    with pytest.raises(RuleError, match=r"metric length: .* no run trains on this one"):
        measure("length", 1)


def test_another_thread_may_not_speak_for_the_run(directory: Directory) -> None:
    refused: list[str] = []

    def elsewhere() -> None:
        try:
            measure("length", 1)
        except RuleError as error:
            refused.append(str(error))

    def act(_batch: int) -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    train(measured_by(act), settings(epochs=1), directory, RUN)
    assert len(refused) == STEPS
    assert custom(directory, RUN) == []


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # From Python 3.12 on, for any process with threads.
def test_nor_may_a_forked_child(directory: Directory) -> None:
    ended: list[int] = []

    def act(_batch: int) -> None:
        child = os.fork()
        if child == 0:
            try:
                measure("length", 1)
            except RuleError:
                os._exit(7)
            os._exit(0)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    train(measured_by(act), settings(epochs=1), directory, RUN)
    assert ended == [7] * STEPS


class Measured(Dataset[tuple[Tensor, ...]]):
    """Samples that are measured when they are read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        measure("read_total", 1)
        inputs, targets = samples()
        return inputs[index], targets[index]


def test_what_is_read_for_the_manifest_is_not_part_of_the_training(directory: Directory) -> None:
    train(recipe(DataLoader(Measured(), batch_size=5)), settings(epochs=1), directory, RUN)
    assert records(directory, RUN)[0].type == RunStarted.KIND
    assert len(custom(directory, RUN)) == 20


@pytest.mark.whole
def test_a_resumed_run_measures_nothing_twice(directory: Directory) -> None:
    chosen = measured_by(lambda batch: measure("batch", batch))
    stopped = replace(chosen, train=Acting(2 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(Interrupted):
        train(stopped, settings(), directory, RUN)
    resume(replace(measured_by(lambda batch: measure("batch", batch)), train=Acting(0, lambda: None)), settings(), directory, RUN)
    assert [step for _, step, _ in custom(directory, RUN)] == list(range(1, 5 * STEPS + 1))


@pytest.mark.whole
def test_training_is_the_same_whether_or_not_it_is_measured(directory: Directory) -> None:
    without = train(recipe(), settings(), directory, fresh_run_id()).run
    measured = train(measured_by(lambda batch: measure("batch", batch)), settings(), directory, fresh_run_id()).run
    bits = [[event.digests for event in events(directory, run, EpochCompleted)] for run in (without, measured)]
    assert bits[0] == bits[1]


def test_a_rule_on_it_fires(directory: Directory) -> None:
    train(measured_by(lambda batch: measure("batch", batch)), settings(epochs=2), directory, RUN)
    rule = f'[[rule]]\nname = "many"\ntopic = "{CUSTOM_METRICS}"\nmetric = "esper_custom_batch"\nabove = 3\nseverity = "warning"\n'
    monitor = RunMonitor(RUN, MonitorSettings(rules=parse_rules(rule, "alerts.toml")))
    derived = [decode(one) for record in records(directory, RUN) for one in monitor.take(record)]
    (firing,) = [event for event in derived if isinstance(event, AlertFiring)]
    assert firing.rule == "many"


@pytest.mark.whole
def test_nissa_exports_it_while_the_run_trains(directory: Directory) -> None:
    with serving(directory.path) as client:
        found: list[str] = []

        def act(batch: int) -> None:
            measure("batch", batch)
            while batch == STEPS and not found:
                text = client.get("/metrics").body.decode()
                found.extend(line for line in text.splitlines() if line == f"esper_custom_batch {STEPS}.0")
                time.sleep(0.01)

        train(measured_by(act), settings(epochs=1), directory, RUN)
    assert found == [f"esper_custom_batch {STEPS}.0"]
