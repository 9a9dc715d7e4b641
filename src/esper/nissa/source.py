"""What Nissa asks of whoever holds the log: a protocol, and the errors of its answers. Nissa itself opens no file.

Every method may be called from any thread and answers from what is on disk when it is called. A cursor is a text that only its maker reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from esper.errors import LogError, RuleError
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.folds.run import RunState, digest
from esper.nissa.views.records import Aggregate
from esper.nissa.views.runs import DecisionView, LifeView, NoteView, RunSummary


class UnknownRunError(RuleError):
    """No run begins or ends with what was asked for."""


class AmbiguousRunError(RuleError):
    """Several runs begin or end with what was asked for."""


class NotReachedError(RuleError):
    """The run has no such moment yet; `last` is the last it has."""

    def __init__(self, last: int) -> None:
        super().__init__(f"expected a moment from 0 to {last}")
        self.last = last


class NotRecordedError(LogError):
    """Samples could not be made durable now; `why` says it without paths."""


@dataclass(frozen=True)
class Known:
    """What the facts of a run tell now: state, lives, decisions, notes; `blocked` says why it stops short of the end."""

    state: RunState
    lives: Sequence[LifeView]
    decisions: Sequence[DecisionView]
    notes: Sequence[NoteView]
    blocked: str | None

    @cached_property
    def digest(self) -> str:
        """The state's; made once, for a large state takes a while."""
        return digest(self.state)


class Cut(NamedTuple):
    """Records in order, the cursor after them, and whether more stood there."""

    records: Sequence[Record]
    cursor: str
    more: bool


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the service has read: seconds since everything on disk had been read (None: never yet), and what it follows."""

    lag_s: float | None
    following: int
    live: int
    observed_by: int | None
    """The process that observes and delivers; None: nobody does."""


class Source(Protocol):
    """A log as Nissa sees it."""

    def runs(self) -> Sequence[RunSummary]:
        """Every run, the newest first."""
        ...

    def resolve(self, ref: str) -> RunId:
        """The run that `ref` means: an id, its unique beginning or end, or `latest`. Raises UnknownRunError, AmbiguousRunError."""
        ...

    def summary(self, run: RunId) -> RunSummary:
        """The line of `run` in a list."""
        ...

    def mark(self, run: RunId) -> str | None:
        """A digest of the seal of `run`; None while it is not sealed. What is read of a sealed run never changes."""
        ...

    def known(self, run: RunId) -> Known:
        """What the facts of `run` tell now."""
        ...

    def state(self, run: RunId, moment: int) -> RunState:
        """The state at `moment`, by the fold that made it live. Raises NotReachedError."""
        ...

    def page(self, run: RunId, after: str | None, limit: int, topics: frozenset[str] | None) -> Cut:
        """Records of `run` after the cursor (None: from the first), of `topics` (None: all of the run's own)."""
        ...

    def latest(self, run: RunId, kind: type[Event], limit: int) -> Sequence[Record]:
        """The newest `limit` records of `kind` that `run` itself wrote, oldest first."""
        ...

    def near_end(self, run: RunId, after: str | None, keep: int) -> tuple[str, int]:
        """The cursor to go on at who reads after `after` (None: at the end) and may be `keep` records behind, and how many that skips."""
        ...

    def firing(self) -> Sequence[Record]:
        """The AlertFiring of every alert that fires now, oldest first."""
        ...

    def aggregates(self, run: RunId) -> Sequence[Aggregate]:
        """The last 100 aggregates of every metric of `run`, oldest first."""
        ...

    def freshness(self) -> Freshness:
        """How far the service has read."""
        ...

    def record(self, samples: Sequence[CustomMetricRecorded]) -> None:
        """Makes `samples` durable, all or none, before it returns. Raises NotRecordedError."""
        ...
