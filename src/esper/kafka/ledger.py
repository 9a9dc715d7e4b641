"""A ledger derives what follows from the records of one partition number, over all topics, exactly once: the observer's part on Kafka.

All topics have the same number of partitions and the same keys, so partition p of all of them holds the same runs, and one process owns p
of all. Derived records, states and positions are written in one transaction of the id `ledger-<p>`. A process that takes p over begins with
a producer of that id, which fences the former owner and aborts what it left open; only then does it read.

    worker.changelog, partition p (compacted):   run, part -> a saved part of the run's monitor      meta -> positions

* `derived_to`, by topic: the offset before which everything that follows is written.
* `refold_from`, by topic: the offset before which every record is in a saved state. A new owner applies [refold_from, derived_to) again and
  drops what is derived. Each cell's admission drops what the cell has, so states of different ages need no book-keeping; the parts of one
  run are saved together, so its silence never knows a record that its cells lack.

A transaction holds the positions of one moment, taken before anything is awaited; folding goes on while it commits, and a second one waits
for it. There is none while nothing is derived and no state is older than `state_every_s`. Every error ends the process; the next owner
recovers by the code of a first start. A record at which a fold raised three times stops its topic for that run alone.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple, Self, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from pydantic import BaseModel, ConfigDict, ValidationError

from esper.errors import DataError, EsperError, LogError
from esper.events.cloudevents import record_from
from esper.events.codec import decode
from esper.events.digests import to_json
from esper.events.envelope import Record, RunId, is_training
from esper.events.kinds.observability import FoldBlocked, FoldUnblocked, ObserverStarted
from esper.events.topics import DEAD_LETTER_SUFFIX, DERIVED, FACTS
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.folds.monitoring.topic import RULE_VERSIONS, MonitorSettings
from esper.kafka.clients import Outgoing, consuming, explain_errors, outgoing, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import CHANGELOG, INPUTS
from esper.kafka.transactions import ended, transact

Message: TypeAlias = "ConsumerRecord[bytes, bytes]"

_META = b"meta"
_SEPARATOR = "\x1f"
_STOPPED, _SETTINGS = "stopped", "settings"
_MESSAGES, _WAIT_MS = 500, 20
_RUNS_A_COMMIT = 20
_PAUSE_S = 0.1
_ATTEMPTS = 3


@dataclass(frozen=True)
class LedgerSettings:
    """Settings of a ledger."""

    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    state_every_s: float = 30.0
    """The greatest age of a state that differs from the saved one: a new owner applies as much again."""


class FoldError(EsperError):
    """A fold raised at a record. The process ends, and the next owner tries once more, three times in all."""


class _Meta(BaseModel):
    """Positions by topic, and the number of times that a fold raised at a record, by topic and offset."""

    model_config = ConfigDict(strict=True, extra="forbid")
    derived_to: dict[str, int] = {}
    refold_from: dict[str, int] = {}
    raised: dict[str, int] = {}


class _Run:
    """A run's monitor, and the first offset by topic that its saved state lacks, since `since`.

    `stopped`: the offset at which a topic stopped, by topic: of a fact that is not understood, or of a record at which a fold raised.
    """

    __slots__ = ("dirty", "monitor", "since", "stopped")

    def __init__(self, monitor: RunMonitor, stopped: Mapping[str, int] = MappingProxyType({})) -> None:
        self.monitor = monitor
        self.stopped = dict(stopped)
        self.dirty: dict[str, int] = {}
        self.since: float | None = None


class _Letter(NamedTuple):
    topic: str
    message: Message
    error: str


class _Commit(NamedTuple):
    """The content of one transaction."""

    records: list[Record]
    letters: list[_Letter]
    states: list[tuple[bytes, bytes]]


class Ledger:
    """Partition `partition` of every input topic. One task calls `turn` again and again, then `close`, or after an error `abandon`."""

    def __init__(self, settings: KafkaSettings, partition: int, ledger: LedgerSettings, *, now: Callable[[], datetime]) -> None:
        self.partition = partition
        self.positions: dict[str, int] = {}
        self.counts = Counter[str]()
        """Records applied, records derived, dead letters, and telemetry that retention had cut before it was read."""
        self._settings, self._ledger, self._now = settings, ledger, now
        self._stack = AsyncExitStack()
        self._runs: dict[RunId, _Run] = {}
        self._records: list[Record] = []
        self._letters: list[_Letter] = []
        self._urgent: set[RunId] = set()
        self._meta = _Meta()
        self._committing: asyncio.Task[None] | None = None
        self._committed_at = time.monotonic()
        self._producer: AIOKafkaProducer
        self._consumer: AIOKafkaConsumer

    @classmethod
    async def open(
        cls, settings: KafkaSettings, partition: int, ledger: LedgerSettings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> Self:
        """The ledger of `partition`, recovered: former owners are fenced, states are as of `derived_to`.

        Raises LogError where the cluster cannot be used, and where its topics do not go with the saved positions.
        """
        self = cls(settings, partition, ledger, now=now)
        try:
            with explain_errors(settings):
                self._producer = await self._stack.enter_async_context(producing(settings, f"ledger-{partition}"))
                await ended(self._producer, settings, {TopicPartition(settings.topic(name), partition) for name in (CHANGELOG, *DERIVED)})
                self._consumer = await self._stack.enter_async_context(consuming(settings, fetch_wait_ms=_WAIT_MS))
                await self._recover()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

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
            await self._commit_if_due()
        self.counts["applied"] += count
        return count

    def judge_silence(self) -> None:
        """Records the silence of trainings that began or ended by the clock."""
        for name, run in self._runs.items():
            if is_training(name):
                self._own(name, run, run.monitor.judge_silence(self._now(), lock_free=None))

    async def close(self) -> None:
        """Commits everything, and closes the clients. Do not cancel it: a transaction that is cancelled stays open until it expires."""
        try:
            with explain_errors(self._settings):
                if self._committing is not None:
                    await self._committing
                await self._commit(self._due(self._runs))
        finally:
            await self._stack.aclose()

    async def abandon(self) -> None:
        """Closes the clients, and leaves what is not committed to the next owner."""
        if self._committing is not None:
            await asyncio.wait([self._committing])
        await self._stack.aclose()

    # Applying

    async def _apply(self, topic: str, message: Message) -> None:
        try:
            record = record_from(message.headers, message.key, message.value, topic)
        except DataError as error:
            self._letters.append(_Letter(topic, message, str(error)))
        else:
            place = f"{topic} {message.offset}"
            try:
                self._records += self._take(record, message)
            except Exception as error:
                await self._raised(record, message, place, error)
        self.positions[topic] = message.offset + 1

    def _take(self, record: Record, message: Message) -> list[Record]:
        """The records derived from `record`, a dead letter set aside as it came."""
        run = self._runs.get(record.run)
        if run is None:
            run = self._runs[record.run] = _Run(RunMonitor(record.run, self._ledger.monitor))
            self._own(record.run, run, run.monitor.own_record(_started(self._ledger.monitor), self._now()))
        run.dirty.setdefault(record.topic, message.offset)
        run.since = run.since or time.monotonic()
        if record.topic in run.stopped and message.offset > run.stopped[record.topic]:
            return []
        found = run.monitor.take(record)
        if record.topic in run.monitor.blocked:
            run.stopped.setdefault(record.topic, message.offset)
        derived = [one for one in found if not one.topic.endswith(DEAD_LETTER_SUFFIX)]
        if len(derived) < len(found):
            self._letters.append(_Letter(record.topic, message, _reason(record)))
        return derived

    def _own(self, name: RunId, run: _Run, records: Iterable[Record]) -> None:
        """Takes the ledger's own records about a run. Their effect cannot be applied again, so the run's state is committed with them."""
        found = list(records)
        if found:
            self._records += found
            self._urgent.add(name)
            run.since = run.since or time.monotonic()

    async def _raised(self, record: Record, message: Message, place: str, error: Exception) -> None:
        """Counts an error of a fold, durably, and ends the process; the third time it stops the record's topic for its run."""
        times = self._meta.raised.get(place, 0) + 1
        reason = f"a fold raised {type(error).__name__} at {record.topic}, sequence {record.sequence}: {error}"
        if times < _ATTEMPTS:
            if self._committing is not None:
                await self._committing
            meta = self._meta.model_copy(update={"raised": self._meta.raised | {place: times}})
            await self._commit(_Commit([], [], [(_META, meta.model_dump_json().encode())]))
            raise FoldError(f"run {record.run}, {reason}, for the {times}. time") from error
        run = self._runs[record.run]
        run.stopped[record.topic] = message.offset
        blocked = FoldBlocked(topic=record.topic, sequence=record.sequence or 0, reason=f"{reason}, {times} times")
        self._own(record.run, run, run.monitor.own_record(blocked, self._now()))

    # Committing

    async def _commit_if_due(self) -> None:
        if self._committing is not None:
            if not self._committing.done():
                return
            committed, self._committing = self._committing, None
            committed.result()
        now = time.monotonic()
        if now < self._committed_at + _PAUSE_S:
            return
        aged = [name for name, run in self._runs.items() if run.since is not None and now >= run.since + self._ledger.state_every_s]
        saved = self._urgent | set(aged[:_RUNS_A_COMMIT])
        if self._records or self._letters or saved:
            self._committing = asyncio.create_task(self._commit(self._due(saved)))

    def _due(self, runs: Iterable[RunId]) -> _Commit:
        """Everything of one transaction, as it is at this moment: derived records, dead letters, the states of `runs`, positions."""
        records, self._records = self._records, []
        letters, self._letters = self._letters, []
        states: list[tuple[bytes, bytes]] = []
        for name in runs:
            run = self._runs[name]
            parts = run.monitor.save() | {_STOPPED: _Stopped(offsets=run.stopped).model_dump_json().encode()}
            states += [(_SEPARATOR.join((name, part)).encode(), saved) for part, saved in parts.items()]
            run.dirty, run.since = {}, None
        self._urgent -= set(runs)
        refold_from = dict(self.positions)
        for run in self._runs.values():
            for topic, offset in run.dirty.items():
                refold_from[topic] = min(refold_from[topic], offset)
        raised = {place: times for place, times in self._meta.raised.items() if self._is_ahead(place)}
        self._meta = _Meta(derived_to=dict(self.positions), refold_from=refold_from, raised=raised)
        self.counts["derived"] += len(records)
        self.counts["dead letters"] += len(letters)
        return _Commit(records, letters, [*states, (_META, self._meta.model_dump_json().encode())])

    def _is_ahead(self, place: str) -> bool:
        topic, offset = place.split()
        return int(offset) >= self.positions[topic]

    async def _commit(self, due: _Commit) -> None:
        topic, part = self._settings.topic, self.partition
        messages = [outgoing(self._settings, record, part) for record in due.records]
        messages += [
            Outgoing(topic(name + DEAD_LETTER_SUFFIX), message.key, message.value, _headers_of_letter(message, error), part)
            for name, message, error in due.letters
        ]
        messages += [Outgoing(topic(CHANGELOG), key, value, [], part) for key, value in due.states]
        await transact(self._producer, self._settings, messages)
        self._committed_at = time.monotonic()

    # Recovering

    async def _recover(self) -> None:
        parts = await self._load()
        begins, ends = await self._consumer.beginning_offsets(self._places()), await self._consumer.end_offsets(self._places())
        for topic, place in zip(INPUTS, self._places(), strict=True):
            begin, end, at = begins[place], ends[place], self._meta.derived_to.get(topic, begins[place])
            if at > end:
                raise LogError(f"{self._named(topic)}: expected an end at {at} or later, got {end}: the topic was made anew")
            if at < begin and topic in FACTS:
                raise LogError(f"{self._named(topic)}: expected records from offset {at} on, got the first at {begin}: facts were deleted")
            self.counts["expired"] += max(0, begin - at)
            self.positions[topic] = max(at, begin)
        self._runs = {name: _loaded(name, saved) for name, saved in parts.items()}
        for topic, place in zip(INPUTS, self._places(), strict=True):
            begin = max(begins[place], self._meta.refold_from.get(topic, self.positions[topic]))
            async for message in self._between(place, begin, self.positions[topic]):
                self._refold(topic, message)
        self._records, self._letters = [], []
        for name, run in self._runs.items():
            await self._reopen(name, run)
        self._consumer.assign(self._places())
        for topic, place in zip(INPUTS, self._places(), strict=True):
            self._consumer.seek(place, self.positions[topic])

    def _refold(self, topic: str, message: Message) -> None:
        try:
            record = record_from(message.headers, message.key, message.value, topic)
        except DataError:
            return  # Its dead letter is written.
        self._take(record, message)

    async def _load(self) -> dict[RunId, dict[str, bytes]]:
        place = TopicPartition(self._settings.topic(CHANGELOG), self.partition)
        parts: dict[RunId, dict[str, bytes]] = {}
        async for message in self._between(place, None, None):
            key, value = message.key or b"", message.value or b""
            if key == _META:
                try:
                    self._meta = _Meta.model_validate_json(value)
                except ValidationError as error:
                    raise LogError(f"{self._named(CHANGELOG)}: expected positions, got {value!r:.80}") from error
            else:
                run, _, part = key.decode().partition(_SEPARATOR)
                parts.setdefault(RunId(run), {})[part] = value
        return parts

    async def _reopen(self, name: RunId, run: _Run) -> None:
        """Puts the present settings in force, and tries topics that stopped once more: this version may understand what another did not."""
        if run.monitor.settings != self._ledger.monitor:
            run.monitor.change(self._ledger.monitor, ())
            self._own(name, run, run.monitor.own_record(_started(self._ledger.monitor), self._now()))
        blocked = {topic: offset for topic, offset in run.stopped.items() if topic in run.monitor.blocked}
        for topic, offset in blocked.items():
            del run.stopped[topic]
            place = TopicPartition(self._settings.topic(topic), self.partition)
            async for message in self._between(place, offset, self.positions[topic]):
                if message.key == name.encode():
                    self._records += self._take(record_from(message.headers, message.key, message.value, topic), message)
        if blocked and not run.monitor.blocked:
            self._own(name, run, run.monitor.own_record(FoldUnblocked(topics=tuple(sorted(blocked))), self._now()))

    async def _between(self, place: TopicPartition, begin: int | None, end: int | None) -> AsyncIterator[Message]:
        """The messages of [begin, end), by default all. The position counts, not the messages: markers and aborted records have offsets."""
        if begin is None:
            begin = (await self._consumer.beginning_offsets([place]))[place]
        if end is None:
            end = (await self._consumer.end_offsets([place]))[place]
        if begin >= end:
            return
        self._consumer.assign([place])
        self._consumer.seek(place, begin)
        while await self._consumer.position(place) < end:
            for messages in (await self._consumer.getmany(timeout_ms=_WAIT_MS)).values():
                for message in messages:
                    if message.offset < end:
                        yield message

    def _places(self) -> list[TopicPartition]:
        return [TopicPartition(self._settings.topic(topic), self.partition) for topic in INPUTS]

    def _named(self, topic: str) -> str:
        return f"topic {self._settings.topic(topic)}, partition {self.partition}"


class _Stopped(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    offsets: dict[str, int]


def _loaded(name: RunId, parts: Mapping[str, bytes]) -> _Run:
    monitor = RunMonitor.load(name, {part: saved for part, saved in parts.items() if part != _STOPPED})
    return _Run(monitor, _Stopped.model_validate_json(parts[_STOPPED]).offsets)


def _started(settings: MonitorSettings) -> ObserverStarted:
    written = to_json(settings)
    assert isinstance(written, dict), "settings are written as an object"
    return ObserverStarted(rules=dict(RULE_VERSIONS), settings=written, settings_digest=settings.settings_digest)


def _reason(record: Record) -> str:
    """The reason why `record` cannot be decoded."""
    try:
        decode(record)
    except DataError as error:
        return str(error)
    raise AssertionError("a dead letter cannot be decoded")


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
