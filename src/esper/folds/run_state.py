"""The state of a run, folded from its facts in the order of their moments.

The fold is total: a fact that does not fit the facts before it is taken at its word and described in `irregularities`; checks report those.
Only a fact that this version cannot understand stops it (BlockedError), and the state before stays valid. Telemetry, derived events and
StreamEnded change nothing. Duplicates and gaps are handled by admission and `merge`, which stand before this.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from esper.errors import DataError, RuleError
from esper.events.codec import decode
from esper.events.digests import digest_of, to_json
from esper.events.envelope import EventId, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.control import (
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
    FieldReported,
)
from esper.events.kinds.epoch import EpochCompleted, Measured, StateDigests
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import (
    BlamedSeed,
    CheckpointPruned,
    CheckpointSaved,
    RunFailed,
    RunFinished,
    RunResumed,
    RunRolledBack,
    RunStarted,
    SamplesDropped,
    Site,
    StreamEnded,
)
from esper.folds import control_state as control
from esper.folds import seeds
from esper.folds.control_state import Control, DecisionRow, Irregular, LastCommand
from esper.folds.seeds import Slot, Slots
from esper.folds.table import Table


class BlockedError(DataError):
    """A fact of a kind or version that this version does not know, or one that breaks its schema: the run is unknown from there on."""


class Status(StrEnum):
    """Status of a run between its first record and its end. A run that was killed is `running` until it is resumed."""

    NEW = "new"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EpochRow:
    """A completed epoch: its losses and metrics, and the digests of the training state before its adaptation."""

    epoch: int
    step: int
    moment: int
    id: EventId
    train: Measured
    validation: Measured | None
    digests: StateDigests
    parameters: int


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint that is kept: the start of the epoch after `epoch`."""

    name: str
    digest: str
    size_bytes: int
    reason: str
    epoch: int
    moment: int


@dataclass(frozen=True, slots=True)
class RollbackRow:
    """A return to a checkpoint."""

    id: EventId
    moment: int
    epoch: int
    from_epoch: int
    to_epoch: int
    checkpoint: str
    reason: str
    blamed: BlamedSeed | None


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A field report and when it was made."""

    moment: int
    epoch: int
    event: FieldReported


class Irregularity(NamedTuple):
    """A fact that does not fit the facts before it: its moment, and a description."""

    moment: int
    what: str


@dataclass(frozen=True, slots=True, repr=False)
class RunState:
    """A run at a moment. `epoch`, `step`, `moment` and `incarnation` are those of the last fact; `started` and `end` are the events.

    `epochs_digest` is over the rows of all `epochs`, each after the one before it: what the state's own digest has of them.
    """

    run: RunId
    status: Status = Status.NEW
    started: RunStarted | None = None
    end: RunFinished | RunFailed | None = None
    epoch: int = 0
    step: int = 0
    moment: int = 0
    incarnation: int = 0
    epochs: tuple[EpochRow, ...] = ()
    epochs_digest: str = ""
    slots: Slots = field(default_factory=Table)
    germination_epochs: tuple[int, ...] = ()
    control: Control = field(default_factory=Control)
    field_reports: tuple[ReportRow, ...] = ()
    checkpoints: tuple[CheckpointRow, ...] = ()
    rollbacks: tuple[RollbackRow, ...] = ()
    dropped: Table[str, int] = field(default_factory=Table)
    irregularities: tuple[Irregularity, ...] = ()

    def __repr__(self) -> str:
        stages = Counter(row.stage.value for row in self.seeds)
        seeds = ", ".join(f"{many} {stage}" for stage, many in sorted(stages.items())) or "none"
        return f"RunState(run={self.run!r}, status={self.status.value}, epoch={self.epoch}, moment={self.moment}, seeds: {seeds})"

    @property
    def seeds(self) -> tuple[SeedRow, ...]:
        """The rows of all slots of all sites, sorted by site and seed."""
        return tuple(slot.row for slot in self.slots.values())

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the host, as RunStarted gave them."""
        return () if self.started is None else self.started.sites

    @property
    def decisions(self) -> tuple[DecisionRow, ...]:
        """The decisions since the last EpochCompleted, in the order in which they were made, with their answers."""
        return tuple(self.control.decisions.values())

    @property
    def epoch_event(self) -> EventId | None:
        """The id of the last EpochCompleted: the evidence of the decisions that follow from it."""
        return self.epochs[-1].id if self.epochs else None

    def slot(self, site: str, seed: int) -> Slot | None:
        """The slot of the seed table; None where the run has none of that name."""
        return self.slots.get((site, seed))

    def last_germination(self, before: int) -> int | None:
        """The epoch of the last germination of an epoch earlier than `before`: what the gate's cooldown counts from."""
        return next((epoch for epoch in reversed(self.germination_epochs) if epoch < before), None)


def initial(run: RunId) -> RunState:
    """The state of `run` before its first record."""
    return RunState(run)


def step(state: RunState, record: Record) -> RunState:
    """The state after `record`; the same object where it is telemetry, a derived event, or the end of a topic.

    Raises BlockedError for a fact that cannot be understood, RuleError for a record of another run.
    """
    if record.run != state.run:
        raise RuleError(f"expected records of run {state.run}, got one of run {record.run} at moment {record.moment}")
    if record.fact is None or record.type == StreamEnded.KIND:
        return state
    event = _understood(record)
    here = replace(state, epoch=record.epoch, step=record.step, moment=record.moment, incarnation=record.incarnation)
    return _applied(_in_order(here, state, event), record, event)


def fold(records: Iterable[Record], state: RunState | None = None) -> RunState:
    """The state after `records` in the order of their moments, from `state` or from before the first of them.

    Raises RuleError for no records and no state: then no run is known.
    """
    for record in records:
        state = step(initial(record.run) if state is None else state, record)
    if state is None:
        raise RuleError("expected at least one record or a state to begin with, got neither")
    return state


def digest(state: RunState) -> str:
    """sha256 over the canonical JSON of `state`, 64 hex digits; equal states have equal digests, on every machine.

    The rows of its epochs stand in it by `epochs_digest` alone, so a digest after every epoch costs each epoch the same.
    """
    return digest_of(to_json(replace(state, epochs=())))


def _understood(record: Record) -> Event:
    try:
        return decode(record)
    except DataError as error:
        raise BlockedError(f"the fold of run {record.run} stops at moment {record.moment}, topic {record.topic}: {error}") from error


def _in_order(state: RunState, before: RunState, event: Event) -> RunState:
    if before.status is Status.NEW and not isinstance(event, RunStarted):
        state = _noted(state, f"{event.KIND} came before RunStarted")
    if before.end is not None and not isinstance(event, RunResumed):
        state = _noted(state, f"{event.KIND} came after the run's end")
    for clock, now, then in (("epoch", state.epoch, before.epoch), ("incarnation", state.incarnation, before.incarnation)):
        if now < then:
            state = _noted(state, f"the {clock} went back from {then} to {now}")
    return state


def _applied(state: RunState, record: Record, event: Event) -> RunState:
    match event:
        case RunStarted() | RunResumed() | RunFinished() | RunFailed():
            state = _moved(state, event)
        case EpochCompleted():
            state = _completed(state, record, event)
        case SeedTransitioned():
            state = _transitioned(state, record, event)
        case SeedEvaluated():
            state = _reseeded(state, *seeds.apply_evaluation(state.slots, record, event))
        case CheckpointSaved():
            row = CheckpointRow(event.checkpoint, event.digest, event.size_bytes, event.reason, record.epoch, record.moment)
            state = replace(state, checkpoints=(*state.checkpoints, row))
        case CheckpointPruned():
            state = _pruned(state, event)
        case RunRolledBack():
            state = _rolled_back(state, record, event)
        case SamplesDropped():
            state = replace(state, dropped=state.dropped.with_item(event.topic, state.dropped.get(event.topic, 0) + event.count))
        case FieldReported():
            state = replace(state, field_reports=(*state.field_reports, ReportRow(record.moment, record.epoch, event)))
        case _:
            # Kernels and blueprints change nothing: the seed table has their results.
            state = _controlled(state, record, event)
    return state


def _moved(state: RunState, event: RunStarted | RunResumed | RunFinished | RunFailed) -> RunState:
    match event:
        case RunStarted() if state.started is not None:
            return _noted(state, "the run started a second time")
        case RunStarted():
            return replace(state, status=Status.RUNNING, started=event, slots=seeds.slots_of(event.sites))
        case RunResumed():
            return replace(state, status=Status.RUNNING, end=None)
        case _:
            return replace(state, status=Status.FINISHED if isinstance(event, RunFinished) else Status.FAILED, end=event)


def _completed(state: RunState, record: Record, event: EpochCompleted) -> RunState:
    epoch = event.system.epoch
    if epoch != record.epoch:
        state = _noted(state, f"EpochCompleted of epoch {record.epoch} holds the system state of epoch {epoch}")
    # An epoch that a rollback ended is over too: epochs count on from it.
    over = max((*(row.epoch for row in state.epochs[-1:]), *(row.from_epoch for row in state.rollbacks[-1:])), default=epoch - 1)
    if epoch != over + 1:
        state = _noted(state, f"epoch {epoch} was completed after epoch {over}")
    row = EpochRow(
        epoch=epoch,
        step=record.step,
        moment=record.moment,
        id=record.id,
        train=event.train,
        validation=event.validation,
        digests=event.digests,
        parameters=event.system.parameters,
    )
    state = _reseeded(state, *seeds.apply_epoch(state.slots, event.system.seeds))
    return replace(
        state,
        epochs=(*state.epochs, row),
        epochs_digest=digest_of([state.epochs_digest, to_json(row)]),
        control=replace(state.control, decisions=Table()),
    )


def _transitioned(state: RunState, record: Record, event: SeedTransitioned) -> RunState:
    blamed = state.rollbacks[-1].blamed if state.rollbacks and state.rollbacks[-1].id == record.cause else None
    rollback = blamed is not None and (blamed.site, blamed.seed) == (event.site, event.seed)
    state = _reseeded(state, *seeds.apply_transition(state.slots, record, event, rollback))
    if event.to_stage is Stage.GERMINATED and record.epoch not in state.germination_epochs[-1:]:
        return replace(state, germination_epochs=(*state.germination_epochs, record.epoch))
    return state


def _rolled_back(state: RunState, record: Record, event: RunRolledBack) -> RunState:
    row = RollbackRow(
        id=record.id,
        moment=record.moment,
        epoch=record.epoch,
        from_epoch=event.from_epoch,
        to_epoch=event.to_epoch,
        checkpoint=event.checkpoint,
        reason=event.reason,
        blamed=event.blamed,
    )
    if not any(kept.name == event.checkpoint for kept in state.checkpoints):
        state = _noted(state, f"the run went back to checkpoint {event.checkpoint!r}, which is not kept")
    return _reseeded(replace(state, rollbacks=(*state.rollbacks, row)), *seeds.apply_rollback(state.slots, event.seeds))


def _pruned(state: RunState, event: CheckpointPruned) -> RunState:
    kept = tuple(row for row in state.checkpoints if row.name != event.checkpoint)
    if len(kept) == len(state.checkpoints):
        return _noted(state, f"checkpoint {event.checkpoint!r} was pruned, and is not kept")
    return replace(state, checkpoints=kept)


def _controlled(state: RunState, record: Record, event: Event) -> RunState:
    match event:
        case DecisionMade():
            return replace(state, control=control.add_decision(state.control, record, event))
        case DecisionRefused():
            changed, irregular = control.add_refusal(state.control, record, event)
            return replace(_noted(state, *irregular), control=changed)
        case CommandIssued():
            changed, irregular = control.add_command(state.control, record, event)
            last = LastCommand(record.moment, record.epoch, event.command)
        case CommandApplied() | CommandRefused() | CommandFailed():
            changed, irregular, last = control.add_outcome(state.control, record, event)
        case _:
            return state
    state = replace(_noted(state, *irregular), control=changed)
    return _reseeded(state, *seeds.apply_command(state.slots, (event.site, event.seed), last))


def _reseeded(state: RunState, slots: Slots, irregular: Irregular) -> RunState:
    return replace(_noted(state, *irregular), slots=slots)


def _noted(state: RunState, *what: str) -> RunState:
    if not what:
        return state
    return replace(state, irregularities=(*state.irregularities, *(Irregularity(state.moment, text) for text in what)))
