"""Following a directory: every record once and in order, ended runs once, and no more open files than there are live runs."""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events import topics
from esper.events.envelope import Record, RunId
from esper.oona import follower as follower_module
from esper.oona.contract import Position
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE, RUN_FILE
from esper.oona.follower import DerivedFollower, Follower, RunPage
from esper.oona.observed import Observed
from tests.nissa.samples import anomaly
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
        pages = follower.poll(60.0)
        assert pages, f"expected {count} records of {run}, got {len(got)}"
        got += tuple(record for page in pages if page.run == run for record in page.records)
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
        pages = {page.run: page.records for page in (*follower.poll(60.0), *follower.poll(0.0))}
    assert pages == {RUN: WHOLE[:5], OTHER: other[:7]}


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
    assert [(page.run, page.records, page.ended) for page in follower.poll(60.0)] == [(RUN, (), True)]
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
        (page,) = follower.poll(60.0)
        assert (page.records, page.ended) == (WHOLE, True)


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
        (page,) = follower.poll(60.0)
    assert page.records == tuple(record for record in WHOLE if record.topic == topics.STEPS)


def test_pages_are_no_larger_than_asked_for(directory: Directory) -> None:
    seal_one(directory)
    with Follower(directory, from_start=True, limit=20) as follower:
        pages: list[RunPage] = [*follower.poll(60.0), *follower.poll(60.0)]
    assert [(len(page.records), page.ended) for page in pages] == [(20, False), (10, True)]


def test_a_damaged_run_is_reported_once_and_the_others_go_on(directory: Directory) -> None:
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
    (directory.path / OTHER).mkdir()
    (directory.path / OTHER / RUN_FILE).write_bytes(b"nonsense" * 100)
    with Follower(directory) as follower:
        pages = {page.run: page for page in follower.poll(60.0)}
        assert follower.poll(0.0) == ()
    assert pages[RUN].records == WHOLE[:10]
    assert isinstance(pages[OTHER].error, LogError)


def test_a_deleted_run_is_forgotten(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "_LIST_S", 0.0)
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
    monkeypatch.setattr(follower_module, "_LIST_S", 0.0)
    monkeypatch.setattr(follower_module, "_RECENT_S", 0.0)
    monkeypatch.setattr(follower_module, "_MOMENT_S", 0.0)
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
    with Follower(directory) as follower:
        before = opened(directory)
        assert len(collected(follower, RUN, 10)) == 10
        for _ in range(2):  # It is read once more when its writer is gone.
            follower.poll(0.0)
        assert opened(directory) == before


def test_runs_that_are_left_out_are_read_later(directory: Directory) -> None:
    with directory.create(RUN) as log, Follower(directory) as follower:
        log.append(WHOLE[:10])
        assert follower.poll(0.1, but_for={RUN}) == ()
        assert len(collected(follower, RUN, 10)) == 10


def test_what_a_notification_tells_is_read_though_the_file_does_not_show_it(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    with directory.create(RUN) as log, Follower(directory) as follower:
        log.append(WHOLE[:10])
        assert len(collected(follower, RUN, 10)) == 10
        monkeypatch.setattr(follower_module, "_stamp", lambda *_: ((0, 0),))
        monkeypatch.setattr(follower_module, "_RECENT_S", 0.0)
        monkeypatch.setattr(follower_module, "_MOMENT_S", 0.0)
        follower.poll(0.0)  # The stamp changes for the last time.
        log.append(WHOLE[10:20])
        assert len(collected(follower, RUN, 10)) == 10


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
        came = [{page.run for page in follower.poll(60.0)} for _ in range(2)]
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
                done |= {page.run for page in follower.poll(60.0) if page.ended}
        assert len(done) == 2001
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def beside(directory: Directory) -> Directory:
    """A directory with a run that only an observer has written about."""
    (directory.path / RUN).mkdir()
    return directory


def observed(directory: Directory, *identities: str, seal: bool = False) -> None:
    with Observed(directory.path / RUN, RUN) as writing:
        writing.save([anomaly(RUN, identity) for identity in identities])
        if seal:
            assert writing.seal()


def came(follower: DerivedFollower) -> list[str]:
    return [record.id for _, records in follower.poll(frozenset({RUN})) for record in records]


def test_what_stands_there_and_what_comes_is_brought_once(beside: Directory) -> None:
    observed(beside, "a", "b")
    follower = DerivedFollower(beside)
    assert [came(follower), came(follower)] == [["a", "b"], []]
    observed(beside, "c")
    assert [came(follower), came(follower)] == [["c"], []]


def test_a_run_that_was_settled_before_is_history(beside: Directory) -> None:
    observed(beside, "a", seal=True)
    assert came(DerivedFollower(beside)) == []


def test_a_settled_run_that_is_observed_again_brings_what_is_new(beside: Directory) -> None:
    observed(beside, "a", seal=True)
    follower = DerivedFollower(beside)
    assert came(follower) == []
    observed(beside, "b")
    assert came(follower) == ["b"]


def test_a_run_that_settles_while_it_is_followed_is_read_to_its_end(beside: Directory) -> None:
    observed(beside, "a")
    follower = DerivedFollower(beside)
    assert came(follower) == ["a"]
    observed(beside, "b", seal=True)
    assert came(follower) == ["b"]


def test_a_damaged_file_leaves_the_others_alone_and_is_read_once_it_is_whole(beside: Directory) -> None:
    (beside.path / OTHER).mkdir()
    (beside.path / OTHER / OBSERVED_FILE).write_bytes(b"no SQLite file" * 1000)
    observed(beside, "a")
    follower = DerivedFollower(beside)
    assert came(follower) == ["a"]
    assert follower.unreadable == {OTHER}
    (beside.path / OTHER / OBSERVED_FILE).unlink()
    with Observed(beside.path / OTHER, OTHER) as writing:
        writing.save([anomaly(OTHER, "b")])
    assert [record.id for _, records in follower.poll(frozenset({OTHER})) for record in records] == ["b"]
    assert follower.unreadable == frozenset()


def test_a_run_that_nobody_observed_brings_nothing(beside: Directory) -> None:
    assert came(DerivedFollower(beside)) == []


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Within, this process can open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("listed", [True, False])
def test_a_shortage_of_descriptors_loses_nothing_and_passes(followed: tuple[Directory, Follower], *, listed: bool) -> None:
    directory, follower = followed
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
        if listed:
            follower.poll(0.0)
            follower._release(RUN)  # As after two seconds without records.
            follower.go_back(RUN, Position())
        follower._listed_at = follower._listed_at if listed else 0.0
        with no_descriptor():
            pages = follower.poll(0.0)
        assert not [record for page in pages for record in page.records]
        assert not any(page.ended for page in pages)
        assert listed == (follower.shortage is None)
        assert collected(follower, RUN, 10) == WHOLE[:10]
        assert follower.shortage is None


def test_a_shortage_takes_no_live_run_for_sealed(followed: tuple[Directory, Follower]) -> None:
    directory, follower = followed
    with directory.create(RUN) as log:
        log.append(WHOLE[:10])
        assert collected(follower, RUN, 10) == WHOLE[:10]
        log.append(WHOLE[10:])
        with no_descriptor():
            follower.poll(0.0)
        assert follower.done == frozenset()
        assert follower.following == {RUN}
