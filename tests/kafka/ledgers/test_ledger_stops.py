"""Ledgers that are killed, or replaced by another version, around a topic that stops; and runs at rest. On a cluster in memory."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from esper.errors import DataError, EsperError, LogError
from esper.events.codec import decode
from esper.events.envelope import EventId, Record
from esper.events.fields import Event
from esper.events.kinds.observability import FoldBlocked, FoldUnblocked, RunWentSilent
from esper.events.topics import AGGREGATES, ALERTS, ANOMALIES, LIFECYCLE, OBSERVERS, RUN, STEPS
from esper.folds.monitoring import cell, derive
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.kafka.cluster_topics import CHANGELOG
from esper.kafka.ledgers import ledger as ledgers
from esper.kafka.ledgers.ledger import Ledger, LedgerSettings
from esper.observer.build import builtin_rules
from esper.oona.directory import Directory
from tests.kafka.memory_cluster import SETTINGS as KAFKA
from tests.kafka.memory_cluster import MemoryCluster
from tests.kafka.recorded import INTERRUPTED_EPOCH, LAST_EPOCH, go_on, log_of, run_of, write_resumed_run
from tests.synthetic import write_run

DERIVED = (AGGREGATES, ANOMALIES, ALERTS, OBSERVERS)
NEVER_S = 1e9
SETTINGS = LedgerSettings(MonitorSettings(rules=builtin_rules()), state_every_s=NEVER_S, pack_after_s=NEVER_S)
FIRST, SECOND = run_of(1), run_of(2)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    return MemoryCluster.make(monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Two runs that finished."""
    directory = Directory(tmp_path / "log", create=True)
    for run in (FIRST, SECOND):
        write_run(directory, run=run)
    return directory


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ledgers commit and judge without pauses."""
    monkeypatch.setattr(ledgers, "_PAUSE_S", 0.0)
    monkeypatch.setattr(ledgers, "_TICK_S", 0.0)


async def turned(ledger: Ledger, times: int = 4) -> Ledger:
    """The ledger, once it read and committed what there is."""
    for _ in range(times):
        await ledger.turn()
    return ledger


def lives(cluster: MemoryCluster, settings: LedgerSettings = SETTINGS) -> None:
    """A ledger that reads what there is, commits, and is killed: only what turns have committed is left."""

    async def live() -> None:
        await (await turned(await cluster.open(settings))).abandon()

    asyncio.run(live())


def expected(directory: Directory, *runs: str) -> dict[EventId, Record]:
    """The records that a plain loop derives, by id."""
    found: dict[EventId, Record] = {}
    for run in directory.names():
        if run in runs:
            monitor = RunMonitor(run, SETTINGS.monitor)
            found |= {one.id: one for record in log_of(directory, run) for one in monitor.take(record)}
    return found


def assert_once(cluster: MemoryCluster, wanted: dict[EventId, Record]) -> None:
    """All that is wanted is there, and nothing twice."""
    counted = Counter(record.id for record in cluster.records(*DERIVED))
    assert wanted.keys() <= counted.keys()
    assert max(counted.values()) == 1


def kinds(cluster: MemoryCluster, *wanted: type[Event]) -> list[str]:
    """The types of the ledgers' own records of `wanted` kinds, in their order."""
    return [record.type for record in cluster.records(OBSERVERS) if record.type in {kind.KIND for kind in wanted}]


def understanding(monkeypatch: pytest.MonkeyPatch, unknown: Callable[[Record], bool]) -> None:
    """Makes this version understand no record that is `unknown`."""

    def refusing(record: Record) -> Event:
        if unknown(record):
            raise DataError("an unknown kind")
        return decode(record)

    monkeypatch.setattr(cell, "decode", refusing)


def raising(monkeypatch: pytest.MonkeyPatch, at: Iterable[Record]) -> None:
    """Makes a fold raise at the records `at`."""
    ids, update = {record.id for record in at}, derive.derive_events

    def failing(state: object, record: Record, *rest: object) -> object:
        if record.id in ids:
            raise ZeroDivisionError("by itself")
        return update(state, record, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cell, "derive_events", failing)


def facts_of(directory: Directory, topic: str = LIFECYCLE) -> tuple[Record, ...]:
    return log_of(directory, FIRST, topic)


def test_a_version_that_understands_goes_on_from_the_stop_of_one_that_was_killed(
    cluster: MemoryCluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    cluster.ship(log_of(directory, FIRST))
    with monkeypatch.context() as patched:
        unknown = facts_of(directory)[3].id
        understanding(patched, lambda record: record.id == unknown)
        lives(cluster)
    lives(cluster)
    assert kinds(cluster, FoldBlocked, FoldUnblocked) == [FoldBlocked.KIND, FoldUnblocked.KIND]
    assert_once(cluster, expected(directory, FIRST))


def test_a_topic_that_stops_again_further_on_derives_nothing_twice_when_its_ledger_is_killed(
    cluster: MemoryCluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    cluster.ship(log_of(directory, FIRST))
    early, late = facts_of(directory, RUN)[1].id, facts_of(directory, RUN)[-2].id
    for unknown in ({early, late}, {late}, {late}):
        with monkeypatch.context() as patched:
            understanding(patched, lambda record, unknown=unknown: record.id in unknown)  # type: ignore[misc]
            lives(cluster)
    lives(cluster)
    assert kinds(cluster, FoldBlocked, FoldUnblocked) == [FoldBlocked.KIND, FoldBlocked.KIND, FoldUnblocked.KIND]
    assert_once(cluster, expected(directory, FIRST))


def test_a_version_that_understands_less_stops_the_topic_while_it_recovers_and_says_so(
    cluster: MemoryCluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    log = log_of(directory, FIRST)
    cluster.ship(log[:1])
    lives(cluster)
    cluster.ship(log[1:])
    lives(cluster)
    with monkeypatch.context() as patched:
        unknown = facts_of(directory)[3].id
        understanding(patched, lambda record: record.id == unknown)
        lives(cluster)
    assert kinds(cluster, FoldBlocked, FoldUnblocked) == [FoldBlocked.KIND]
    lives(cluster)
    assert kinds(cluster, FoldBlocked, FoldUnblocked) == [FoldBlocked.KIND, FoldUnblocked.KIND]
    assert_once(cluster, expected(directory, FIRST))


def failures(cluster: MemoryCluster) -> list[str]:
    """The errors of ledgers that follow each other, until one lives."""
    found: list[str] = []
    while len(found) < 9:
        try:
            lives(cluster)
        except EsperError as error:
            found.append(str(error))
        else:
            break
    return found


@pytest.mark.parametrize("recovering", [False, True])
def test_a_fold_that_raises_three_times_stops_its_topic_and_goes_on_when_it_raises_no_more(
    cluster: MemoryCluster, directory: Directory, monkeypatch: pytest.MonkeyPatch, recovering: bool
) -> None:
    at_once(monkeypatch)
    first, second = log_of(directory, FIRST), log_of(directory, SECOND)
    at = log_of(directory, FIRST, STEPS)[5]
    cluster.ship((first[0], second[0]))
    lives(cluster)
    cluster.ship((*first[1:], *second[1:]))
    if recovering:
        lives(cluster)
    with monkeypatch.context() as patched:
        raising(patched, [at])
        raised = failures(cluster)
        assert len(raised) == 2
        assert raised[0] == f"run {FIRST}, a fold raised ZeroDivisionError at {STEPS}, sequence {at.sequence}: by itself, for the 1. time"
        assert failures(cluster) == []
        [blocked] = [decode(record) for record in cluster.records(OBSERVERS) if record.type == FoldBlocked.KIND]
        assert isinstance(blocked, FoldBlocked)
        assert (blocked.topic, blocked.sequence) == (STEPS, at.sequence)
        assert "fold-blocked" in {record.data.decode().split('"rule":"')[1].split('"')[0] for record in cluster.records(ALERTS)}
        assert_once(cluster, expected(directory, SECOND))
    lives(cluster)
    assert kinds(cluster, FoldBlocked, FoldUnblocked) == [FoldBlocked.KIND, FoldUnblocked.KIND]
    assert_once(cluster, expected(directory, FIRST, SECOND))


def test_a_run_at_rest_is_one_small_value_and_neither_repeated_nor_lost_when_it_goes_on(
    cluster: MemoryCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=FIRST, until_epoch=INTERRUPTED_EPOCH, finish=False)
    before = log_of(directory, FIRST)
    go_on(directory, FIRST, LAST_EPOCH, resumed=True)
    later = log_of(directory, FIRST)[len(before) :]
    resting = replace(SETTINGS, state_every_s=0.0, pack_after_s=0.0)
    monkeypatch.setattr(RunMonitor, "at_rest", True)
    cluster.ship(before)
    lives(cluster, resting)
    assert [key.split(b"\x1f")[1:] for key in cluster.compacted(CHANGELOG) if key.startswith(FIRST.encode())] == [[b"packed"]]
    written = cluster.records(*DERIVED)
    cluster.ship(before)  # As a bridge that lost its position.
    lives(cluster, resting)
    assert cluster.records(*DERIVED) == written
    for record in later:
        cluster.ship([record])
        lives(cluster, resting)
    assert_once(cluster, expected(directory, FIRST))


def test_settings_are_saved_once_for_all_runs(cluster: MemoryCluster, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    cluster.ship((*log_of(directory, FIRST), *log_of(directory, SECOND)))
    lives(cluster)
    written = SETTINGS.monitor.model_dump_json().encode()
    assert [value for value in cluster.compacted(CHANGELOG).values() if written in value] == [written]


def test_a_ledger_that_is_behind_takes_no_run_for_silent(cluster: MemoryCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    monkeypatch.setattr(ledgers, "_MESSAGES", 1)
    directory = Directory(tmp_path / "log", create=True)
    write_resumed_run(directory, FIRST)
    log = log_of(directory, FIRST)
    cluster.ship(log)

    async def live() -> None:
        now, later_s = log[-1].time + timedelta(seconds=1), [0.0]
        ledger = await Ledger.open(KAFKA, 0, SETTINGS, now=lambda: now + timedelta(seconds=later_s[0]), passed_s=lambda: later_s[0])
        await turned(ledger, sum(map(len, cluster.logs.values())))
        assert kinds(cluster, RunWentSilent) == []
        later_s[0] = 3600.0
        await turned(ledger)
        assert kinds(cluster, RunWentSilent) == [RunWentSilent.KIND]
        await ledger.abandon()

    asyncio.run(live())


def test_a_stop_whose_record_retention_has_deleted_stays_and_others_go_on(
    cluster: MemoryCluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    cluster.ship(log_of(directory, FIRST))
    with monkeypatch.context() as patched:
        raising(patched, [log_of(directory, FIRST, STEPS)[5]])
        assert len(failures(cluster)) == 2
    cluster.begins[STEPS] = len(cluster.logs[STEPS])
    cluster.ship(log_of(directory, SECOND))
    lives(cluster)
    lives(cluster)
    assert kinds(cluster, FoldBlocked, FoldUnblocked) == [FoldBlocked.KIND]
    assert_once(cluster, expected(directory, SECOND))


def test_facts_that_a_state_lacks_and_retention_cut_are_refused(
    cluster: MemoryCluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    log = log_of(directory, FIRST)
    cluster.ship(log[:1])
    lives(cluster)
    cluster.ship(log[1:])
    lives(cluster)
    cluster.begins[RUN] = len(cluster.logs[RUN]) - 1
    with pytest.raises(
        LogError, match=rf"topic {RUN}, partition 0: expected records from offset \d on, got the first at \d+: facts were del"
    ):
        lives(cluster)


def test_a_topic_with_another_number_of_partitions_is_refused_and_while_it_runs_too(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)

    async def live() -> None:
        ledger = await cluster.open(SETTINGS)
        cluster.partitions[STEPS] = 2
        with pytest.raises(LogError, match=rf"topic {STEPS}: expected 1 partitions, got 2"):
            await ledger.turn()

    asyncio.run(live())
    with pytest.raises(LogError, match=rf"topic {STEPS}: expected 1 partitions, got 2"):
        lives(cluster)
