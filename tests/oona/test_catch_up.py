"""A resumed run meets its log again: nothing is written twice, a difference ends it, and what follows is numbered on."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from esper.events import topics
from esper.events.codec import decode
from esper.events.digests import comparison_form
from esper.events.envelope import EventId, Moment
from esper.events.kinds.run import CheckpointSaved, RunFailed, RunFinished, RunResumed, RunStarted, SamplesDropped, StreamEnded
from esper.events.kinds.telemetry import StepsMeasured
from esper.oona.catch_up import _OUTSIDE, CatchUp, DivergedError, _first_difference
from esper.oona.emitter import Emitter
from esper.oona.writer import append_drafts
from tests.beginnings import training_described
from tests.oona.memory import MemoryLog
from tests.oona.samples import RUN, command, draft, everything, finished, kinds, measure, saved, started, steps, ticking

NEVER_S = 1e6
EPOCHS = 4


def emitter_on(log: MemoryLog, ahead: CatchUp | None = None, heartbeat_s: float = NEVER_S) -> Emitter:
    return Emitter(log, RUN, clock=ticking(), heartbeat_s=heartbeat_s, catch_up=ahead)


def start(emitter: Emitter) -> None:
    emitter.emit(started(), epoch=0, step=0)
    emitter.emit(saved(0), epoch=0, step=0)


def train(emitter: Emitter, first: int, last: int = EPOCHS, *, dropped: bool = False) -> None:
    """A training in small: each epoch measures two steps, issues a command and saves a checkpoint."""
    for epoch in range(first, last + 1):
        for step in (2 * epoch - 1, 2 * epoch):
            if not (dropped and step == 3):
                measure(emitter, steps(step), epoch=epoch, step=step)
        cause = emitter.emit(command(epoch), epoch=epoch, step=2 * epoch)
        emitter.emit(saved(epoch), epoch=epoch, step=2 * epoch, cause=cause)


def end(emitter: Emitter) -> None:
    tails = emitter.tails(epoch=EPOCHS, step=2 * EPOCHS)
    emitter.emit(finished(tails), epoch=EPOCHS, step=2 * EPOCHS)


def whole() -> MemoryLog:
    log = MemoryLog(RUN)
    with emitter_on(log) as emitter:
        start(emitter)
        train(emitter, 1)
        end(emitter)
    return log


def cut(log: MemoryLog, count: int) -> MemoryLog:
    """The log as a kill leaves it: its first `count` records."""
    left = MemoryLog(RUN)
    left.append(everything(log)[:count])
    return left


def checkpoint_in(log: MemoryLog) -> tuple[int, Moment | None]:
    """The last checkpoint: its epoch, and its moment; -1 and None where there is none."""
    for record in reversed(everything(log, frozenset({topics.RUN}))):
        if record.type == CheckpointSaved.KIND:
            return record.epoch, record.moment
    return -1, None


def compared(log: MemoryLog) -> list[tuple[str, int, int, JsonValue]]:
    """Facts as two executions are compared: ids replaced by topic and ordinal."""
    facts = [record for record in everything(log) if record.fact is not None and record.type not in _OUTSIDE]
    places: dict[EventId, str] = {}
    count: dict[str, int] = {}
    for record in facts:
        count[record.topic] = count.get(record.topic, 0) + 1
        places[record.id] = f"{record.topic}#{count[record.topic]}"
    return [(record.type, record.epoch, record.step, comparison_form(decode(record), lambda id_: places[id_])) for record in facts]


def resume(log: MemoryLog) -> Emitter:
    epoch, moment = checkpoint_in(log)
    return emitter_on(log, CatchUp(log, moment, None if moment is None else f"{epoch:04}"))


WHOLE = whole()
KILLED = cut(WHOLE, 9)  # Epoch 2 is measured, its command issued; no checkpoint of it.


@given(kills=st.lists(st.integers(0, len(everything(WHOLE))), max_size=3))
def test_a_run_killed_anywhere_and_resumed_says_the_same(kills: list[int]) -> None:
    log = WHOLE
    for kill in kills:
        log = cut(log, kill)
        with resume(log) as emitter:
            epoch, moment = checkpoint_in(log)
            if moment is None:
                start(emitter)
            train(emitter, max(epoch, 0) + 1)
            end(emitter)
    assert compared(log) == compared(WHOLE)
    assert [(record.epoch, record.step) for record in everything(log, frozenset({topics.STEPS}))] == [
        (record.epoch, record.step) for record in everything(WHOLE, frozenset({topics.STEPS}))
    ]
    heads = MemoryLog(RUN).heads()
    for record in everything(log):
        heads.verify(record)


def test_what_the_log_has_is_not_written_again() -> None:
    log = cut(KILLED, 9)
    with resume(log) as emitter:
        measure(emitter, steps(3), epoch=2, step=3)
        measure(emitter, steps(4), epoch=2, step=4)
        before = emitter.catching_up
        assert emitter.emit(command(2), epoch=2, step=4) == everything(KILLED)[8].id
        assert (before, emitter.catching_up) == (True, False)
    assert everything(log) == everything(KILLED)


def test_the_first_new_record_comes_after_run_resumed() -> None:
    log = cut(KILLED, 9)
    with resume(log) as emitter:
        emitter.emit(command(2), epoch=2, step=4)
        emitter.emit(saved(2), epoch=2, step=4)
        emitter.emit(command(3), epoch=3, step=6)
    resumed, save, after = everything(log)[9:]
    assert decode(resumed) == RunResumed(checkpoint="0001", caught_up_to=9, incarnation=2, environment_changes=())
    assert (resumed.moment, save.type, save.incarnation) == (10, CheckpointSaved.KIND, 2)
    assert after.cause == resumed.id


def test_telemetry_up_to_the_last_logged_step_is_not_written_again() -> None:
    log = cut(WHOLE, 8)  # Ends with step 4, before the command of epoch 2.
    with resume(log) as emitter:
        for step in (3, 4, 5):
            measure(emitter, steps(step), epoch=2, step=step)
    resumed, measured = everything(log)[8:]
    assert (resumed.type, decode(measured)) == (RunResumed.KIND, steps(5))


def test_telemetry_dropped_before_the_kill_stays_dropped_while_facts_are_met_again() -> None:
    log = MemoryLog(RUN)
    with emitter_on(log) as emitter:
        start(emitter)
        train(emitter, 1, 2, dropped=True)
    dropped = SamplesDropped(topic=topics.STEPS, count=1, first_step=3, last_step=3)
    append_drafts(log, [draft(dropped, log.heads().moment + 1, step=4)._replace(epoch=2, time=log.heads().time)])
    before = everything(log)
    with emitter_on(log, CatchUp(log, Moment(1), None)) as emitter:
        emitter.emit(saved(0), epoch=0, step=0)
        train(emitter, 1, 2)
    assert everything(log) == before


def test_pending_facts_are_those_not_emitted_yet_in_order() -> None:
    with emitter_on(KILLED, CatchUp(KILLED, None, None)) as emitter:
        assert kinds(emitter.pending_facts) == [
            RunStarted.KIND,
            CheckpointSaved.KIND,
            command(0).KIND,
            CheckpointSaved.KIND,
            command(0).KIND,
        ]
        start(emitter)
        assert kinds(emitter.pending_facts) == [command(0).KIND, CheckpointSaved.KIND, command(0).KIND]
    assert not emitter_on(MemoryLog(RUN)).pending_facts


DIFFERENCES: list[tuple[str, Callable[[Emitter], object]]] = [
    (r"expected type 'esper\.command\.issued\.v1', got 'esper\.checkpoint", lambda emitter: emitter.emit(saved(2), epoch=2, step=4)),
    (r"expected epoch 2, got 3", lambda emitter: emitter.emit(command(2), epoch=3, step=4)),
    (r"expected step 4, got 5", lambda emitter: emitter.emit(command(2), epoch=2, step=5)),
    (r"expected data\.expires_epoch 3, got 4", lambda emitter: emitter.emit(command(3), epoch=2, step=4)),
]


@pytest.mark.parametrize(("message", "say"), DIFFERENCES)
def test_saying_something_else_is_a_divergence(message: str, say: Callable[[Emitter], object]) -> None:
    log = cut(KILLED, 9)
    with resume(log) as emitter:
        with pytest.raises(DivergedError, match=message) as raised:
            say(emitter)
        assert "sequence 2 (moment 9, epoch 2, step 4)" in str(raised.value)
    assert everything(log) == everything(KILLED)


def test_volatile_fields_may_differ() -> None:
    log = cut(WHOLE, 10)
    with emitter_on(log, CatchUp(log, Moment(9), None)) as emitter:
        again = saved(2).model_copy(update={"duration_s": 99.0})
        assert emitter.emit(again, epoch=2, step=4) == everything(log)[9].id


def test_a_new_environment_is_no_divergence_but_new_settings_are() -> None:
    log = cut(WHOLE, 2)
    with emitter_on(log, CatchUp(log, None, None)) as emitter:
        assert emitter.emit(started(revision="def"), epoch=0, step=0) == everything(log)[0].id
    with emitter_on(log, CatchUp(log, None, None)) as emitter, pytest.raises(DivergedError, match=r"data\.task 'spirals', got 'digits'"):
        emitter.emit(started(task="digits"), epoch=0, step=0)


def test_no_heartbeat_is_written_while_catching_up() -> None:
    log = cut(KILLED, 9)
    with emitter_on(log, CatchUp(log, Moment(6), "0001"), heartbeat_s=0.001) as emitter:
        assert not log.wait(log.end(), 0.02)
        emitter.emit(command(2), epoch=2, step=4)
        emitter.emit(saved(2), epoch=2, step=4)
        emitter.commit()
        assert log.wait(log.end(), 60.0)
    assert kinds(everything(log)[9:11]) == [RunResumed.KIND, CheckpointSaved.KIND]


def test_failing_while_catching_up_says_how_far_it_came() -> None:
    log = cut(WHOLE, 14)
    emitter = emitter_on(log, CatchUp(log, Moment(6), "0001"))
    emitter.emit(command(2), epoch=2, step=4)
    emitter.fail("diverged", "at the second", where="epoch 2", epoch=2, step=4)
    resumed, commands, measured, failed = everything(log)[14:]
    assert decode(resumed) == RunResumed(checkpoint="0001", caught_up_to=9, incarnation=2, environment_changes=())
    assert kinds((commands, measured, failed)) == [StreamEnded.KIND, StreamEnded.KIND, RunFailed.KIND]
    assert (failed.incarnation, failed.epoch, failed.step) == (2, 3, 6)


def test_an_execution_that_failed_far_behind_does_not_take_the_clocks_back() -> None:
    log = cut(KILLED, 9)
    emitter = emitter_on(log, CatchUp(log, None, None))
    emitter.fail("error", "a damaged checkpoint", where="epoch 0", epoch=0, step=0)
    facts = [record for record in everything(log) if record.fact is not None and record.type != StreamEnded.KIND]
    assert [record.epoch for record in facts] == sorted(record.epoch for record in facts)


def test_what_was_measured_before_a_failure_and_not_said_comes_when_the_run_is_resumed() -> None:
    log = MemoryLog(RUN)
    emitter = emitter_on(log)
    start(emitter)
    measure(emitter, steps(5), epoch=1, step=5)
    emitter.fail("error", "a bug", where="epoch 1, step 13", epoch=1, step=13)
    with resume(log) as emitter:
        for step in (5, 10, 15):
            measure(emitter, steps(step), epoch=1, step=step)
    assert [record.step for record in everything(log) if record.type == StepsMeasured.KIND] == [5, 10, 15]
    assert [record.step for record in everything(log) if record.type in {StreamEnded.KIND, RunFailed.KIND}] == [5, 13]


def test_a_failed_run_goes_on_where_it_failed() -> None:
    log = cut(WHOLE, 9)
    emitter = emitter_on(log)
    emitter.fail("error", "a bug", where="epoch 2", epoch=2, step=4)
    with resume(log) as emitter:
        train(emitter, 2)
        end(emitter)
    assert compared(log) == compared(WHOLE)


def test_a_run_killed_between_its_end_and_its_seal_is_sealed_at_last() -> None:
    log = cut(WHOLE, len(everything(WHOLE)))
    emitter = resume(log)
    tails = emitter.tails(epoch=EPOCHS, step=2 * EPOCHS)
    emitter.emit(finished(), epoch=EPOCHS, step=2 * EPOCHS)
    emitter.close(seal=True)
    assert everything(log) == everything(WHOLE)
    assert log.sealed
    assert [tail.topic for tail in tails] == [topics.COMMANDS, topics.RUN, topics.STEPS]


def test_only_the_streams_that_did_not_end_are_ended_after_a_kill() -> None:
    records = everything(WHOLE)
    ended = next(place for place, record in enumerate(records) if record.type == StreamEnded.KIND)
    log = cut(WHOLE, ended + 1)
    with resume(log) as emitter:
        end(emitter)
    assert kinds(everything(log)[ended + 1 :]) == [RunResumed.KIND, StreamEnded.KIND, RunFinished.KIND]


def test_changes_of_the_environment_stand_in_run_resumed() -> None:
    log = cut(WHOLE, 6)
    ahead = CatchUp(log, Moment(6), "0001")
    ahead.compare_start(started(revision="def"), training_described())
    with emitter_on(log, ahead) as emitter:
        emitter.emit(command(2), epoch=2, step=4)
    resumed = decode(everything(log)[6])
    assert isinstance(resumed, RunResumed)
    assert resumed.environment_changes == ("code.revision was 'abc', is 'def'", "packages.torch was 'abc', is 'def'")


def begun_by(by: str | None, account: str | None) -> MemoryLog:
    log = MemoryLog(RUN)
    with emitter_on(log) as emitter:
        emitter.emit(started(by=by, account=account), epoch=0, step=0)
        emitter.emit(saved(0), epoch=0, step=0)
    return log


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ((None, None), ()),
        (("ada", "lab"), ()),
        (("grace", "lab"), ("by was 'ada', is 'grace'",)),
        ((None, "root"), ("account was 'lab', is 'root'",)),
    ],
)
def test_who_resumes_a_run_is_noted_where_it_is_another_and_nobody_has_to_be_named(
    said: tuple[str | None, str | None], changes: tuple[str, ...]
) -> None:
    ahead = CatchUp(begun_by("ada", "lab"), Moment(2), "0000")
    ahead.compare_start(started(by=said[0], account=said[1]), training_described())
    assert ahead.environment_changes == changes


def test_a_run_begun_again_by_another_keeps_who_started_it() -> None:
    log = begun_by("ada", "lab")
    with emitter_on(log, CatchUp(log, None, None)) as emitter:
        emitter.emit(started(by="grace", account="root"), epoch=0, step=0)
    assert [event.by for event in map(decode, everything(log)) if isinstance(event, RunStarted)] == ["ada"]


def test_another_start_is_a_divergence_even_where_nothing_is_to_be_met_again() -> None:
    ahead = CatchUp(cut(WHOLE, 6), Moment(6), "0001")
    with pytest.raises(DivergedError, match=r"data\.task 'spirals', got 'digits'") as raised:
        ahead.compare_start(started(task="digits"), training_described())
    assert raised.value.where == "topic system.events.run, sequence 1, field data.task"


@pytest.mark.parametrize(
    ("expected", "got", "difference"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": [1, 2]}, {"a": [1, 3]}, ("data.a[1]", 2, 3)),
        ({"a": [1]}, {"a": [1, 3]}, ("data.a", [1], [1, 3])),
        ({"a": 1}, {}, ("data.a", 1, "(absent)")),
        ({"a": {"b": None}}, {"a": {"b": 0}}, ("data.a.b", None, 0)),
        ({"a": True}, {"a": 1}, ("data.a", True, 1)),
        ({"a": "NaN"}, {"a": "NaN"}, None),
    ],
)
def test_the_first_difference_names_its_place(expected: JsonValue, got: JsonValue, difference: tuple[str, object, object] | None) -> None:
    assert _first_difference(expected, got) == difference


def test_a_stopped_run_ends_every_topic_the_run_s_own_last_and_goes_on_when_it_is_resumed() -> None:
    log = cut(WHOLE, 10)  # Epoch 2 is done.
    with emitter_on(log) as emitter:
        emitter.stop(epoch=2, step=4)
        emitter.stop(epoch=2, step=4)
    assert [(record.type, record.topic) for record in everything(log)[10:]] == [
        (StreamEnded.KIND, topic) for topic in (topics.COMMANDS, topics.STEPS, topics.RUN)
    ]
    with resume(log) as emitter:
        assert not emitter.catching_up
        train(emitter, 3)
        end(emitter)
    assert compared(log) == compared(WHOLE)
