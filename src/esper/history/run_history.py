"""A run as its log has it: the object that `esper.open` returns, and the run folded so far, which every display draws.

A live run can be opened while it is trained; each answer is of what is on disk at that time. Nothing is written.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from esper.errors import DataError, RuleError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, StreamEnded
from esper.events.kinds.telemetry import Heartbeat, StepsMeasured
from esper.events.topics import FACTS, TOPICS
from esper.folds.control_state import DecisionRow
from esper.folds.run_state import BlockedError, RunState, digest, step
from esper.folds.timeline import Life, Timeline
from esper.history.frame import TOPIC_OF, Frame, frame_of, rows_of
from esper.history.run_list import resolve_run
from esper.history.state_at import PastStates, is_beyond
from esper.oona.contract import START, Log, Position, pages_of, records_of
from esper.oona.directory import Directory
from esper.oona.gone import Gone

PAGE = 1000
_MEASURED = frozenset({Heartbeat.KIND, StepsMeasured.KIND})
_RUN_ENDS = frozenset({RunFinished.KIND, RunFailed.KIND})


@dataclass(slots=True)
class _LatestTelemetry:
    """The newest measurements of a run; None where nothing was measured."""

    records: int = 0
    step: int = 0
    first_time: datetime | None = None
    last_time: datetime | None = None
    step_ms: float | None = None
    data_wait: float | None = None
    learning_rate: float | None = None
    doing: str | None = None

    def count(self, record: Record) -> None:
        """Takes the coordinates of `record`."""
        self.records += 1
        self.first_time = self.first_time or record.time
        self.last_time = record.time
        self.step = max(self.step, record.step)

    def measure(self, record: Record) -> None:
        """Takes the numbers of `record`; telemetry that does not decode is left out."""
        try:
            event = decode(record)
        except DataError:
            return
        match event:
            case Heartbeat():
                self.doing = event.doing
            case StepsMeasured():
                self.step_ms, waited_ms = mean(event.steps.step_latency_ms), mean(event.steps.data_wait_ms)
                # Written so that an unknown or zero step latency gives no share.
                self.data_wait = waited_ms / self.step_ms if waited_ms is not None and self.step_ms else None
                self.learning_rate = event.learning_rates[0] if event.learning_rates else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known and finite in `values`; None where nothing is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


@dataclass(slots=True)
class FoldedRun:
    """A run as far as its log was read: `take` accepts records in the log's order, `read` the next page of a log."""

    run: RunId
    position: Position | None = None
    state: RunState = field(init=False)
    timeline: Timeline = field(default_factory=Timeline)
    telemetry: _LatestTelemetry = field(default_factory=_LatestTelemetry)
    blocked: BlockedError | None = None

    def __post_init__(self) -> None:
        self.state = RunState(self.run)

    def take(self, records: Iterable[Record]) -> None:
        """Folds `records`. Raises BlockedError at a fact that this version cannot understand, and from then on.

        What was taken before it stands. Of telemetry only the last record of each kind is decoded: a display shows no more.
        """
        if self.blocked is not None:
            raise self.blocked
        latest: dict[str, Record] = {}
        try:
            for record in records:
                self.state = step(self.state, record)
                self.timeline.add(record)
                self.telemetry.count(record)
                if record.type in _MEASURED:
                    latest[record.type] = record
        except BlockedError as error:
            self.blocked = error
            raise
        finally:
            for record in latest.values():
                self.telemetry.measure(record)

    def measure_end(self, log: Log) -> None:
        """Takes the telemetry at the end of `log`, and the number of all its records, of which none is read for that."""
        for record in log.last(PAGE):
            self.telemetry.count(record)
            if record.type in _MEASURED:
                self.telemetry.measure(record)
        self.telemetry.records = log.gone().left_of(log.end().records_since(START))

    def read(self, log: Log, limit: int = PAGE, topics: frozenset[str] | None = None) -> tuple[Record, ...]:
        """Takes and returns the next page of `log`; empty at its end as it is now."""
        page = log.read(self.position, limit, topics)
        self.take(page.records)
        self.position = page.position
        return page.records


class History:
    """A run of a log. Usable as a context manager; threads take turns."""

    def __init__(self, log: Log, run: RunId, *, page: int = PAGE) -> None:
        self._log = log
        self._run = run
        self._page = page
        self._facts = FoldedRun(run)
        self._states = PastStates(log, run, page)

    def __repr__(self) -> str:
        return f"History(run={self._run!r})"

    @property
    def run(self) -> RunId:
        """The run's whole id."""
        return self._run

    @property
    def state(self) -> RunState:
        """The state after the last fact on disk now. Raises BlockedError where a fact cannot be understood; `at` reaches before it."""
        return self._caught_up().state

    @property
    def known(self) -> FoldedRun:
        """The run by its facts now: state and timeline up to one that cannot be understood, which `blocked` names. Not a copy."""
        with suppress(BlockedError):
            self._caught_up()
        return self._facts

    @property
    def log(self) -> Log:
        """The log itself; its readers take turns with those of this history."""
        return self._log

    @property
    def seeds(self) -> tuple[Life, ...]:
        """Every life of every seed with the stages it went through, oldest first."""
        return self._caught_up().timeline.lives

    @property
    def decisions(self) -> tuple[DecisionRow, ...]:
        """Every decision with its numbers and its outcome, oldest first."""
        return self._caught_up().timeline.decisions

    @property
    def gone(self) -> Gone:
        """The telemetry that this copy of the run lacks, because Kafka had deleted it; of any other run nothing."""
        return self._log.gone()

    @property
    def end(self) -> int:
        """The last moment of the run that is on disk."""
        return self._states.end

    def at(self, *, moment: int | None = None, epoch: int | None = None) -> RunState:
        """The state at `moment`, or when `epoch` was over. Raises RuleError where the run has not got there, naming how far it goes."""
        return self._states.at(moment, epoch)

    def folded(self, *, moment: int | None = None, epoch: int | None = None) -> FoldedRun:
        """The run with its telemetry at `moment`, or when `epoch` was over, or (neither) now.

        A run with a fact that this version cannot understand is folded up to it; `blocked` names it.
        """
        self._states.require_reached(moment, epoch)
        folded = FoldedRun(self._run)
        now = moment is None and epoch is None
        with suppress(BlockedError):
            folded.take(takewhile(lambda record: not is_beyond(record, moment, epoch), self.records(FACTS if now else None)))
        if now:
            folded.measure_end(self._log)
        return folded

    def digest(self, moment: int | None = None) -> str:
        """The digest of the state at `moment`, or now."""
        return digest(self.state if moment is None else self.at(moment=moment))

    def records(self, topics: frozenset[str] | None = None) -> Iterator[Record]:
        """The records of `topics` (None: all) that are on disk when they are reached, in the log's order. Raises LogError at a gap."""
        for topic in sorted(topics or ()):
            if topic not in TOPICS:
                raise RuleError(f"expected a topic of the catalogue ({', '.join(TOPICS)}), got {topic!r}")
        yield from records_of(self._log, topics, self._page)

    def follow(
        self, topics: frozenset[str] | None = None, *, wait_s: float = 1.0, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Record]:
        """The records of `topics`, then those that are written from then on, until the run has ended. Blocks, `wait_s` at a time.

        A run that failed and was resumed has not ended. A run whose process was killed goes on when it is resumed: `waiting` is called
        before every wait, so that the caller can report it.
        """
        position, ended = START, False
        while True:
            for page in pages_of(self._log, position, None, self._page):
                position = page.position
                for record in page.records:
                    ended = record.type in _RUN_ENDS or (ended and record.type != RunResumed.KIND)
                    if topics is None or record.topic in topics:
                        yield record
            if ended:
                return
            waiting()
            self._log.wait(position, wait_s)

    def events(self, topic: str) -> Iterator[tuple[Record, Event]]:
        """The records of `topic` with the event in each, in order. Raises DataError at one that does not decode."""
        for record in self.records(frozenset({topic})):
            yield record, decode(record)

    def frame(self, topic: str) -> Frame:
        """`topic` ("steps", "epochs", "health", or its whole name) as a table: a row a record, or one a measured step or seed.

        Coordinates stand first; what was not measured is None. An entry of columns replaces a coordinate of its name: `step` of a measured
        step is that step. StreamEnded has no row. Raises RuleError for a topic that there is not.
        """
        events = self.events(TOPIC_OF.get(topic, topic))
        return frame_of([row for record, event in events if not isinstance(event, StreamEnded) for row in rows_of(record, event)])

    def close(self) -> None:
        """Closes the log where it holds a file open."""
        close = getattr(self._log, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _caught_up(self) -> FoldedRun:
        while self._facts.read(self._log, self._page, FACTS):
            pass
        return self._facts


def open_run(run: str, log: str | Path = "runs") -> History:
    """The history of `run` (an id, a unique prefix or suffix, a unique name, or `latest`) in the log directory `log`.

    Raises LogError where there is no such directory, RuleError where `run` means no run of it or several, naming those there are.
    """
    directory = Directory(Path(log))
    identity = resolve_run(directory, run)
    return History(directory.open(identity), identity)
