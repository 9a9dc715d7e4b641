"""A transaction ends when readers see it, even where the broker has lost its markers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from esper.errors import LogError
from esper.kafka import transactions
from esper.kafka.clients import Outgoing, administering, producing
from esper.kafka.transactions import ended, open_transactions, transact
from tests.kafka.made_cluster import Cluster

pytestmark = pytest.mark.kafka

FIRST, SECOND = "system.events.run", "telemetry.seed.health"
SOON_S = 0.2
_WITHIN_S = 60.0
_VERIFICATION = "transaction.partition.verification.enable"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "_LOST_S", SOON_S)
    monkeypatch.setattr(transactions, "_CALM_S", SOON_S)


def message(cluster: Cluster, topic: str, value: bytes) -> Outgoing:
    return Outgoing(cluster.settings.topic(topic), b"run", value, [], 0)


@contextmanager
def without_marker(cluster: Cluster, producer: AIOKafkaProducer, topic: str) -> Iterator[None]:
    """What is sent to `topic` gets no marker, as after a kill of its broker (KAFKA-20734): its coordinator knows nothing of it."""
    manager = producer._txn_manager
    add, partition = manager.maybe_add_partition_to_txn, TopicPartition(cluster.settings.topic(topic), 0)
    manager.maybe_add_partition_to_txn = lambda place: place == partition or add(place)
    try:
        yield
    finally:
        manager.maybe_add_partition_to_txn = add


async def unverified(cluster: Cluster) -> None:
    """The broker takes records of partitions that its coordinator does not know to be in the transaction."""
    async with administering(cluster.settings) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", {_VERIFICATION: "false"})])
        async with asyncio.timeout(_WITHIN_S):
            while await verification(admin) != "false":  # The change is answered before it holds.
                await asyncio.sleep(0.05)


async def verification(admin: AIOKafkaAdminClient) -> str:
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
    return {entry[0]: str(entry[1]) for entry in answer.resources[0][4]}[_VERIFICATION]


async def values(cluster: Cluster, topic: str) -> list[bytes | None]:
    return [one.value for one in await cluster.messages(topic)]


def test_markers_that_were_lost_are_written_without_any_record(cluster: Cluster) -> None:
    async def lose() -> None:
        await unverified(cluster)
        async with producing(cluster.settings, "bridge-x") as producer:
            sending = asyncio.create_task(
                transact(producer, cluster.settings, [message(cluster, FIRST, b"1"), message(cluster, SECOND, b"2")])
            )
            with without_marker(cluster, producer, SECOND):
                while not (sending.done() or await values(cluster, FIRST)):
                    await asyncio.sleep(0.01)
                assert not sending.done(), sending
                assert await values(cluster, SECOND) == []
            await sending
            assert await values(cluster, SECOND) == [b"2"]
            assert await values(cluster, FIRST) == [b"1"]

    asyncio.run(lose())


def test_a_successor_does_not_begin_while_what_was_committed_is_hidden(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose() -> None:
        await unverified(cluster)
        place = TopicPartition(cluster.settings.topic(SECOND), 0)
        async with producing(cluster.settings, "ledger-0") as producer:
            with without_marker(cluster, producer, SECOND):
                async with producer.transaction():
                    await producer.send_and_wait(place.topic, b"2", partition=0)
        async with producing(cluster.settings, "ledger-0") as producer:
            problem = f"topic {place.topic}, partition 0: readers wait at offset 0 of 1 for a transaction that did not end"
            assert [one[: len(problem)] for one in await open_transactions(cluster.settings, SOON_S)] == [problem]
            monkeypatch.setattr(transactions, "_OTHERS_END_S", SOON_S)
            with pytest.raises(
                LogError, match=f"{place.topic}, partition 0: expected readers to see what is committed up to offset 0, got 0"
            ):
                await ended(producer, cluster.settings, {place})

    asyncio.run(lose())


def test_another_writers_open_transaction_holds_nobody_up(cluster: Cluster) -> None:
    async def write() -> None:
        async with producing(cluster.settings, "bridge-a") as other, producing(cluster.settings, "bridge-b") as producer:
            await other.begin_transaction()
            await other.send_and_wait(cluster.settings.topic(FIRST), b"a", partition=0)
            await transact(producer, cluster.settings, [message(cluster, FIRST, b"b")])
            await other.commit_transaction()
            assert await values(cluster, FIRST) == [b"a", b"b"]

    asyncio.run(write())
