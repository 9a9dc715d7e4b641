"""History of a run as people ask about it: the lives of its seeds, the decisions with their fates, and notes.

A collector over a run's facts, fed record by record like the fold beside it. It keeps the history that views show and the fold's state
leaves out. It must never read a clock or a file, and it decides nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import EventId, Moment, Record
from esper.events.fields import Event
from esper.events.kinds.control import (
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
)
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedEvaluated, SeedTransitioned, Stage
from esper.events.kinds.run import ClockJumped, RunFailed, RunFinished, RunResumed, RunRolledBack, RunStarted, SamplesDropped, SiteFrozen
from esper.events.kinds.training_description import TrainingDescribed
from esper.events.kinds.wiring_findings import OutcomeJudged, WiringFound
from esper.folds.control_state import DecisionRow
from esper.folds.seeds import SeedKey

_TOPICS = frozenset((topics.RUN, topics.EPOCH, topics.LIFECYCLE, topics.DECISIONS, topics.COMMANDS, topics.OUTCOMES))


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
    """A life of a seed, from its germination on. `undone`: a rollback took it back altogether."""

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
        if not self.spans or self.spans[-1].to_epoch is not None:
            return self
        return replace(self, spans=(*self.spans[:-1], replace(self.spans[-1], to_epoch=epoch)))

    def entered(self, span: Span) -> "Life":
        """This life with its last span ended where `span` begins, and `span` after it."""
        return replace(self, spans=(*self.closed(span.from_epoch).spans, span))


@dataclass(frozen=True, slots=True)
class Note:
    """A note about the run itself, in words: a rollback, a resume, lost samples, its end."""

    moment: Moment
    epoch: int
    kind: str
    text: str


@dataclass(slots=True)
class Timeline:
    """Lives, decisions and notes of one run up to the last record it was given; facts in order, each once, are the caller's promise.

    `settled` is the decision whose fate the last record decided, `noted` the note that it gave; None where it did neither.
    """

    started: RunStarted | None = None
    described: TrainingDescribed | None = None
    outcome: OutcomeJudged | None = None
    completed: EpochCompleted | None = None
    notes: list[Note] = field(default_factory=list)
    settled: DecisionRow | None = None
    noted: Note | None = None
    _lives: dict[tuple[str, int, int], Life] = field(default_factory=dict)
    _now: dict[SeedKey, int] = field(default_factory=dict)
    _decisions: dict[EventId, DecisionRow] = field(default_factory=dict)
    _commands: dict[EventId, EventId] = field(default_factory=dict)

    @property
    def lives(self) -> tuple[Life, ...]:
        """Every life there was, oldest first, at one epoch by site and slot."""
        return tuple(sorted(self._lives.values(), key=lambda life: (life.life, life.site, life.seed)))

    @property
    def decisions(self) -> tuple[DecisionRow, ...]:
        """Every decision, oldest first."""
        return tuple(self._decisions.values())

    def latest(self) -> Iterator[DecisionRow]:
        """Every decision, newest first."""
        return reversed(self._decisions.values())

    def add(self, record: Record) -> None:
        """Add one record of the run; records of other topics are ignored without decoding them."""
        self.settled = self.noted = None
        if record.topic not in _TOPICS:
            return
        event = decode(record)
        match event:
            case RunStarted():
                self.started = event
            case TrainingDescribed():
                self.described = event
            case OutcomeJudged():
                self.outcome = event
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
        known = self._lives.get((*slot, life)) or Life(*slot, life, event.blueprint, event.kernel, ())
        self._now[slot] = life
        self._lives[*slot, life] = replace(known.entered(span), kernel=event.kernel or known.kernel)

    def _leave(self, slot: SeedKey, epoch: int, *, undone: bool = False) -> None:
        life = self._now.pop(slot, None)
        if life is not None:
            closed = self._lives[*slot, life].closed(epoch)
            self._lives[*slot, life] = replace(closed, undone=undone or closed.undone)

    def _roll_back(self, record: Record, event: RunRolledBack) -> None:
        table = {(row.site, row.seed): row for row in event.seeds}
        for slot, life in list(self._now.items()):
            if slot not in table or table[slot].life != life:
                self._leave(slot, record.epoch, undone=True)
        for slot, row in table.items():
            known = None if row.life is None else self._lives.get((*slot, row.life))
            if known is None or row.life is None or row.stage is Stage.DORMANT:
                continue
            self._now[slot] = row.life
            if known.stage is not row.stage or known.spans[-1].to_epoch is not None:
                span = Span(row.stage, record.epoch, None, record.moment, f"rolled back to epoch {event.to_epoch}")
                self._lives[*slot, row.life] = known.entered(span)

    def _control(self, record: Record, event: Event) -> None:
        match event:
            case DecisionMade():
                self._decisions[record.id] = DecisionRow.of(record, event)
            case DecisionRefused() if record.cause in self._decisions:
                self._settle(self._decisions[record.cause].refused(event))
            case CommandIssued() if record.cause in self._decisions:
                self._commands[record.id] = record.cause
            case CommandApplied() | CommandRefused() | CommandFailed() if record.cause in self._commands:
                self._settle(self._decisions[self._commands.pop(record.cause)].concluded(event))

    def _settle(self, row: DecisionRow) -> None:
        self.settled = self._decisions[row.id] = row


def note_of(event: Event) -> str | None:
    """`event` as a note about the run itself, in one line; None for an event about something else."""
    match event:
        case RunResumed():
            source = event.checkpoint or "the first epoch"
            changed = f"; changed since: {', '.join(event.environment_changes)}" if event.environment_changes else ""
            return f"resumed from {source}, caught up to moment {event.caught_up_to}, incarnation {event.incarnation}{changed}"
        case SamplesDropped():
            return f"{event.count} samples of {event.topic} dropped, steps {event.first_step}..{event.last_step}"
        case RunRolledBack(blamed=blamed):
            whom = "no seed is blamed" if blamed is None else f"{blamed.site} s{blamed.seed} is blamed"
            return f"rolled back from epoch {event.from_epoch} to {event.to_epoch} ({event.checkpoint}): {event.reason}; {whom}"
        case SiteFrozen():
            return f"nothing can grow at {event.site} any more: {event.reason}"
        case ClockJumped() | RunFinished() | RunFailed() | WiringFound():
            return _in_words(event)
        case _:
            return None


def _in_words(event: ClockJumped | RunFinished | RunFailed | WiringFound) -> str:
    if isinstance(event, ClockJumped):
        beside = f"{abs(event.apart_s):,.1f} s {'ahead of' if event.apart_s > 0 else 'behind'} the time that passed"
        return f"the machine's clock was {beside}; {'records follow it' if event.followed else 'records go on with that time'}"
    if isinstance(event, WiringFound):
        where = f" ({', '.join(event.places)})" if event.places else ""
        return f"wiring, {event.severity}: {event.check}{where}: {event.measured}; look at {event.look_at}"
    if isinstance(event, RunFailed):
        return f"failed ({event.kind}) in {event.where}: {event.error}"
    early = ", stopped early" if event.stopped_early else ""
    return f"finished{early}: {event.parameters:,} parameters, model {event.model_digest[:8]}"
