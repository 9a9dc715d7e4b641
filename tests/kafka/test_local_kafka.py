"""The broker that other tests stand on: it carries records unchanged, and keeps what it acknowledged."""

import asyncio
import socket
from collections.abc import Iterable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from local_kafka import BrokerError, LocalKafka

from tests.kafka.topic_factory import TopicFactory

pytestmark = pytest.mark.kafka

_WITHIN_S = 20
VALUES = [b"%d" % number for number in range(200)]
HEADERS = [("ce_id", b"run/1"), ("ce_sequence", b"00000000000000000001"), ("content-type", b"application/json")]


async def write(bootstrap: str, topic: str, values: Iterable[bytes]) -> None:
    """Every value is acknowledged when this returns."""
    async with asyncio.timeout(_WITHIN_S), AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        sent = [await producer.send(topic, value, key=b"run", headers=HEADERS) for value in values]
        await asyncio.gather(*sent)


async def read(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    """The first `count` records of a topic with one partition."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed")
    async with asyncio.timeout(_WITHIN_S), consumer:
        return [await consumer.getone() for _ in range(count)]


def test_record_comes_back_as_it_was_sent(kafka: str, topic: TopicFactory) -> None:
    async def round_trip() -> ConsumerRecord[bytes, bytes]:
        name = await topic()
        await write(kafka, name, ['{"loss":"NaN","ü":null}'.encode()])
        return (await read(kafka, name, 1))[0]

    record = asyncio.run(round_trip())

    assert (record.key, record.value, list(record.headers)) == (b"run", '{"loss":"NaN","ü":null}'.encode(), HEADERS)


@pytest.mark.chaos
def test_acknowledged_records_survive_kill_9(own_kafka: LocalKafka) -> None:
    bootstrap = own_kafka.bootstrap
    name = asyncio.run(TopicFactory(bootstrap)())
    asyncio.run(write(bootstrap, name, VALUES))

    own_kafka.kill()
    own_kafka.start()

    assert [record.value for record in asyncio.run(read(bootstrap, name, len(VALUES)))] == VALUES


@pytest.mark.chaos
def test_stopped_broker_is_gone_and_comes_back_under_the_same_address(own_kafka: LocalKafka) -> None:
    bootstrap = own_kafka.bootstrap
    name = asyncio.run(TopicFactory(bootstrap)())
    asyncio.run(write(bootstrap, name, VALUES))

    own_kafka.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", own_kafka.port), timeout=_WITHIN_S)
    own_kafka.start()

    assert [record.value for record in asyncio.run(read(bootstrap, name, len(VALUES)))] == VALUES


@pytest.mark.chaos
def test_broker_whose_port_is_taken_says_so_and_can_be_started_again(own_kafka: LocalKafka) -> None:
    own_kafka.stop()

    with socket.create_server(("127.0.0.1", own_kafka.port)), pytest.raises(BrokerError, match="Address already in use"):
        own_kafka.start()

    own_kafka.start()
    assert asyncio.run(TopicFactory(own_kafka.bootstrap)())
