"""The state of a run, folded from its facts in the order of their moments.

The fold is total: a fact that does not fit the facts before it is taken at its word and described in `irregularities`; checks report those.
Only a fact that this version cannot understand stops it (BlockedError), and the state before stays valid. Telemetry, derived events and
StreamEnded change nothing. Duplicates and gaps are handled by admission and `fact_order`, which stand before this.
"""

from collections import Counter
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
    FieldReported,
)
from esper.events.kinds.epoch import EpochCompleted, Measured, StateDigests
from esper.events.kinds.lifecycle import SeedRow, SeedTransitioned, Stage
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
from esper.events.topics import TRAIL
from esper.folds.control_state import Control, DecisionRow, change_control
from esper.folds.seeds import Slot, Slots, change_slots, slots_of, with_command
from esper.folds.sorted_map import SortedMap


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
    slots: Slots = field(default_factory=SortedMap)
    germination_epochs: tuple[int, ...] = ()
    control: Control = field(default_factory=Control)
    field_reports: tuple[ReportRow, ...] = ()
    checkpoints: tuple[CheckpointRow, ...] = ()
    rollbacks: tuple[RollbackRow, ...] = ()
    dropped: SortedMap[str, int] = field(default_factory=SortedMap)
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

    def slot(self, site: str, seed: int) -> Slot | None:
        """The slot of the seed table; None where the run has none of that name."""
        return self.slots.get((site, seed))

    def last_germination(self, before: int) -> int | None:
        """The epoch of the last germination of an epoch earlier than `before`: what the gate's cooldown counts from."""
        return next((epoch for epoch in reversed(self.germination_epochs) if epoch < before), None)


def step(state: RunState, record: Record) -> RunState:
    """The state after `record`; the same object where it is telemetry, a derived event, of the trail, or the end of a topic.

    Raises BlockedError for a fact that cannot be understood, RuleError for a record of another run.
    """
    if record.run != state.run:
        raise RuleError(f"expected records of run {state.run}, got one of run {record.run} at moment {record.moment}")
    if record.fact is None or record.topic == TRAIL or record.type == StreamEnded.KIND:
        return state
    try:
        event = decode(record)
    except DataError as error:
        raise BlockedError(f"the fold of run {record.run} stops at moment {record.moment}, topic {record.topic}: {error}") from error
    here = replace(state, epoch=record.epoch, step=record.step, moment=record.moment, incarnation=record.incarnation)
    return _with_tables(_applied(_in_order(here, state, event), record, event), record, event)


def digest(state: RunState) -> str:
    """sha256 over the canonical JSON of `state`, 64 hex digits; equal states have equal digests, on every machine.

    The rows of its epochs stand in it by `epochs_digest` alone, so a digest after every epoch costs each epoch the same.
    """
    return digest_of(to_json(replace(state, epochs=())))


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
    """`state` after `event`, without the tables of seeds and decisions."""
    match event:
        case RunStarted() | RunResumed() | RunFinished() | RunFailed():
            return _moved(state, event)
        case EpochCompleted():
            return _completed(state, record, event)
        case SeedTransitioned(to_stage=Stage.GERMINATED) if record.epoch not in state.germination_epochs[-1:]:
            return replace(state, germination_epochs=(*state.germination_epochs, record.epoch))
        case RunRolledBack():
            return _rolled_back(state, record, event)
        case _:
            return _kept(state, record, event)


def _moved(state: RunState, event: RunStarted | RunResumed | RunFinished | RunFailed) -> RunState:
    match event:
        case RunStarted() if state.started is not None:
            return _noted(state, "the run started a second time")
        case RunStarted():
            return replace(state, status=Status.RUNNING, started=event, slots=slots_of(event.sites))
        case RunResumed():
            return replace(state, status=Status.RUNNING, end=None)
        case _:
            return replace(state, status=Status.FINISHED if isinstance(event, RunFinished) else Status.FAILED, end=event)


def _kept(state: RunState, record: Record, event: Event) -> RunState:
    match event:
        case CheckpointSaved():
            row = CheckpointRow(event.checkpoint, event.digest, event.size_bytes, event.reason, record.epoch, record.moment)
            return replace(state, checkpoints=(*state.checkpoints, row))
        case CheckpointPruned():
            kept = tuple(row for row in state.checkpoints if row.name != event.checkpoint)
            if len(kept) == len(state.checkpoints):
                return _noted(state, f"checkpoint {event.checkpoint!r} was pruned, and is not kept")
            return replace(state, checkpoints=kept)
        case SamplesDropped():
            return replace(state, dropped=state.dropped.with_item(event.topic, state.dropped.get(event.topic, 0) + event.count))
        case FieldReported():
            return replace(state, field_reports=(*state.field_reports, ReportRow(record.moment, record.epoch, event)))
        case _:
            return state  # Kernels and blueprints change nothing: the seed table has their results.


def _completed(state: RunState, record: Record, event: EpochCompleted) -> RunState:
    epoch = event.system.epoch
    if epoch != record.epoch:
        state = _noted(state, f"EpochCompleted of epoch {record.epoch} holds the system state of epoch {epoch}")
    # An epoch that a rollback ended is over too: epochs count on from it.
    over = max((*(row.epoch for row in state.epochs[-1:]), *(row.from_epoch for row in state.rollbacks[-1:])), default=epoch - 1)
    if epoch != over + 1:
        state = _noted(state, f"epoch {epoch} was completed after epoch {over}")
    where = (epoch, record.step, record.moment, record.id)
    row = EpochRow(*where, event.train, event.validation, event.digests, event.system.parameters)
    return replace(state, epochs=(*state.epochs, row), epochs_digest=digest_of([state.epochs_digest, to_json(row)]))


def _rolled_back(state: RunState, record: Record, event: RunRolledBack) -> RunState:
    where = (record.id, record.moment, record.epoch)
    row = RollbackRow(*where, event.from_epoch, event.to_epoch, event.checkpoint, event.reason, event.blamed)
    if not any(kept.name == event.checkpoint for kept in state.checkpoints):
        state = _noted(state, f"the run went back to checkpoint {event.checkpoint!r}, which is not kept")
    return replace(state, rollbacks=(*state.rollbacks, row))


def _with_tables(state: RunState, record: Record, event: Event) -> RunState:
    """`state` with the tables of decisions and seeds after `event`."""
    control, irregular, last = change_control(state.control, record, event)
    slots, more = change_slots(state.slots, record, event, blamed=_is_blamed(state, record, event))
    if last is not None and isinstance(event, CommandIssued | CommandApplied | CommandRefused | CommandFailed):
        slots, more = with_command(slots, (event.site, event.seed), last)
    return _noted(replace(state, control=control, slots=slots), *irregular, *more)


def _is_blamed(state: RunState, record: Record, event: Event) -> bool:
    if not (isinstance(event, SeedTransitioned) and state.rollbacks and state.rollbacks[-1].id == record.cause):
        return False
    blamed = state.rollbacks[-1].blamed
    return blamed is not None and (blamed.site, blamed.seed) == (event.site, event.seed)


def _noted(state: RunState, *what: str) -> RunState:
    if not what:
        return state
    return replace(state, irregularities=(*state.irregularities, *(Irregularity(state.moment, text) for text in what)))
