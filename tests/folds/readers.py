"""A reader for tests: what a host does with `admit`, `FactOrder` and the fold, where it can read a gap again; and ways to deliver a log."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from esper.events import topics
from esper.events.envelope import Record, RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.folds.fact_order import FactOrder, merge
from esper.folds.gaps_and_duplicates import Admission, Apply, Drop, Gap, Reason, admit, skip_gap
from esper.folds.run_state import RunState, digest, step
from tests.folds.histories import fold

Reread = Callable[[RunId, str, int, int], Iterable[Record]]
Repeat = tuple[int, int, int]


class Missing(NamedTuple):
    """A gap: the first and the last missing sequence of a topic."""

    run: RunId
    topic: str
    first: int
    last: int


def nothing(_run: RunId, _topic: str, _first: int, _last: int) -> Iterable[Record]:
    """Where there is no log to read again from."""
    return ()


def from_log(log: Sequence[Record]) -> Reread:
    """Reads again from `log`."""
    return lambda run, topic, first, last: [
        record for record in log if (record.run, record.topic) == (run, topic) and record.sequence in range(first, last + 1)
    ]


def local_digests(records: Iterable[Record]) -> list[str]:
    """What a reader must come to: the digests of the state after every EpochCompleted of a local log, and at its end.

    Neither admission nor merging has a part in it.
    """
    state, digests = None, []
    for record in records:
        state = fold([record], state)
        if record.type == EpochCompleted.KIND:
            digests.append(digest(state))
    return digests if state is None else [*digests, digest(state)]


@dataclass
class Reader:
    """Takes records as they come. `epochs` are a run's states after each EpochCompleted, `blocked` are gaps of facts that stayed open."""

    reread: Reread = nothing
    admissions: dict[tuple[RunId, str], Admission] = field(default_factory=dict)
    merges: dict[RunId, FactOrder] = field(default_factory=dict)
    states: dict[RunId, RunState] = field(default_factory=dict)
    epochs: dict[RunId, list[RunState]] = field(default_factory=dict)
    applied: list[Record] = field(default_factory=list)
    gaps: list[Missing] = field(default_factory=list)
    blocked: list[Missing] = field(default_factory=list)
    skipped: Counter[tuple[RunId, str]] = field(default_factory=Counter)
    expired: Counter[tuple[RunId, str]] = field(default_factory=Counter)
    drops: list[Drop] = field(default_factory=list)

    @property
    def conflicts(self) -> list[Drop]:
        """What was dropped as a fault."""
        return [drop for drop in self.drops if drop.reason is Reason.CONFLICT]

    def going_on(self) -> "Reader":
        """A reader that begins with what this one would have saved, and has seen nothing itself."""
        return Reader(self.reread, dict(self.admissions), dict(self.merges), dict(self.states))

    def epoch_digests(self, run: RunId) -> list[str]:
        """The digests of the state of `run` after every EpochCompleted that was met here."""
        return [digest(state) for state in self.epochs.get(run, ())]

    def digests(self, run: RunId) -> list[str]:
        """`epoch_digests`, and the digest of the state as it is now."""
        return [*self.epoch_digests(run), digest(self.states[run])]

    def take_all(self, records: Iterable[Record]) -> "Reader":
        """This reader, after `records`."""
        for record in records:
            self.take(record)
        return self

    def take(self, record: Record) -> None:
        """Does with one record what its verdict says."""
        key = (record.run, record.topic)
        match admit(self.admissions.get(key, Admission()), record):
            case Apply(admission, expired):
                self.admissions[key] = admission
                if expired:
                    self.expired[key] += expired
                self._apply(record)
            case Drop() as drop:
                self.drops.append(drop)
            case Gap(admission, from_, to):
                self.admissions[key] = admission
                missing = Missing(record.run, record.topic, from_, to)
                self.gaps.append(missing)
                self.fill(missing)
                self.take(record)

    def fill(self, missing: Missing) -> None:
        """Reads an open gap again; telemetry that is not found is skipped, a fact that is not found leaves its topic where it is."""
        self.take_all(self.reread(*missing))
        key = (missing.run, missing.topic)
        left = self.admissions[key].gap
        if left is None:
            return
        if missing.topic not in topics.TELEMETRY:
            self.blocked.append(Missing(missing.run, missing.topic, *left))
            return
        self.skipped[key] += left[1] - left[0] + 1
        self.admissions[key] = skip_gap(self.admissions[key], missing.topic)

    def _apply(self, record: Record) -> None:
        self.applied.append(record)
        if record.fact is None:
            return
        self.merges[record.run], ready = merge(self.merges.get(record.run, FactOrder(record.run)), record)
        self._fold(record.run, ready)

    def _fold(self, run: RunId, facts: Sequence[Record]) -> None:
        state = self.states.get(run, RunState(run))
        for fact in facts:
            state = step(state, fact)
            if fact.type == EpochCompleted.KIND:
                self.epochs.setdefault(run, []).append(state)
        self.states[run] = state


def interleaved(records: Sequence[Record], order: Sequence[int]) -> list[Record]:
    """`records` in another order that keeps each topic's own: the topics take turns as the permutation `order` of places says."""
    queues: dict[str, list[Record]] = {}
    for record in records:
        queues.setdefault(record.topic, []).append(record)
    left = {topic: iter(queue) for topic, queue in queues.items()}
    return [next(left[records[place].topic]) for place in order]


def repeated(delivery: Sequence[Record], repeats: Sequence[Repeat]) -> list[Record]:
    """`delivery` with stretches sent again: each repeat says behind which place, from where and how many (all modulo what was sent)."""
    sent = list(delivery)
    for behind, start, count in repeats:
        place = behind % len(sent) + 1
        first = start % place
        sent[place:place] = sent[first : min(first + count, place)]
    return sent
