"""Faults of aiokafka 0.14, and defaults that do not suit a log: each with Esper's guard, and without it, where the same claim is false."""

import asyncio
import inspect
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import MessageSizeTooLargeError

from esper.errors import LogError
from esper.events.topics import STEPS
from esper.kafka import clients
from esper.kafka.clients import LARGEST_BYTES, Outgoing, consuming, messages_between, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.ledgers import ledger as ledgers
from esper.kafka.ledgers.ledger import Ledger, LedgerSettings
from esper.kafka.transactions import transact
from tests.kafka.made_cluster import Cluster
from tests.kafka.topic_factory import TopicFactory

pytestmark = pytest.mark.kafka

_WITHIN_S = 60.0
_MESSAGES = 500
"""The most that a ledger takes in a turn. The broker's first answer has all that the test writes."""


async def _at_once(_: float) -> None:
    """Takes the place of asyncio.sleep, and does not suspend."""


async def turns_of_others(cluster: Cluster) -> int:
    """How often another task ran while a ledger turned three times over messages that its consumer had fetched."""
    settings, turns = cluster.settings, 0
    messages = [Outgoing(settings.topic(STEPS), None, b"no record", [], 0)] * 4 * _MESSAGES
    async with producing(settings, "faults") as producer:
        await transact(producer, settings, messages)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(_WITHIN_S):
        ledger = await Ledger.open(settings, 0, LedgerSettings())
        task = asyncio.create_task(other())
        while await ledger.turn() == 0:
            pass
        before = turns
        assert [await ledger.turn() for _ in range(3)] == 3 * [_MESSAGES]
        task.cancel()
        found = turns - before
        await ledger.abandon()
    return found


@pytest.fixture
def one_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger asks for ends once, at its first turn: a question to the broker suspends, too."""
    monkeypatch.setattr(ledgers, "_TICK_S", 1e9)


@pytest.mark.usefixtures("one_tick")
def test_other_tasks_run_while_a_ledger_takes_messages_that_were_fetched(cluster: Cluster) -> None:
    assert asyncio.run(turns_of_others(cluster)) >= 3


@pytest.mark.usefixtures("one_tick")
def test_without_the_guard_no_other_task_runs_then(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = SimpleNamespace(sleep=_at_once, create_task=asyncio.create_task, gather=asyncio.gather)
    monkeypatch.setattr(ledgers, "asyncio", lacking)
    assert asyncio.run(turns_of_others(cluster)) == 0


def test_a_record_of_two_megabytes_is_sent_and_read_which_aiokafka_s_defaults_refuse(kafka: str, topic: TopicFactory) -> None:
    settings, value = KafkaSettings(bootstrap=kafka), bytes(2 * 1024 * 1024)
    name = asyncio.run(topic(config={"max.message.bytes": str(LARGEST_BYTES)}))

    async def sending() -> None:
        async with producing(settings, f"faults-{name}") as producer:
            await transact(producer, settings, [Outgoing(name, None, value, [], 0)])
        async with AIOKafkaProducer(bootstrap_servers=kafka) as plain:
            with pytest.raises(MessageSizeTooLargeError):
                await plain.send(name, value)

    async def reading() -> list[bytes | None]:
        async with asyncio.timeout(_WITHIN_S), consuming(settings) as consumer:
            return [message.value async for message in messages_between(consumer, TopicPartition(name, 0), 0, 1)]

    asyncio.run(sending())
    assert asyncio.run(reading()) == [value]


def test_a_reader_whose_place_was_deleted_is_told_so_where_aiokafka_s_default_skips_to_the_end(kafka: str, topic: TopicFactory) -> None:
    name = asyncio.run(topic())
    place = TopicPartition(name, 0)

    async def cut() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for value in (b"deleted", b"kept"):
                await producer.send_and_wait(name, value)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        try:
            await admin.delete_records({place: RecordsToDelete(before_offset=1)})
        finally:
            await admin.close()

    async def reading() -> None:
        async with asyncio.timeout(_WITHIN_S), consuming(KafkaSettings(bootstrap=kafka), fetch_wait_ms=20) as consumer:
            consumer.assign([place])
            consumer.seek(place, 0)
            while await consumer.position(place) < 2:
                assert not await consumer.getmany(timeout_ms=20)

    async def reading_by_default() -> None:
        async with asyncio.timeout(_WITHIN_S), AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False) as consumer:
            consumer.assign([place])
            consumer.seek(place, 0)
            while await consumer.position(place) < 2:
                assert not await consumer.getmany(timeout_ms=20)

    asyncio.run(cut())
    with pytest.raises(LogError, match="OffsetOutOfRange"):
        asyncio.run(reading())
    asyncio.run(reading_by_default())


async def _raising(consumer: AIOKafkaConsumer) -> None:
    await _first_half_of_stop(consumer)
    raise asyncio.CancelledError


async def _hanging(consumer: AIOKafkaConsumer) -> None:
    await _first_half_of_stop(consumer)
    await asyncio.Event().wait()


async def _first_half_of_stop(consumer: AIOKafkaConsumer) -> None:
    consumer._closed = True
    await consumer._coordinator.close()
    await consumer._fetcher.close()


@pytest.mark.parametrize("stop", [_raising, _hanging])
def test_a_consumer_that_does_not_stop_is_left_and_its_connections_are_closed(
    kafka: str, monkeypatch: pytest.MonkeyPatch, stop: Callable[[AIOKafkaConsumer], object]
) -> None:
    """In aiokafka `stop` may raise or hang while a broker is away; here it always does."""
    monkeypatch.setattr(AIOKafkaConsumer, "stop", stop)
    monkeypatch.setattr(clients, "_STOP_S", 0.1)

    async def using() -> AIOKafkaConsumer:
        async with asyncio.timeout(_WITHIN_S), consuming(KafkaSettings(bootstrap=kafka)) as consumer:
            await consumer.topics()
            assert is_connected(consumer)
        return consumer

    assert not is_connected(asyncio.run(using()))


def is_connected(consumer: AIOKafkaConsumer) -> bool:
    return any(connection.connected() for connection in consumer._client._conns.values())


def test_aiokafka_s_defaults_are_those_that_clients_py_replaces() -> None:
    producer, consumer = (inspect.signature(kind).parameters for kind in (AIOKafkaProducer, AIOKafkaConsumer))
    assert producer["max_request_size"].default == 1024 * 1024
    assert consumer["auto_offset_reset"].default == "latest"
    assert consumer["isolation_level"].default == "read_uncommitted"
    assert consumer["enable_auto_commit"].default is True
    assert consumer["partition_assignment_strategy"].default == (RoundRobinPartitionAssignor,)


def test_members_of_two_topics_do_not_get_the_same_partitions_of_both() -> None:
    """So a worker is a member for one topic, and its ledger of partition p reads p of all. Faust without tables shares out by this, too."""
    cluster = SimpleNamespace(partitions_for_topic=lambda _: {0, 1, 2})
    asked = {name: RoundRobinPartitionAssignor.metadata({"facts", "steps"}) for name in ("first", "second")}
    shared = RoundRobinPartitionAssignor.assign(cluster, asked)
    facts, steps = ({place.partition for place in shared["first"].partitions() if place.topic == one} for one in ("facts", "steps"))
    assert (facts, steps) == ({0, 2}, {1})
