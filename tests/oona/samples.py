"""What the tests of the log write: small events, a clock that ticks by itself, and records that follow one another."""

import itertools
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from esper.events import topics
from esper.events.envelope import EventId, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.control import Command, CommandIssued
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, Code, RunFinished, RunStarted, Tail
from esper.events.kinds.telemetry import Heartbeat, StepColumns, StepsMeasured
from esper.oona.contract import START, Log
from esper.oona.emitter import Emitter
from esper.oona.heads import Draft
from esper.oona.writer import append_drafts
from tests.beginnings import run_started
from tests.oona.memory import MemoryLog

RUN = RunId("01900000-0000-7000-8000-000000000001")
OTHER = RunId("01900000-0000-7000-8000-000000000002")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def ticking(by: timedelta = timedelta(milliseconds=1)) -> Callable[[], datetime]:
    """A clock that is one tick later each time it is asked."""
    ticks = itertools.count()
    return lambda: BEGAN + by * next(ticks)


def command(number: int) -> CommandIssued:
    """A fact; `number` makes it another one."""
    return CommandIssued(command=Command.GERMINATE, site="fc", seed=number, blueprint=None, kernel=None, expires_epoch=number + 1)


def pruned(number: int) -> CheckpointPruned:
    """A fact of the run's own topic."""
    return CheckpointPruned(checkpoint=str(number), reason="test")


def steps(step: int) -> StepsMeasured:
    """Telemetry of one step."""
    one = StepColumns(step=(step,), loss=(0.5,), gradient_norm=(1.0,), step_latency_ms=(2.0,), data_wait_ms=(None,))
    return StepsMeasured(
        steps=one,
        metrics={},
        learning_rates=(0.1,),
        live_seeds=0,
        last_adaptation_step=None,
        samples_per_s=None,
        memory_bytes=None,
    )


def started(task: str = "spirals", revision: str = "abc", by: str | None = None, account: str | None = None) -> RunStarted:
    """A run's first record."""
    code = Code(revision=revision, dirty_digest=None, argv=())
    who = {"by": by, "account": account}
    return run_started(task=task, settings={"epochs": 3}, code=code, packages={"torch": revision}, rng_seed=1, parameters=7, **who)


def finished(tails: tuple[Tail, ...] = ()) -> RunFinished:
    """A run's planned end."""
    return RunFinished(metrics={"loss": 0.25}, model_digest="0" * 64, parameters=7, stopped_early=False, tails=tails)


def saved(number: int) -> CheckpointSaved:
    """A checkpoint; its duration differs each time and is volatile."""
    return CheckpointSaved(checkpoint=f"{number:04}", digest="1" * 64, size_bytes=10, reason="due", duration_s=number / 7)


def draft(event: Event, moment: int | None, *, step: int = 0, cause: EventId | None = None) -> Draft:
    """`event` as it would be emitted."""
    return Draft(event, event.TOPIC, moment, 1, BEGAN + timedelta(milliseconds=moment or 0), 0, step, cause, None)


def measure(emitter: Emitter, event: Event, *, epoch: int, step: int) -> None:
    """Measures `event`, built already."""
    emitter.measure(type(event), lambda: event, epoch=epoch, step=step)


def mixed(count: int) -> tuple[Record, ...]:
    """`count` records of RUN that follow one another: commands, steps, settings, and a heartbeat now and then."""
    log = MemoryLog(RUN)
    moments = itertools.count(1)
    makers: tuple[Callable[[int], Event], ...] = (command, steps, pruned, steps, steps)
    for number in range(count):
        beats = number % 7 == 6
        event = Heartbeat(idle_s=0.5, doing="step") if beats else makers[number % len(makers)](number)
        append_drafts(log, [draft(event, None if beats else next(moments), step=number)])
    return everything(log)


def ended(count: int) -> tuple[Record, ...]:
    """`count` records of RUN, the last of them its end."""
    log = MemoryLog(RUN)
    log.append(mixed(count - 1))
    append_drafts(log, [draft(finished(log.heads().tails()), log.heads().moment + 1, step=count)])
    return everything(log)


def everything(log: Log, topics_: frozenset[str] | None = None) -> tuple[Record, ...]:
    """All records of `log`."""
    return log.read(START, 1_000_000, topics_).records


def kinds(records: Iterable[Record]) -> list[str]:
    """The written names of the records' kinds."""
    return [record.type for record in records]


def lose_from_index(path: Path, index: str, column: str, kept: str) -> None:
    """Leaves the file of a run with an index that has the entries `kept` alone, as a damaged page would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        (made,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
        connection.execute(f"DROP INDEX {index}")
        connection.execute(f"CREATE INDEX {index} ON records ({column}) WHERE {kept}")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (made, index))


TOPICS = (topics.COMMANDS, topics.STEPS, topics.RUN, topics.HEARTBEAT)
