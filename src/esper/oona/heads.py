"""How a run's log ends: the numbers and chains that its next records continue.

This is the one place that says what may come next in a run: sequences dense per topic, moments dense over all topics (a heartbeat has the
last one's), facts dense over the topics of facts and absent elsewhere, time and incarnation never back, epoch and step never back within
a topic. `Heads.next` makes such a record, `Heads.follow` refuses any other; `Heads.verify`, through which a resume walks the whole file,
computes the chains besides.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple, Self

from esper.errors import DataError, RuleError
from esper.events.codec import decode
from esper.events.digests import chain
from esper.events.envelope import EventId, Moment, Record, RunId, heartbeat_id, record_id
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunStarted, StreamEnded, Tail
from esper.events.kinds.telemetry import Heartbeat
from esper.events.topics import FACTS

_ANCHORS = frozenset({RunStarted.KIND, RunResumed.KIND, EpochCompleted.KIND})
_ENDS = frozenset({RunFinished.KIND, RunFailed.KIND})
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _TopicHead:
    """The last record of one topic: its sequence, chain and clocks, and whether it was a StreamEnded. Moves with its `Heads`."""

    sequence: int = 0
    chain: bytes = b""
    epoch: int = 0
    step: int = 0
    ended: bool = False


class Draft(NamedTuple):
    """What is to be recorded next, before it is numbered. `moment` is absent on a heartbeat."""

    kind: str
    topic: str
    moment: Moment | None
    incarnation: int
    time: datetime
    epoch: int
    step: int
    cause: EventId | None
    trace: str | None
    data: bytes


class Heads:
    """The end of one run's log. `anchor` is the last RunStarted, RunResumed or EpochCompleted (or the run's first record), the default
    cause; `epoch` and `step` are the furthest of any record.
    """

    __slots__ = ("anchor", "epoch", "fact", "incarnation", "moment", "run", "step", "time", "topics", "writer")

    def __init__(self, run: RunId, writer: str) -> None:
        self.run = run
        self.writer = writer
        self.moment = Moment(0)
        self.fact = 0
        self.incarnation = 1
        self.time = _BEGINNING
        self.epoch = 0
        self.step = 0
        self.anchor: EventId | None = None
        self.topics: dict[str, _TopicHead] = {}

    def copy(self) -> Self:
        """The same end, to be moved on without moving this one."""
        other = type(self)(self.run, self.writer)
        other.moment, other.fact, other.incarnation, other.time = self.moment, self.fact, self.incarnation, self.time
        other.epoch, other.step, other.anchor = self.epoch, self.step, self.anchor
        other.topics = {name: replace(head) for name, head in self.topics.items()}
        return other

    def topic(self, name: str) -> _TopicHead:
        """The end of topic `name`; zeros and an empty chain where it has no record."""
        return self.topics.get(name) or _TopicHead()

    def next(self, draft: Draft) -> Record:
        """The record that comes next, numbered and chained, and the end moved to it. A time before the last record's is raised to it.

        Raises DataError as `follow` does, for clocks or a moment that do not continue the log; nothing moved then.
        """
        kind, topic, numbered, incarnation, time, epoch, step, cause, trace, data = draft
        head = self.topics.get(topic)
        if head is None:
            head = _TopicHead()
        sequence = head.sequence + 1
        beats = kind == Heartbeat.KIND
        moment = self.moment if numbered is None else numbered
        identity = heartbeat_id(self.run, sequence) if beats else record_id(self.run, moment)
        fact = self.fact + 1 if topic in FACTS else None
        time = max(time, self.time)
        place = (identity, self.run, topic, self.writer, sequence, fact, moment, 0, incarnation, kind, time, epoch, step, cause, trace)
        unchained = Record(*place, None, data)
        tied = chain(unchained, head.chain)
        dense = moment == (self.moment if beats else self.moment + 1)
        if not dense or step < head.step or epoch < head.epoch or incarnation < self.incarnation:
            raise DataError(self._fault(unchained))
        record = Record(*place, tied, data)
        self._move(record, head)
        return record

    def follow(self, record: Record) -> None:
        """Moves the end to `record`. Raises DataError, naming the field, for one that does not continue the log; nothing moved then."""
        identity, run, topic, writer, sequence, fact, moment, generation, incarnation, kind, time, epoch, step, _, _, tied, _ = record
        head = self.topics.get(topic)
        if head is None:
            head = _TopicHead()
        if (
            sequence != head.sequence + 1
            or moment != (self.moment if kind == Heartbeat.KIND else self.moment + 1)
            or fact != (self.fact + 1 if topic in FACTS else None)
            or time < self.time
            or step < head.step
            or epoch < head.epoch
            or incarnation < self.incarnation
            or identity != (heartbeat_id(run, sequence) if kind == Heartbeat.KIND else record_id(run, moment))
            or tied is None
            or generation != 0
            or run != self.run
            or writer != self.writer
        ):
            raise DataError(self._fault(record))
        self._move(record, head)

    def _move(self, record: Record, head: _TopicHead) -> None:
        identity, _, topic, _, sequence, fact, moment, _, incarnation, kind, time, epoch, step, _, _, tied, _ = record
        assert sequence is not None and tied is not None  # noqa: PT018 - both were checked together.
        self.moment, self.incarnation, self.time = moment, incarnation, time
        self.epoch, self.step = max(self.epoch, epoch), max(self.step, step)
        if fact is not None:
            self.fact = fact
        if self.anchor is None or kind in _ANCHORS:
            self.anchor = identity
        head.sequence, head.chain, head.epoch, head.step, head.ended = sequence, tied, epoch, step, kind == StreamEnded.KIND
        self.topics[topic] = head

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

    def verify(self, record: Record) -> None:
        """Like `follow`; the chain must be that of the record's fields after its predecessor's, and a run's end must tell true tails."""
        expected = chain(record, self.topic(record.topic).chain)
        if record.chain != expected:
            got = "none" if record.chain is None else record.chain.hex()
            raise DataError(f"{_named(record)}: expected chain {expected.hex()}, got {got}")
        if record.type in _ENDS:
            self._verify_tails(record)
        self.follow(record)

    def _verify_tails(self, record: Record) -> None:
        end = decode(record)
        assert isinstance(end, RunFinished | RunFailed)
        for told, found in zip_longest(end.tails, self.tails()):
            if told != found:
                raise DataError(f"{_named(record)}: expected before it {_ended(told)}, got {_ended(found)}")

    def advanced_to(self, name: str, *, epoch: int, step: int) -> tuple[int, int]:
        """The clocks for a record of topic `name` that must be written now, wherever training stands: never before the topic's last."""
        head = self.topic(name)
        return max(epoch, head.epoch), max(step, head.step)

    def _fault(self, record: Record) -> str:
        before = self.topic(record.topic)
        moment = self.moment if record.type == Heartbeat.KIND else Moment(self.moment + 1)
        fact = self.fact + 1 if record.topic in FACTS else None
        identity = heartbeat_id(self.run, before.sequence + 1) if record.type == Heartbeat.KIND else record_id(self.run, moment)
        expected: tuple[tuple[str, bool, object, object], ...] = (
            ("run", record.run == self.run, self.run, record.run),
            ("writer", record.writer == self.writer, self.writer, record.writer),
            ("generation", record.generation == 0, 0, record.generation),
            ("sequence", record.sequence == before.sequence + 1, before.sequence + 1, record.sequence),
            ("moment", record.moment == moment, moment, record.moment),
            ("fact", record.fact == fact, fact, record.fact),
            ("incarnation", record.incarnation >= self.incarnation, f"at least {self.incarnation}", record.incarnation),
            ("time", record.time >= self.time, f"at least {self.time.isoformat()}", record.time.isoformat()),
            ("epoch", record.epoch >= before.epoch, f"at least {before.epoch}", record.epoch),
            ("step", record.step >= before.step, f"at least {before.step}", record.step),
            ("id", record.id == identity, identity, record.id),
            ("chain", record.chain is not None, "32 bytes", "none"),
        )
        field, _, wanted, came = next(row for row in expected if not row[1])
        return f"{_named(record)}: expected {field} {wanted}, got {came}"


def _named(record: Record) -> str:
    return f"run {record.run}, topic {record.topic}, sequence {record.sequence}, moment {record.moment}"


def _ended(tail: Tail | None) -> str:
    return "no further topic" if tail is None else f"topic {tail.topic} to end with sequence {tail.sequence}, chain {tail.chain}"
