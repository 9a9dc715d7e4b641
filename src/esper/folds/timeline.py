"""What a run did, in the order a person asks about it: the lives of its seeds and the decisions with what became of each.

A collector over a run's facts, fed record by record like the fold beside it; it keeps what a view shows and the fold's state does not:
history. It must never read a clock or a file, and it decides nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from esper.events.codec import decode
from esper.events.envelope import EventId, Moment, Record
from esper.events.fields import Event
from esper.events.kinds.control import (
    Adaptation,
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
)
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunRolledBack, RunStarted, SamplesDropped

Slot = tuple[str, int]
Fate = Literal["pending", "applied", "refused", "command refused", "failed", "recorded"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stage of one life, from the end of `from_epoch` to the end of `to_epoch`; None while it lasts."""

    stage: Stage
    from_epoch: int
    to_epoch: int | None
    moment: Moment
    reason: str


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a seed: what grew in a slot from one germination on. `undone` says that a rollback took it back altogether."""

    site: str
    seed: int
    life: int
    blueprint: str | None
    kernel: str | None
    spans: tuple[Span, ...]
    evaluation: SeedEvaluated | None = None
    undone: bool = False

    @property
    def stage(self) -> Stage:
        """The stage it is in, or ended in."""
        return self.spans[-1].stage

    def closed(self, epoch: int) -> "Life":
        """This life with its last span ended at the end of `epoch`, unless it had ended already."""
        last = self.spans[-1]
        return self if last.to_epoch is not None else replace(self, spans=(*self.spans[:-1], replace(last, to_epoch=epoch)))

    def entered(self, span: Span) -> "Life":
        """This life with its last span ended where `span` begins, and `span` after it."""
        return replace(self, spans=(*self.closed(span.from_epoch).spans, span))


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision with its numbers, and what became of it. `rule` is the gate's where it refused; `detail` says why, in words."""

    id: EventId
    moment: Moment
    epoch: int
    decision: DecisionMade
    fate: Fate
    rule: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened to the run itself, in words: a rollback, a resume, lost samples, its end."""

    moment: Moment
    epoch: int
    kind: str
    text: str


@dataclass(slots=True)
class Timeline:
    """Lives, decisions and notes of one run up to the last record it was given; facts in order, each once, are the caller's promise.

    `settled` is the decision that the last record told the fate of, `noted` the note that it gave; None where it did neither.
    """

    started: RunStarted | None = None
    completed: EpochCompleted | None = None
    notes: list[Note] = field(default_factory=list)
    settled: Decided | None = None
    noted: Note | None = None
    _lives: dict[tuple[str, int, int], Life] = field(default_factory=dict)
    _now: dict[Slot, int] = field(default_factory=dict)
    _decisions: dict[EventId, Decided] = field(default_factory=dict)
    _commands: dict[EventId, EventId] = field(default_factory=dict)

    @property
    def lives(self) -> tuple[Life, ...]:
        """Every life there was, oldest first, at one epoch by site and slot."""
        return tuple(sorted(self._lives.values(), key=lambda life: (life.life, life.site, life.seed)))

    @property
    def decisions(self) -> tuple[Decided, ...]:
        """Every decision, oldest first."""
        return tuple(self._decisions.values())

    def latest(self) -> Iterator[Decided]:
        """Every decision, newest first."""
        return reversed(self._decisions.values())

    def add(self, record: Record) -> None:
        """Takes one record of the run; kinds that tell nothing here are passed over undecoded."""
        self.settled = self.noted = None
        if record.type in _TOLD:
            self._tell(record, decode(record))

    def _tell(self, record: Record, event: Event) -> None:
        match event:
            case RunStarted():
                self.started = event
            case EpochCompleted():
                self.completed = event
            case SeedTransitioned():
                self._transition(record, event)
            case SeedEvaluated():
                key = (event.site, event.seed, event.life)
                if key in self._lives:
                    self._lives[key] = replace(self._lives[key], evaluation=event)
            case RunRolledBack():
                self._roll_back(record, event)
            case _:
                self._control(record, event)
        text = note_of(event)
        if text is not None:
            self.noted = Note(record.moment, record.epoch, record.type, text)
            self.notes.append(self.noted)

    def _transition(self, record: Record, event: SeedTransitioned) -> None:
        slot = (event.site, event.seed)
        if event.to_stage is Stage.DORMANT:
            self._leave(slot, record.epoch)
            return
        span = Span(event.to_stage, record.epoch, None, record.moment, event.reason)
        life = event.life if event.life is not None else self._now.get(slot, record.epoch)
        known = self._lives.get((*slot, life))
        self._now[slot] = life
        if known is None:
            self._lives[*slot, life] = Life(event.site, event.seed, life, event.blueprint, event.kernel, (span,))
        else:
            kernel = event.kernel or known.kernel
            self._lives[*slot, life] = replace(known.entered(span), kernel=kernel)

    def _leave(self, slot: Slot, epoch: int) -> None:
        life = self._now.pop(slot, None)
        if life is not None:
            self._lives[*slot, life] = self._lives[*slot, life].closed(epoch)

    def _roll_back(self, record: Record, event: RunRolledBack) -> None:
        table = {(row.site, row.seed): row for row in event.seeds}
        for slot, life in list(self._now.items()):
            row = table.get(slot)
            if row is None or row.life != life:
                self._leave(slot, record.epoch)
                self._lives[*slot, life] = replace(self._lives[*slot, life], undone=True)
        for slot, row in table.items():
            self._restore(slot, row, record, event)

    def _restore(self, slot: Slot, row: SeedRow, record: Record, event: RunRolledBack) -> None:
        known = self._lives.get((*slot, row.life)) if row.life is not None else None
        if known is None or row.life is None or row.stage is Stage.DORMANT:
            return
        self._now[slot] = row.life
        if known.stage is not row.stage or known.spans[-1].to_epoch is not None:
            span = Span(row.stage, record.epoch, None, record.moment, f"rolled back to epoch {event.to_epoch}")
            self._lives[*slot, row.life] = known.entered(span)

    def _control(self, record: Record, event: Event) -> None:
        match event:
            case DecisionMade():
                fate: Fate = "recorded" if event.adaptation is Adaptation.NONE else "pending"
                self._decisions[record.id] = Decided(record.id, record.moment, record.epoch, event, fate)
            case DecisionRefused():
                self._settle(record.cause, "refused", event.rule, event.reason)
            case CommandIssued() if record.cause is not None:
                self._commands[record.id] = record.cause
            case CommandApplied():
                self._settle(self._decision_behind(record), "applied")
            case CommandRefused():
                self._settle(self._decision_behind(record), "command refused", None, event.reason)
            case CommandFailed():
                self._settle(self._decision_behind(record), "failed", None, event.error)
            case _:
                pass

    def _decision_behind(self, record: Record) -> EventId | None:
        return self._commands.pop(record.cause, None) if record.cause is not None else None

    def _settle(self, decision: EventId | None, fate: Fate, rule: str | None = None, detail: str | None = None) -> None:
        if decision is not None and decision in self._decisions:
            self.settled = replace(self._decisions[decision], fate=fate, rule=rule, detail=detail)
            self._decisions[decision] = self.settled


def note_of(event: Event) -> str | None:
    """What `event` says about the run itself, in one line; None where it says nothing of that sort."""
    match event:
        case RunResumed():
            source = event.checkpoint or "the first epoch"
            changed = f"; changed since: {', '.join(event.environment_changes)}" if event.environment_changes else ""
            return f"resumed from {source}, caught up to moment {event.caught_up_to}, incarnation {event.incarnation}{changed}"
        case SamplesDropped():
            return f"{event.count} samples of {event.topic} dropped, steps {event.first_step}..{event.last_step}"
        case _:
            return _turn_of(event)


def _turn_of(event: Event) -> str | None:
    match event:
        case RunRolledBack(blamed=blamed):
            whom = "no seed is blamed" if blamed is None else f"{blamed.site} s{blamed.seed} is blamed"
            return f"rolled back from epoch {event.from_epoch} to {event.to_epoch} ({event.checkpoint}): {event.reason}; {whom}"
        case RunFinished():
            early = ", stopped early" if event.stopped_early else ""
            return f"finished{early}: {event.parameters:,} parameters, model {event.model_digest[:8]}"
        case RunFailed():
            return f"failed ({event.kind}) in {event.where}: {event.error}"
        case _:
            return None


_TOLD = frozenset(
    kind.KIND
    for kind in (
        RunStarted, EpochCompleted, SeedTransitioned, SeedEvaluated, RunRolledBack, DecisionMade, DecisionRefused, CommandIssued,
        CommandApplied, CommandRefused, CommandFailed, RunResumed, SamplesDropped, RunFinished, RunFailed,
    )
)  # fmt: skip
