"""A run that nobody hears is dead, one that beats without moving is idle, and each is said once."""

import math
from datetime import timedelta
from itertools import permutations
from typing import NamedTuple

import pytest

from esper.events.envelope import Moment
from esper.events.fields import Event
from esper.events.kinds.observability import RunWentSilent
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, StreamEnded
from esper.events.kinds.telemetry import Heartbeat
from esper.events.topics import STEPS
from esper.folds.monitoring.dead_or_idle import RunTime, SilenceSettings, SilenceState, judge_silence, update_silence
from tests.folds.histories import START, started
from tests.folds.monitoring.streams import TimedWriter, losses

SETTINGS = SilenceSettings()
NOW = START.timestamp()
BEAT = Heartbeat(idle_s=0.0, doing="step")
FINISHED = RunFinished(metrics={}, model_digest="ab" * 32, parameters=1, stopped_early=False, tails=())
FAILED = RunFailed(kind="error", error="", where="", tails=())
STREAM_ENDED = StreamEnded(last_step=1)
RESUMED = RunResumed(checkpoint=None, caught_up_to=1, incarnation=2, environment_changes=())


def after(*events: tuple[float, Event], state: SilenceState | None = None) -> SilenceState:
    """What is known after events at their seconds."""
    state, writer = state or SilenceState(), TimedWriter()
    for second, event in events:
        topic = STEPS if isinstance(event, StreamEnded) else None
        record = writer.at(0, event, topic)._replace(time=START + timedelta(seconds=second), moment=Moment(1 + int(1000 * second)))
        state = update_silence(state, record, event)
    return state


class Verdict(NamedTuple):
    """A judgement: the state after it, and the event to record with the time since which it is true."""

    state: SilenceState
    event: Event | None
    since_s: float | None


def verdict(state: SilenceState, second: float, lock_free: bool | None = False) -> Verdict:
    """The judgement so many seconds after the start."""
    after, found = judge_silence(state, NOW + second, lock_free, SETTINGS)
    return Verdict(after, *(found or (None, None)))


def said(found: Verdict) -> tuple[str, str | None] | None:
    """What a verdict records."""
    return None if found.event is None else (type(found.event).__name__, getattr(found.event, "state", None))


def test_a_run_without_any_record_for_a_minute_is_dead_once() -> None:
    state = after((0, started()), (5, losses(1.0)))
    assert said(verdict(state, 64.9)) is None
    assert said(verdict(state, 65)) == ("RunWentSilent", "dead")
    dead = verdict(state, 70)
    assert isinstance(dead.event, RunWentSilent)
    assert (dead.event.silent_s, dead.since_s) == (65.0, NOW + 65)
    assert said(verdict(dead.state, 500)) is None


def test_a_lock_that_is_free_without_an_end_is_dead_at_once() -> None:
    dead = verdict(after((0, started())), 1, lock_free=True)
    assert said(dead) == ("RunWentSilent", "dead")
    assert dead.since_s == NOW + 1


def test_a_run_that_was_stopped_on_purpose_is_not_dead() -> None:
    assert said(verdict(after((0, started()), (1, losses(1.0)), (2, STREAM_ENDED)), 9999, lock_free=True)) is None


@pytest.mark.parametrize(("end", "dead"), [((), True), (((8, FINISHED),), False)])
def test_topics_may_be_read_in_any_order(end: tuple[tuple[float, Event], ...], dead: bool) -> None:
    history = ((0, started()), (1, BEAT), (2, losses(1.0)), (3, STREAM_ENDED), (4, RESUMED), (5, losses(1.0)), *end)
    assert len({after(*order) for order in permutations(history)}) == 1
    assert said(verdict(after(*history), 9999)) == (("RunWentSilent", "dead") if dead else None)


@pytest.mark.parametrize("end", [FINISHED, FAILED])
def test_a_run_that_ended_is_not_silent_until_it_is_resumed(end: Event) -> None:
    ended = after((0, started()), (1, end))
    assert said(verdict(ended, 9999, lock_free=True)) is None
    assert said(verdict(after((2, RESUMED), state=ended), 9999)) == ("RunWentSilent", "dead")


def test_a_run_that_beats_without_another_record_is_idle() -> None:
    state = after((0, started()), *((second, BEAT) for second in range(10, 601, 10)))
    assert said(verdict(state, 599)) is None
    assert said(verdict(state, 600)) == ("RunWentSilent", "idle")
    idle = verdict(state, 601)
    assert idle.since_s == NOW + 600
    assert said(verdict(after((610, BEAT), state=idle.state), 620)) is None


def test_an_idle_run_that_dies_is_said_to_be_dead() -> None:
    idle = verdict(after((0, started()), (600, BEAT)), 601)
    assert said(verdict(idle.state, 661)) == ("RunWentSilent", "dead")


def test_a_silent_run_is_heard_again_by_a_record_and_a_dead_one_by_a_beat() -> None:
    idle = verdict(after((0, started()), (600, BEAT)), 601)
    assert said(verdict(after((602, losses(1.0)), state=idle.state), 603)) == ("RunHeardAgain", None)
    dead = verdict(after((0, started())), 100)
    again = verdict(after((101, BEAT), state=dead.state), 102)
    assert said(again) == ("RunHeardAgain", None)
    assert said(verdict(again.state, 103)) is None


def test_a_run_whose_lock_was_free_stays_dead_until_it_speaks() -> None:
    dead = verdict(after((0, started())), 1, lock_free=True)
    assert said(verdict(dead.state, 2, lock_free=False)) is None
    assert said(verdict(after((3, RESUMED), state=dead.state), 4)) == ("RunHeardAgain", None)


def test_a_record_that_is_taken_late_makes_a_run_neither_dead_nor_idle() -> None:
    state = after((0, started()), (100, losses(1.0)), (1, losses(1.0)))
    assert (state.last_s, state.moved_s) == (NOW + 100, NOW + 100)


def test_a_silent_run_that_ends_is_heard_again() -> None:
    dead = verdict(after((0, started())), 100)
    assert said(verdict(after((101, FAILED), state=dead.state), 5000, lock_free=True)) == ("RunHeardAgain", None)


def test_a_run_of_which_nothing_was_read_is_not_judged() -> None:
    assert said(verdict(SilenceState(), 9999, lock_free=True)) is None


def test_beats_alone_tell_how_long_a_run_has_not_moved() -> None:
    assert said(verdict(after((0, Heartbeat(idle_s=700.0, doing="waiting"))), 1)) == ("RunWentSilent", "idle")


def test_a_clock_behind_the_records_or_without_a_number_shows_no_silence() -> None:
    state = after((1000, started()))
    assert said(verdict(state, 0)) is None
    assert said(verdict(state, math.nan)) is None


def test_time_passes_on_a_runs_side_by_the_monotonic_clock_alone() -> None:
    first = RunTime.at(None, last_s=NOW, host_s=NOW + 5, passed_s=100)
    assert first.now_s == NOW + 5
    for host_s in (NOW + 3600, NOW - 3600, NOW + 5):
        assert RunTime.at(first, last_s=NOW, host_s=host_s, passed_s=130).now_s == NOW + 35


@pytest.mark.parametrize(("host_s", "age_s"), [(3605, 10), (-3600, 0), (17, 7)])
def test_a_record_that_came_since_is_no_older_than_the_time_that_passed_since(host_s: float, age_s: float) -> None:
    first = RunTime.at(None, last_s=NOW, host_s=NOW, passed_s=100)
    assert RunTime.at(first, last_s=NOW + 10, host_s=NOW + host_s, passed_s=110).now_s == NOW + 10 + age_s


def test_the_first_look_at_a_run_compares_the_clocks_and_finds_no_record_of_the_future() -> None:
    assert RunTime.at(None, last_s=NOW, host_s=NOW + 3600, passed_s=0).now_s == NOW + 3600
    assert RunTime.at(None, last_s=NOW, host_s=NOW - 3600, passed_s=0).now_s == NOW
