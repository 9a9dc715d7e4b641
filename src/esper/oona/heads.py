"""The end of a run's log: the numbers and chains that its next records continue.

The rules of numbering stand here alone: sequences are dense per topic, moments dense over all topics (a heartbeat has the last one's),
facts dense over the topics of facts and absent elsewhere; time and incarnation never go back, epoch and step never within a topic.
`Heads.next` makes such a record, `Heads.follow` refuses any other; `Heads.verify`, through which a resume walks the whole file, computes
the chains too.

A copy of a run may lack telemetry that Kafka had deleted (`gone`). There, and nowhere else, rows may be passed over: a topic goes on behind
its missing sequences, with a chain that is taken as it is, and moments advance by no more than the rows that are missing just there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple, Self

from esper.errors import DataError, RuleError
from esper.events.codec import decode
from esper.events.digests import chain
from esper.events.envelope import SINCE, EventId, Moment, Record, RunId, heartbeat_id, record_id
from esper.events.fields import Event
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunStarted, StreamEnded, Tail
from esper.events.kinds.telemetry import Heartbeat
from esper.events.topics import FACTS, RUN, TELEMETRY
from esper.oona.gone import NOTHING_GONE, Gone, TopicEnd

_BEFORE_FIRST = Moment(0)
_ANCHORS = frozenset({RunStarted.KIND, RunResumed.KIND, EpochCompleted.KIND})
_ENDS = frozenset({RunFinished.KIND, RunFailed.KIND})
# Every record asks for these two, and to look them up in a model's class takes longer than to compare them.
_HEARTBEAT, _STREAM_ENDED = Heartbeat.KIND, StreamEnded.KIND
_FIELDS = ("run", "writer", "generation", "sequence", "moment", "fact", "incarnation", "time", "epoch", "step", "id")
_LEAST = frozenset({"incarnation", "time", "epoch", "step"})  # Fields that may advance by more than one; the others have one next value.


@dataclass(slots=True)
class _TopicHead:
    """The last record of one topic: its sequence, chain and clocks, and whether it was a StreamEnded. Moves with its `Heads`."""

    sequence: int = 0
    chain: bytes = b""
    epoch: int = 0
    step: int = 0
    ended: bool = False


class Telemetry(NamedTuple):
    """Telemetry that is not built yet: `build` runs once, on the writer thread."""

    kind: type[Event]
    build: Callable[[], Event]


class Draft(NamedTuple):
    """An event to be recorded, with all that only its emitter knows. `moment` is absent on a heartbeat."""

    event: Event | Telemetry
    topic: str
    moment: int | None
    incarnation: int
    time: datetime
    epoch: int
    step: int
    cause: EventId | None
    trace: str | None


@dataclass(slots=True)
class Heads:
    """The end of one run's log. `anchor` is the last RunStarted, RunResumed or EpochCompleted (or the run's first record), the default
    cause.

    `passed`: rows missing just before the next record; `unknown`: missing rows whose topic is not known so far.
    """

    run: RunId
    writer: str
    moment: Moment = _BEFORE_FIRST
    fact: int = 0
    incarnation: int = 1
    time: datetime = SINCE
    anchor: EventId | None = None
    topics: dict[str, _TopicHead] = field(default_factory=dict)
    gone: Gone = NOTHING_GONE
    passed: int = 0
    unknown: int = 0

    @property
    def row(self) -> int:
        """The number of the last record in its log, those that are gone included."""
        return sum(head.sequence for head in self.topics.values()) + self.unknown

    @property
    def epoch(self) -> int:
        """The furthest epoch of any record."""
        return max((head.epoch for head in self.topics.values()), default=0)

    @property
    def step(self) -> int:
        """The furthest step of any record."""
        return max((head.step for head in self.topics.values()), default=0)

    def copy(self) -> Self:
        """The same end, to be moved on without moving this one."""
        return replace(self, topics={name: replace(head) for name, head in self.topics.items()})

    def topic(self, name: str) -> _TopicHead:
        """The end of topic `name`; zeros and an empty chain where it has no record."""
        return self.topics.get(name) or _TopicHead()

    def draft(self, event: Event, topic: str, time: datetime, *, epoch: int = 0, step: int = 0) -> Draft:
        """The draft of `event` as the next record, caused by the anchor; its epoch and step are at least those of its topic's end."""
        head = self.topic(topic)
        moment = None if isinstance(event, Heartbeat) else self.moment + 1
        incarnation = event.incarnation if isinstance(event, RunResumed) else self.incarnation
        return Draft(event, topic, moment, incarnation, time, max(epoch, head.epoch), max(step, head.step), self.anchor, None)

    def next(self, draft: Draft, kind: str, data: bytes) -> Record:
        """The record of a draft of `kind`, encoded as `data`, and the end moved to it. A time before the last record's is raised to it.

        Raises DataError as `follow` does, for clocks or a moment that do not continue the log; nothing moved then.
        """
        _, topic, numbered, incarnation, time, epoch, step, cause, trace = draft
        head = self.topics.get(topic) or _TopicHead()
        sequence = head.sequence + 1
        beats = kind == _HEARTBEAT
        moment = self.moment if numbered is None else Moment(numbered)
        identity = heartbeat_id(self.run, sequence) if beats else record_id(self.run, moment)
        fact = self.fact + 1 if topic in FACTS else None
        time = max(time, self.time)
        place = (identity, self.run, topic, self.writer, sequence, fact, moment, 0, incarnation, kind, time, epoch, step, cause, trace)
        fields = [*place, None, data]
        fields[-2] = chain(fields, head.chain)
        record = Record._make(fields)
        # Only these can be wrong here, and every record that is emitted passes by: `_require_next` takes a tenth of an append.
        dense = moment == (self.moment if beats else self.moment + 1)
        if not dense or step < head.step or epoch < head.epoch or incarnation < self.incarnation:
            self._require_next(record, head)
        self._move(record, head)
        return record

    def follow(self, record: Record) -> None:
        """Moves the end to `record`. Raises DataError, naming the field, for one that does not continue the log; nothing moved then."""
        head = self.topics.get(record.topic) or _TopicHead()
        self._require_next(record, head)
        self._move(record, head)

    def _require_next(self, record: Record, head: _TopicHead) -> None:
        identity, run, topic, writer, sequence, fact, moment, generation, incarnation, kind, time, epoch, step, _, _, tied, _ = record
        beats = kind == _HEARTBEAT
        next_moment = self.moment if beats else Moment(self.moment + 1)
        next_sequence = head.sequence + 1
        if self.gone:
            next_moment = Moment(min(max(next_moment, moment), next_moment + self.passed))
            next_sequence = self.gone.next_sequence(topic, head.sequence)
        expected = (
            self.run,
            self.writer,
            0,
            next_sequence,
            next_moment,
            self.fact + 1 if topic in FACTS else None,
            max(self.incarnation, incarnation),
            max(self.time, time),
            max(head.epoch, epoch),
            max(head.step, step),
            heartbeat_id(self.run, next_sequence) if beats else record_id(self.run, next_moment),
        )
        got = (run, writer, generation, sequence, moment, fact, incarnation, time, epoch, step, identity)
        if got == expected and tied is not None:
            if next_sequence - head.sequence - 1 > self.unknown + self.passed:
                raise DataError(f"{_named(record)}: expected the rows of the records that are gone before it, got too few")
            return
        raise _difference(record, expected, got)

    def _move(self, record: Record, head: _TopicHead) -> None:
        identity, _, topic, _, sequence, fact, moment, _, incarnation, kind, time, epoch, step, _, _, tied, _ = record
        assert sequence is not None and tied is not None  # noqa: PT018 - both were checked together.
        self.moment, self.incarnation, self.time = moment, incarnation, time
        if fact is not None:
            self.fact = fact
        if self.gone:
            self.unknown += self.passed - (sequence - head.sequence - 1)
            self.passed = 0
        if self.anchor is None or kind in _ANCHORS:
            self.anchor = identity
        head.sequence, head.chain, head.epoch, head.step, head.ended = sequence, tied, epoch, step, kind == _STREAM_ENDED
        self.topics[topic] = head

    def take_up(self, record: Record) -> None:
        """Moves the end to `record`, the last of its topic, after those of the topics that ended before it. Nothing is checked."""
        self._move(record, self.topic(record.topic))

    def after(self, records: tuple[Record, ...]) -> Self:
        """The end after `records`; this one stays. Raises RuleError for records that do not continue the log."""
        heads = self.copy()
        try:
            for record in records:
                heads.follow(record)
        except DataError as error:
            raise RuleError(str(error)) from error
        return heads

    def tails(self) -> tuple[Tail, ...]:
        """Every topic's last sequence and chain, by topic."""
        return tuple(Tail(topic=name, sequence=head.sequence, chain=head.chain.hex()) for name, head in sorted(self.topics.items()))

    def stream_ends(self, *, stopped: bool = False) -> Iterator[tuple[str, tuple[int, int], StreamEnded]]:
        """The missing StreamEnded of each topic in use, with the epoch and step of the topic's last record.

        The run's own topic ends with RunFinished or RunFailed; only where the run is `stopped` it has a StreamEnded, the last of them. The
        epoch and step that training has reached are not used: records of earlier steps may follow when the run is resumed.
        """
        for name, head in sorted(self.topics.items(), key=lambda item: (item[0] == RUN, item[0])):
            if not head.ended and (stopped or name != RUN):
                yield name, (head.epoch, head.step), StreamEnded(last_step=head.step)

    def pass_over(self, row: int) -> None:
        """Readies the end for a record at `row`. Raises DataError where rows before it are missing and nothing is gone."""
        self.passed = row - self.row - 1
        if self.passed < 0 or (self.passed and not self.gone):
            raise DataError(f"run {self.run}: expected row {self.row + 1}, got row {row}")

    def learn(self, record: Record) -> None:
        """Accounts for rows that are missing before `record`, by what it shows: a sequence that is not the next, tails of its topics."""
        left = self.unknown + self.passed
        tails = _tails_of(record) if record.type in _ENDS else ()
        for topic, last in ((record.topic, (record.sequence or 0) - 1), *((tail.topic, tail.sequence) for tail in tails)):
            first = self.gone.next_sequence(topic, self.topic(topic).sequence)
            if topic in TELEMETRY and 0 <= last - first < left:
                self.gone, left = self.gone.including(topic, first, last), left - (last - first + 1)

    def learn_ends(self, ends: Iterable[TopicEnd], row: int, moment: int) -> None:
        """Accounts for missing rows by ends that are known from elsewhere, and moves there.

        `ends` are those of topics of telemetry; `row` and `moment` are those of the run's last record, which may be gone too.
        """
        self.gone = replace(self.gone, row=row, moment=moment).having(self.unknown + max(0, row - self.row))
        self.reach_ends()
        for end in ends:
            first = self.gone.next_sequence(end.topic, self.topic(end.topic).sequence)
            if end.topic in TELEMETRY and 0 <= end.sequence - first < self.unknown:
                self.gone = replace(self.gone.including(end.topic, first, end.sequence), ends=(*self.gone.ends, end))
                self.reach_ends()
        self.gone = self.gone.having(self.unknown)

    def reach_ends(self) -> None:
        """Moves to the ends that are known of topics whose last records are gone."""
        self.unknown += max(0, self.gone.row - self.row)
        self.moment = Moment(max(self.moment, self.gone.moment))
        for end in self.gone.ends:
            self._reach((Tail(topic=end.topic, sequence=end.sequence, chain=end.chain),))
            head = self.topic(end.topic)
            if head.sequence == end.sequence:
                head.epoch, head.step = max(head.epoch, end.epoch), max(head.step, end.step)

    def verify(self, record: Record) -> None:
        """Like `follow`; the chain must be that of the record's fields after its predecessor's, and a run's end must hold true tails."""
        head = self.topic(record.topic)
        expected = chain(record, head.chain)
        if record.chain != expected and not (self.gone and self.gone.next_sequence(record.topic, head.sequence) > head.sequence + 1):
            got = "none" if record.chain is None else record.chain.hex()
            raise DataError(f"{_named(record)}: expected chain {expected.hex()}, got {got}")
        if record.type in _ENDS:
            tails = _tails_of(record)
            self._reach(tails)
            for written, found in zip_longest(tails, self.tails()):
                if written != found:
                    raise DataError(f"{_named(record)}: expected before it {_ended(written)}, got {_ended(found)}")
        self.follow(record)

    def _reach(self, tails: tuple[Tail, ...]) -> None:
        """Moves the ends of topics whose last records are gone to those that a run's end names."""
        for tail in tails if self.gone else ():
            head = self.topic(tail.topic)
            if head.sequence < tail.sequence < self.gone.next_sequence(tail.topic, head.sequence):
                self.unknown -= tail.sequence - head.sequence
                head.sequence, head.chain, head.ended = tail.sequence, bytes.fromhex(tail.chain), False
                self.topics[tail.topic] = head


def _tails_of(record: Record) -> tuple[Tail, ...]:
    end = decode(record)
    assert isinstance(end, RunFinished | RunFailed)
    return end.tails


def _named(record: Record) -> str:
    return f"run {record.run}, topic {record.topic}, sequence {record.sequence}, moment {record.moment}"


def _difference(record: Record, expected: tuple[object, ...], got: tuple[object, ...]) -> DataError:
    """The error of a record that does not continue the log, with the first field that differs; of none, it lacks its chain."""
    for name, wanted, found in zip(_FIELDS, expected, got, strict=True):
        if wanted != found:
            least = "at least " if name in _LEAST else ""
            return DataError(f"{_named(record)}: expected {name} {least}{_text(wanted)}, got {_text(found)}")
    return DataError(f"{_named(record)}: expected chain 32 bytes, got none")


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _ended(tail: Tail | None) -> str:
    return "no further topic" if tail is None else f"topic {tail.topic} to end with sequence {tail.sequence}, chain {tail.chain}"
