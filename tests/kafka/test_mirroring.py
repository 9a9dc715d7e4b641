"""A mirror holds the runs of the cluster as their directories do, whatever is read again, late, or not at all."""

import asyncio
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.events.envelope import RunId
from esper.events.kinds.telemetry import Heartbeat
from esper.events.topics import STEPS
from esper.kafka.bridging import Bridge
from esper.kafka.mirroring import POSITIONS_FILE, Mirror, MirrorState, runs_on
from esper.oona.contract import Position
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE, SEAL_MARK
from esper.oona.writer import append_drafts
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import LAST_EPOCH, go_on, run_of, write_resumed_run
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

FIRST, SECOND = run_of(1), run_of(2)
WITHIN_S = 60.0


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """A finished run, and one that was resumed and goes on."""
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=FIRST)
    write_resumed_run(directory, SECOND)
    return directory


@pytest.fixture
def mirrored(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "mirror", create=True)


def ship(cluster: Cluster, directory: Directory) -> None:
    """Everything of `directory` is on the cluster."""
    asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))


def copy(cluster: Cluster, mirrored: Directory, *runs: RunId) -> MirrorState:
    """Everything of the cluster is in `mirrored`."""

    async def catch_up() -> MirrorState:
        mirror = Mirror(cluster.settings, mirrored, frozenset(runs) or None)
        async with asyncio.timeout(WITHIN_S):
            await mirror.run(asyncio.Event(), until_caught_up=True)
        return mirror.state

    return asyncio.run(catch_up())


def rows_of(directory: Directory, run: RunId) -> list[tuple[object, ...]]:
    with sqlite3.connect(directory.path / run / RUN_FILE) as connection:
        return connection.execute("SELECT * FROM records ORDER BY row").fetchall()


def test_a_mirror_holds_the_same_rows_chains_and_marks(cluster: Cluster, directory: Directory, mirrored: Directory) -> None:
    ship(cluster, directory)
    state = copy(cluster, mirrored)
    assert mirrored.names() == directory.names()
    for run in (FIRST, SECOND):
        assert rows_of(mirrored, run) == rows_of(directory, run)
        with mirrored.open(run) as copied, directory.open(run) as original:
            assert copied.heads() == original.heads()
    assert (mirrored.path / FIRST / SEAL_MARK).read_text() == (directory.path / FIRST / SEAL_MARK).read_text()
    assert (state.behind, state.error, state.refused, state.unreadable) == (0, None, {}, 0)


def test_a_mirror_that_goes_on_reads_what_is_new_and_one_that_lost_its_positions_drops_what_it_has(
    cluster: Cluster, directory: Directory, mirrored: Directory
) -> None:
    ship(cluster, directory)
    assert copy(cluster, mirrored).records > 0
    assert copy(cluster, mirrored).records == 0
    go_on(directory, SECOND, LAST_EPOCH + 2, resumed=False)
    ship(cluster, directory)
    (mirrored.path / POSITIONS_FILE).unlink()
    assert copy(cluster, mirrored).refused == {}
    assert rows_of(mirrored, SECOND) == rows_of(directory, SECOND)


def test_one_run_alone_is_mirrored_and_everything_later(cluster: Cluster, directory: Directory, mirrored: Directory) -> None:
    ship(cluster, directory)
    assert asyncio.run(runs_on(cluster.settings)) == {FIRST, SECOND}
    copy(cluster, mirrored, SECOND)
    assert mirrored.names() == [SECOND]
    assert copy(cluster, mirrored, SECOND).records == 0
    copy(cluster, mirrored)
    assert rows_of(mirrored, FIRST) == rows_of(directory, FIRST)
    assert rows_of(mirrored, SECOND) == rows_of(directory, SECOND)


def test_telemetry_that_retention_cut_is_gone_and_said(cluster: Cluster, directory: Directory, mirrored: Directory) -> None:
    ship(cluster, directory)
    asyncio.run(cluster.cut(STEPS, 30))
    state = copy(cluster, mirrored)
    assert state.refused == {}
    with mirrored.open(FIRST) as log, directory.open(FIRST) as original:
        assert {topic for topic, _, _ in log.gone().ranges} == {STEPS}
        assert log.heads().tails() == original.heads().tails()
    assert copy(cluster, mirrored).refused == {}


def test_a_run_is_followed_as_it_is_written_and_is_live(cluster: Cluster, tmp_path: Path, mirrored: Directory) -> None:
    directory = Directory(tmp_path / "log", create=True)

    async def follow() -> None:
        stop = asyncio.Event()
        mirror, bridge = Mirror(cluster.settings, mirrored), Bridge(directory, cluster.settings)
        async with asyncio.TaskGroup() as group:
            group.create_task(mirror.run(stop))
            group.create_task(bridge.run(stop))
            await asyncio.to_thread(write_run, directory, run=FIRST, until_epoch=1, finish=False)
            for _ in range(3):
                with directory.resume(FIRST) as log:
                    beat = log.heads().draft(Heartbeat(idle_s=0.5, doing="waiting"), Heartbeat.TOPIC, datetime.now(UTC))
                    append_drafts(log, [beat])
                    end = log.end()
                await asyncio.to_thread(wait_for, mirrored, end)
            stop.set()

    asyncio.run(follow())
    entry = mirrored.entry(FIRST)
    assert entry is not None
    assert (entry.live, entry.holder) == (True, None)


def wait_for(mirrored: Directory, end: Position) -> None:
    """Returns when a reader of the mirror finds the record before `end`."""
    began_at = time.monotonic()
    while time.monotonic() < began_at + WITHIN_S:
        if mirrored.has_log(FIRST):
            with mirrored.open(FIRST) as log:
                if not end.records_since(log.end()):
                    return
        time.sleep(0.01)
    raise AssertionError("not seen")
