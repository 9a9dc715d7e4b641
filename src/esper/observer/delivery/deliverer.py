"""Deliverer: one thread with an event loop, and on it one task per handler, so that no handler delays another or the observer."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple, ParamSpec, TypeVar

from esper.errors import EsperError, RuleError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.notices import AlertRecord, LinkTo, Notice, RateLimitSummary, alert_of, notice_of, summary_notice
from esper.observer.delivery.outbox import AlertOutcome, AttemptResult, Limits, Now, Outbox, Sending, Step

Send = Callable[[Sequence[Notice], datetime], Coroutine[Any, Any, AttemptResult]]
"""Makes one attempt to send notices, within the handler's own time limit. An exception counts as a final failure."""

Recorder = Callable[[Sequence[AlertOutcome]], None]
"""Writes outcomes. They are on disk when it returns; those that cannot be written are kept, to be tried again."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_GRACE_S = 1.0


class Handler(NamedTuple):
    """A way to reach people."""

    name: str
    limits: Limits
    send: Send


class DeliveryError(EsperError):
    """An outcome could not be recorded. What was sent without its outcome is sent again by the next deliverer."""


class _DaemonThreads(ThreadPoolExecutor):
    """An executor with a daemon thread for each call: one that hangs delays no other, and neither loop nor process waits for it."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="esper-deliver-call", daemon=True).start()
        return future


def run_in_loop(main: Coroutine[Any, Any, _T]) -> _T:
    """The result of `main` in an event loop of its own, whose `asyncio.to_thread` and resolver of names can hang without holding it."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_DaemonThreads())
        return runner.run(main)


async def attempt(handler: Handler, notices: Sequence[Notice], now: datetime) -> AttemptResult:
    """The answer to one attempt."""
    try:
        return await handler.send(notices, now)
    except Exception as error:  # The outermost line of an attempt. The error is recorded without its text, which may hold a secret.
        return AttemptResult(delivered=False, final=True, error=f"the handler broke: {type(error).__name__}")


class Deliverer:
    """Delivers alerts at least once through every handler, and records one outcome for each alert and handler that it is addressed to.

    Before `start` nothing is sent: read the alerts' topic of every run that is not sealed, in order, `offer` each AlertFiring and
    AlertResolved and `settled` each AlertNotified and AlertSuppressed; then `start`. So a new process goes on where another stopped: what
    has an outcome is not sent again (a failed one is, while it is young), what has none is. Afterwards `offer` what is derived. May be
    called from any thread; no call but `close` waits for a handler.

    `record` is called by the thread that offers, for alerts that are suppressed at once, and by threads of the deliverer after an attempt,
    before the handler's next one: so a process that is killed sends at most one message of each handler again. It must not call the
    deliverer. If it raises on a thread of the deliverer, that handler ends, and the next call here raises DeliveryError.
    `lives` returns whether a process writes a run, None where the run is gone: the firing alerts of a dead run are sent again while they
    are young, those of a run that is gone are not.
    """

    def __init__(
        self,
        handlers: Sequence[Handler],
        *,
        record: Recorder,
        now: Callable[[], datetime],
        link_to: LinkTo,
        lives: Callable[[RunId], bool | None],
    ) -> None:
        self.record, self.now, self.link_to, self.lives = record, now, link_to, lives
        self._workers = {handler.name: _Worker(handler, self) for handler in handlers}
        self._early: list[AlertRecord] | None = []
        self._thread = threading.Thread(target=self._run, name="esper-deliver", daemon=True)
        self._running = threading.Event()

    def start(self) -> None:
        """Starts the thread, with all that was offered so far."""
        if self._early is None:
            raise RuleError("expected a deliverer that has not been started")
        early, self._early = self._early, None
        for worker in self._workers.values():
            worker.offer(early)
        self._thread.start()
        self._running.wait()

    def offer(self, *alerts: Record) -> None:
        """Takes records of AlertFiring or AlertResolved; one that was offered before changes nothing. Never waits for a handler.

        Raises DeliveryError where an outcome could not be recorded earlier on a thread of the deliverer.
        """
        offered = [alert_of(alert) for alert in alerts]
        if self._early is not None:
            self._early += offered
            return
        self._check()
        for worker in self._workers.values():
            worker.offer(offered)

    def hold(self, alert: Record) -> None:
        """Takes a record of AlertFiring that a person has acknowledged: nobody is told, and that is recorded. Raises as `offer`."""
        self._check()
        for worker in self._workers.values():
            worker.hold(alert_of(alert))

    def settled(self, outcome: Record) -> None:
        """Takes, before `start`, a record of AlertNotified or AlertSuppressed; the outcomes of an unknown handler are ignored."""
        event = decode(outcome)
        if not isinstance(event, AlertNotified | AlertSuppressed):
            raise RuleError(
                f"expected a record of AlertNotified or AlertSuppressed, got {outcome.type} in run {outcome.run}, id {outcome.id}"
            )
        if event.handler in self._workers:
            self._workers[event.handler].outbox.settled(outcome.run, event)

    def outstanding(self, run: RunId | None = None) -> int:
        """Number of outcomes (of `run`) that are not recorded yet: an alert counts once for each handler."""
        self._check()
        early = sum(run is None or alert.record.run == run for alert in self._early or ())
        return early * len(self._workers) + sum(worker.outstanding(run) for worker in self._workers.values())

    def close(self, timeout_s: float) -> None:
        """Delivers what it can within `timeout_s`, and ends. The rest has no outcome: the next deliverer sends it."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # The loop has ended.
                # Before the workers are told to end: a deadline that has been left cannot be moved.
                self._loop.call_soon_threadsafe(self._deadline.reschedule, time.monotonic() + timeout_s)
        for worker in self._workers.values():
            worker.end()
        if self._thread.is_alive():
            self._thread.join(timeout_s + _GRACE_S)
        self._check()

    def _run(self) -> None:
        with suppress(TimeoutError):
            run_in_loop(self._work())

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as self._deadline, asyncio.TaskGroup() as group:
            for worker in self._workers.values():
                group.create_task(worker.run(), name=worker.handler.name)
            self._running.set()

    def _check(self) -> None:
        for worker in self._workers.values():
            if worker.failure is not None:
                raise DeliveryError(f"handler {worker.handler.name} has stopped: {worker.failure}") from worker.failure


class _Worker:
    """The task and outbox of a handler, and the lock between the task and the threads that offer."""

    def __init__(self, handler: Handler, deliverer: Deliverer) -> None:
        self.handler, self.outbox = handler, Outbox(handler.name, handler.limits, random.random)
        self.failure: Exception | None = None
        self._deliverer = deliverer
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._ending = False

    def offer(self, alerts: Iterable[AlertRecord]) -> None:
        with self._lock:
            self._record([outcome for alert in alerts for outcome in self.outbox.offer(alert, self._now())])
        self._wake()

    def hold(self, alert: AlertRecord) -> None:
        with self._lock:
            self._record(self.outbox.hold(alert))

    def outstanding(self, run: RunId | None) -> int:
        with self._lock:
            return self.outbox.outstanding(run)

    def end(self) -> None:
        """Lets the task end when nothing is outstanding."""
        with self._lock:
            self.outbox.hurry(self._now())
            self._ending = True
        self._wake()

    async def run(self) -> None:
        """Sends until the end. An outcome that cannot be recorded ends it too: `failure` is raised to the next caller."""
        self._loop = asyncio.get_running_loop()
        answered: tuple[Sending, AttemptResult] | None = None
        try:
            while True:
                self._changed.clear()
                step = await asyncio.to_thread(self._next, answered)
                if step is None:
                    return
                answered = None
                if step.sending is not None:
                    answered = step.sending, await self._attempt(step.sending)
                elif not step.outcomes:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(None if step.until_s is None else step.until_s - time.monotonic()):
                            await self._changed.wait()
        except Exception as failure:
            self.failure = failure

    def _next(self, answered: tuple[Sending, AttemptResult] | None) -> Step | None:
        """Records the outcomes of what was `answered`, then decides what is next; None when the task is to end."""
        with self._lock:
            now = self._now()
            if answered is not None:
                self._record(self.outbox.answered(*answered, now))
            if self._ending and not self.outbox.outstanding():
                return None
            step = self.outbox.next_step(now)
            self._record(step.outcomes)
            return step

    async def _attempt(self, sending: Sending) -> AttemptResult:
        now = self._deliverer.now()
        match sending:
            case AlertRecord():
                notices = [notice_of(sending, self._deliverer.link_to)]
            case RateLimitSummary():
                notices = [summary_notice(sending, self.handler.name, self._deliverer.link_to)]
            case _:
                notices = [notice_of(alert, self._deliverer.link_to) for alert in sending if self._is_sent_again(alert, now)]
        return await attempt(self.handler, notices, now) if notices else AttemptResult(delivered=True)

    def _is_sent_again(self, alert: AlertRecord, now: datetime) -> bool:
        lives = self._deliverer.lives(alert.record.run)
        return lives is not None and (lives or now - alert.record.time < timedelta(seconds=self.handler.limits.deliver_within_s))

    def _now(self) -> Now:
        return Now(self._deliverer.now(), time.monotonic())

    def _record(self, outcomes: Sequence[AlertOutcome]) -> None:
        if outcomes:
            self._deliverer.record(outcomes)

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # The loop has ended.
                self._loop.call_soon_threadsafe(self._changed.set)
