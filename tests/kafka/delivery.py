"""How records travel badly: a bridge whose batches fail, and the orders in which a reader of several partitions may meet what came.

Every choice is made by the generator that is given: the same seed, the same faults.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from aiokafka import AIOKafkaProducer

from esper.events.envelope import EventId, Record, RunId
from tests.kafka.wire import Message, Wire

BATCH = 20
_SENT_AGAIN = 60
_STRETCH = 40

Ids = frozenset[EventId]
Queues = dict[tuple[str, int], list[Message]]


async def forward(wire: Wire, logs: Mapping[RunId, Sequence[Record]], rng: Random, *, lost: Ids, late: Ids) -> None:
    """Ships `logs` as a bridge does, their batches taking turns.

    Some batches are lost (the transaction aborted, then sent again), some done but reported lost (committed, then sent again from somewhat
    before). Records in `lost` are only ever sent in a transaction that is aborted. Those in `late` come at the very end, and behind them
    the last records of every run once more.
    """
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(wire.bridge()) for _ in logs]
        bridges = [_Bridge(wire, *each, rng, lost, late) for each in zip(producers, logs.values(), strict=True)]
        while going := [bridge for bridge in bridges if bridge.place < len(bridge.records)]:
            await rng.choice(going).send_batch()
        for bridge in bridges:
            await bridge.send_end()


@dataclass
class _Bridge:
    """One run's way up: `place` is the first record that is not known to be committed, `shown` what was sent and taken back."""

    wire: Wire
    producer: AIOKafkaProducer
    records: Sequence[Record]
    rng: Random
    lost: Ids
    late: Ids
    place: int = 0
    shown: set[EventId] = field(default_factory=set)

    async def send_batch(self) -> None:
        batch = mixed(self.records[self.place : self.place + BATCH], self.rng)
        lost = {record.id for record in batch} & self.lost
        if lost - self.shown or self.rng.random() < 0.25:
            await self.producer.begin_transaction()
            await self.wire.send(self.producer, batch)
            await self.producer.abort_transaction()
            self.shown |= lost
            return
        async with self.producer.transaction():
            await self.wire.send(self.producer, self._in_time(batch))
        reported_lost = self.rng.random() < 0.33
        self.place += -min(self.rng.randrange(BATCH), self.place) if reported_lost else BATCH

    async def send_end(self) -> None:
        async with self.producer.transaction():
            await self.wire.send(self.producer, [record for record in self.records if record.id in self.late])
            await self.wire.send(self.producer, self._in_time(self.records[-_SENT_AGAIN:]))

    def _in_time(self, records: Sequence[Record]) -> list[Record]:
        return [record for record in records if record.id not in self.lost | self.late]


def mixed(records: Sequence[Record], rng: Random) -> list[Record]:
    """`records` with their topics in turns of chance, and each topic in its own order."""
    queues: dict[str, list[Record]] = {}
    for record in records:
        queues.setdefault(record.topic, []).append(record)
    turns = [record.topic for record in records]
    rng.shuffle(turns)
    left = {topic: iter(queue) for topic, queue in queues.items()}
    return [next(left[topic]) for topic in turns]


def queues_of(messages: Iterable[Message]) -> Queues:
    """What came, by partition, in the order of its offsets."""
    queues: Queues = {}
    for message in messages:
        queues.setdefault((message.topic, message.partition), []).append(message)
    return queues


def interleaved(queues: Queues, rng: Random) -> list[Message]:
    """What stands in `queues`, each in its own order, taken in stretches of chance as fetches bring it."""
    left = {key: iter(queue) for key, queue in sorted(queues.items())}
    came: list[Message] = []
    while left:
        key = rng.choice(list(left))
        stretch = rng.randint(1, _STRETCH)
        taken = list(islice(left[key], stretch))
        came.extend(taken)
        if len(taken) < stretch:
            del left[key]
    return came


def stopped_and_started(queues: Queues, rng: Random) -> tuple[list[Message], list[Message]]:
    """What a reader meets until it is stopped, and after it has started again from offsets that lie somewhat before where it was."""
    order = interleaved(queues, rng)
    before = order[: rng.randrange(len(order))]
    met = {key: len(queue) for key, queue in queues_of(before).items()}
    left = {key: queue[max(0, met.get(key, 0) - rng.randrange(_STRETCH)) :] for key, queue in queues.items()}
    return before, interleaved(left, rng)
