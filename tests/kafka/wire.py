"""Esper's topics on a shared broker: what goes up as CloudEvents in transactions, and what comes down again.

Every wait has a deadline.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from esper.events.cloudevents import headers, record_from
from esper.events.envelope import Record
from tests.kafka.topic_factory import TopicFactory

Message: TypeAlias = ConsumerRecord[bytes, bytes]

PARTITIONS = 3
_WITHIN_S = 30
_POLL_MS = 200


@dataclass(frozen=True)
class Wire:
    """`names` says under which name of its own each of Esper's topics stands on the broker."""

    bootstrap: str
    names: Mapping[str, str]

    @classmethod
    async def lay(cls, bootstrap: str, topics: Iterable[str]) -> "Wire":
        """New, empty topics on the broker, for `topics` of Esper."""
        wanted = sorted(topics)
        made = await asyncio.gather(*(TopicFactory(bootstrap)(PARTITIONS) for _ in wanted))
        return cls(bootstrap, dict(zip(wanted, made, strict=True)))

    @asynccontextmanager
    async def bridge(self, name: str | None = None) -> AsyncIterator[AIOKafkaProducer]:
        """A transactional producer; one of the same name fences those before it."""
        name = name or f"bridge-{uuid.uuid4()}"
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=name, acks="all", request_timeout_ms=5000)
        async with asyncio.timeout(_WITHIN_S):
            await producer.start()
        try:
            yield producer
        finally:
            async with asyncio.timeout(_WITHIN_S):
                await producer.stop()

    async def send(self, producer: AIOKafkaProducer, records: Iterable[Record]) -> None:
        """All `records` are acknowledged when this returns, inside the producer's open transaction."""
        async with asyncio.timeout(_WITHIN_S):
            sent = [await producer.send(self.names[one.topic], one.data, key=one.run.encode(), headers=headers(one)) for one in records]
            await asyncio.gather(*sent)

    async def commit(self, *batches: Iterable[Record]) -> None:
        """Each of `batches` is committed in a transaction of its own when this returns."""
        async with self.bridge() as producer:
            for batch in batches:
                async with producer.transaction():
                    await self.send(producer, batch)

    async def cut_before(self, message: Message) -> None:
        """Deletes what stands before `message` in its partition, as retention does."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        async with asyncio.timeout(_WITHIN_S):
            await admin.start()
            try:
                await admin.delete_records(
                    {TopicPartition(message.topic, message.partition): RecordsToDelete(before_offset=message.offset)}
                )
            finally:
                await admin.close()

    async def read(self, isolation_level: str = "read_committed") -> list[Message]:
        """Everything that stands in the topics now, as the consumer hands it out: in order within a partition, mixed between them."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, isolation_level=isolation_level, enable_auto_commit=False)
        partitions = [TopicPartition(name, number) for name in self.names.values() for number in range(PARTITIONS)]
        came: list[Message] = []
        async with asyncio.timeout(_WITHIN_S), consumer:
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            ends = await consumer.end_offsets(partitions)
            # The end is that of the partition, behind the last control marker; a position passes markers too.
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for messages in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                    came.extend(messages)
        return came

    def record(self, message: Message) -> Record:
        """What `message` says, in Esper's topic."""
        topic = next(topic for topic, name in self.names.items() if name == message.topic)
        return record_from(message.headers, message.key, message.value, topic)
