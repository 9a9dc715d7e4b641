"""Runs that were recorded in a directory: one that went through to its end, and one that was interrupted and then resumed.

The resumed one carries what the other lacks: a second incarnation, W3C traces, and heartbeats, which have no moment of their own.
"""

from datetime import timedelta
from functools import partial

from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.control import Adaptation, Command, CommandApplied
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.telemetry import Heartbeat, StepsMeasured
from esper.oona.catch_up import CatchUp
from esper.oona.directory import Directory, new_run_id
from esper.oona.emitter import Emitter
from esper.oona.writer import append_drafts
from tests.folds.histories import decision, issued, steps, transition
from tests.oona.samples import everything, saved
from tests.synthetic import BEGAN, FIRST, ticking, write_run

INTERRUPTED_EPOCH, LAST_EPOCH = 4, 9
_NEVER_S = 1e6


def run_of(number: int) -> RunId:
    """A run's id. Of the first three, two share one of three partitions; a test says so."""
    return new_run_id(BEGAN, number.to_bytes(10, "big"))


def log_of(directory: Directory, run: RunId, *topics: str) -> tuple[Record, ...]:
    """The records of `run` in `directory`, of all topics where none is named."""
    with directory.open(run) as log:
        return everything(log, frozenset(topics) or None)


def write_resumed_run(directory: Directory, run: RunId) -> None:
    """A run that was interrupted after a few epochs and is still training in its second incarnation."""
    write_run(directory, run=run, until_epoch=INTERRUPTED_EPOCH, finish=False)
    go_on(directory, run, LAST_EPOCH, resumed=True)


def go_on(directory: Directory, run: RunId, last_epoch: int, *, resumed: bool) -> None:
    """Trains `run` up to `last_epoch`, a minute later: as its next incarnation, or as a process that never learned of one."""
    with directory.resume(run) as log:
        before = everything(log)
        last = before[-1]
        ahead = CatchUp(log, last.moment, "epoch-000004") if resumed else None
        clock = ticking(last.time + timedelta(minutes=1))
        with Emitter(log, run, clock=clock, heartbeat_s=_NEVER_S, catch_up=ahead) as emitter:
            for epoch in range(last.epoch + 1, last_epoch + 1):
                _train(emitter, epoch, _last_completed(before))
        # The writer's own beats follow the machine's clock; these two stand where they stand every time.
        for _ in range(2):
            heads, beat = log.heads(), Heartbeat(idle_s=0.5, doing="waiting")
            append_drafts(log, [heads.draft(beat, beat.TOPIC, clock(), epoch=heads.epoch, step=heads.step)])


def _train(emitter: Emitter, epoch: int, like: EpochCompleted) -> None:
    step = 100 * epoch
    trace = f"00-{epoch:032x}-{epoch:016x}-01"
    emitter.measure(StepsMeasured, partial(steps, step - 1, step), epoch=epoch, step=step)
    event = like.model_copy(update={"system": like.system.model_copy(update={"epoch": epoch})})
    completed = emitter.emit(event, epoch=epoch, step=step)
    made = emitter.emit(decision(Adaptation.ADVANCE, completed, FIRST, 3), epoch=epoch, step=step, cause=completed, trace=trace)
    told = emitter.emit(issued(Command.LOAD, FIRST, 3, epoch), epoch=epoch, step=step, cause=made, trace=trace)
    applied = CommandApplied(command=Command.LOAD, site=FIRST, seed=3)
    cause = emitter.emit(applied, epoch=epoch, step=step, cause=told, trace=trace)
    moved = transition(Stage.GERMINATED, Stage.LOADING, FIRST, 3, life=epoch)
    emitter.emit(moved, epoch=epoch, step=step, cause=cause, trace=trace)
    emitter.emit(saved(epoch), epoch=epoch, step=step)
    emitter.commit()


def _last_completed(records: tuple[Record, ...]) -> EpochCompleted:
    event = decode(next(record for record in reversed(records) if record.type == EpochCompleted.KIND))
    assert isinstance(event, EpochCompleted)
    return event
