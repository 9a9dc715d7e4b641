"""The state of a run, folded from its facts in the order of their moments.

The fold is total: a fact that does not fit what came before it is taken at its word and described in `irregularities`; checks report those.
Only a fact that this version cannot understand stops it (BlockedError), and the state before stays valid. Telemetry and derived events
change nothing. Duplicates and holes are the business of `admit` and `merge`, which stand before this.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from esper.errors import DataError, RuleError
from esper.events.codec import decode
from esper.events.digests import digest_of
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
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import (
    CheckpointPruned,
    CheckpointSaved,
    RunFailed,
    RunFinished,
    RunResumed,
    RunRolledBack,
    RunStarted,
    SamplesDropped,
    Site,
)
from esper.folds import control, seeds
from esper.folds.control import Control, DecisionRow
from esper.folds.form import form
from esper.folds.rows import CheckpointRow, EpochRow, Irregularity, ReportRow, RollbackRow
from esper.folds.seeds import Change, SeedKey, Slot, Slots
from esper.folds.table import Table


class BlockedError(DataError):
    """A fact of a kind or version that this version does not know, or one that breaks its schema: the run is unknown from there on."""


class Status(StrEnum):
    """Where a run is between its first record and its end. A run that was killed is `running` until somebody resumes it."""

    NEW = "new"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


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
        """One slot of the seed table; None where the run has none of that name."""
        return self.slots.get((site, seed))

    def last_germination(self, before: int) -> int | None:
        """The epoch of the last germination of an epoch earlier than `before`: what the gate's cooldown counts from."""
        return next((epoch for epoch in reversed(self.germination_epochs) if epoch < before), None)


def initial(run: RunId) -> RunState:
    """The state of `run` before its first record."""
    return RunState(run)


def step(state: RunState, record: Record) -> RunState:
    """The state after `record`; the same object where it is telemetry or a derived event.

    Raises BlockedError for a fact that cannot be understood, RuleError for a record of another run.
    """
    if record.run != state.run:
        raise RuleError(f"expected records of run {state.run}, got one of run {record.run} at moment {record.moment}")
    if record.fact is None:
        return state
    event = _understood(record)
    here = replace(state, epoch=record.epoch, step=record.step, moment=record.moment, incarnation=record.incarnation)
    handle = _STEPS.get(type(event))
    here = _in_order(here, state, event)
    # Kernels and blueprints have no handler: the seed table says what became of them.
    return here if handle is None else handle(here, record, event)


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
    return digest_of(form(replace(state, epochs=())))


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


def _started(state: RunState, _record: Record, event: RunStarted) -> RunState:
    if state.started is not None:
        return _noted(state, "the run started a second time")
    return replace(state, status=Status.RUNNING, started=event, slots=seeds.slots_of(event.sites))


def _resumed(state: RunState, _record: Record, _event: RunResumed) -> RunState:
    return replace(state, status=Status.RUNNING, end=None)


def _finished(state: RunState, _record: Record, event: RunFinished) -> RunState:
    return replace(state, status=Status.FINISHED, end=event)


def _failed(state: RunState, _record: Record, event: RunFailed) -> RunState:
    return replace(state, status=Status.FAILED, end=event)


def _dropped(state: RunState, _record: Record, event: SamplesDropped) -> RunState:
    return replace(state, dropped=state.dropped.with_item(event.topic, state.dropped.get(event.topic, 0) + event.count))


def _saved(state: RunState, record: Record, event: CheckpointSaved) -> RunState:
    row = CheckpointRow(
        name=event.checkpoint,
        digest=event.digest,
        size_bytes=event.size_bytes,
        reason=event.reason,
        epoch=record.epoch,
        moment=record.moment,
    )
    return replace(state, checkpoints=(*state.checkpoints, row))


def _epoch_completed(state: RunState, record: Record, event: EpochCompleted) -> RunState:
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
    state = _changed(state, seeds.observed(state.slots, event.system.seeds))
    return replace(
        state,
        epochs=(*state.epochs, row),
        epochs_digest=digest_of([state.epochs_digest, form(row)]),
        control=control.next_epoch(state.control),
    )


def _transitioned(state: RunState, record: Record, event: SeedTransitioned) -> RunState:
    blamed = state.rollbacks[-1].blamed if state.rollbacks and state.rollbacks[-1].id == record.cause else None
    rollback = blamed is not None and (blamed.site, blamed.seed) == (event.site, event.seed)
    state = _changed(state, seeds.transitioned(state.slots, record, event, rollback))
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
    return _changed(replace(state, rollbacks=(*state.rollbacks, row)), seeds.replaced(state.slots, event.seeds))


def _pruned(state: RunState, _record: Record, event: CheckpointPruned) -> RunState:
    kept = tuple(row for row in state.checkpoints if row.name != event.checkpoint)
    if len(kept) == len(state.checkpoints):
        return _noted(state, f"checkpoint {event.checkpoint!r} was pruned, and is not kept")
    return replace(state, checkpoints=kept)


def _evaluated(state: RunState, record: Record, event: SeedEvaluated) -> RunState:
    return _changed(state, seeds.evaluated(state.slots, record, event))


def _reported(state: RunState, record: Record, event: FieldReported) -> RunState:
    return replace(state, field_reports=(*state.field_reports, ReportRow(record.moment, record.epoch, event)))


def _decided(state: RunState, record: Record, event: DecisionMade) -> RunState:
    return replace(state, control=control.decided(state.control, record, event))


def _refused(state: RunState, record: Record, event: DecisionRefused) -> RunState:
    return _answered(state, control.refused(state.control, record, event))


def _issued(state: RunState, record: Record, event: CommandIssued) -> RunState:
    state = _answered(state, control.issued(state.control, record, event))
    command = seeds.LastCommand(record.moment, record.epoch, event.command)
    return _commanded(state, (event.site, event.seed), command)


def _came_out(state: RunState, record: Record, event: control.OutcomeEvent) -> RunState:
    answer, command = control.came_out(state.control, record, event)
    return _commanded(_answered(state, answer), (event.site, event.seed), command)


def _commanded(state: RunState, key: SeedKey, command: seeds.LastCommand) -> RunState:
    return _changed(state, seeds.commanded(state.slots, key, command))


def _changed(state: RunState, change: Change) -> RunState:
    return replace(_noted(state, *change.irregular), slots=change.slots)


def _answered(state: RunState, answer: control.Answer) -> RunState:
    return replace(_noted(state, *answer.irregular), control=answer.control)


def _noted(state: RunState, *what: str) -> RunState:
    if not what:
        return state
    return replace(state, irregularities=(*state.irregularities, *(Irregularity(state.moment, text) for text in what)))


# Any: the key is the kind that the handler takes, and `step` looks it up by the event's own type.
_STEPS: dict[type[Event], Callable[[RunState, Record, Any], RunState]] = {
    RunStarted: _started,
    RunResumed: _resumed,
    RunFinished: _finished,
    RunFailed: _failed,
    RunRolledBack: _rolled_back,
    SamplesDropped: _dropped,
    CheckpointSaved: _saved,
    CheckpointPruned: _pruned,
    EpochCompleted: _epoch_completed,
    SeedTransitioned: _transitioned,
    SeedEvaluated: _evaluated,
    DecisionMade: _decided,
    DecisionRefused: _refused,
    CommandIssued: _issued,
    CommandApplied: _came_out,
    CommandRefused: _came_out,
    CommandFailed: _came_out,
    FieldReported: _reported,
}
