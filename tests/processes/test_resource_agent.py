"""The agent: what it measures of this machine, what it leaves out, and that there is one."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest

from esper.errors import LogError
from esper.events.codec import decode
from esper.events.envelope import RunId
from esper.events.kinds.run import SamplesDropped
from esper.events.kinds.telemetry import ResourcesMeasured
from esper.events.topics import RESOURCES
from esper.oona.daily_run import DailyRun, _machine_name
from esper.oona.directory import Directory
from esper.processes.resource_agent import Agent, Gpus, run_agent
from tests.synthetic import write_run


class NVMLError(Exception):
    """What the driver raises."""


class Driver:
    """A driver with GPUs: their names, and the questions that each does not answer. Stands in for the module pynvml."""

    NVMLError = NVMLError

    def __init__(self, *gpus: tuple[str, frozenset[str]], there: bool = True) -> None:
        self.gpus, self.there = gpus, there

    def nvmlInit(self) -> None:  # noqa: N802 - the driver's names.
        if not self.there:
            raise NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def __getattr__(self, question: str) -> Callable[..., object]:
        name = question.removeprefix("nvmlDeviceGet")
        answers: dict[str, object] = {
            "MemoryInfo": SimpleNamespace(used=1 << 30, total=4 << 30),
            "UtilizationRates": SimpleNamespace(gpu=25, memory=5),
            "PowerUsage": 150_500,
            "Temperature": 41,
        }
        if name not in {*answers, "Name"}:
            raise AttributeError(question)

        def answer(handle: int, *_more: object) -> object:
            gpu, silent = self.gpus[handle]
            if name in silent:
                raise NVMLError("not supported")
            return answers.get(name, gpu)

        return answer


def measured(path: Path, gpus: Gpus) -> ResourcesMeasured:
    """What an agent records there."""
    directory = Directory(path)
    with Agent(directory, gpus) as agent:
        agent.record()
    [run] = [name for name in directory.names(hidden=True) if name.startswith("machine:")]
    with directory.open(run) as log:
        event = decode(log.read().records[0])
    assert isinstance(event, ResourcesMeasured)
    return event


def test_the_machine_is_measured_and_what_there_is_none_of_is_absent(tmp_path: Path) -> None:
    event = measured(tmp_path, Gpus(None))
    assert 0 <= event.cpu_utilization <= 1
    assert 0 < event.memory_used_bytes < event.memory_total_bytes
    assert 0 < event.disk_free_bytes <= event.disk_total_bytes
    assert (event.gpus, event.log_dropped_samples) == ((), 0)


def test_without_a_driver_there_are_no_gpus(tmp_path: Path) -> None:
    assert measured(tmp_path, Gpus(Driver(("some", frozenset()), there=False))).gpus == ()


def test_a_gpu_is_measured_in_base_units_and_what_it_does_not_say_is_null(tmp_path: Path) -> None:
    driver = Driver(
        ("whole", frozenset()), ("partitioned", frozenset({"UtilizationRates", "PowerUsage"})), ("gone", frozenset({"MemoryInfo"}))
    )
    whole, partitioned = measured(tmp_path, Gpus(driver)).gpus
    assert whole.model_dump() == {
        "index": 0,
        "name": "whole",
        "utilization": 0.25,
        "memory_used_bytes": 1 << 30,
        "memory_total_bytes": 4 << 30,
        "temperature_celsius": 41.0,
        "power_watts": 150.5,
    }
    assert (partitioned.index, partitioned.utilization, partitioned.power_watts) == (1, None, None)


def test_telemetry_that_runs_did_not_take_is_summed(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    with directory.open(write_run(directory, finish=False)) as log:
        lost = [record for record in log.read(limit=10_000).records if record.type == SamplesDropped.KIND]
    assert measured(tmp_path, Gpus(None)).log_dropped_samples == sum(json.loads(record.data)["count"] for record in lost) > 0


def test_a_second_agent_leaves(tmp_path: Path) -> None:
    with Agent(Directory(tmp_path), Gpus(None)), pytest.raises(LogError, match="is being written by this process"):
        Agent(Directory(tmp_path), Gpus(None))


def test_the_next_agent_takes_over(tmp_path: Path) -> None:
    with Agent(Directory(tmp_path), Gpus(None)) as first:
        first.record()
    with Agent(Directory(tmp_path), Gpus(None)) as second:
        second.record()


def test_in_the_background_it_leaves_once_nobody_trains(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    run_agent(directory, 0.01, Event(), leave_after_s=0.0)
    [name] = directory.names(hidden=True)
    with directory.open(name) as log:
        assert [record.topic for record in log.read().records] == [RESOURCES, RESOURCES]


def test_it_stays_while_somebody_trains(tmp_path: Path) -> None:
    directory, stopped = Directory(tmp_path), Event()
    with directory.create(RunId("01f00000-0000-7000-8000-000000000001")):
        measuring = Thread(target=run_agent, args=(directory, 0.01, stopped, 0.0))
        measuring.start()
        path = directory.path / f"machine:{_machine_name()}:{datetime.now(UTC):%Y-%m-%d}"
        while not path.exists():
            assert measuring.is_alive()
        assert measuring.is_alive()
        stopped.set()
        measuring.join()


def test_an_agent_measures_on_where_one_whose_clock_was_ahead_has_sealed_today_s_run(tmp_path: Path) -> None:
    event = measured(tmp_path, Gpus(None))
    directory = Directory(tmp_path)
    with closing(DailyRun(directory, "machine", "agent", lambda: datetime.now(UTC) + timedelta(days=1))) as ahead:
        ahead.append([event])
    with Agent(directory, Gpus(None)) as agent:
        agent.record()
    [run] = [run for run in directory.names(hidden=True) if f"{_machine_name()}-2:" in run]
    with directory.open(run) as log:
        assert abs(log.read().records[0].time - datetime.now(UTC)) < timedelta(minutes=1)
