"""Makes emitted events durable: builds telemetry, encodes, numbers, chains, and appends a group at a time, on a thread of its own.

Only this thread appends while it runs. It takes drafts off a bounded queue, a group every few milliseconds. The queue is a deque that one
thread fills and this one empties; the emitter keeps its bound. The wake-up is a hint: every decision is made again from the queue and the
counters, so a missed hint costs a few milliseconds, never a record.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from esper.errors import DataError, LogError
from esper.events.codec import encode
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.telemetry import Doing, Heartbeat
from esper.oona.contract import RunWriter
from esper.oona.heads import Draft, Telemetry
from esper.oona.steady_clock import Clock

# A group is what came in within _LINGER_S, at most _GROUP records: measured, groups of 100 cost a tenth of single records, and larger ones
# gain little but make a commit wait longer.
_GROUP = 512
_LINGER_S = 0.003


def append_drafts(log: RunWriter, drafts: Sequence[Draft]) -> None:
    """Makes the records of `drafts` durable before it returns.

    Raises DataError for a draft that cannot be built or encoded: the ones before it are durable then. Otherwise as `RunWriter.append`.
    """
    heads = log.heads()
    records: list[Record] = []
    try:
        for draft in drafts:
            event = draft.event
            if isinstance(event, Telemetry):
                event = _built(event)
            records.append(heads.next(draft, event.KIND, encode(event)))
    except Exception as error:
        # Whatever a builder raises: the drafts before it were emitted earlier, and stand.
        log.append(tuple(records), heads)
        kind = draft.event.kind.KIND if isinstance(draft.event, Telemetry) else draft.event.KIND
        raise DataError(f"run {log.run}, topic {draft.topic}, moment {draft.moment}: cannot record one {kind}: {error}") from error
    log.append(tuple(records), heads)


def _built(telemetry: Telemetry) -> Event:
    event = telemetry.build()
    if type(event) is not telemetry.kind:
        raise DataError(f"expected one {telemetry.kind.KIND} of its builder, got {type(event).__name__}")
    return event


class Writer:
    """Appends the drafts in `queue`, in order, on a thread of its own. `durable` is the moment of the last record on disk."""

    def __init__(self, log: RunWriter, clock: Clock, heartbeat_s: float, *, beating: bool) -> None:
        self.queue: deque[Draft] = deque()
        self.asleep = False
        self.failure: BaseException | None = None
        self.doing: Doing = "step"
        self.durable = int(log.heads().moment)
        self._log = log
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._beating = beating
        self._beat_guard = threading.Lock()
        self._emitted_at = self._beat_at = time.monotonic()
        self._target = 0
        self._stopping = False
        self._hint = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="esper-writer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Wakes the sleeping thread: the queue is no longer empty."""
        self._hint.set()

    def wait_for(self, moment: int) -> None:
        """Returns when the record of `moment` is durable. Raises LogError when the thread failed."""
        self._target = moment
        self._wait(lambda: self.durable >= moment)

    def wait_for_room(self, capacity: int) -> None:
        """Returns when fewer than `capacity` drafts wait. Raises LogError when the thread failed."""
        self._wait(lambda: len(self.queue) < capacity)

    def _wait(self, reached: Callable[[], bool]) -> None:
        self._hint.set()
        with self._progress:
            self._progress.wait_for(lambda: reached() or self.failure is not None)
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
        # The outermost line of the thread: any error is kept, and the next emit or commit raises it.
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
        if self.queue and len(self.queue) < _GROUP and self._target <= self.durable and not self._stopping:
            self._hint.wait(_LINGER_S)
        return bool(self.queue) or not self._stopping

    def _write(self) -> None:
        drafts = [self.queue.popleft() for _ in range(min(len(self.queue), _GROUP))]
        if not drafts:
            return
        self._emitted_at = time.monotonic()
        try:
            append_drafts(self._log, drafts)
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
                event = Heartbeat(idle_s=now - self._emitted_at, doing=self.doing)
                append_drafts(self._log, [heads.draft(event, event.TOPIC, self._clock(), epoch=heads.epoch, step=heads.step)])
