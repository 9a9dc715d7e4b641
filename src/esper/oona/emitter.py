"""Numbers the events of a run in the order in which they are emitted, and hands them to the writer thread.

`emit` (facts) and `measure` (telemetry) are called from the thread that made the emitter, take a few microseconds and wait for no disk;
`commit` waits. A fact that finds the buffer full waits for room. Telemetry that finds it full is not taken: it gets no number, is counted,
and a SamplesDropped fact follows. So moments and sequences never have gaps. While a resumed run catches up, nothing is appended that the
log has (see `catch_up`).
"""

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from esper.errors import RuleError
from esper.events import topics
from esper.events.envelope import EventId, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import ClockJumped, RunFailed, RunResumed, RunStarted, SamplesDropped, StreamEnded, Tail
from esper.events.kinds.telemetry import Doing, Heartbeat
from esper.oona.catch_up import CatchUp
from esper.oona.contract import RunWriter
from esper.oona.heads import Draft, Telemetry
from esper.oona.steady_clock import Clock, SteadyClock
from esper.oona.writer import Writer, append_drafts

FailureKind = Literal["error", "diverged", "rollbacks", "log"]

_CAPACITY = 8192  # Records waiting for the writer; at 10,000 a second that covers a disk that stalls for most of a second.

_ANCHORS = frozenset({RunStarted, RunResumed, EpochCompleted})
_OWN = frozenset({RunResumed, SamplesDropped, ClockJumped, StreamEnded, Heartbeat})
_NOBODY = 0  # No thread has this identity.


@dataclass(slots=True)
class _Stream:
    """The emitting thread's end of one topic. `logged_step` is the last step of it that a resumed run finds in the log."""

    name: str
    telemetry: bool
    epoch: int
    step: int
    logged_step: int


@dataclass(slots=True)
class _Dropped:
    """Telemetry of one topic that was not taken since the last SamplesDropped."""

    count: int
    first_step: int
    last_step: int


class Emitter:
    """The one source of a run's records. Not for other threads and not for forked children: they get RuleError.

    `clock` is called on both threads; the jumps that a steady one noticed are recorded. `catch_up` is given when a run is resumed. Close it
    before its log.
    """

    def __init__(
        self,
        log: RunWriter,
        run: RunId,
        *,
        clock: Clock,
        heartbeat_s: float = 10.0,
        capacity: int = _CAPACITY,
        catch_up: CatchUp | None = None,
    ) -> None:
        if log.run != run:
            raise RuleError(f"expected the log of run {run}, got the one of {log.run}")
        heads = log.heads()
        self._log = log
        self._prefix = f"{run}/"
        self._clock = clock
        self._steady = clock if isinstance(clock, SteadyClock) else None
        if self._steady is not None:
            self._steady.go_on_from(heads.time)
        self._capacity = capacity
        self._moment = int(heads.moment)
        self._incarnation = heads.incarnation
        self._anchor = heads.anchor
        self._streams: dict[str, _Stream] = {}
        self._dropped: dict[str, _Dropped] = {}
        self._catch_up = catch_up
        self._owner = threading.get_ident()
        self._why_not = ""
        # No heartbeat before RunResumed: killed again while catching up, nothing has changed.
        self._writer = Writer(log, clock, heartbeat_s, beating=catch_up is None)
        self._queue = self._writer.queue
        _emitters.add(self)
        atexit.register(self._end, "the process is ending")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def run(self) -> RunId:
        """The run that this emitter writes."""
        return self._log.run

    @property
    def catching_up(self) -> bool:
        """True while the log holds facts that this execution has not emitted again."""
        return self._catch_up is not None and self._catch_up.pending

    @property
    def pending_facts(self) -> tuple[Record, ...]:
        """The logged facts that were not emitted again yet, in fact order; none when the run is live."""
        return self._catch_up.pending_facts if self._catch_up is not None else ()

    def emit(self, event: Event, *, epoch: int, step: int, cause: EventId | None = None, trace: str | None = None) -> EventId:
        """The id under which the fact `event` stands or will stand in the log.

        Returns before it is on disk, and waits where the buffer is full. Raises RuleError on another thread, for a kind that the caller
        may not emit, or for clocks that go back; LogError once the log has failed; DivergedError while catching up.
        """
        stream = self._stream_for(type(event))
        if stream.telemetry:
            raise RuleError(f"{event.KIND} is telemetry: expected it to be measured, with its builder")
        if self._catch_up is not None:
            if self._catch_up.pending:
                return self._catch_up.match_next(event, epoch=epoch, step=step)
            self._go_live(self._catch_up, epoch, step)
        if self._dropped and len(self._queue) <= self._capacity // 2:
            self._report_dropped(epoch, step)
        if self._steady is not None and self._steady.jump is not None:
            self._report_jump(self._steady, epoch, step)
        return self._put(event, stream, epoch, step, cause=cause, trace=trace)

    def measure(self, kind: type[Event], build: Callable[[], Event], *, epoch: int, step: int) -> None:
        """Takes telemetry of `kind`, or counts it as dropped where the buffer is full; never waits. What the log has is not taken again.

        `build` runs once, on the writer thread, and must touch nothing that training goes on to change. Raises as `emit` does.
        """
        stream = self._stream_for(kind)
        if not stream.telemetry:
            raise RuleError(f"{kind.KIND} is a fact: expected it built and validated, got its builder")
        if self.catching_up or step <= stream.logged_step:
            return
        if self._catch_up is not None:
            self._go_live(self._catch_up, epoch, step)
        if len(self._queue) >= self._capacity:
            dropped = self._dropped.setdefault(stream.name, _Dropped(0, step, step))
            dropped.count += 1
            dropped.last_step = step
            return
        if self._dropped and len(self._queue) <= self._capacity // 2:
            self._report_dropped(epoch, step)
        if self._steady is not None and self._steady.jump is not None:
            self._report_jump(self._steady, epoch, step)
        self._put(Telemetry(kind, build), stream, epoch, step)

    def commit(self) -> None:
        """Returns when all that was emitted so far is on disk. Raises LogError when it could not be written."""
        self._require_owner()
        self._writer.wait_for(self._moment)

    def doing(self, what: Doing) -> None:
        """Sets what the trainer is doing, for the heartbeats."""
        self._writer.doing = what

    def tails(self, *, epoch: int, step: int) -> tuple[Tail, ...]:
        """Every topic's last sequence and chain, for RunFinished. Ends the heartbeats and every topic but the run's own, and commits."""
        self._end_streams(epoch, step, stopped=False)
        return self._log.heads().tails()

    def stop(self, *, epoch: int, step: int) -> None:
        """Ends the heartbeats and every topic with StreamEnded, durably: the run is stopped on purpose and may be resumed."""
        self._end_streams(epoch, step, stopped=True)

    def _end_streams(self, epoch: int, step: int, *, stopped: bool) -> None:
        self._require_owner()
        self._writer.beat(False)
        if self._catch_up is not None and not self._catch_up.pending:
            self._go_live(self._catch_up, epoch, step, beating=False)
        if not self.catching_up:
            self._report_dropped(epoch, step)
            self.commit()
            for name, clocks, event in self._log.heads().stream_ends(stopped=stopped):
                self._put(event, self._stream(name), *clocks)
        self.commit()

    def fail(self, kind: FailureKind, error: str, *, where: str, epoch: int, step: int) -> None:
        """Ends the run with RunFailed, durably, whatever state the log is in; nothing can be emitted afterwards.

        Records that the writer could not write are given up (they were never acknowledged). The reserve is freed first: whatever failed,
        the disk may be full. Also ends every other topic, and writes RunResumed before, where a resumed run has not written it yet. An
        execution that failed while it caught up stands behind the log's end: its RunFailed stands at that end. Raises LogError when even
        that cannot be written.
        """
        self._require_owner()
        self._writer.beat(False)
        if self._writer.failure is None and not self.catching_up:
            self._report_dropped(epoch, step)
        self._end("it has failed")
        self._log.free_reserve()
        end = self._log.heads()
        here = {"epoch": max(epoch, end.epoch), "step": max(step, end.step)}
        if self._catch_up is not None:
            self._append(self._catch_up.resumed(end.incarnation + 1), topics.RUN, **here)
        for name, _, ended in self._log.heads().stream_ends():
            self._append(ended, name)
        self._append(RunFailed(kind=kind, error=error, where=where, tails=self._log.heads().tails()), topics.RUN, **here)

    def _append(self, event: Event, topic: str, *, epoch: int = 0, step: int = 0) -> None:
        """Appends one record on this thread: the writer thread has ended."""
        append_drafts(self._log, [self._log.heads().draft(event, topic, self._clock(), epoch=epoch, step=step)])

    def close(self, *, seal: bool = False) -> None:
        """Writes what waits and ends the writer thread; seals the run where that is asked for. The log stays open.

        Raises LogError when something could not be written; a run is not sealed then. A second call does nothing, nor does one in a forked
        child.
        """
        if self._owner == _NOBODY:
            return
        self._require_owner()
        if self._writer.failure is None and not self.catching_up:
            self._report_dropped(0, 0)
        self._end("it is closed")
        self._writer.check()
        if seal:
            self._log.seal()

    def _put(
        self, event: Event | Telemetry, stream: _Stream, epoch: int, step: int, *, cause: EventId | None = None, trace: str | None = None
    ) -> EventId:
        if step < stream.step or epoch < stream.epoch:
            raise RuleError(
                f"run {self._log.run}, topic {stream.name}: expected epoch >= {stream.epoch} and step >= {stream.step}, "
                f"got epoch {epoch}, step {step}"
            )
        writer = self._writer
        if len(self._queue) >= self._capacity:
            writer.wait_for_room(self._capacity)
        if writer.failure is not None:
            writer.check()
        moment = self._moment + 1
        identity = EventId(self._prefix + str(moment))
        draft = Draft(event, stream.name, moment, self._incarnation, self._clock(), epoch, step, cause or self._anchor, trace)
        anchor = identity if self._anchor is None or type(event) in _ANCHORS else self._anchor
        # From here to the append nothing is called: CPython handles signals between calls, so a Ctrl-C cannot take a number without its
        # record.
        stream.epoch, stream.step = epoch, step
        self._moment, self._anchor = moment, anchor
        self._queue.append(draft)
        if writer.asleep:
            writer.wake()
        return identity

    def _go_live(self, catch_up: CatchUp, epoch: int, step: int, *, beating: bool = True) -> None:
        """Emits RunResumed, before the first record that the log does not have."""
        self._catch_up = None
        self._incarnation += 1
        self._put_own(catch_up.resumed(self._incarnation), epoch, step)
        if catch_up.described is not None:
            self._put_own(catch_up.described, epoch, step)
        self._writer.beat(beating)

    def _report_dropped(self, epoch: int, step: int) -> None:
        for name, dropped in self._dropped.items():
            event = SamplesDropped(topic=name, count=dropped.count, first_step=dropped.first_step, last_step=dropped.last_step)
            self._put_own(event, epoch, step)
        self._dropped.clear()

    def _report_jump(self, clock: SteadyClock, epoch: int, step: int) -> None:
        jump = clock.take_jump()
        if jump is not None:
            self._put_own(jump, epoch, step)

    def _put_own(self, event: Event, epoch: int, step: int) -> None:
        """Puts an event of the run's own topic; its epoch and step are at least those of the topic's end."""
        stream = self._stream(topics.RUN)
        self._put(event, stream, max(epoch, stream.epoch), max(step, stream.step))

    def _stream_for(self, kind: type[Event]) -> _Stream:
        """The stream of a kind that the caller may emit, on the thread that may emit it."""
        if threading.get_ident() != self._owner:
            self._require_owner()
        if kind in _OWN:
            raise RuleError(f"{kind.KIND} is written by the emitter itself")
        return self._streams.get(kind.TOPIC) or self._open_stream(kind)

    def _open_stream(self, kind: type[Event]) -> _Stream:
        topic = topics.TOPICS.get(kind.TOPIC)
        if topic is None or topic.name in topics.DERIVED or self._log.writer not in topic.writers:
            raise RuleError(f"expected a kind that {self._log.writer!r} writes itself, got {kind.KIND}")
        return self._stream(kind.TOPIC)

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            head = self._log.heads().topic(name)
            logged_step = head.step if self._catch_up is not None and head.sequence else -1
            stream = self._streams[name] = _Stream(name, name in topics.TELEMETRY, head.epoch, head.step, logged_step)
        return stream

    def _end(self, why_not: str) -> None:
        if self._owner != _NOBODY:
            self._owner, self._why_not = _NOBODY, why_not
            self._writer.stop()
            atexit.unregister(self._end)

    def _require_owner(self) -> None:
        if threading.get_ident() != self._owner:
            why_not = self._why_not or "this is not the thread that opened it; hand what there is to say to that thread"
            raise RuleError(f"run {self._log.run} takes nothing here: {why_not}")


_emitters: "weakref.WeakSet[Emitter]" = weakref.WeakSet()


def _leave_to_parent() -> None:
    for emitter in _emitters:
        emitter._owner = _NOBODY
        emitter._why_not = "this process is a forked child; only the one that opened the run may write it"


os.register_at_fork(after_in_child=_leave_to_parent)
