"""The writer thread: takes what was emitted off a bounded queue, a group every few milliseconds, and makes it durable.

Only this thread appends while it runs. The queue is a deque that one thread fills and this one empties; the emitter sees to its bound. The
wake-up is a hint: every decision is made again from the queue and the counters, so a missed hint costs a few milliseconds, never a record.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

from esper.errors import LogError
from esper.events.kinds.telemetry import Doing, Heartbeat
from esper.oona.appender import Item, append_items, heartbeat_item
from esper.oona.contract import RunWriter

Clock = Callable[[], datetime]

# A group is what came in within LINGER_S, at most GROUP records: measured, groups of 100 cost a tenth of single records, and larger ones
# gain little but make a commit wait longer.
GROUP = 512
_LINGER_S = 0.003


class Writer:
    """Appends what stands in `queue`, in order, on a thread of its own. `durable` is the moment of the last record on disk."""

    def __init__(self, log: RunWriter, clock: Clock, heartbeat_s: float, *, beating: bool) -> None:
        self.queue: deque[Item] = deque()
        self.asleep = False
        self.failure: BaseException | None = None
        self.doing: Doing = "step"
        self.durable = int(log.heads().moment)
        self._log = log
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._beating = beating
        self._beat_guard = threading.Lock()
        self._heard_at = self._beat_at = time.monotonic()
        self._target = 0
        self._stopping = False
        self._hint = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="esper-writer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Tells a sleeping thread that the queue is no longer empty."""
        self._hint.set()

    def wait_for(self, moment: int) -> None:
        """Returns when the record of `moment` is durable. Raises LogError when the thread failed before that."""
        self._target = moment
        self._hint.set()
        with self._progress:
            self._progress.wait_for(lambda: self.durable >= moment or self.failure is not None)
        if self.durable < moment:
            self.check()

    def wait_for_room(self, capacity: int) -> None:
        """Returns when fewer than `capacity` items wait. Raises LogError when the thread failed."""
        self._hint.set()
        with self._progress:
            self._progress.wait_for(lambda: len(self.queue) < capacity or self.failure is not None)
        self.check()

    def check(self) -> None:
        """Raises LogError when the thread failed: nothing more is written."""
        if self.failure is not None:
            raise LogError(f"run {self._log.run} can no longer be recorded: {self.failure}") from self.failure

    def beat(self, beating: bool) -> None:
        """Starts or stops heartbeats: when it returns after stopping them, none is being written."""
        with self._beat_guard:
            self._beating = beating

    def stop(self) -> None:
        """Writes what waits, then ends the thread. Raises nothing: see `check`."""
        self._stopping = True
        self._hint.set()
        self._thread.join()

    def _run(self) -> None:
        # The outermost line of the thread: whatever goes wrong is kept, and the next emit or commit raises it.
        try:
            while self._gather():
                self._write()
                self._beat_when_due()
        except BaseException as error:
            self.failure = error
        with self._progress:
            self._progress.notify_all()

    def _gather(self) -> bool:
        """Waits for a group; false when the thread is to end and nothing waits."""
        if not self.queue:
            self.asleep = True
            if not self.queue and not self._stopping:
                self._hint.wait(max(0.0, self._beat_at + self._heartbeat_s - time.monotonic()))
            self.asleep = False
        self._hint.clear()
        if self.queue and len(self.queue) < GROUP and self._target <= self.durable and not self._stopping:
            self._hint.wait(_LINGER_S)
        return bool(self.queue) or not self._stopping

    def _write(self) -> None:
        waiting = len(self.queue)
        if not waiting:
            return
        items = [self.queue.popleft() for _ in range(min(waiting, GROUP))]
        self._heard_at = time.monotonic()
        try:
            append_items(self._log, items)
        finally:
            heads = self._log.heads()
            with self._progress:
                self.durable = heads.moment
                self._progress.notify_all()

    def _beat_when_due(self) -> None:
        now = time.monotonic()
        if now < self._beat_at + self._heartbeat_s:
            return
        self._beat_at = now
        with self._beat_guard:
            heads = self._log.heads()
            if self._beating and heads.moment:
                event = Heartbeat(idle_s=now - self._heard_at, doing=self.doing)
                append_items(self._log, [heartbeat_item(heads, self._clock(), event)])
