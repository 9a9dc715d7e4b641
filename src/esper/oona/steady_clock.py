"""A clock for records: it goes on with the time that passes, whatever the machine's clock does, and reports where the two went apart.

The machine's clock may be set ahead or back, stand still, or repeat a second. Windows, `for` and silence need a time that goes on. So this
clock is the monotonic one and an offset. While both clocks are together the offset follows the machine's clock, by at most a tenth of the
time that passes: enough for what NTP corrects, and for a leap second. When they go apart the offset stays. Where the difference has stood
for `_STANDS_S`, a clock that is ahead is followed at once (the machine slept, or its clock had been wrong), and one that was set back by a
tenth of the time that passes, since a record is never older than the one before it.
"""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock

from esper.events.envelope import SINCE
from esper.events.kinds.run import ClockJumped

Clock = Callable[[], datetime]
"""A clock of aware times in UTC."""

_TOGETHER_S = 0.5  # A step that windows of 15 s do not show; ntpd steps from 0.128 s on, chrony's usual makestep is 1 s.
_STANDS_S = 30.0
_FOLLOWS = 0.1
_BETWEEN_S = 10.0  # A clock that flickers is a fact six times a minute, not one for each record.


class SteadyClock:
    """A `Clock` for any number of threads. `jump` is what is to be recorded, until it is taken."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.jump: ClockJumped | None = None
        self._wall, self._monotonic = wall, monotonic
        self._lock = Lock()
        self._passed, wall_s = self._reading()
        self._offset = wall_s - self._passed
        self._stood, self._stood_since = math.inf, self._passed
        self._told_s, self._told_at = 0.0, -math.inf

    def __call__(self) -> datetime:
        """The time: never earlier than before."""
        # Every record asks: 1 microsecond where the clocks are together, against 0.3 of the machine's clock alone.
        with self._lock:
            passed = self._monotonic()
            apart = self._wall() - passed - self._offset
            if self._told_s or not -_TOGETHER_S <= apart <= _TOGETHER_S:
                passed, apart = self._compared()
            most = _FOLLOWS * (passed - self._passed)
            self._offset += apart if -most <= apart <= most else math.copysign(most, apart)
            self._passed = passed
            return datetime.fromtimestamp(passed + self._offset, UTC)

    def go_on_from(self, then: datetime) -> None:
        """Makes no later time earlier than `then`, the time of the last record."""
        with self._lock:
            self._offset = max(self._offset, (then - SINCE).total_seconds() - self._passed)

    def take_jump(self) -> ClockJumped | None:
        """The fact to be recorded, once."""
        with self._lock:
            jump, self.jump = self.jump, None
            return jump

    def _compared(self) -> tuple[float, float]:
        """The time that passed, and how far the offset is to move towards the machine's clock; keeps what is to be told."""
        passed, wall_s = self._reading()
        beside = wall_s - passed
        apart = beside - self._offset
        if abs(beside - self._stood) > _TOGETHER_S:
            self._stood, self._stood_since = beside, passed
        stands = passed >= self._stood_since + _STANDS_S
        if apart > _TOGETHER_S and stands:
            self._offset = beside
            self._tell(apart, passed, followed=True)
            return passed, 0.0
        if passed >= self._told_at + _BETWEEN_S:
            if abs(apart) <= _TOGETHER_S:
                if self._told_s:
                    self._tell(apart, passed, followed=True)
            elif abs(apart) >= 2 * abs(self._told_s) or apart * self._told_s < 0:  # One that stands still goes apart for ever.
                self._tell(apart, passed, followed=False)
        return passed, apart if stands or abs(apart) <= _TOGETHER_S else 0.0

    def _tell(self, apart: float, passed: float, *, followed: bool) -> None:
        self.jump = ClockJumped(apart_s=apart, followed=followed)
        self._told_s, self._told_at = (0.0 if followed else apart), passed
        self._stood = math.inf if followed else self._stood

    def _reading(self) -> tuple[float, float]:
        """Both clocks at one moment: a process may be halted between two looks."""
        for _ in range(3):
            before = self._monotonic()
            wall_s = self._wall()
            passed = self._monotonic()
            if passed - before < _TOGETHER_S / 2:
                break
        return passed, wall_s


def go_on_from(clock: Clock, then: datetime) -> None:
    """Has a steady `clock` go on from `then`, the time of a log's last record; any other is left as it is."""
    if isinstance(clock, SteadyClock):
        clock.go_on_from(then)
