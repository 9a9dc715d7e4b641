"""Transactions that readers see.

A broker answers the end of a transaction when its coordinator has written the decision down. Only then is a marker written into each
partition, and a reader of committed records waits before the first record whose marker is missing. Kafka 4.3.1 may lose markers
(KAFKA-20734): where a partition has no leader at that moment, as when its only broker was killed just after it answered, the coordinator
takes it for deleted. Readers would then wait for ever, without an error, and an abort of the next transaction of the same producer would
undo the one that was committed.

So a transaction has ended when readers can pass its records. Markers that are still missing when the broker is back are written by an
empty transaction of the same producer over the same partitions.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Collection, Iterable, Mapping, Set
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IllegalOperation, KafkaError, KafkaTimeoutError
from aiokafka.protocol.offset import OffsetRequest

from esper.errors import LogError
from esper.kafka.clients import TRANSACTION_TIMEOUT_S, Outgoing, explain_errors
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import wanted_topics

# Measured: a broker that was killed has written them 3 s after it is back.
_LOST_S = 10.0
_CALM_S = 2.0
# The broker ends what its dead writer left open after the timeout, and looks for it every 10 s.
_OTHERS_END_S = TRANSACTION_TIMEOUT_S + 40.0
# Asking sooner costs a busy broker more than it gains: with 100 runs transactions took 120 ms then, and 85 ms so.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_LATEST = -1


async def transact(producer: AIOKafkaProducer, settings: KafkaSettings, messages: Iterable[Outgoing]) -> None:
    """Returns when all `messages` are committed in one transaction, in their order, and readers of committed records can see them.

    Raises LogError where that is not known, FencedError where a newer producer has the transactional id: the producer cannot be used then.
    """
    with explain_errors(settings):
        async with producer.transaction():
            sent: list[Awaitable[Any]] = []  # Any: aiokafka's RecordMetadata.
            refused: BaseException | None = None
            try:
                for one in messages:
                    sending = await producer.send(one.topic, one.value, key=one.key, partition=one.partition, headers=one.headers)
                    sent.append(sending)
            except IllegalOperation as error:  # A producer that was fenced refuses the next message, and only its task knows why.
                task = producer._sender.sender_task
                refused = (task.exception() if task.done() else None) or error
            finally:
                # All are waited for: asyncio complains of an error that nobody asked for.
                outcomes = await asyncio.gather(*sent, return_exceptions=True)
            if refused is not None:
                raise refused
            firsts: dict[TopicPartition, int] = {}
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                firsts.setdefault(TopicPartition(outcome.topic, outcome.partition), outcome.offset)
        await _seen(producer, settings, firsts)


async def ended(producer: AIOKafkaProducer, settings: KafkaSettings, places: Set[TopicPartition]) -> None:
    """Returns when readers can see all that stood in `places` at the call. `producer` has just begun, and its like alone writes there.

    Raises LogError where a transaction stays open: what was committed cannot be told from what was not.
    """
    with explain_errors(settings):
        for place in places:
            await producer.partitions_for(place.topic)
        ends: dict[TopicPartition, int] = {}
        while len(ends) < len(places):
            ends |= await ends_of(producer.client, places - ends.keys(), committed=False)
        await _seen(producer, settings, {place: end - 1 for place, end in ends.items() if end}, mend=False)


async def _seen(producer: AIOKafkaProducer, settings: KafkaSettings, offsets: Mapping[TopicPartition, int], *, mend: bool = True) -> None:
    """Returns when readers of committed records can pass `offsets`: with `mend`, those of the first records of a committed transaction.

    A reader stops before the first record of the earliest open transaction: ours, or another writer's that hides ours. As long as every
    leader answers, a marker of ours is written within milliseconds, and others are not waited for.
    """
    hidden, pause_s, calm = dict(offsets), _FIRST_PAUSE_S, mend
    began_at = answered_at = lost_since = time.monotonic()
    while hidden:
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        asked, stable = len(hidden), await ends_of(producer.client, hidden, committed=True)
        now = time.monotonic()
        lost = [place for place, offset in hidden.items() if stable.get(place) == offset]
        hidden = {place: offset for place, offset in hidden.items() if stable.get(place, offset) <= offset}
        if len(stable) == asked:
            answered_at = now
        else:
            calm, lost_since = False, now
            if now > answered_at + settings.request_timeout_s:
                raise KafkaTimeoutError(f"the end of {_named(hidden)}")
        if not lost:
            lost_since = now
            if calm and now > began_at + _CALM_S:
                return
        elif mend and now > lost_since + _LOST_S:
            lost_since = now
            await _mend(producer, lost)
        if hidden and now > began_at + _OTHERS_END_S:
            raise LogError(f"Kafka at {settings.bootstrap}: {_still_hidden(hidden, stable)}")


def _still_hidden(hidden: Mapping[TopicPartition, int], stable: Mapping[TopicPartition, int]) -> str:
    first = min(hidden)
    expected = f"expected readers to see what is committed up to offset {hidden[first]}, got {stable.get(first)}"
    return f"{_named(hidden)}: {expected}: a transaction that was ended is still open, or its writer is stuck"


async def _mend(producer: AIOKafkaProducer, lost: Iterable[TopicPartition]) -> None:
    """Ends one more transaction in each partition, in place of one whose marker was lost."""
    async with producer.transaction():
        for place in lost:
            # Private: aiokafka adds partitions with their records only.
            producer._txn_manager.maybe_add_partition_to_txn(place)


async def ends_of(client: AIOKafkaClient, places: Collection[TopicPartition], *, committed: bool) -> dict[TopicPartition, int]:
    """The ends of `places`, for readers of `committed` records or of all, but for those whose leader does not answer now.

    The client must know their topics.
    """
    by_node: defaultdict[int, defaultdict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for place in places:
        leader = client.cluster.leader_for_partition(place)
        if leader is not None and leader >= 0:
            by_node[leader][place.topic].append((place.partition, _LATEST))
    found: dict[TopicPartition, int] = {}
    for node, topics in by_node.items():
        with suppress(KafkaError):
            answer = await client.send(node, OffsetRequest(_LATEST, int(committed), list(topics.items())))
            for topic, parts in answer.topics:
                found |= {TopicPartition(topic, part): offset for part, code, _, offset in parts if not code}
    if len(found) < len(places):
        await client.force_metadata_update()
    return found


async def open_transactions(settings: KafkaSettings, within_s: float = _OTHERS_END_S) -> tuple[str, ...]:
    """The partitions of Esper's topics whose readers wait for a transaction that does not end `within_s`, each as a sentence.

    Returns at once where none is open.
    """
    with explain_errors(settings):
        client = AIOKafkaClient(**settings.client())
        await client.bootstrap()
        try:
            await client.set_topics([topic.name for topic in wanted_topics(settings)])
            places = {
                TopicPartition(topic.name, part)
                for topic in wanted_topics(settings)
                for part in client.cluster.partitions_for_topic(topic.name) or ()
            }
            ends = await ends_of(client, places, committed=False)
            deadline = time.monotonic() + within_s
            while True:
                stable = await ends_of(client, ends, committed=True)
                hidden = {place: offset for place, offset in stable.items() if offset < ends[place]}
                if not hidden or time.monotonic() > deadline:
                    break
                await asyncio.sleep(_LONGEST_PAUSE_S)
        finally:
            await client.close()
    return tuple(
        f"topic {place.topic}, partition {place.partition}: readers wait at offset {offset} of {ends[place]} for a transaction that did "
        f"not end in {within_s:.0f} s: its broker lost how it ended, or its writer is stuck; docs/distributed.md says what to do"
        for place, offset in sorted(hidden.items())
    )


def _named(places: Iterable[TopicPartition]) -> str:
    first, *others = sorted(places)
    return f"topic {first.topic}, partition {first.partition}" + (f" and {len(others)} more" if others else "")
