"""A run's history as its log has it: what `esper.open` returns. Nothing is kept but what the log says, and nothing is written.

The state "at epoch E" is the state when that epoch was over and what was decided after it had taken effect: after the last fact whose
epoch is at most E. A live run can be opened while it is trained; every question is answered from what is on disk when it is asked.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from esper.errors import RuleError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunRolledBack, StreamEnded
from esper.events.topics import EPOCH, FACTS, RUN, TOPICS
from esper.folds.control_state import DecisionRow
from esper.folds.run_state import BlockedError, RunState, digest, initial, step
from esper.folds.timeline import Life
from esper.history.rows import rows_of
from esper.history.view import PAGE, Reading
from esper.oona.contract import START, Log, Position, pages_of, records_of
from esper.oona.directory import Directory

_RUN_ENDS = frozenset({RunFinished.KIND, RunFailed.KIND})
_EPOCH_TOPICS = frozenset({EPOCH, RUN})
_EPOCH_ENDS = frozenset({EpochCompleted.KIND, RunRolledBack.KIND})


class _Mark(NamedTuple):
    """A state that was reached, and where the log goes on after it: `at` folds from the nearest mark, not from the start."""

    moment: int
    epoch: int
    position: Position | None
    state: RunState


class History:
    """One run of a log, to be asked. Usable as a context manager; threads take turns."""

    def __init__(self, log: Log, run: RunId, *, page: int = PAGE) -> None:
        self._log = log
        self._run = run
        self._page = page
        self._reading = Reading(run)
        self._marks = [_Mark(0, 0, None, initial(run))]
        self._reach: Position | None = None
        self._epoch = 0

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
    def known(self) -> Reading:
        """The run as its facts tell it now: state and timeline up to one that cannot be understood, which `blocked` names. Not a copy."""
        with suppress(BlockedError):
            self._caught_up()
        return self._reading

    @property
    def log(self) -> Log:
        """The log that is asked; whoever reads it besides takes turns with whoever asks this history."""
        return self._log

    @property
    def seeds(self) -> tuple[Life, ...]:
        """Every life of every seed with the stages it went through, oldest first."""
        return self._caught_up().timeline.lives

    @property
    def decisions(self) -> tuple[DecisionRow, ...]:
        """Every decision with its numbers and what became of it, oldest first."""
        return self._caught_up().timeline.decisions

    def at(self, *, moment: int | None = None, epoch: int | None = None) -> RunState:
        """The state at `moment`, or when `epoch` was over. Raises RuleError where the run has not got there, naming how far it goes."""
        if (moment is None) == (epoch is None):
            raise RuleError("expected either a moment or an epoch")
        if moment is not None:
            self._require_moment(moment)
            return self._at(self._nearest(moment=moment), moment=moment)
        assert epoch is not None
        self._require_epoch(epoch)
        return self._at(self._nearest(epoch=epoch), epoch=epoch)

    def reading(self, *, moment: int | None = None, epoch: int | None = None) -> Reading:
        """Everything that a view shows, at `moment`, or when `epoch` was over, or (neither) now; telemetry included.

        A run with a fact that this version cannot understand is read up to it; the reading's `blocked` says so.
        """
        if moment is not None:
            self._require_moment(moment)
        if epoch is not None:
            self._require_epoch(epoch)
        reading = Reading(self._run)
        with suppress(BlockedError):
            reading.take(takewhile(lambda record: not _beyond(record, moment, epoch), self.records()))
        return reading

    def digest(self, moment: int | None = None) -> str:
        """The digest of the state at `moment`, or now."""
        return digest(self.state if moment is None else self.at(moment=moment))

    def records(self, topics: frozenset[str] | None = None) -> Iterator[Record]:
        """The records of `topics` (None: all) that are on disk when they are reached, in the log's order. Raises LogError at a hole."""
        for topic in sorted(topics or ()):
            _require_topic(topic)
        yield from records_of(self._log, topics, self._page)

    def follow(
        self, topics: frozenset[str] | None = None, *, wait_s: float = 1.0, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Record]:
        """The records of `topics`, then those that are written from then on, until the run has ended. Blocks, `wait_s` at a time.

        A run that failed and was resumed has not ended. One whose process was killed goes on once somebody resumes it: `waiting` is called
        before every wait, so that whoever follows can say so.
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

    def frame(self, topic: str) -> list[dict[str, object]]:
        """`topic` as flat rows for a data frame: one a record, one a measured step or seed where a record holds columns.

        `pandas.DataFrame(history.frame(topic))` is a table. Coordinates stand first; what was not measured is None. StreamEnded has no row.
        """
        return [row for record, event in self.events(topic) if not isinstance(event, StreamEnded) for row in rows_of(record, event)]

    @property
    def end(self) -> int:
        """The last moment of the run that is on disk."""
        newest = self._log.last()
        return newest[0].moment if newest else 0

    def close(self) -> None:
        """Lets go of the log, where it holds anything."""
        close = getattr(self._log, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _caught_up(self) -> Reading:
        while self._reading.read(self._log, self._page, FACTS):
            pass
        return self._reading

    def _nearest(self, *, moment: int | None = None, epoch: int | None = None) -> _Mark:
        if moment is not None:
            return self._marks[bisect_right(self._marks, moment, key=lambda mark: mark.moment) - 1]
        assert epoch is not None
        # The last mark of an *earlier* epoch: one of the same epoch may stand after the rest of it only by luck.
        return self._marks[max(0, bisect_right(self._marks, epoch - 1, key=lambda mark: mark.epoch) - 1)]

    def _at(self, mark: _Mark, *, moment: int | None = None, epoch: int | None = None) -> RunState:
        state = mark.state
        for page in pages_of(self._log, mark.position, FACTS, self._page):
            for record in page.records:
                if _beyond(record, moment, epoch):
                    return state
                state = step(state, record)
            if len(page.records) == self._page and state.moment > self._marks[-1].moment:
                self._marks.append(_Mark(state.moment, state.epoch, page.position, state))
        return state

    def _require_moment(self, moment: int) -> None:
        last = self.end
        if not 0 <= moment <= last:
            raise RuleError(f"run {self._run}: expected a moment from 0 to {last}, the last on disk, got {moment}")

    def _require_epoch(self, epoch: int) -> None:
        last = self._last_epoch()
        if not 0 <= epoch <= last:
            raise RuleError(f"run {self._run}: expected an epoch from 0 to {last}, the last that is over, got {epoch}")

    def _last_epoch(self) -> int:
        """The last epoch that is over, asked without understanding any: a run whose fold is blocked still has one."""
        for page in pages_of(self._log, self._reach, _EPOCH_TOPICS, self._page):
            self._epoch = max(self._epoch, *(record.epoch for record in page.records if record.type in _EPOCH_ENDS), 0)
            self._reach = page.position
        return self._epoch


def open_run(run: str, log: str | Path = "runs") -> History:
    """The history of `run` (an id, a unique prefix or suffix, or `latest`) in the log directory `log`.

    Raises LogError where there is no such directory, RuleError where `run` means no run of it or several, naming those there are.
    """
    directory = Directory(Path(log))
    identity = directory.resolve(run)
    return History(directory.open(identity), identity)


def _beyond(record: Record, moment: int | None, epoch: int | None) -> bool:
    return (moment is not None and record.moment > moment) or (epoch is not None and record.epoch > epoch)


def _require_topic(topic: str) -> None:
    if topic not in TOPICS:
        raise RuleError(f"expected a topic of the catalogue ({', '.join(TOPICS)}), got {topic!r}")
