"""A cluster in memory for ledgers: what a broker does with committed transactions, without its time. Everything about fencing is left out.

A test that kills a ledger at a certain place, or changes what a version understands, needs many of them; what aiokafka and a broker really
do is tested against a broker.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from esper.errors import LogError
from esper.events.cloudevents import record_from
from esper.events.envelope import Record
from esper.kafka.clients import Message, Outgoing, outgoing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.ledgers import ledger as ledgers
from esper.kafka.ledgers.ledger import Ledger, LedgerSettings
from tests.synthetic import BEGAN

Slot: TypeAlias = "ConsumerRecord[bytes, bytes] | None"

SETTINGS = KafkaSettings(bootstrap="127.0.0.1:1", partitions=1, replication=1)


@dataclass
class MemoryCluster:
    """Messages by topic; None is the marker of a transaction. `begins`: the first offsets that retention left. `dead`: nothing commits."""

    logs: dict[str, list[Slot]] = field(default_factory=dict)
    begins: dict[str, int] = field(default_factory=dict)
    partitions: dict[str, int] = field(default_factory=dict)
    dead: bool = False

    @classmethod
    def make(cls, monkeypatch: pytest.MonkeyPatch) -> "MemoryCluster":
        """A cluster that ledgers use from here on."""
        cluster = cls()
        monkeypatch.setattr(ledgers, "producing", cluster.producing)
        monkeypatch.setattr(ledgers, "consuming", cluster.consuming)
        monkeypatch.setattr(ledgers, "transact", cluster.transact)
        monkeypatch.setattr(ledgers, "ended", cluster.ended)
        return cluster

    async def open(self, settings: LedgerSettings) -> Ledger:
        """The ledger of the one partition."""
        return await Ledger.open(SETTINGS, 0, settings, now=lambda: BEGAN)

    def write(self, messages: Iterable[Outgoing]) -> None:
        """Commits one transaction."""
        for one in messages:
            log = self.logs.setdefault(one.topic, [])
            log.append(ConsumerRecord(one.topic, 0, len(log), 0, 0, one.key, one.value, None, 0, 0, tuple(one.headers)))
        for log in self.logs.values():
            if log and log[-1] is not None:
                log.append(None)

    def ship(self, records: Iterable[Record]) -> None:
        """Commits `records` as a bridge does."""
        self.write(outgoing(SETTINGS, record) for record in records)

    def records(self, *topics: str) -> list[Record]:
        """The records in `topics`."""
        found = (message for topic in topics for message in self.logs.get(topic, []))
        return [record_from(one.headers, one.key, one.value, one.topic) for one in found if one is not None]

    def compacted(self, topic: str) -> dict[bytes, bytes]:
        """What a compacted topic holds."""
        values = {message.key: message.value for message in self.logs.get(topic, []) if message is not None}
        return {key: value for key, value in values.items() if value is not None}

    @asynccontextmanager
    async def producing(self, *_: object) -> AsyncIterator[None]:
        yield None

    @asynccontextmanager
    async def consuming(self, *_: object, **__: object) -> AsyncIterator["_Consumer"]:
        yield _Consumer(self)

    async def ended(self, *_: object) -> None:
        pass

    async def transact(self, _: None, __: KafkaSettings, messages: Iterable[Outgoing]) -> None:
        if self.dead:
            raise LogError("the cluster is dead")
        self.write(messages)


class _Consumer:
    """The part of aiokafka's consumer that a ledger uses."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster, self._positions = cluster, dict[TopicPartition, int]()

    def assign(self, places: Iterable[TopicPartition]) -> None:
        self._positions = dict.fromkeys(places, 0)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._positions[place] = offset

    async def position(self, place: TopicPartition) -> int:
        return self._positions[place]

    def highwater(self, place: TopicPartition) -> int:
        return len(self._cluster.logs.get(place.topic, []))

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self._cluster.partitions.get(topic, 1)))

    async def beginning_offsets(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {place: self._cluster.begins.get(place.topic, 0) for place in places}

    async def end_offsets(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {place: len(self._cluster.logs.get(place.topic, [])) for place in places}

    async def getmany(self, *, timeout_ms: int, max_records: int = 1_000_000) -> Mapping[TopicPartition, list[Message]]:  # noqa: ARG002
        found: dict[TopicPartition, list[Message]] = {}
        for place, at in self._positions.items():
            if at < self._cluster.begins.get(place.topic, 0):
                raise OffsetOutOfRangeError({place: at})
            messages = self._cluster.logs.get(place.topic, [])[at:][:max_records]
            self._positions[place] += len(messages)
            max_records -= len(messages)
            found[place] = [one for one in messages if one is not None]
        return found
