"""Delivery of the alerts on Kafka: the members of one consumer group share the partitions of the alerts' topic.

The owner of partition p writes the outcomes (AlertNotified, AlertSuppressed) under the transactional id `delivery-<p>`. Its state is what
stands in the topic and nothing else, so a member that is given partitions begins anew with all of them:

1. A producer for each partition: the former owner is fenced, and what it left open is aborted.
2. The trail is read for who has acknowledged which alert, then alerts and outcomes of the last 30 days, up to the end as it was then.
   Open transactions, such as that of a worker that was killed, are waited for: an outcome may stand behind them, and without it an alert
   would be sent again.
3. The deliverer starts. What has no outcome is sent, and so is what comes from then on. An alert that a person has acknowledged is sent to
   nobody; where it still fires when that is over, it is sent as one that fires anew, under an id that follows from the first one's.

Before its partitions go to others a member delivers for a few seconds more, and writes the outcomes. So each alert is sent once by a group
of which no member dies. One that dies after a receiver's answer and before the outcome is committed sends that one message of each handler
again, with the same key. Every error ends `run`, whose caller begins again.

Thirty days hold nearly every alert that is still open, and are read in seconds. A resolution of an older one is met with a longer window:
the topic is kept for ever, and the alert's `since` tells from where to read.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from esper.errors import DataError, LogError
from esper.events.cloudevents import record_from
from esper.events.codec import decode
from esper.events.digests import derived_id
from esper.events.envelope import EventId, Record, RunId, written_time
from esper.events.kinds.accountability import AlertAcknowledged
from esper.events.kinds.observability import (
    AlertFiring,
    AlertNotified,
    AlertResolved,
    AlertSuppressed,
    RunHeardAgain,
    RunWentSilent,
)
from esper.events.topics import ALERTS, OBSERVERS, TRAIL
from esper.history.trail import AlertKey, until_of
from esper.kafka.clients import consuming, explain_errors, joining, outgoing, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.transactions import transact

GROUP = "esper-delivery"

_WINDOW = timedelta(days=30)
_CLOCKS = timedelta(hours=1)
"""The most that the clocks of machines may differ: `since` is a training's time, and a message's time that of its producer."""
_SESSION_S, _REBALANCE_S = 10.0, 30.0
_LAST_DELIVERY_S = 5.0
_WAIT_MS, _MESSAGES = 200, 500
_COMMIT_S = 5.0
_WRITE_S = 120.0
_OFFERED = frozenset((AlertFiring.KIND, AlertResolved.KIND))


class AlertDeliverer(Protocol):
    """A deliverer of alerts, as `esper.observer.delivery` makes them."""

    def offer(self, *alerts: Record) -> None:
        """Takes records of AlertFiring or AlertResolved."""

    def hold(self, alert: Record) -> None:
        """Takes a record of AlertFiring that a person has acknowledged: it is sent to nobody."""

    def settled(self, outcome: Record) -> None:
        """Takes, before `start`, a record of AlertNotified or AlertSuppressed."""

    def start(self) -> None:
        """Begins to send."""

    def outstanding(self) -> int:
        """Number of outcomes that are not recorded yet."""

    def close(self, timeout_s: float) -> None:
        """Sends what it can within `timeout_s`, and ends."""


MakeDeliverer = Callable[[Callable[[Sequence[Record]], None], Callable[[RunId], bool]], AlertDeliverer]
"""Makes a deliverer of two functions: one commits the records of outcomes, from any thread but an event loop's, one returns whether a run
is alive. A run is dead where a worker recorded its silence as that."""


@dataclass
class DeliveryState:
    """State of a member. `ready`: it knows the alerts and outcomes of its partitions. `delivered`: outcomes written, failures included."""

    partitions: tuple[int, ...] = ()
    ready: bool = False
    outstanding: int = 0
    delivered: int = 0


class AlertDelivery(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types.
    """A member of the group. `run` is called once."""

    def __init__(self, settings: KafkaSettings, make: MakeDeliverer, report: Callable[[str], None], *, now: Callable[[], datetime]) -> None:
        self.state = DeliveryState()
        self._settings, self._make, self._report = settings, make, report
        self._now, self._since = now, now() - _WINDOW
        self._assigned: frozenset[int] | None = None
        self._owning = asyncio.Lock()  # Held while the partitions are taken, followed or given away.
        self._failure: Exception | None = None
        self._deliverer: AlertDeliverer | None = None
        self._stack = AsyncExitStack()
        self._producers: dict[int, tuple[AIOKafkaProducer, asyncio.Lock]] = {}
        self._dead: set[RunId] = set()
        self._firing: dict[AlertKey, Record] = {}
        self._acknowledged: dict[AlertKey, tuple[datetime, AlertAcknowledged]] = {}
        self._again: set[EventId] = set()
        self._member: AIOKafkaConsumer
        self._reader: AIOKafkaConsumer
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._partition_of: dict[RunId, int] = {}
        self._committed_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until `stop`. Raises LogError where the cluster fails or an outcome could not be written, and for what `make` raises."""
        self._loop, self._stop = asyncio.get_running_loop(), stop
        with explain_errors(self._settings):
            async with consuming(self._settings, fetch_wait_ms=_WAIT_MS) as self._reader:
                membership = joining(self._settings, GROUP, ALERTS, self, session_s=_SESSION_S, rebalance_s=_REBALANCE_S)
                async with membership as self._member:
                    try:
                        while not stop.is_set():
                            await self._turn()
                    finally:
                        async with self._owning:
                            await self._give_away(_LAST_DELIVERY_S if stop.is_set() else 0.0)
                    if self._failure is not None:
                        raise self._failure

    async def on_partitions_revoked(self, _revoked: Collection[TopicPartition]) -> None:
        """Called by aiokafka before the partitions may go to others."""
        self._assigned = None
        async with self._owning:
            await self._give_away(_LAST_DELIVERY_S)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Called by aiokafka with all partitions of this member."""
        self._assigned = frozenset(place.partition for place in assigned)

    async def _turn(self) -> None:
        await self._member.getmany(timeout_ms=0)  # It raises the errors of the membership.
        if self._failure is not None:
            raise self._failure
        assigned = self._assigned
        if assigned is None:
            await asyncio.sleep(_WAIT_MS / 1000)
            return
        async with self._owning:
            if self._deliverer is None:
                await self._take_over(assigned)
            elif self._assigned is assigned:
                await self._follow(assigned)

    async def _take_over(self, partitions: frozenset[int]) -> None:
        self._member.pause(*self._member.assignment())  # The reader reads them.
        self.state.partitions = tuple(sorted(partitions))
        for partition in sorted(partitions):
            producer = await self._stack.enter_async_context(producing(self._settings, f"delivery-{partition}"))
            self._producers[partition] = producer, asyncio.Lock()
        since = self._since
        self._deliverer = deliverer = self._make(self._write, lambda run: run not in self._dead)
        places = [TopicPartition(self._settings.topic(topic), partition) for topic in (ALERTS, OBSERVERS) for partition in partitions]
        if places:
            ends = await self._member.end_offsets(places)
            # After the ends: where no message is that young, none that comes later is passed over.
            found = await self._member.offsets_for_times(dict.fromkeys(places, int(since.timestamp() * 1000)))
            trail = await self._read_trail()
            self._reader.assign([*places, *trail])
            for place in places:
                first = found.get(place)
                self._reader.seek(place, ends[place] if first is None else first.offset)
            for place, position in trail.items():
                self._reader.seek(place, position)
            while any([await self._reader.position(place) < end for place, end in ends.items()]):
                for record in await self._read():
                    self._know(deliverer, record)
                if self._assigned is not partitions or self._stop.is_set() or self._since < since:
                    await self._give_away(0.0)
                    return
        await asyncio.to_thread(deliverer.start)
        self.state.ready = True

    async def _read_trail(self) -> dict[TopicPartition, int]:
        """Reads who has acknowledged which alert, and returns how far: the trail of a machine may stand in anybody's partition."""
        trail = [TopicPartition(self._settings.topic(TRAIL), number) for number in range(self._settings.partitions)]
        ends = await self._member.end_offsets(trail)
        self._reader.assign(trail)
        await self._reader.seek_to_beginning(*trail)
        while any([await self._reader.position(place) < end for place, end in ends.items()]) and not self._stop.is_set():
            for record in await self._read():
                self._hear(record)
        return {place: await self._reader.position(place) for place in trail}

    async def _follow(self, partitions: frozenset[int]) -> None:
        assert self._deliverer is not None, "partitions were taken over"
        if not partitions:
            await asyncio.sleep(_WAIT_MS / 1000)
            return
        since = self._since
        for record in await self._read():
            if record.type in _OFFERED:
                await asyncio.to_thread(self._offer, self._deliverer, record)
            else:
                self._hear(record)
        for record in self._acknowledged_no_more():
            await asyncio.to_thread(self._deliverer.offer, record)
        # On a thread, as every call after the start: it may wait for an outcome, which this loop commits.
        self.state.outstanding = await asyncio.to_thread(self._deliverer.outstanding)
        if self._since < since:
            await self._give_away(_LAST_DELIVERY_S)
        elif self._loop.time() > self._committed_at + _COMMIT_S:
            self._committed_at = self._loop.time()
            await self._show_positions(partitions)

    async def _read(self) -> list[Record]:
        """The records that are there, waiting a little for some. A message that is none is reported, and passed over."""
        records: list[Record] = []
        for place, messages in (await self._reader.getmany(timeout_ms=_WAIT_MS, max_records=_MESSAGES)).items():
            topic = place.topic.removeprefix(self._settings.prefix)
            for message in messages:
                try:
                    record = record_from(message.headers, message.key, message.value, topic)
                except DataError as error:
                    self._report(f"topic {place.topic}, partition {place.partition}, offset {message.offset}: {error}")
                else:
                    self._partition_of[record.run] = place.partition
                    records.append(record)
        await asyncio.sleep(0)  # getmany does not suspend while messages are buffered.
        return records

    def _know(self, deliverer: AlertDeliverer, record: Record) -> None:
        """Takes a record before the start: nothing is sent, so nothing waits."""
        if record.type in _OFFERED:
            self._offer(deliverer, record)
        elif record.type in (AlertNotified.KIND, AlertSuppressed.KIND):
            try:
                deliverer.settled(record)
            except DataError as error:
                self._report(str(error))
        else:
            self._hear(record)

    def _offer(self, deliverer: AlertDeliverer, alert: Record) -> None:
        try:
            event = decode(alert)
            assert isinstance(event, AlertFiring | AlertResolved), "the caller has looked"
            key = alert.run, event.fingerprint
            if isinstance(event, AlertResolved):
                self._firing.pop(key, None)
                if event.since < written_time(self._since):
                    self._since = datetime.fromisoformat(event.since) - _CLOCKS
            else:
                self._firing[key] = alert
                if key in self._acknowledged and self._now() < until_of(self._acknowledged[key][1]):
                    deliverer.hold(alert)
                    return
            deliverer.offer(alert)
        except DataError as error:  # One record that this version cannot read must not keep the others.
            self._report(str(error))

    def _acknowledged_no_more(self) -> Iterator[Record]:
        """Each alert that still fires, and fired before its acknowledgement ended, as one that fires anew. Each is returned once."""
        for key, (_, acknowledged) in self._acknowledged.items():
            alert, ended = self._firing.get(key), until_of(acknowledged)
            if alert is not None and alert.time < ended <= self._now():
                again = alert._replace(id=derived_id(alert.id, "acknowledged", 1, acknowledged.until, 0), time=ended)
                if again.id not in self._again:
                    self._again.add(again.id)
                    yield again

    def _hear(self, record: Record) -> None:
        if record.type not in (RunWentSilent.KIND, RunHeardAgain.KIND, AlertAcknowledged.KIND):
            return
        event = decode(record)
        if isinstance(event, AlertAcknowledged):
            key = event.about, event.fingerprint
            if key not in self._acknowledged or self._acknowledged[key][0] <= record.time:
                self._acknowledged[key] = record.time, event
        elif isinstance(event, RunWentSilent) and event.state == "dead":
            self._dead.add(record.run)
        else:
            self._dead.discard(record.run)

    def _write(self, outcomes: Sequence[Record]) -> None:
        """Returns when the outcomes are committed. Called on the deliverer's threads."""
        asyncio.run_coroutine_threadsafe(self._commit(outcomes), self._loop).result(_WRITE_S)

    async def _commit(self, outcomes: Sequence[Record]) -> None:
        by_partition: dict[int, list[Record]] = {}
        for outcome in outcomes:
            by_partition.setdefault(self._partition_of[outcome.run], []).append(outcome)
        for partition, records in by_partition.items():
            if partition not in self._producers:
                raise LogError(f"partition {partition} of the alerts was given to another member")
            producer, free = self._producers[partition]
            async with free:
                await transact(producer, self._settings, [outgoing(self._settings, record, partition) for record in records])
            self.state.delivered += len(records)

    async def _give_away(self, timeout_s: float) -> None:
        """Sends for `timeout_s` more, and lets go of the partitions. An error goes to `run`."""
        deliverer, self._deliverer, self.state.ready, self.state.partitions = self._deliverer, None, False, ()
        try:
            if deliverer is not None:
                await asyncio.to_thread(deliverer.close, timeout_s)
        except Exception as error:
            self._failure = error
        self._producers.clear()
        for known in (self._dead, self._firing, self._acknowledged, self._again):
            known.clear()
        self._partition_of.clear()
        try:
            await self._stack.aclose()
        except LogError as error:
            self._failure = self._failure or error

    async def _show_positions(self, partitions: frozenset[int]) -> None:
        """Commits the positions to the group, for people and tools that look at its lag. No member reads them."""
        places = [TopicPartition(self._settings.topic(ALERTS), partition) for partition in partitions]
        with suppress(KafkaError):  # The group is about to share its partitions anew.
            await self._member.commit({place: await self._reader.position(place) for place in places})
