"""Esper's topics on the shared broker, under a prefix of the test's own; and what stands in them."""

import asyncio
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from esper.events.cloudevents import record_from
from esper.events.envelope import Record, RunId
from esper.kafka.clients import Message, administering, consuming
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import CHANGELOG, create_topics
from esper.kafka.ledgers.ledger_states import SavedStates

_WITHIN_S = 60.0


@dataclass(frozen=True)
class Changelog:
    """What ledgers saved: the parts of each run's state, and positions by partition and topic."""

    states: dict[RunId, dict[str, bytes]]
    derived_to: dict[int, dict[str, int]]


@dataclass(frozen=True)
class Cluster:
    """Settings under which the topics were made."""

    settings: KafkaSettings

    @classmethod
    def make(cls, bootstrap: str, *, partitions: int = 2) -> "Cluster":
        settings = KafkaSettings(bootstrap=bootstrap, prefix=f"t{uuid.uuid4().hex[:12]}.", partitions=partitions, replication=1)
        asyncio.run(create_topics(settings))
        return cls(settings)

    async def messages(self, *topics: str) -> list[Message]:
        """What a reader of committed messages finds in `topics` now, by topic and partition, in their order."""
        places = [TopicPartition(self.settings.topic(topic), part) for topic in topics for part in range(self.settings.partitions)]
        found: list[Message] = []
        async with asyncio.timeout(_WITHIN_S), consuming(self.settings, fetch_wait_ms=20) as consumer:
            ends = await consumer.end_offsets(places)
            begins = await consumer.beginning_offsets(places)
            consumer.assign(places)
            for place in places:
                consumer.seek(place, begins[place])
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for messages in (await consumer.getmany(timeout_ms=20)).values():
                    found += messages
        return found

    async def cut(self, topic: str, offset: int) -> None:
        """Deletes what stands before `offset` in each partition of `topic`, as retention does."""
        places = [TopicPartition(self.settings.topic(topic), part) for part in range(self.settings.partitions)]
        async with consuming(self.settings) as consumer:
            ends = await consumer.end_offsets(places)
        async with administering(self.settings) as admin:
            await admin.delete_records({place: RecordsToDelete(before_offset=min(offset, ends[place])) for place in places})

    async def records(self, *topics: str) -> list[Record]:
        """The records that a reader of committed messages finds in `topics` now."""
        return [self.record(message) for message in await self.messages(*topics)]

    async def changelog(self) -> Changelog:
        """What a new owner of the partitions would find now."""
        changelog, saved = Changelog({}, {}), [SavedStates() for _ in range(self.settings.partitions)]
        for message in await self.messages(CHANGELOG):
            saved[message.partition].read(message.key or b"", message.value)
        for partition, states in enumerate(saved):
            changelog.derived_to[partition] = states.positions.derived_to
            packed = {RunId(name): states.unpack(RunId(name)) for name in tuple(states.packed)}
            for name, run in (states.runs() | packed).items():
                assert run is not None
                changelog.states[name] = run.monitor.save(whole=True) | {"stopped": json.dumps(run.stopped).encode()}
        return changelog

    def record(self, message: Message) -> Record:
        """The record in `message`."""
        return record_from(message.headers, message.key, message.value, message.topic.removeprefix(self.settings.prefix))


def in_order(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """`records` by run and topic."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record.run, record.topic), []).append(record)
    return found
