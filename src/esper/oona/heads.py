"""How a run's log ends: the numbers and chains that its next records continue.

`Heads.follow` is the one place that says what may come next in a run: sequences dense per topic, moments dense over all topics
(a heartbeat has the last one's), facts dense over the facts, time and incarnation never back, epoch and step never back within a
topic. Both logs refuse what does not follow, and a resume walks the whole file through it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from esper.errors import DataError
from esper.events.digests import chain
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunResumed, RunStarted, StreamEnded
from esper.events.kinds.telemetry import Heartbeat

ANCHORS = frozenset({RunStarted.KIND, RunResumed.KIND, EpochCompleted.KIND})
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TopicHead:
    """The last record of one topic: its sequence, chain and clocks, and whether it was a StreamEnded."""

    sequence: int = 0
    chain: bytes = b""
    epoch: int = 0
    step: int = 0
    ended: bool = False


_EMPTY = TopicHead()


class Heads:
    """The end of one run's log. `anchor` is the last RunStarted, RunResumed or EpochCompleted (or the run's first record), the default
    cause; `epoch` and `step` are the last record's.
    """

    __slots__ = ("anchor", "epoch", "fact", "incarnation", "moment", "run", "step", "time", "topics", "writer")

    def __init__(self, run: RunId, writer: str) -> None:
        self.run = run
        self.writer = writer
        self.moment = Moment(0)
        self.fact = 0
        self.incarnation = 1
        self.time = BEGINNING
        self.epoch = 0
        self.step = 0
        self.anchor: EventId | None = None
        self.topics: dict[str, TopicHead] = {}

    def copy(self) -> Self:
        """The same end, to be moved on without moving this one."""
        other = type(self)(self.run, self.writer)
        other.moment, other.fact, other.incarnation, other.time = self.moment, self.fact, self.incarnation, self.time
        other.epoch, other.step, other.anchor, other.topics = self.epoch, self.step, self.anchor, self.topics.copy()
        return other

    def topic(self, name: str) -> TopicHead:
        """The end of topic `name`; zeros and an empty chain where it has no record."""
        return self.topics.get(name, _EMPTY)

    def follow(self, record: Record) -> None:
        """Moves the end to `record`. Raises DataError, naming the field, for one that does not continue the log; nothing moved then."""
        before = self.topics.get(record.topic, _EMPTY)
        moment = self.moment if record.type == Heartbeat.KIND else self.moment + 1
        if (
            record.sequence != before.sequence + 1
            or record.moment != moment
            or (record.fact is not None and record.fact != self.fact + 1)
            or record.time < self.time
            or record.step < before.step
            or record.epoch < before.epoch
            or record.incarnation < self.incarnation
            or record.chain is None
            or record.generation != 0
            or record.run != self.run
            or record.writer != self.writer
        ):
            raise DataError(self._fault(record, before, moment))
        self.moment = record.moment
        if record.fact is not None:
            self.fact = record.fact
        self.incarnation, self.time, self.epoch, self.step = record.incarnation, record.time, record.epoch, record.step
        if self.anchor is None or record.type in ANCHORS:
            self.anchor = record.id
        ended = record.type == StreamEnded.KIND
        self.topics[record.topic] = TopicHead(record.sequence, record.chain, record.epoch, record.step, ended)

    def verify(self, record: Record) -> None:
        """Like `follow`, and the record's chain must be the one computed from its fields and its predecessor's chain."""
        expected = chain(record, self.topic(record.topic).chain)
        if record.chain != expected:
            raise DataError(
                f"run {record.run}, topic {record.topic}, sequence {record.sequence}, moment {record.moment}: "
                f"expected chain {expected.hex()}, got {'none' if record.chain is None else record.chain.hex()}"
            )
        self.follow(record)

    def advanced_to(self, name: str, *, epoch: int, step: int) -> tuple[int, int]:
        """The clocks for a record of topic `name` that must be written now, wherever training stands: never before the topic's last."""
        head = self.topic(name)
        return max(epoch, head.epoch), max(step, head.step)

    def _fault(self, record: Record, before: TopicHead, moment: int) -> str:
        expected: tuple[tuple[str, bool, object, object], ...] = (
            ("run", record.run == self.run, self.run, record.run),
            ("writer", record.writer == self.writer, self.writer, record.writer),
            ("generation", record.generation == 0, 0, record.generation),
            ("sequence", record.sequence == before.sequence + 1, before.sequence + 1, record.sequence),
            ("moment", record.moment == moment, moment, record.moment),
            ("fact", record.fact is None or record.fact == self.fact + 1, self.fact + 1, record.fact),
            ("incarnation", record.incarnation >= self.incarnation, f"at least {self.incarnation}", record.incarnation),
            ("time", record.time >= self.time, f"at least {self.time.isoformat()}", record.time.isoformat()),
            ("epoch", record.epoch >= before.epoch, f"at least {before.epoch}", record.epoch),
            ("step", record.step >= before.step, f"at least {before.step}", record.step),
            ("chain", record.chain is not None, "32 bytes", "none"),
        )
        field, _, wanted, came = next(row for row in expected if not row[1])
        at = f"run {self.run}, topic {record.topic}, sequence {record.sequence}, moment {record.moment}"
        return f"{at}: expected {field} {wanted}, got {came}"
