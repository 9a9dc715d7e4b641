"""What the emitter promises its caller: numbers without gaps, facts that are never lost, telemetry that is dropped only with a word."""

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import pytest

from esper.errors import DataError, LogError, RuleError
from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import EventId, Moment, Record, heartbeat_id, record_id
from esper.events.fields import Event
from esper.events.kinds.observability import ObserverStarted
from esper.events.kinds.run import ClockJumped, RunFailed, RunResumed, SamplesDropped, StreamEnded
from esper.events.kinds.telemetry import Heartbeat, ResourcesMeasured, StepsMeasured
from esper.oona.contract import RunWriter
from esper.oona.emitter import Emitter
from esper.oona.heads import Heads
from esper.oona.steady_clock import SteadyClock
from tests.oona.memory import MemoryLog
from tests.oona.samples import RUN, command, everything, finished, kinds, measure, pruned, saved, steps, ticking

NEVER_S = 1e6


class Gate:
    """A log whose appends wait until they are let through, or fail when told to."""

    def __init__(self) -> None:
        self.log = MemoryLog(RUN)
        self.open = threading.Event()
        self.entered = threading.Event()
        self.error: LogError | None = None
        self.freed = False
        real = self.log.append

        def append(records: tuple[Record, ...], reached: Heads | None = None) -> None:
            self.entered.set()
            assert self.open.wait(60)
            if self.error is not None:
                raise self.error
            real(records, reached)

        def free() -> None:
            self.freed = True
            self.error = None

        self.log.append = append  # type: ignore[method-assign]
        self.log.free_reserve = free  # type: ignore[method-assign]


def emitter_on(log: RunWriter, **more: float) -> Emitter:
    return Emitter(log, RUN, clock=ticking(), heartbeat_s=more.get("heartbeat_s", NEVER_S), capacity=int(more.get("capacity", 1000)))


def test_what_was_committed_is_in_the_log(log: RunWriter) -> None:
    with emitter_on(log) as emitter:
        first = emitter.emit(command(1), epoch=0, step=0)
        measure(emitter, steps(1), epoch=0, step=1)
        second = emitter.emit(command(2), epoch=0, step=1)
        emitter.commit()
        records = everything(log)
    assert [record.id for record in records] == [first, record_id(RUN, Moment(2)), second]
    assert (first, second) == (record_id(RUN, Moment(1)), record_id(RUN, Moment(3)))
    assert [decode(record) for record in records] == [command(1), steps(1), command(2)]


def test_numbers_have_no_gaps(log: RunWriter) -> None:
    with emitter_on(log) as emitter:
        for number in range(50):
            emitter.emit(command(number), epoch=0, step=number)
            emitter.measure(StepsMeasured, lambda: steps(0), epoch=0, step=number)
            emitter.emit(pruned(number), epoch=0, step=number)
    records = everything(log)
    assert [record.moment for record in records] == list(range(1, 151))
    assert [record.fact for record in records if record.fact is not None] == list(range(1, 101))
    assert [record.sequence for record in records if record.topic == topics.STEPS] == list(range(1, 51))


def test_every_record_is_chained_to_the_one_before_it(log: RunWriter) -> None:
    with emitter_on(log) as emitter:
        emitter.emit(command(1), epoch=0, step=0)
        emitter.emit(command(2), epoch=0, step=0)
    heads = MemoryLog(RUN).heads()
    for record in everything(log):
        heads.verify(record)
    assert heads.topic(topics.COMMANDS).sequence == 2


def test_closing_writes_what_waits() -> None:
    log = MemoryLog(RUN)
    emitter = emitter_on(log)
    emitter.emit(command(1), epoch=0, step=0)
    emitter.close()
    assert len(everything(log)) == 1


def test_time_never_goes_back() -> None:
    log = MemoryLog(RUN)
    with Emitter(log, RUN, clock=ticking(timedelta(seconds=-1)), heartbeat_s=NEVER_S) as emitter:
        for number in range(3):
            emitter.emit(command(number), epoch=0, step=0)
    times = [record.time for record in everything(log)]
    assert times == sorted(times)


def test_a_fact_without_a_cause_follows_from_the_last_anchor() -> None:
    log = MemoryLog(RUN)
    with emitter_on(log) as emitter:
        first = emitter.emit(pruned(0), epoch=0, step=0)
        emitter.emit(command(1), epoch=0, step=0)
        measure(emitter, steps(1), epoch=0, step=1)
        emitter.emit(command(2), epoch=0, step=1, cause=EventId(f"{RUN}/2"))
    assert [record.cause for record in everything(log)] == [None, first, first, f"{RUN}/2"]


def test_clocks_and_trace_stand_in_the_record() -> None:
    log = MemoryLog(RUN)
    with emitter_on(log) as emitter:
        emitter.emit(command(1), epoch=3, step=40, trace="00-aa-bb-01")
    record = everything(log)[0]
    assert (record.epoch, record.step, record.trace, record.incarnation) == (3, 40, "00-aa-bb-01", 1)


@pytest.mark.parametrize(("epoch", "step"), [(1, 9), (0, 10)])
def test_clocks_that_go_back_within_a_topic_are_refused_without_a_gap(epoch: int, step: int) -> None:
    log = MemoryLog(RUN)
    with emitter_on(log) as emitter:
        emitter.emit(command(1), epoch=1, step=10)
        with pytest.raises(RuleError, match=r"expected epoch >= 1 and step >= 10"):
            emitter.emit(command(2), epoch=epoch, step=step)
        emitter.emit(command(2), epoch=1, step=10)
    assert [record.moment for record in everything(log)] == [1, 2]


@pytest.mark.parametrize(
    "event",
    [
        RunResumed(checkpoint=None, caught_up_to=0, incarnation=2, environment_changes=()),
        StreamEnded(last_step=1),
        Heartbeat(idle_s=0.0, doing="step"),
        ObserverStarted(rules={}, settings={}, settings_digest="0" * 64),
        SamplesDropped(topic=topics.STEPS, count=1, first_step=1, last_step=1),
        steps(1),
    ],
    ids=["resumed", "stream ended", "heartbeat", "derived", "dropped", "telemetry"],
)
def test_what_is_not_the_callers_to_say_is_refused(event: Event) -> None:
    with emitter_on(MemoryLog(RUN)) as emitter, pytest.raises(RuleError):
        emitter.emit(event, epoch=0, step=0)


@pytest.mark.parametrize("kind", [Heartbeat, ResourcesMeasured, type(command(1))], ids=["heartbeat", "an agent's", "fact"])
def test_what_is_not_the_callers_to_measure_is_refused(kind: type[Event]) -> None:
    with emitter_on(MemoryLog(RUN)) as emitter, pytest.raises(RuleError):
        emitter.measure(kind, lambda: steps(1), epoch=0, step=0)


def test_telemetry_that_finds_no_room_is_counted_and_said() -> None:
    gate = Gate()
    with emitter_on(gate.log, capacity=4) as emitter:
        emitter.emit(command(0), epoch=0, step=0)
        assert gate.entered.wait(60)
        for step in range(1, 8):
            measure(emitter, steps(step), epoch=0, step=step)
        gate.open.set()
        emitter.commit()
        measure(emitter, steps(8), epoch=0, step=8)
    records = everything(gate.log)
    assert kinds(records) == [command(0).KIND, *[steps(0).KIND] * 4, SamplesDropped.KIND, steps(0).KIND]
    assert decode(records[5]) == SamplesDropped(topic=topics.STEPS, count=3, first_step=5, last_step=7)
    assert [record.moment for record in records] == list(range(1, 8))


def test_a_fact_that_finds_no_room_waits_for_it() -> None:
    gate = Gate()
    threading.Timer(0.02, gate.open.set).start()
    with emitter_on(gate.log, capacity=2) as emitter:
        for number in range(20):
            emitter.emit(command(number), epoch=0, step=0)
    assert [decode(record) for record in everything(gate.log)] == [command(number) for number in range(20)]


def test_dropped_samples_are_said_before_the_run_ends() -> None:
    gate = Gate()
    with emitter_on(gate.log, capacity=1) as emitter:
        emitter.emit(command(0), epoch=0, step=0)
        assert gate.entered.wait(60)
        measure(emitter, steps(1), epoch=0, step=1)
        measure(emitter, steps(2), epoch=0, step=2)
        gate.open.set()
        emitter.tails(epoch=0, step=2)
    assert SamplesDropped.KIND in kinds(everything(gate.log))


def test_a_failed_log_stops_the_run_at_the_next_word() -> None:
    gate = Gate()
    gate.error = LogError("the disk is full")
    gate.open.set()
    emitter = emitter_on(gate.log)
    emitter.emit(command(0), epoch=0, step=0)
    with pytest.raises(LogError, match="the disk is full"):
        emitter.commit()
    with pytest.raises(LogError, match="the disk is full"):
        emitter.emit(command(1), epoch=0, step=0)
    with pytest.raises(LogError, match="the disk is full"):
        emitter.close()


def test_telemetry_that_cannot_be_built_stops_the_run_after_what_came_before_it() -> None:
    log = MemoryLog(RUN)
    emitter = emitter_on(log)
    emitter.emit(command(0), epoch=0, step=0)
    emitter.measure(StepsMeasured, lambda: steps(1).model_validate({}), epoch=0, step=1)
    emitter.emit(command(1), epoch=0, step=1)
    with pytest.raises(LogError, match=r"cannot record one esper\.steps\.measured\.v1"):
        emitter.commit()
    with pytest.raises(LogError):
        emitter.close()
    assert [decode(record) for record in everything(log)] == [command(0)]


def test_a_builder_that_makes_another_kind_stops_the_run() -> None:
    emitter = emitter_on(MemoryLog(RUN))
    emitter.measure(StepsMeasured, lambda: command(1), epoch=0, step=1)
    with pytest.raises(LogError, match=r"expected one esper\.steps\.measured\.v1 of its builder, got CommandIssued"):
        emitter.commit()
    with pytest.raises(LogError):
        emitter.close()


def test_last_words_are_written_after_the_log_failed() -> None:
    gate = Gate()
    gate.error = LogError("the disk is full")
    gate.open.set()
    emitter = emitter_on(gate.log)
    emitter.emit(command(0), epoch=2, step=9)
    with pytest.raises(LogError):
        emitter.commit()
    emitter.fail("log", "the disk is full", where="epoch 2", epoch=2, step=9)
    assert gate.freed
    (record,) = everything(gate.log)
    assert record.moment == 1
    assert decode(record) == RunFailed(kind="log", error="the disk is full", where="epoch 2", tails=())


def test_a_failing_run_ends_its_streams_and_says_why(log: RunWriter) -> None:
    emitter = emitter_on(log)
    emitter.emit(command(0), epoch=0, step=0)
    measure(emitter, steps(3), epoch=0, step=3)
    emitter.fail("error", "ValueError: no", where="step 3", epoch=0, step=3)
    records = everything(log)
    assert kinds(records) == [command(0).KIND, StepsMeasured.KIND, StreamEnded.KIND, StreamEnded.KIND, RunFailed.KIND]
    failed = decode(records[-1])
    assert isinstance(failed, RunFailed)
    assert {tail.topic: tail.sequence for tail in failed.tails} == {topics.COMMANDS: 2, topics.STEPS: 2}
    with pytest.raises(RuleError, match="it has failed"):
        emitter.emit(command(1), epoch=0, step=3)


def test_tails_end_every_topic_but_the_run_s_own_once(log: RunWriter) -> None:
    with emitter_on(log) as emitter:
        emitter.emit(saved(0), epoch=0, step=0)
        emitter.emit(command(0), epoch=0, step=0)
        measure(emitter, steps(5), epoch=0, step=5)
        first = emitter.tails(epoch=1, step=6)
        again = emitter.tails(epoch=1, step=6)
    records = everything(log)
    assert [(record.type, record.topic) for record in records[3:]] == [
        (StreamEnded.KIND, topics.COMMANDS),
        (StreamEnded.KIND, topics.STEPS),
    ]
    assert decode(records[-1]) == StreamEnded(last_step=5)
    assert (records[-1].topic, records[-1].epoch, records[-1].step) == (topics.STEPS, 0, 5)
    assert first == again
    assert [(tail.topic, tail.sequence, tail.chain) for tail in first] == [
        (record.topic, record.sequence, record.chain.hex()) for record in (records[3], records[0], records[4]) if record.chain is not None
    ]


def test_heartbeats_are_numbered_in_their_topic_alone(log: RunWriter) -> None:
    with emitter_on(log, heartbeat_s=0.005) as emitter:
        emitter.doing("validating")
        emitter.emit(pruned(0), epoch=4, step=7)
        emitter.commit()
        while len(everything(log, frozenset({topics.HEARTBEAT}))) < 2:
            assert log.wait(log.end(), 60.0)
        second = emitter.emit(command(1), epoch=4, step=7)
    beats = everything(log, frozenset({topics.HEARTBEAT}))
    assert second == record_id(RUN, 2)  # type: ignore[arg-type]
    assert [beat.id for beat in beats[:2]] == [heartbeat_id(RUN, 1), heartbeat_id(RUN, 2)]
    assert {(beat.moment, beat.epoch, beat.step, beat.cause) for beat in beats[:2]} == {(1, 4, 7, record_id(RUN, 1))}  # type: ignore[arg-type]
    event = decode(beats[0])
    assert isinstance(event, Heartbeat)
    assert event.doing == "validating"


def test_no_heartbeat_comes_before_the_first_record_or_after_the_tails() -> None:
    log = MemoryLog(RUN)
    with emitter_on(log, heartbeat_s=0.001) as emitter:
        assert not log.wait(log.end(), 0.02)
        emitter.emit(pruned(0), epoch=0, step=0)
        emitter.commit()
        assert log.wait(log.end(), 60.0)
        emitter.tails(epoch=0, step=0)
        emitter.emit(finished(), epoch=0, step=0)
        emitter.commit()
        end = log.end()
        assert not log.wait(end, 0.02)
    assert everything(log)[-1].type == finished().KIND


def in_thread(action: Callable[[], object]) -> BaseException | None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_another_thread_is_refused() -> None:
    with emitter_on(MemoryLog(RUN)) as emitter:
        for action in (
            lambda: emitter.emit(command(0), epoch=0, step=0),
            emitter.commit,
            lambda: emitter.tails(epoch=0, step=0),
            emitter.close,
        ):
            error = in_thread(action)
            assert isinstance(error, RuleError)
            assert "not the thread that opened it" in str(error)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused_and_harms_nothing(log: RunWriter) -> None:
    with emitter_on(log) as emitter:
        emitter.emit(command(0), epoch=0, step=0)
        child = os.fork()
        if child == 0:
            try:
                emitter.emit(command(1), epoch=0, step=0)
            except RuleError as error:
                emitter.close()
                os._exit(42 if "forked child" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        emitter.emit(command(1), epoch=0, step=0)
        emitter.commit()
    assert len(everything(log)) == 2


def test_a_closed_emitter_takes_nothing() -> None:
    emitter = emitter_on(MemoryLog(RUN))
    emitter.close()
    emitter.close()
    with pytest.raises(RuleError, match="it is closed"):
        emitter.emit(command(0), epoch=0, step=0)


def test_the_log_of_another_run_is_refused() -> None:
    with pytest.raises(RuleError, match="expected the log of run"):
        Emitter(MemoryLog(RUN), EventId("x"), clock=ticking())  # type: ignore[arg-type]


def test_an_emitter_goes_on_where_the_last_one_ended(log: RunWriter) -> None:
    with emitter_on(log) as emitter:
        emitter.emit(command(0), epoch=0, step=4)
    with emitter_on(log) as emitter:
        assert emitter.emit(command(1), epoch=0, step=4) == record_id(RUN, 2)  # type: ignore[arg-type]
        with pytest.raises(RuleError, match="step >= 4"):
            emitter.emit(command(1), epoch=0, step=3)


def test_closing_with_a_summary_seals_the_run() -> None:
    log = MemoryLog(RUN)
    with emitter_on(log) as emitter:
        emitter.emit(finished(), epoch=0, step=0)
        emitter.close(seal=True)
    assert log.sealed


def test_a_fact_too_large_for_a_record_stops_the_run() -> None:
    log = MemoryLog(RUN)
    emitter = emitter_on(log)
    emitter.emit(pruned(0).model_copy(update={"reason": "x" * (9 << 20)}), epoch=0, step=0)
    with pytest.raises(LogError, match="at most 8388608 bytes"):
        emitter.commit()
    with pytest.raises(LogError) as raised:
        emitter.close()
    assert isinstance(raised.value.__cause__, DataError)


def test_a_clock_that_was_ahead_for_a_moment_is_a_fact_and_moves_no_record(log: RunWriter) -> None:
    wall_s, passed_s = [1_772_000_000.0], [0.0]
    clock = SteadyClock(lambda: wall_s[0], lambda: passed_s[0])
    with Emitter(log, RUN, clock=clock, heartbeat_s=NEVER_S) as emitter:
        for second in range(20):
            emitter.emit(command(second), epoch=0, step=second)
            passed_s[0] += 1
            wall_s[0] += 1 + (3600 if second == 4 else -3600 if second == 6 else 0)
    records = everything(log)
    times = [(record.time - records[0].time).total_seconds() for record in records if record.type == command(0).KIND]
    assert times == [float(second) for second in range(20)]
    jumps = [(record.step, decode(record)) for record in records if record.type == ClockJumped.KIND]
    assert jumps == [(6, ClockJumped(apart_s=3600.0, followed=False)), (16, ClockJumped(apart_s=0.0, followed=True))]


def test_a_run_goes_on_from_the_time_of_its_last_record_though_the_clock_was_set_back_between() -> None:
    log = MemoryLog(RUN)
    for wall_s in (1_772_000_000.0, 1_771_990_000.0):
        passed_s = [0.0]
        clock = SteadyClock(lambda: wall_s + passed_s[0], lambda: passed_s[0])  # noqa: B023 - called in this round alone.
        with Emitter(log, RUN, clock=clock, heartbeat_s=NEVER_S) as emitter:
            for passed_s[0] in (1.0, 2.0, 3.0):
                emitter.emit(command(1), epoch=0, step=1)
    times = [record.time for record in everything(log) if record.type == command(1).KIND]
    assert [(after - before).total_seconds() for before, after in pairwise(times)] == [1.0, 1.0, 1.0, 1.0, 1.0]


def test_nobody_else_may_say_that_the_clock_jumped() -> None:
    with emitter_on(MemoryLog(RUN)) as emitter, pytest.raises(RuleError, match="written by the emitter itself"):
        emitter.emit(ClockJumped(apart_s=1.0, followed=True), epoch=0, step=0)
