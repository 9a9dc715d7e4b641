"""Runs about no training: one a day, ended and sealed by the next, hidden from lists."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.codec import decode
from esper.events.envelope import RunId
from esper.events.kinds.run import StreamEnded
from esper.events.topics import RESOURCES, TRAIL
from esper.oona.daily_run import DailyRun, _machine_name, append_to_trail
from esper.oona.directory import Directory
from esper.oona.file import MIRRORED_MARK
from tests.nissa.samples import resources
from tests.synthetic import RUN
from tests.trails import held, signed_off


class Clock:
    """A clock that stands until it is moved."""

    now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def machine(tmp_path: Path, clock: Clock) -> Iterator[DailyRun]:
    run = DailyRun(Directory(tmp_path), "machine", "agent", clock)
    yield run
    run.close()


def names(path: Path) -> list[RunId]:
    return Directory(path).names(hidden=True)


def test_the_run_is_named_by_machine_and_day_and_hidden(tmp_path: Path, machine: DailyRun) -> None:
    machine.append([resources(), resources()])
    assert names(tmp_path) == [f"machine:{_machine_name()}:2026-01-01"]
    assert Directory(tmp_path).runs() == []
    with Directory(tmp_path).open(names(tmp_path)[0]) as log:
        records = log.read().records
    assert [(record.topic, record.sequence, record.moment, record.writer, record.epoch) for record in records] == [
        (RESOURCES, 1, 1, "agent", 0),
        (RESOURCES, 2, 2, "agent", 0),
    ]


def test_a_new_day_is_a_new_run_and_the_old_one_is_ended_and_sealed(tmp_path: Path, machine: DailyRun, clock: Clock) -> None:
    machine.append([resources()])
    clock.now += timedelta(hours=12)
    machine.append([resources()])
    old, new = sorted(names(tmp_path))
    entry = Directory(tmp_path).entry(old)
    assert entry is not None
    assert entry.sealed
    with Directory(tmp_path).open(old) as log:
        assert isinstance(decode(log.last()[0]), StreamEnded)
    assert new.endswith("2026-01-02")


def test_a_run_of_an_earlier_day_whose_process_was_killed_is_ended_by_the_next(tmp_path: Path, clock: Clock) -> None:
    killed = DailyRun(Directory(tmp_path), "machine", "agent", clock)
    killed.append([resources()])
    assert killed._log is not None
    killed._log.close()
    clock.now += timedelta(days=3)
    with_next = DailyRun(Directory(tmp_path), "machine", "agent", clock)
    with_next.append([resources()])
    with_next.close()
    assert [entry.sealed for entry in Directory(tmp_path).runs(hidden=True)] == [False, True]


def test_the_run_of_another_machine_with_a_longer_name_is_left_alone(tmp_path: Path, machine: DailyRun) -> None:
    other = RunId(f"machine:{_machine_name()}-two:2025-12-31")
    Directory(tmp_path).create(other, "agent").close()
    machine.append([resources()])
    entry = Directory(tmp_path).entry(other)
    assert entry is not None
    assert not entry.sealed


def test_the_day_goes_on_in_the_same_run_after_a_restart(tmp_path: Path, machine: DailyRun, clock: Clock) -> None:
    machine.append([resources()])
    machine.close()
    again = DailyRun(Directory(tmp_path), "machine", "agent", clock)
    again.append([resources()])
    again.close()
    [name] = names(tmp_path)
    with Directory(tmp_path).open(name) as log:
        assert [record.type.split(".")[1] for record in log.read().records] == ["resources", "stream", "resources", "stream"]


def test_a_second_process_of_one_kind_is_refused_or_numbered(tmp_path: Path, machine: DailyRun, clock: Clock) -> None:
    machine.append([resources()])
    with pytest.raises(LogError, match="is being written by"):
        DailyRun(Directory(tmp_path), "machine", "agent", clock).append([resources()])
    second = DailyRun(Directory(tmp_path), "machine", "agent", clock, instances=2)
    second.append([resources()])
    second.close()
    assert names(tmp_path) == [f"machine:{_machine_name()}:2026-01-01", f"machine:{_machine_name()}-2:2026-01-01"]


def test_the_trail_is_a_run_of_facts_that_ends_after_each_append(tmp_path: Path, clock: Clock) -> None:
    append_to_trail(Directory(tmp_path), [held(), signed_off()], clock)
    append_to_trail(Directory(tmp_path), [held()], clock)
    assert names(tmp_path) == [f"audit:{_machine_name()}:2026-01-01"]
    with Directory(tmp_path).open(names(tmp_path)[0]) as log:
        records = log.read().records
        log.heads()
    assert {(record.topic, record.writer) for record in records} == {(TRAIL, "audit")}
    assert [record.type.split(".", 1)[1] for record in records] == [
        "run.held.v1",
        "run.signed-off.v1",
        "stream.ended.v1",
        "run.held.v1",
        "stream.ended.v1",
    ]
    assert [record.fact for record in records] == [1, 2, 3, 4, 5]


def test_two_who_write_the_trail_at_one_time_do_not_wait_for_each_other(tmp_path: Path, clock: Clock) -> None:
    first = DailyRun(Directory(tmp_path), "audit", "audit", clock, instances=9)
    first.append([held()])
    append_to_trail(Directory(tmp_path), [held()], clock)
    first.close()
    assert names(tmp_path) == [f"audit:{_machine_name()}:2026-01-01", f"audit:{_machine_name()}-2:2026-01-01"]


def test_nothing_is_said_beside_a_copy_from_kafka_where_nobody_would_learn_of_it(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / MIRRORED_MARK).touch()
    with pytest.raises(LogError, match=f"run {RUN} is a copy from Kafka there, .* record it in the directory that the run was written in"):
        append_to_trail(Directory(tmp_path), [held()], clock)
    assert names(tmp_path) == [RUN]


def test_nothing_to_append_makes_no_trail(tmp_path: Path, clock: Clock) -> None:
    append_to_trail(Directory(tmp_path), [], clock)
    assert Directory(tmp_path).names(hidden=True) == []
