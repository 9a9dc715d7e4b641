"""A ledger derives what a plain loop over each run's records derives, to the ids and bytes, once, however often it changes hands."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from esper.errors import DataError, LogError
from esper.events.codec import decode
from esper.events.envelope import EventId, Record
from esper.events.fields import Event
from esper.events.kinds.observability import FoldBlocked, FoldUnblocked, ObserverStarted, RunWentSilent
from esper.events.topics import AGGREGATES, ALERTS, ANOMALIES, DEAD_LETTER_SUFFIX, LIFECYCLE, OBSERVERS, STEPS
from esper.folds.monitoring import cell
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.folds.monitoring.windows import WindowSettings
from esper.kafka.clients import FencedError, Outgoing, administering, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.copying.shipping import Bridge
from esper.kafka.ledgers import ledger as ledgers
from esper.kafka.ledgers.ledger import FoldError, Ledger, LedgerSettings
from esper.kafka.transactions import transact
from esper.observer.build import builtin_rules
from esper.oona.directory import Directory
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import log_of, run_of, write_resumed_run
from tests.synthetic import BEGAN, write_run

pytestmark = pytest.mark.kafka

DERIVED = (AGGREGATES, ANOMALIES, ALERTS, OBSERVERS)
SETTINGS = LedgerSettings(MonitorSettings(rules=builtin_rules()), state_every_s=0.2, pack_after_s=0.0)
QUIET_TURNS = 12
RUNS = tuple(run_of(number) for number in range(1, 7))


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Runs that finished, and one that goes on."""
    directory = Directory(tmp_path / "log", create=True)
    for run in RUNS[:-1]:
        write_run(directory, run=run)
    write_resumed_run(directory, RUNS[-1])
    return directory


@pytest.fixture
def on_kafka(cluster: Cluster, directory: Directory) -> Cluster:
    """The cluster with the directory's runs on it."""
    asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))
    return cluster


def expected(directory: Directory, runs: Iterable[str] = RUNS) -> dict[EventId, Record]:
    """The records that a plain loop derives, by id."""
    found: dict[EventId, Record] = {}
    for run in directory.names():
        if run in runs:
            monitor = RunMonitor(run, SETTINGS.monitor)
            found |= {one.id: one for record in log_of(directory, run) for one in monitor.take(record)}
    return found


def derived(cluster: Cluster) -> list[Record]:
    """The derived records on Kafka."""
    return asyncio.run(cluster.records(*DERIVED))


def is_own(record: Record) -> bool:
    """True for a ledger's own records: those are not derived from records alone."""
    return record.type in {kind.KIND for kind in (ObserverStarted, RunWentSilent, FoldUnblocked)} or (
        record.type == FoldBlocked.KIND and b"a fold raised" in record.data
    )


def assert_same(found: list[Record], wanted: dict[EventId, Record]) -> None:
    """Every derived record is there once, with its bytes."""
    assert Counter(record.id for record in found if not is_own(record)) == Counter(wanted.keys())
    assert {record.id: record for record in found if not is_own(record)} == wanted


async def opened(cluster: Cluster, partition: int, settings: LedgerSettings = SETTINGS, now: datetime = BEGAN) -> Ledger:
    """A ledger whose clock stands still."""
    return await Ledger.open(cluster.settings, partition, settings, now=lambda: now)


async def drained(ledger: Ledger) -> Ledger:
    """The ledger, once nothing came for some turns."""
    quiet = 0
    while quiet < QUIET_TURNS:
        quiet = quiet + 1 if await ledger.turn() == 0 else 0
    return ledger


async def on_all(cluster: Cluster, work: Callable[[int], Awaitable[None]]) -> None:
    """Runs `work` for each partition at the same time."""
    await asyncio.gather(*(work(partition) for partition in range(cluster.settings.partitions)))


def derive(cluster: Cluster, settings: LedgerSettings = SETTINGS, now: datetime = BEGAN) -> None:
    """Opens, drains and closes a ledger for each partition."""

    async def work(partition: int) -> None:
        await (await drained(await opened(cluster, partition, settings, now))).close()

    asyncio.run(on_all(cluster, work))


def test_a_ledger_derives_what_a_plain_loop_derives(on_kafka: Cluster, directory: Directory) -> None:
    derive(on_kafka)
    wanted = expected(directory)
    assert len(wanted) > 100
    assert_same(derived(on_kafka), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_that_changes_hands_at_any_turn_derives_each_record_once(on_kafka: Cluster, directory: Directory, seed: int) -> None:
    rng = Random(seed)

    async def work(partition: int) -> None:
        ledger = await opened(on_kafka, partition)
        for _ in range(6):
            former, turns, ending = ledger, rng.randrange(8), rng.choice(("close", "abandon", "fence"))
            try:
                for _ in range(turns):
                    await former.turn()
                if ending == "close":
                    await former.close()
            except FencedError:
                raise
            except LogError:  # A broker under load may refuse the end of a transaction, and its outcome is unknown: another hand-over.
                ending = "abandon"
            if ending == "abandon":
                await former.abandon()
            ledger = await opened(on_kafka, partition)
            if ending == "fence":
                with pytest.raises(FencedError):
                    await former.close()
        await (await drained(ledger)).close()

    asyncio.run(on_all(on_kafka, work))
    assert_same(derived(on_kafka), expected(directory))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Its clients are left open, as by a kill.
@pytest.mark.parametrize("sent", [0, 1, 5, None])
def test_an_owner_that_dies_within_a_transaction_leaves_nothing_behind(
    on_kafka: Cluster, directory: Directory, monkeypatch: pytest.MonkeyPatch, sent: int | None
) -> None:
    async def dies(producer: AIOKafkaProducer, _: KafkaSettings, messages: Iterable[Outgoing]) -> None:
        await producer.begin_transaction()
        for one in list(messages)[:sent]:
            await producer.send_and_wait(one.topic, one.value, key=one.key, partition=one.partition, headers=one.headers)
        await producer.client.close()
        raise LogError("killed")

    killed: list[int] = []

    async def work(partition: int) -> None:
        try:
            await (await drained(await opened(on_kafka, partition))).close()
        except LogError:
            killed.append(partition)

    with monkeypatch.context() as patched:
        patched.setattr(ledgers, "transact", dies)
        asyncio.run(on_all(on_kafka, work))
    assert killed
    derive(on_kafka)
    assert_same(derived(on_kafka), expected(directory))


async def publish(cluster: Cluster, *messages: Outgoing) -> None:
    """Writes `messages` as they are."""
    async with producing(cluster.settings, "test") as producer:
        await transact(producer, cluster.settings, messages)


def as_message(cluster: Cluster, record: Record) -> Outgoing:
    """The message of `record`."""
    from esper.kafka.clients import outgoing

    return outgoing(cluster.settings, record)


def test_what_is_no_record_is_set_aside_as_it_came_and_the_topic_goes_on(on_kafka: Cluster, directory: Directory) -> None:
    junk = Outgoing(on_kafka.settings.topic(STEPS), b"someone", b"\xff{", [("ce_id", b"x"), ("other", b"y")], 1)
    asyncio.run(publish(on_kafka, junk))
    derive(on_kafka)
    [letter] = asyncio.run(on_kafka.messages(STEPS + DEAD_LETTER_SUFFIX))
    assert (letter.key, letter.value, letter.partition) == (b"someone", b"\xff{", 1)
    headers = dict(letter.headers)
    assert (headers["ce_id"], headers["other"]) == (b"x", b"y")
    assert b"expected header" in headers["__streams.errors.message"]
    assert headers["__streams.errors.topic"] == junk.topic.encode()
    assert_same(derived(on_kafka), expected(directory))


def test_telemetry_that_cannot_be_decoded_is_set_aside_once(on_kafka: Cluster, directory: Directory) -> None:
    last = log_of(directory, RUNS[-1], STEPS)[-1]
    assert last.sequence is not None
    unknown = last._replace(sequence=last.sequence + 1, type="esper.steps.measured.v9", id=EventId("later"))
    asyncio.run(publish(on_kafka, as_message(on_kafka, unknown)))
    for _ in range(2):
        derive(on_kafka)
    [letter] = asyncio.run(on_kafka.messages(STEPS + DEAD_LETTER_SUFFIX))
    assert letter.value == unknown.data
    assert b"esper.steps.measured.v9" in dict(letter.headers)["__streams.errors.message"]


def forget(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Makes this version understand no record of `kind`."""

    def refusing(record: Record) -> Event:
        if record.type == kind:
            raise DataError(f"unknown kind {kind}")
        return decode(record)

    monkeypatch.setattr(cell, "decode", refusing)


def test_a_fact_that_is_not_understood_blocks_its_topic_until_a_version_understands_it(
    on_kafka: Cluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        forget(patched, "esper.seed.evaluated.v1")
        for _ in range(2):
            derive(on_kafka)
    blocked = [record for record in derived(on_kafka) if record.type == FoldBlocked.KIND]
    assert {record.run for record in blocked} == {
        run for run in RUNS if any(one.type == "esper.seed.evaluated.v1" for one in log_of(directory, run))
    }
    assert len({record.run for record in blocked}) == len(blocked)
    derive(on_kafka)
    found = derived(on_kafka)
    assert {record.run for record in found if record.type == FoldUnblocked.KIND} == {record.run for record in blocked}
    wanted = expected(directory)
    assert {record.id: record for record in found if record.id in wanted} == wanted
    assert max(Counter(record.id for record in found).values()) == 1


def test_a_fold_that_raises_three_times_stops_its_topic_for_one_run(
    on_kafka: Cluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = log_of(directory, RUNS[0], LIFECYCLE)[3]
    take = RunMonitor.take

    def raising(monitor: RunMonitor, record: Record) -> tuple[Record, ...]:
        if record.id == at.id:
            raise ZeroDivisionError("by itself")
        return take(monitor, record)

    monkeypatch.setattr(RunMonitor, "take", raising)
    raised: list[str] = []

    async def work(partition: int) -> None:
        while True:
            ledger = await opened(on_kafka, partition)
            try:
                await (await drained(ledger)).close()
            except FoldError as error:
                raised.append(str(error))
                await ledger.abandon()
            else:
                return

    asyncio.run(on_all(on_kafka, work))
    assert len(raised) == 2
    assert f"run {RUNS[0]}, a fold raised ZeroDivisionError at {LIFECYCLE}, sequence 4: by itself" in raised[0]
    found = derived(on_kafka)
    [blocked] = [decode(record) for record in found if record.type == FoldBlocked.KIND]
    assert isinstance(blocked, FoldBlocked)
    assert (blocked.topic, blocked.sequence) == (LIFECYCLE, 4)
    others = expected(directory, RUNS[1:])
    assert_same([record for record in found if record.run in RUNS[1:]], others)


def test_a_run_that_falls_silent_is_recorded_once_whoever_owns_it(on_kafka: Cluster, directory: Directory) -> None:
    later = log_of(directory, RUNS[-1])[-1].time + timedelta(minutes=5)

    async def work(partition: int) -> None:
        for _ in range(2):
            await (await drained(await opened(on_kafka, partition, now=later))).close()

    asyncio.run(on_all(on_kafka, work))
    [silent] = [record for record in derived(on_kafka) if record.type == RunWentSilent.KIND]
    assert silent.run == RUNS[-1]


def test_other_settings_hold_from_the_next_record_on_and_are_recorded(on_kafka: Cluster) -> None:
    awake = replace(SETTINGS, pack_after_s=600.0)  # Settings of a run at rest are put in force with its next record.
    derive(on_kafka, awake)
    before = derived(on_kafka)
    other = replace(awake, monitor=SETTINGS.monitor.model_copy(update={"windows": WindowSettings(length_s=60)}))
    derive(on_kafka, other)
    after = [record for record in derived(on_kafka) if record not in before]
    assert Counter(record.type for record in after) == {ObserverStarted.KIND: len(RUNS)}
    derive(on_kafka, other)
    assert len(derived(on_kafka)) == len(before) + len(RUNS)


async def refusals(cluster: Cluster) -> str:
    """The errors of opening each partition's ledger; one without records opens."""
    errors: list[str] = []
    for partition in range(cluster.settings.partitions):
        try:
            await (await opened(cluster, partition)).abandon()
        except LogError as error:
            errors.append(str(error))
    return "\n".join(errors)


async def cut(cluster: Cluster, topic: str) -> None:
    """Deletes every record of `topic`, as retention does."""
    async with administering(cluster.settings) as admin:
        places = [TopicPartition(cluster.settings.topic(topic), part) for part in range(cluster.settings.partitions)]
        await admin.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})


def test_facts_that_were_deleted_before_they_were_read_are_refused_and_telemetry_is_counted(
    on_kafka: Cluster,
) -> None:
    async def work() -> int:
        ledgers = [await opened(on_kafka, part) for part in range(on_kafka.settings.partitions)]
        for ledger in ledgers:
            await ledger.close()
        await cut(on_kafka, STEPS)
        again = [await opened(on_kafka, part) for part in range(on_kafka.settings.partitions)]
        for ledger in again:
            await ledger.abandon()
        await cut(on_kafka, LIFECYCLE)
        assert re.search(r"expected records from offset 0 on, got the first at \d+: facts were deleted", await refusals(on_kafka))
        return sum(ledger.counts["expired"] for ledger in again)

    assert asyncio.run(work()) > 0


def test_a_topic_that_was_made_anew_is_refused(on_kafka: Cluster) -> None:
    derive(on_kafka)

    async def remake() -> None:
        from esper.kafka.cluster_topics import create_topics

        async with administering(on_kafka.settings) as admin:
            await admin.delete_topics([on_kafka.settings.topic(LIFECYCLE)])
            while on_kafka.settings.topic(LIFECYCLE) in await admin.list_topics():
                await asyncio.sleep(0.05)
        await create_topics(on_kafka.settings)

    asyncio.run(remake())
    refused = asyncio.run(refusals(on_kafka))
    assert re.search(rf"{LIFECYCLE}, partition \d: expected an end at \d+ or later, got 0: the topic was made anew", refused)
