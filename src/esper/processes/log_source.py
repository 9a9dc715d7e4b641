"""A log directory as Nissa sees it: lists, states and pages, each answered from the disk when it is asked for.

Nothing is followed here. A few runs are kept open, each with what was folded of it so far, so that the next question reads only what came
since; a run that ends is let go of at once, for an open file keeps its writer from sealing it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

from esper.errors import LogError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId, is_training
from esper.events.fields import Event
from esper.events.kinds.observability import WindowAggregated
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.events.topics import AGGREGATES, TOPICS, TopicClass
from esper.folds.run import RunState
from esper.folds.timeline import Decided
from esper.history.run import History
from esper.history.run_list import RunList
from esper.nissa.source import AmbiguousRunError, Cut, Freshness, Known, NotReachedError, UnknownRunError
from esper.nissa.views.records import Aggregate
from esper.nissa.views.runs import DecisionView, LifeView, NoteView, RunSummary
from esper.oona import observed, reader, seal
from esper.oona.contract import Page, Position
from esper.oona.directory import LATEST, Directory

OPEN = 16  # Runs that are kept open.
HISTORY = 100  # Windows of one metric that are kept.
_DERIVED = frozenset(name for name, topic in TOPICS.items() if topic.kind is TopicClass.DERIVED)
_OWN = frozenset(TOPICS) - _DERIVED
_ENDS = 32


class _Held:
    """One run that is kept open. Whoever uses it holds its lock."""

    def __init__(self, history: History) -> None:
        self.lock = Lock()
        self.history = history
        self.known: Known | None = None
        self._decisions: dict[str, tuple[Decided, DecisionView]] = {}
        self.windows = _Windows()

    def facts(self) -> Known:
        """What the facts tell now; the same object while nothing was added."""
        reading = self.history.known
        if self.known is None or self.known.state is not reading.state or (reading.blocked is not None) != (self.known.blocked is not None):
            self.known = Known(
                reading.state,
                tuple(map(LifeView.model_validate, reading.timeline.lives)),
                tuple(map(self._decision, reading.timeline.decisions)),
                tuple(map(NoteView.model_validate, reading.timeline.notes)),
                None if reading.blocked is None else str(reading.blocked),
            )
        return self.known

    def _decision(self, decided: Decided) -> DecisionView:
        """The view of a decision, made again only when its fate has changed: a long run has thousands."""
        kept = self._decisions.get(decided.id)
        if kept is None or kept[0] is not decided:
            kept = self._decisions[decided.id] = (decided, _decision(decided))
        return kept[1]


class _Windows:
    """The last windows of every metric of a run, as far as they were read."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.kept: dict[tuple[str, str], list[Aggregate]] = {}

    def take(self, records: Sequence[Record]) -> None:
        """Takes more of them."""
        for record in records:
            event = decode(record)
            if isinstance(event, WindowAggregated):
                kept = self.kept.setdefault((event.topic, event.metric), [])
                kept.append(Aggregate(**dict(event), moment=record.moment))
                del kept[:-HISTORY]


class Follows(Protocol):
    """Whoever follows the log: how far that has come, and what it found firing."""

    def freshness(self) -> Freshness: ...
    def firing(self) -> Sequence[Record]: ...


class LogSource:
    """The runs of one directory. What only following can tell is asked of `following`; `record` writes custom metrics."""

    def __init__(
        self,
        directory: Directory,
        *,
        following: Follows,
        record: Callable[[Sequence[CustomMetricRecorded]], None],
    ) -> None:
        self._directory = directory
        self._list = RunList(directory)
        self._lock = Lock()
        self._open: OrderedDict[RunId, _Held] = OrderedDict()
        self._following = following
        self._record = record

    def runs(self) -> Sequence[RunSummary]:
        """Every run, the newest first."""
        return [RunSummary.model_validate(one) for one in self._list.lines()]

    def resolve(self, ref: str) -> RunId:
        """The run that `ref` means. Raises UnknownRunError, AmbiguousRunError."""
        return self._resolved(ref, self._list.names()) or self._required(ref)

    def summary(self, run: RunId) -> RunSummary:
        """The line of `run` in a list."""
        line = self._list.line(run)
        if line is None:
            raise UnknownRunError(f"expected a run of {self._directory.path}")
        return RunSummary.model_validate(line)

    def mark(self, run: RunId) -> str | None:
        """A digest of the seal of `run`; None while it is not sealed."""
        mark = seal.read_mark(self._directory.path / run)
        return None if mark is None else hashlib.sha256(mark.encode()).hexdigest()[:32]

    def known(self, run: RunId) -> Known:
        """What the facts of `run` tell now."""
        with self._held(run) as held:
            return held.facts()

    def state(self, run: RunId, moment: int) -> RunState:
        """The state at `moment`. Raises NotReachedError."""
        with self._held(run) as held:
            last = held.history.end
            if moment > last:
                raise NotReachedError(last)
            return held.history.at(moment=moment)

    def page(self, run: RunId, after: str | None, limit: int, topics: frozenset[str] | None) -> Cut:
        """Records of `run` after the cursor; derived ones after the run's own."""
        position = _position(after)
        own = _OWN if topics is None else topics & _OWN
        derived = frozenset[str]() if topics is None else topics & _DERIVED
        pages: list[Page] = []
        if own or not derived:
            with self._held(run) as held:
                pages.append(held.history.log.read(_part(position, reader.FILE), limit, None if own == _OWN else own))
        found = sum(len(page.records) for page in pages)
        if derived and found < limit:
            folder = self._directory.path / run
            pages.append(observed.read_observed(folder, run, _part(position, observed.FILE), limit - found, derived))
        records = tuple(record for page in pages for record in page.records)
        return Cut(records, _cursor(position, *(page.position for page in pages)), len(records) == limit)

    def latest(self, run: RunId, kind: type[Event], limit: int) -> Sequence[Record]:
        """The newest `limit` records of `kind`, oldest first."""
        with self._held(run) as held:
            # A topic also holds the StreamEnded of every life of the run; few, but they must not stand in the way.
            found = held.history.log.last(limit + _ENDS, frozenset({kind.TOPIC}))
        return [record for record in found if record.type == kind.KIND][-limit:]

    def near_end(self, run: RunId, after: str | None, keep: int) -> tuple[str, int]:
        """Where a reader goes on who may be `keep` records behind, and how many that skips. Without a cursor: at the end."""
        position = _position(after)
        with self._held(run) as held:
            at, missed = held.history.log.skip(_part(position, reader.FILE), keep)
        if after is not None:
            return _cursor(position, at), missed
        return _cursor(at, observed.end_of_observed(self._directory.path / run)), 0

    def firing(self) -> Sequence[Record]:
        """The AlertFiring of every alert that fires now."""
        return self._following.firing()

    def aggregates(self, run: RunId) -> Sequence[Aggregate]:
        """The last 100 windows of every metric of `run`, oldest first."""
        folder = self._directory.path / run
        with self._held(run) as held:
            windows = held.windows
            while True:
                page = observed.read_observed(folder, run, windows.position, topics=frozenset({AGGREGATES}))
                windows.take(page.records)
                windows.position = page.position
                if not page.records:
                    return [window for kept in windows.kept.values() for window in kept]

    def freshness(self) -> Freshness:
        """How far the service has read."""
        return self._following.freshness()

    def record(self, samples: Sequence[CustomMetricRecorded]) -> None:
        """Makes `samples` durable, all or none."""
        self._record(samples)

    def release(self, run: RunId) -> None:
        """Lets go of the file of `run`; the next question opens it again."""
        with self._lock:
            held = self._open.get(run)
        if held is not None:
            with held.lock:
                held.history.close()

    def close(self) -> None:
        """Lets go of every file."""
        with self._lock:
            names = list(self._open)
        for name in names:
            self.release(name)

    def _required(self, ref: str) -> RunId:
        found = self._resolved(ref, self._list.names(afresh=True))
        if found is None:
            raise UnknownRunError(f"expected a run of {self._directory.path}")
        return found

    def _resolved(self, ref: str, names: Sequence[RunId]) -> RunId | None:
        if ref in names:
            return RunId(ref)
        shown = [name for name in names if is_training(name)]
        if ref == LATEST:
            return shown[0] if shown else None
        meant = [name for name in shown if name.startswith(ref) or name.endswith(ref)]
        if len(meant) > 1:
            raise AmbiguousRunError(f"{len(meant)} runs of {self._directory.path} begin or end so")
        return meant[0] if meant else None

    @contextmanager
    def _held(self, run: RunId) -> Iterator[_Held]:
        held = self._taken(run)
        with held.lock:
            try:
                yield held
            except LogError:
                # Whatever is wrong with the file: nothing made of it is kept.
                self._drop(run, held)
                raise

    def _taken(self, run: RunId) -> _Held:
        with self._lock:
            held = self._open.get(run)
            if held is not None:
                self._open.move_to_end(run)
                return held
        opened = _Held(History(self._directory.open(run), run))
        with self._lock:
            held = self._open.setdefault(run, opened)
            self._open.move_to_end(run)
            out = self._open.popitem(last=False)[1] if len(self._open) > OPEN else None
        if held is not opened:
            opened.history.close()
        if out is not None:
            with out.lock:
                out.history.close()
        return held

    def _drop(self, run: RunId, held: _Held) -> None:
        with self._lock:
            if self._open.get(run) is held:
                del self._open[run]
        held.history.close()


def _decision(decided: Decided) -> DecisionView:
    wish = decided.decision
    return DecisionView(
        id=decided.id,
        moment=decided.moment,
        epoch=decided.epoch,
        adaptation=wish.adaptation,
        site=wish.site,
        seed=wish.seed,
        blueprint=wish.blueprint,
        confidence=wish.confidence,
        urgency=wish.urgency,
        reason=wish.reason,
        evidence=wish.evidence,
        fate=decided.fate,
        rule=decided.rule,
        detail=decided.detail,
    )


def _position(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    own, _, derived = cursor.partition(".")
    return Position(((observed.FILE, int(derived)), (reader.FILE, int(own))))


def _part(position: Position | None, file: str) -> Position | None:
    return None if position is None else Position(((file, position.row(file)),))


def _cursor(*positions: Position | None) -> str:
    rows = {file: row for position in positions if position is not None for file, row in position.rows}
    return f"{rows.get(reader.FILE, 0)}.{rows.get(observed.FILE, 0)}"
