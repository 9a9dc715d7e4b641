"""The trainer's journal over an emitter and a log in memory."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from esper.errors import RuleError
from esper.events.codec import decode
from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.control import Command, CommandApplied
from esper.events.kinds.telemetry import StepColumns, StepsMeasured
from esper.oona.catch_up import catch_up
from esper.oona.emitter import Emitter
from esper.oona.memory import MemoryLog
from esper.processes.journal import EmittedJournal

APPLIED = CommandApplied(command=Command.GERMINATE, site="0", seed=0)


@pytest.fixture
def log() -> MemoryLog:
    """A log without a record."""
    return MemoryLog(RunId("run"))


@pytest.fixture
def journal(log: MemoryLog) -> Iterator[EmittedJournal]:
    """The journal of its run."""
    with emitter_of(log) as emitter:
        yield EmittedJournal(emitter)


def emitter_of(log: MemoryLog) -> Emitter:
    return Emitter(log, log.run, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), heartbeat_s=1000)


def records(log: MemoryLog) -> tuple[Record, ...]:
    return log.read().records


def steps(step: int) -> StepsMeasured:
    return StepsMeasured(
        steps=StepColumns(step=(step,), loss=(0.5,), gradient_norm=(1.0,), step_latency_ms=(2.0,), data_wait_ms=(None,)),
        metrics={},
        learning_rates=(),
        loss_scale=None,
        skipped_steps=0,
        live_seeds=0,
        last_adaptation_step=None,
        samples_per_s=None,
        memory_bytes=None,
    )


def test_what_is_emitted_and_committed_stands_in_the_log_with_all_that_was_said_of_it(journal: EmittedJournal, log: MemoryLog) -> None:
    identity = journal.emit(APPLIED, epoch=3, step=7, cause=EventId("run/0"), trace="00-a-b-01")
    journal.commit()
    (record,) = records(log)
    assert (record.id, record.epoch, record.step, record.cause, record.trace) == (identity, 3, 7, "run/0", "00-a-b-01")
    assert decode(record) == APPLIED


def test_telemetry_is_built_for_the_log(journal: EmittedJournal, log: MemoryLog) -> None:
    journal.measure(StepsMeasured, lambda: steps(4), epoch=1, step=4)
    journal.commit()
    (record,) = records(log)
    assert (decode(record), record.fact) == (steps(4), None)


def test_the_tails_are_of_every_topic_and_end_telemetry(journal: EmittedJournal, log: MemoryLog) -> None:
    journal.emit(APPLIED, epoch=1, step=4)
    journal.measure(StepsMeasured, lambda: steps(4), epoch=1, step=4)
    tails = journal.tails(epoch=1, step=4)
    assert {tail.topic: tail.sequence for tail in tails} == {APPLIED.TOPIC: 1, StepsMeasured.TOPIC: 2}
    assert [record.type for record in records(log)][-1] == "esper.stream.ended.v1"


def test_a_journal_whose_emitter_is_closed_takes_nothing(log: MemoryLog) -> None:
    emitter = emitter_of(log)
    emitter.close()
    with pytest.raises(RuleError, match="it is closed"):
        EmittedJournal(emitter).commit()


def test_what_is_upcoming_is_what_the_log_has_and_goes_as_it_is_met(journal: EmittedJournal, log: MemoryLog) -> None:
    first = journal.emit(APPLIED, epoch=1, step=1)
    second = journal.emit(APPLIED, epoch=2, step=2)
    journal.commit()
    with Emitter(
        log, log.run, clock=lambda: datetime(2026, 1, 2, tzinfo=UTC), heartbeat_s=1000, catch_up=catch_up(log, None, None)
    ) as emitter:
        again = EmittedJournal(emitter)
        assert [record.id for record in again.upcoming] == [first, second]
        assert again.emit(APPLIED, epoch=1, step=1) == first
        assert [record.id for record in again.upcoming] == [second]
    assert len(records(log)) == 2
