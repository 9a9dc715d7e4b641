"""A ledger derives what follows from the records of one partition number, over all topics, exactly once: the observer's part on Kafka.

All topics have the same number of partitions and the same keys, so partition p of all of them holds the same runs, and one process owns p
of all. Derived records, states and positions are written in one transaction of the id `ledger-<p>`. A process that takes p over begins with
a producer of that id, which fences the former owner and aborts what it left open; only then does it read.

States and positions stand in `worker.changelog`, partition p (`ledger_states`). There are two positions in a topic:

* `derived_to`: the offset before which everything that follows is written.
* `refold_from`: the offset before which every record is in a saved state. A new owner applies [refold_from, derived_to) again and
  drops what is derived. Each cell's admission drops what the cell has, so states of different ages need no book-keeping; the parts of one
  run are saved together, so its silence never knows a record that its cells lack.

A transaction holds the positions of one moment, taken before anything is awaited; folding goes on while it commits, and a second one waits
for it. There is none while nothing is derived and no state is older than `state_every_s`. Every error ends the process; the next owner
recovers by the code of a first start. A record at which a fold raised three times stops its topic for that run alone. Each new owner tries
topics that stopped once more.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from esper.errors import DataError, EsperError, LogError
from esper.events.cloudevents import record_from
from esper.events.envelope import Record, RunId
from esper.events.topics import DEAD_LETTER_SUFFIX, DERIVED
from esper.folds.monitoring.derive import MonitorSettings
from esper.kafka.clients import Message, Outgoing, consuming, explain_errors, messages_between, outgoing, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import CHANGELOG, INPUTS
from esper.kafka.ledgers.ledger_recovery import beginning, check_partitions, offsets_of
from esper.kafka.ledgers.ledger_runs import LedgerRuns, Letter, raised_at
from esper.kafka.ledgers.ledger_states import Positions, Saved, SavedStates
from esper.kafka.transactions import ended, transact
from esper.oona.steady_clock import SteadyClock

_MESSAGES, _WAIT_MS = 500, 20
# Measured with 100 runs: 50 fetches a second and ledger cost the broker so much that a record was derived from a third later.
_FETCH_WAIT_MS = 100
# Between two transactions, each of which has ended for its readers: 100 ms made what is derived as much later.
_PAUSE_S = 0.03
_TICK_S = 1.0
_ATTEMPTS = 3


@dataclass(frozen=True)
class LedgerSettings:
    """Settings of a ledger."""

    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    state_every_s: float = 30.0
    """The greatest age of a state that differs from the saved one: a new owner applies as much again."""
    pack_after_s: float = 600.0
    """The time without records after which a run that ended is packed."""


class FoldError(EsperError):
    """A fold raised at a record. The process ends, and the next owner tries once more, three times in all."""


class _Commit(NamedTuple):
    """The content of one transaction."""

    records: list[Record]
    letters: list[Letter]
    states: Saved


class Ledger:
    """Partition `partition` of every input topic. One task calls `turn` again and again, then `close`, or after an error `abandon`."""

    def __init__(
        self,
        settings: KafkaSettings,
        partition: int,
        ledger: LedgerSettings,
        *,
        now: Callable[[], datetime],
        passed_s: Callable[[], float],
        progress: Callable[[], None],
    ) -> None:
        self.partition = partition
        self.positions: dict[str, int] = {}
        self.lag: dict[str, int] = {}
        """Offsets between the position and the high watermark, by topic, as of a second ago: what open transactions hold back counts."""
        self.counts = Counter[str]()
        """Records applied, records derived, dead letters, transactions, and messages that retention had cut before they were read."""
        self.last_transaction_s = 0.0
        self.expired: dict[str, int] = {}
        """Messages that retention had cut before they were read, by topic."""
        self._settings, self._ledger, self._now, self._passed_s, self._progress = settings, ledger, now, passed_s, progress
        self._places = {topic: TopicPartition(settings.topic(topic), partition) for topic in INPUTS}
        self._stack = AsyncExitStack()
        self._meta = Positions()
        self._committing: asyncio.Task[None] | None = None
        self._committed_at = time.monotonic()
        self._asked_at = -_TICK_S
        self._unread: tuple[datetime, float, dict[str, int]] | None = None
        self._runs: LedgerRuns
        self._producer: AIOKafkaProducer
        self._consumer: AIOKafkaConsumer

    @classmethod
    async def open(
        cls,
        settings: KafkaSettings,
        partition: int,
        ledger: LedgerSettings,
        *,
        now: Callable[[], datetime] | None = None,
        passed_s: Callable[[], float] = time.monotonic,
        progress: Callable[[], None] = lambda: None,
    ) -> Self:
        """The ledger of `partition`, recovered: former owners are fenced, states are as of `derived_to`. It may be cancelled.

        `progress` is called whenever messages came. Raises LogError where the cluster cannot be used, and where its topics do not go with
        the saved positions, FoldError where a fold raised at a record that was applied before.
        """
        self = cls(settings, partition, ledger, now=now or SteadyClock(), passed_s=passed_s, progress=progress)
        try:
            with explain_errors(settings):
                self._producer = await self._stack.enter_async_context(producing(settings, f"ledger-{partition}"))
                await ended(self._producer, settings, {TopicPartition(settings.topic(name), partition) for name in (CHANGELOG, *DERIVED)})
                # Of its own: a fetch that waits for records holds up the next topic's.
                async with consuming(settings, fetch_wait_ms=_WAIT_MS) as self._consumer:
                    await self._recover()
                await self._go_on()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    @property
    def runs(self) -> int:
        """Number of runs that are not at rest."""
        return len(self._runs)

    @property
    def stopped_runs(self) -> int:
        """Number of runs of which a topic stopped."""
        return len(self._runs.stops)

    async def turn(self) -> int:
        """Applies the records that are there, waiting at most 20 ms for some, and commits what is due; the number of records.

        Raises FencedError where another process took the partition over, LogError where the cluster fails, FoldError where a fold raised.
        """
        with explain_errors(self._settings):
            count = 0
            for place, messages in (await self._consumer.getmany(timeout_ms=_WAIT_MS, max_records=_MESSAGES)).items():
                topic = place.topic.removeprefix(self._settings.prefix)
                for message in messages:
                    if message.offset >= self.positions[topic]:
                        await self._apply(topic, message)
                        count += 1
            await asyncio.sleep(0)  # getmany does not suspend while messages are buffered.
            await self._judge_silence()
            await self._commit_if_due()
        self._progress()
        self.counts["applied"] += count
        return count

    async def close(self) -> None:
        """Commits everything, and closes the clients. Do not cancel it: a transaction that is cancelled stays open until it expires."""
        try:
            with explain_errors(self._settings):
                await self._committed()
                await self._commit(self._due(self._runs.unsaved(), []))
        finally:
            await self._stack.aclose()

    async def abandon(self) -> None:
        """Closes the clients, and leaves what is not committed to the next owner."""
        await asyncio.gather(*filter(None, [self._committing]), return_exceptions=True)
        await self._stack.aclose()

    # Applying

    async def _apply(self, topic: str, message: Message) -> None:
        try:
            record = record_from(message.headers, message.key, message.value, topic)
        except DataError as error:
            self._runs.letters.append(Letter(topic, message, str(error)))
        else:
            try:
                self._runs.take(record, message)
            except LogError:
                raise
            except Exception as error:
                await self._raised(record, message, error)
        self.positions[topic] = message.offset + 1

    async def _raised(self, record: Record, message: Message, error: Exception) -> None:
        """Counts an error of a fold, durably, and ends the process; the third time it stops the record's topic for its run."""
        place = f"{record.topic} {message.offset}"
        times = self._meta.raised.get(place, 0) + 1
        if times < _ATTEMPTS:
            await self._committed()
            await self._commit(_Commit([], [], [self._meta.model_copy(update={"raised": self._meta.raised | {place: times}}).saved()]))
            raise FoldError(f"run {record.run}, {raised_at(record, error)}, for the {times}. time") from error
        self._runs.block(record, message, raised_at(record, error), self._meta.derived_to.get(record.topic, 0))

    async def _judge_silence(self) -> None:
        """Judges silence as of a moment once everything that was there at that moment is applied: what waits to be read is not silent."""
        if time.monotonic() >= self._asked_at + _TICK_S:
            check_partitions(self._consumer, self._settings)
            self._asked_at = time.monotonic()
            asked = self._now(), self._passed_s()
            ends = await offsets_of(self._consumer.end_offsets, self._places)
            heads = {topic: max(end, self._consumer.highwater(self._places[topic]) or 0) for topic, end in ends.items()}
            self.lag = {topic: head - await self._position(topic) for topic, head in heads.items()}
            self._unread = self._unread or (*asked, ends)
        if self._unread is not None:
            now, passed_s, ends = self._unread
            if all([await self._position(topic) >= end for topic, end in ends.items()]):
                self._runs.judge_silence(now, passed_s)
                self._unread = None

    async def _position(self, topic: str) -> int:
        """The next offset to read: behind a marker, where the last record stands before one."""
        position: int = await self._consumer.position(self._places[topic])
        return position

    # Committing

    async def _commit_if_due(self) -> None:
        if self._committing is not None and not self._committing.done():
            return
        await self._committed()
        if time.monotonic() < self._committed_at + _PAUSE_S:
            return
        saved, packed = self._runs.due(self._ledger.state_every_s, self._ledger.pack_after_s)
        if self._runs.records or self._runs.letters or saved or packed:
            self._committing = asyncio.create_task(self._commit(self._due(saved, packed)))

    async def _committed(self) -> None:
        """Returns when no transaction is under way. Raises its error."""
        if self._committing is not None:
            committing, self._committing = self._committing, None
            await committing

    def _due(self, saved: set[RunId], packed: list[RunId]) -> _Commit:
        """Everything of one transaction, as it is at this moment: derived records, dead letters, the states of runs, positions."""
        runs = self._runs
        records, runs.records = runs.records, []
        letters, runs.letters = runs.letters, []
        states = runs.save(saved, packed)
        raised = {place: times for place, times in self._meta.raised.items() if self._is_ahead(place)}
        self._meta = Positions(derived_to=dict(self.positions), refold_from=runs.refold_from(self.positions), raised=raised)
        self.counts["derived"] += len(records)
        self.counts["dead letters"] += len(letters)
        return _Commit(records, letters, [*states, self._meta.saved()])

    def _is_ahead(self, place: str) -> bool:
        topic, offset = place.split()
        return int(offset) >= self.positions[topic]

    async def _commit(self, due: _Commit) -> None:
        topic, part, began_at = self._settings.topic, self.partition, time.monotonic()
        messages = [outgoing(self._settings, record, part) for record in due.records]
        messages += [
            Outgoing(topic(name + DEAD_LETTER_SUFFIX), message.key, message.value, _headers_of_letter(message, error), part)
            for name, message, error in due.letters
        ]
        messages += [Outgoing(topic(CHANGELOG), key, value, [], part) for key, value in due.states]
        await transact(self._producer, self._settings, messages)
        self._committed_at = time.monotonic()
        self.last_transaction_s = self._committed_at - began_at
        self.counts["transactions"] += 1

    # Recovering

    async def _recover(self) -> None:
        states = await self._load()
        try:
            self._runs = LedgerRuns(states, self._ledger.monitor, self._now)
        except DataError as error:
            raise LogError(f"{self._named(CHANGELOG)}: {error}") from error
        begins = await offsets_of(self._consumer.beginning_offsets, self._places)
        ends = await offsets_of(self._consumer.end_offsets, self._places)
        check_partitions(self._consumer, self._settings)
        refold_from: dict[str, int] = {}
        for topic in self._places:
            self.positions[topic], refold_from[topic], expired = beginning(
                topic, self._named(topic), begins[topic], ends[topic], self._meta
            )
            if expired:
                self.expired[topic] = expired
        self.counts["expired"] = sum(self.expired.values())
        for topic, begin in refold_from.items():
            async for message in self._between(topic, begin):
                await self._refold(topic, message)
        await self._try_again(begins)

    async def _load(self) -> SavedStates:
        states, places = SavedStates(), {CHANGELOG: TopicPartition(self._settings.topic(CHANGELOG), self.partition)}
        begins = await offsets_of(self._consumer.beginning_offsets, places)
        ends = await offsets_of(self._consumer.end_offsets, places)
        try:
            async for message in messages_between(self._consumer, places[CHANGELOG], begins[CHANGELOG], ends[CHANGELOG], self._progress):
                states.read(message.key, message.value)
        except DataError as error:
            raise LogError(f"{self._named(CHANGELOG)}: {error}") from error
        self._meta = states.positions
        return states

    async def _refold(self, topic: str, message: Message) -> None:
        """Applies a message once more; what is derived from it is written."""
        try:
            record = record_from(message.headers, message.key, message.value, topic)
        except DataError:
            return
        try:
            self._runs.take_again(record, message, self._meta.derived_to[topic])
        except LogError:
            raise
        except Exception as error:
            await self._raised(record, message, error)

    async def _try_again(self, begins: Mapping[str, int]) -> None:
        """Hands in what stopped topics once more, and what came after it."""
        stopped = self._runs.begin()
        for topic in self._places:
            stops = {name.encode(): stops[topic] for name, stops in stopped.items() if topic in stops}
            first = min((stop.offset for stop in stops.values()), default=self.positions[topic])
            async for message in self._between(topic, max(first, begins[topic])):
                stop = stops.get(message.key or b"")
                if stop is not None and message.offset >= stop.offset:
                    with suppress(DataError):  # Its dead letter is written.
                        record = record_from(message.headers, message.key, message.value, topic)
                        self._runs.try_again(record, message, stop)
        self._runs.end_trying(stopped)

    async def _go_on(self) -> None:
        """Makes a consumer that reads on from the positions."""
        self._consumer = await self._stack.enter_async_context(consuming(self._settings, fetch_wait_ms=_FETCH_WAIT_MS))
        self._consumer.assign(list(self._places.values()))
        for topic, place in self._places.items():
            self._consumer.seek(place, self.positions[topic])

    def _between(self, topic: str, begin: int) -> AsyncIterator[Message]:
        return messages_between(self._consumer, self._places[topic], begin, self.positions[topic], self._progress)

    def _named(self, topic: str) -> str:
        return f"Kafka at {self._settings.bootstrap}, topic {self._settings.topic(topic)}, partition {self.partition}"


def _headers_of_letter(message: Message, error: str) -> list[tuple[str, bytes]]:
    """The headers of a dead letter: the message's own, and where and why it was set aside, by the names that Kafka Streams gives them."""
    told = {
        "exception": DataError.__qualname__,
        "message": error,
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
    }
    return [*message.headers, *((f"__streams.errors.{name}", text.encode()) for name, text in told.items())]
