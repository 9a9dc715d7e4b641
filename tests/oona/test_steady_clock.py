"""The times of records go on as time passes, whatever is done to the machine's clock, and a jump is said once."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from esper.events.kinds.run import ClockJumped
from esper.oona.steady_clock import SteadyClock

BEGAN_S = 1_772_000_000.0


class Machine:
    """A machine's two clocks, of which the first may be set."""

    def __init__(self) -> None:
        self.wall_s, self.passed_s = BEGAN_S, 100.0
        self.stands = False
        self.clock = SteadyClock(lambda: self.wall_s, lambda: self.passed_s)
        self.times: list[float] = []
        self.jumps: list[ClockJumped] = []

    def goes_on(self, seconds: float, every_s: float = 0.5) -> None:
        """Asks for the time again and again while `seconds` pass."""
        for _ in range(round(seconds / every_s)):
            self.passed_s += every_s
            self.wall_s += 0 if self.stands else every_s
            self.times.append(self.clock().timestamp() - BEGAN_S)
            if (jump := self.clock.take_jump()) is not None:
                self.jumps.append(jump)

    def said(self) -> list[tuple[float, bool]]:
        return [(round(jump.apart_s, 1), jump.followed) for jump in self.jumps]

    def steps(self) -> list[float]:
        return [round(after - before, 6) for before, after in zip(self.times, self.times[1:], strict=False)]


def test_a_clock_that_is_right_is_followed_in_silence() -> None:
    machine = Machine()
    machine.goes_on(100)
    assert machine.times[-1] == pytest.approx(100)
    assert machine.said() == []


def test_a_clock_that_was_ahead_for_a_moment_moves_no_time_and_is_said_twice() -> None:
    machine = Machine()
    machine.goes_on(5)
    machine.wall_s += 3600
    machine.goes_on(1.5)
    machine.wall_s -= 3600
    machine.goes_on(20)
    assert set(machine.steps()) == {0.5}
    assert machine.said() == [(3600.0, False), (0.0, True)]


@pytest.mark.parametrize("ahead_s", [0.6, 2.0, 3600.0, 31_536_000.0])
def test_a_clock_that_stays_ahead_is_followed_after_half_a_minute(ahead_s: float) -> None:
    machine = Machine()
    machine.goes_on(5)
    machine.wall_s += ahead_s
    machine.goes_on(30)
    assert machine.times[-1] == pytest.approx(35)
    machine.goes_on(5)
    assert machine.times[-1] == pytest.approx(40 + ahead_s)
    assert machine.said() == [(round(ahead_s, 1), False), (round(ahead_s, 1), True)]


def test_a_clock_that_is_set_back_stops_no_time_and_is_met_again_by_and_by() -> None:
    machine = Machine()
    machine.goes_on(5)
    machine.wall_s -= 60
    machine.goes_on(30)
    assert machine.times[-1] == pytest.approx(35)
    machine.goes_on(700)
    assert min(machine.steps()) == pytest.approx(0.45)
    assert machine.times[-1] == pytest.approx(735 - 60, abs=0.5)
    assert machine.said() == [(-60.0, False), (-0.5, True)]


def test_a_clock_that_stands_still_stops_no_time_and_is_said_a_few_times() -> None:
    machine = Machine()
    machine.stands = True
    machine.goes_on(3600)
    assert machine.times[-1] == pytest.approx(3600, abs=0.1)
    assert all(not jump.followed for jump in machine.jumps)
    assert 2 <= len(machine.jumps) <= 13


@pytest.mark.parametrize("second", [1.0, -1.0])
def test_a_leap_second_moves_times_by_a_tenth_at_most(second: float) -> None:
    machine = Machine()
    machine.goes_on(5)
    machine.wall_s += second
    machine.goes_on(100)
    assert min(machine.steps()) >= 0.45
    assert machine.times[-1] == pytest.approx(105 + second, abs=0.51)


def test_a_clock_that_flickers_is_said_a_few_times_a_minute() -> None:
    machine = Machine()
    for number in range(600):
        machine.wall_s += 3600 * (-1) ** number
        machine.goes_on(0.1, 0.1)
    assert machine.steps() == pytest.approx([0.1] * 599, abs=1e-5)
    assert 1 <= len(machine.jumps) <= 7


def test_it_goes_on_from_the_last_record_where_that_is_ahead() -> None:
    machine = Machine()
    machine.clock.go_on_from(datetime.fromtimestamp(BEGAN_S + 600, UTC))
    machine.goes_on(10)
    assert machine.times[:2] == [600.5, 601.0]
    assert machine.said() == [(-600.0, False)]


def test_it_goes_on_from_a_record_of_the_past_by_the_clock() -> None:
    machine = Machine()
    machine.clock.go_on_from(datetime.fromtimestamp(BEGAN_S - 600, UTC))
    machine.goes_on(10)
    assert machine.times[0] == 0.5
    assert machine.said() == []


def test_a_process_that_is_halted_between_two_looks_sees_no_jump() -> None:
    halted = iter((0.0, 0.0, 10.0, 10.0, 10.0))
    looks = iter((0.0, 10.0))
    clock = SteadyClock(lambda: BEGAN_S + next(looks, 10.0), lambda: next(halted, 10.0))
    assert clock() == datetime.fromtimestamp(BEGAN_S + 10, UTC)
    assert clock.take_jump() is None


def test_no_thread_gets_an_earlier_time_than_was_given_before() -> None:
    clock, seen = SteadyClock(), list[bool]()

    def ask() -> None:
        before = clock()
        for _ in range(2000):
            now = clock()
            seen.append(now >= before)
            before = now

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen)
    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=1)
