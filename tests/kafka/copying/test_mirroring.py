"""A mirror holds the runs of the cluster as their directories do, whatever is read again, late, or not at all."""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from local_kafka import LocalKafka

from esper.errors import LogError
from esper.events.envelope import RunId
from esper.events.kinds.telemetry import Heartbeat
from esper.events.topics import EPOCH, STEPS
from esper.history.alert_lines import current_alerts
from esper.history.trail import holds_in_force
from esper.kafka.clients import producing
from esper.kafka.copying.mirrored_runs import Arrived, MirroredRuns
from esper.kafka.copying.mirroring import POSITIONS_FILE, Mirror, MirrorState, runs_on
from esper.kafka.copying.shipping import Bridge
from esper.oona.contract import Position
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE, SEAL_MARK, open_for_reading
from esper.oona.observed import is_settled, observed_records
from esper.oona.writer import append_drafts
from tests.kafka.ledgers.test_ledger import DERIVED, derive
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import LAST_EPOCH, go_on, log_of, run_of, write_resumed_run
from tests.synthetic import BEGAN, write_run
from tests.trails import held, released, sign_offs_of, signed_off

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
    # By the library that writes it: another one in this process would take the file's locks away, and end its WAL.
    folder = directory.path / run
    with closing(open_for_reading(folder / RUN_FILE, immutable=(folder / SEAL_MARK).exists())) as connection:
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


def test_holds_and_sign_offs_are_shipped_and_mirrored(cluster: Cluster, directory: Directory, mirrored: Directory) -> None:
    append_to_trail(directory, [held(FIRST), held(SECOND), released(SECOND), signed_off(FIRST)], lambda: BEGAN)
    ship(cluster, directory)
    assert copy(cluster, mirrored).refused == {}
    assert holds_in_force(mirrored, BEGAN.date()) == holds_in_force(directory, BEGAN.date())
    assert holds_in_force(mirrored, BEGAN.date()).keys() == {FIRST}
    assert sign_offs_of(mirrored, FIRST) == sign_offs_of(directory, FIRST)
    with pytest.raises(LogError, match="is a copy from Kafka there"):
        append_to_trail(mirrored, [held(FIRST)], lambda: BEGAN)


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


def test_derived_records_stand_beside_their_runs_once_and_what_is_resolved_is_settled(
    cluster: Cluster, directory: Directory, mirrored: Directory
) -> None:
    ship(cluster, directory)
    derive(cluster)
    copy(cluster, mirrored)
    (mirrored.path / POSITIONS_FILE).unlink()
    copy(cluster, mirrored)
    on_kafka = asyncio.run(cluster.records(*DERIVED))
    for run in (FIRST, SECOND):
        found = [one for topic in DERIVED for one in observed_records(mirrored.path / run, run, topic)]
        wanted = [one for one in on_kafka if one.run == run]
        assert len(wanted) > 5
        assert sorted(found) == sorted(wanted)
    firing = {line.run for line in current_alerts(mirrored, lambda error: pytest.fail(str(error)))}
    assert is_settled(mirrored.path / FIRST) == (FIRST not in firing)
    assert not is_settled(mirrored.path / SECOND)


@pytest.mark.chaos
def test_a_mirror_goes_on_when_a_broker_that_was_away_is_back(own_kafka: LocalKafka, tmp_path: Path, mirrored: Directory) -> None:
    cluster, directory = Cluster.make(own_kafka.bootstrap), Directory(tmp_path / "log", create=True)
    write_run(directory, run=SECOND, until_epoch=2, finish=False)
    ship(cluster, directory)

    async def away() -> None:
        stop = asyncio.Event()
        mirror = Mirror(cluster.settings, mirrored, jitter=lambda: 0.0)
        async with asyncio.TaskGroup() as group, asyncio.timeout(4 * WITHIN_S):
            group.create_task(mirror.run(stop))
            await until(lambda: mirror.state.caught_up_at is not None)
            own_kafka.kill()
            await until(lambda: mirror.state.error is not None)
            assert rows_of(mirrored, SECOND) == rows_of(directory, SECOND)
            await asyncio.to_thread(own_kafka.start)
            await until(lambda: mirror.state.error is None)
            go_on(directory, SECOND, 4, resumed=False)
            await asyncio.to_thread(ship, cluster, directory)
            await until(lambda: rows_of(mirrored, SECOND) == rows_of(directory, SECOND))
            stop.set()

    asyncio.run(away())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.05)


def test_a_history_that_is_larger_than_the_memory_for_it_is_copied_all_the_same(
    cluster: Cluster, directory: Directory, mirrored: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.kafka.copying.mirroring._MOST_BYTES", 2000)
    monkeypatch.setattr("esper.kafka.copying.mirroring._MESSAGES", 2)
    ship(cluster, directory)
    most = 0
    take = MirroredRuns.take

    def watched(runs: MirroredRuns, arrived: list[Arrived]) -> None:
        nonlocal most
        take(runs, arrived)
        most = max(most, *(runs.waiting_bytes(number) for number in range(2)))

    monkeypatch.setattr(MirroredRuns, "take", watched)
    copy(cluster, mirrored)
    assert rows_of(mirrored, FIRST) == rows_of(directory, FIRST)
    assert most < sum(len(record.data) for run in (FIRST, SECOND) for record in log_of(directory, run)) / 2


def test_a_transaction_that_stays_open_hides_what_follows_and_is_named(cluster: Cluster, directory: Directory, mirrored: Directory) -> None:
    ship(cluster, directory)

    async def hang() -> MirrorState:
        async with producing(cluster.settings, "hangs") as producer:
            await producer.begin_transaction()
            for number in range(cluster.settings.partitions):
                await producer.send_and_wait(cluster.settings.topic(EPOCH), b"never", partition=number)
            stop = asyncio.Event()
            mirror = Mirror(cluster.settings, mirrored)
            async with asyncio.TaskGroup() as group:
                group.create_task(mirror.run(stop, until_caught_up=True))
                await until(lambda: mirror.state.stuck is not None)
                stop.set()
            await producer.abort_transaction()
            return mirror.state

    state = asyncio.run(hang())
    assert state.stuck is not None
    assert EPOCH in state.stuck
    assert "a transaction has not ended" in state.stuck
    assert state.caught_up_at is None
    assert rows_of(mirrored, FIRST) == rows_of(directory, FIRST)
    assert copy(cluster, mirrored).caught_up_at is not None
