"""Following a directory: every record once and in order, ended runs once, and no more open files than there are live runs."""

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events import topics
from esper.events.envelope import Record, RunId
from esper.oona import follower as follower_module
from esper.oona.contract import Position
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE
from esper.oona.follower import Batch, Follower
from tests.oona.processes import child, line
from tests.oona.samples import OTHER, RUN, ended

WHOLE = ended(30)


def renamed(records: tuple[Record, ...], run: RunId) -> tuple[Record, ...]:
    """The records as another run would have them; their chains are not checked by who only follows."""
    return tuple(record._replace(run=run, id=type(record.id)(record.id.replace(record.run, run))) for record in records)


def collected(follower: Follower, run: RunId, count: int) -> tuple[Record, ...]:
    """The next records of `run`, polled until there are `count`."""
    got: tuple[Record, ...] = ()
    while len(got) < count:
        batches = follower.poll(60.0)
        assert batches, f"expected {count} records of {run}, got {len(got)}"
        got += tuple(record for batch in batches if batch.run == run for record in batch.page.records)
    return got


def opened(directory: Directory) -> int:
    """How many descriptors of this process lead into `directory`."""
    within = str(directory.path)
    return sum(os.path.realpath(descriptor).startswith(within) for descriptor in Path("/proc/self/fd").iterdir())


@pytest.fixture
def followed(directory: Directory) -> Iterator[tuple[Directory, Follower]]:
    with Follower(directory) as follower:
        yield directory, follower


def test_a_live_run_is_followed_as_it_grows(followed: tuple[Directory, Follower]) -> None:
    directory, follower = followed
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
        assert collected(follower, RUN, 10) == WHOLE[:10]
        log.append(WHOLE[10:])
        assert collected(follower, RUN, 20) == WHOLE[10:]
        assert follower.poll(0.0) == ()


def test_two_runs_are_followed_side_by_side(followed: tuple[Directory, Follower]) -> None:
    directory, follower = followed
    other = renamed(WHOLE, OTHER)
    with directory.create(RUN) as first, directory.create(OTHER) as second:
        first.append(WHOLE[:5])
        second.append(other[:7])
        batches = {batch.run: batch.page.records for batch in (*follower.poll(60.0), *follower.poll(0.0))}
    assert batches == {RUN: WHOLE[:5], OTHER: other[:7]}


@pytest.mark.whole
def test_a_run_in_another_process_is_heard(followed: tuple[Directory, Follower]) -> None:
    directory, follower = followed
    with child("hold", directory.path) as process:
        assert line(process) == "held"
        assert len(collected(follower, RUN, 1)) == 1


def test_a_followed_run_ends_once_it_is_sealed(followed: tuple[Directory, Follower]) -> None:
    directory, follower = followed
    with directory.create(RUN) as log:
        log.append(WHOLE)
        assert collected(follower, RUN, 30) == WHOLE
        assert log.seal()
    assert [(batch.run, batch.page.records, batch.ended) for batch in follower.poll(60.0)] == [(RUN, (), True)]
    assert follower.following == frozenset()
    assert follower.poll(0.0) == ()


def test_what_stood_in_a_run_when_it_was_sealed_is_not_missed(followed: tuple[Directory, Follower]) -> None:
    directory, follower = followed
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
        assert collected(follower, RUN, 10) == WHOLE[:10]
        log.append(WHOLE[10:])
        sealing = threading.Thread(target=log.seal)
        sealing.start()
        assert collected(follower, RUN, 20) == WHOLE[10:]
        sealing.join()
    assert directory.runs()[0].sealed


def seal_one(directory: Directory) -> Position:
    with directory.create(RUN) as log:
        log.append(WHOLE)
        position = log.end()
        assert log.seal()
    return position


def test_runs_sealed_before_are_left_alone(directory: Directory) -> None:
    seal_one(directory)
    with Follower(directory) as follower:
        assert follower.poll(0.0) == ()
        assert follower.following == frozenset()


def test_runs_sealed_before_are_read_from_the_start_when_asked(directory: Directory) -> None:
    seal_one(directory)
    with Follower(directory, from_start=True) as follower:
        (batch,) = follower.poll(60.0)
        assert (batch.page.records, batch.ended) == (WHOLE, True)


def test_a_follower_goes_on_where_the_last_one_stopped(directory: Directory) -> None:
    end = seal_one(directory)
    with directory.open(RUN) as log:
        middle = log.read(limit=12).position
    with Follower(directory, {RUN: middle}, from_start=True) as follower:
        assert collected(follower, RUN, 18) == WHOLE[12:]
    with Follower(directory, {RUN: end}, from_start=True) as follower:
        assert follower.following == frozenset()


def test_a_run_that_was_sealed_while_nobody_followed_is_read_to_its_end(directory: Directory) -> None:
    seal_one(directory)
    with directory.open(RUN) as log:
        middle = log.read(limit=12).position
    with Follower(directory, {RUN: middle}) as follower:
        assert collected(follower, RUN, 18) == WHOLE[12:]


def test_only_the_topics_asked_for_come(directory: Directory) -> None:
    seal_one(directory)
    with Follower(directory, topics=frozenset({topics.STEPS}), from_start=True) as follower:
        (batch,) = follower.poll(60.0)
    assert batch.page.records == tuple(record for record in WHOLE if record.topic == topics.STEPS)


def test_pages_are_no_larger_than_asked_for(directory: Directory) -> None:
    seal_one(directory)
    with Follower(directory, from_start=True, limit=20) as follower:
        pages: list[Batch] = [*follower.poll(60.0), *follower.poll(60.0)]
    assert [(len(batch.page.records), batch.ended) for batch in pages] == [(20, False), (10, True)]


def test_a_damaged_run_is_reported_once_and_the_others_go_on(directory: Directory) -> None:
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
    (directory.path / OTHER).mkdir()
    (directory.path / OTHER / RUN_FILE).write_bytes(b"nonsense" * 100)
    with Follower(directory) as follower:
        batches = {batch.run: batch for batch in follower.poll(60.0)}
        assert follower.poll(0.0) == ()
    assert batches[RUN].page.records == WHOLE[:10]
    assert isinstance(batches[OTHER].error, LogError)


def test_a_deleted_run_is_forgotten(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "LIST_S", 0.0)
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
    with Follower(directory) as follower:
        assert len(collected(follower, RUN, 10)) == 10
        for path in (directory.path / RUN).iterdir():
            path.unlink()
        (directory.path / RUN).rmdir()
        follower.poll(0.0)
        assert follower.following == frozenset()


def test_a_run_that_nobody_writes_is_not_kept_open(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "LIST_S", 0.0)
    monkeypatch.setattr(follower_module, "RECENT_S", 0.0)
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
    with Follower(directory) as follower:
        before = opened(directory)
        assert len(collected(follower, RUN, 10)) == 10
        follower.poll(0.0)
        assert opened(directory) == before


def linked(directory: Directory, count: int) -> list[RunId]:
    """`count` more runs with the file of a sealed one."""
    seal_one(directory)
    runs = [RunId(f"01800000-0000-7000-8000-{number:012}") for number in range(count)]
    for run in runs:
        (directory.path / run).mkdir()
        for name in (RUN_FILE, "sealed"):
            os.link(directory.path / RUN / name, directory.path / run / name)
    return runs


def test_no_run_waits_for_others_that_always_have_more(directory: Directory) -> None:
    runs = {RUN, *linked(directory, 70)}
    with Follower(directory, from_start=True, limit=1) as follower:
        came = [{batch.run for batch in follower.poll(60.0)} for _ in range(2)]
    assert [len(names) for names in came] == [64, 64]
    assert came[0] | came[1] == runs


@pytest.mark.whole
def test_thousands_of_ended_runs_fit_into_few_descriptors(directory: Directory) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    linked(directory, 2000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        assert len(directory.runs()) == 2001
        with Follower(directory, from_start=True) as follower:
            done: set[RunId] = set()
            while follower.following:
                done |= {batch.run for batch in follower.poll(60.0) if batch.ended}
        assert len(done) == 2001
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
