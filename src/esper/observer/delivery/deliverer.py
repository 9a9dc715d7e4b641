"""Gives alerts to handlers: a thread for each, so that one that hangs delays no other, and nobody who offers an alert waits for any."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from esper.errors import EsperError, RuleError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.exchange import Answer, Handler, Now, Outcome, SendAgain, SendAlert, SendHeldBack, Sending
from esper.observer.delivery.notices import Alert, LinkTo, Notice, alert_of, held_back_notice, notice_of
from esper.observer.delivery.outbox import Outbox

Recorder = Callable[[RunId, AlertNotified | AlertSuppressed], None]


def attempt(handler: Handler, notices: Sequence[Notice], now: datetime) -> Answer:
    """What came of one attempt; a handler that breaks has failed for good, and takes nobody else down."""
    try:
        return handler.send(notices, now)
    except Exception as error:  # The outermost line of an attempt. What broke is recorded; its text might hold a secret.
        return Answer(delivered=False, final=True, error=f"the handler broke: {type(error).__name__}")


class _Around(NamedTuple):
    """What the threads need from outside; `Deliverer` says what each is."""

    record: Recorder
    now: Callable[[], datetime]
    link_to: LinkTo
    lives: Callable[[RunId], bool | None]
    steady_s: Callable[[], float]
    jitter: Callable[[], float]


class DeliveryError(EsperError):
    """An outcome could not be recorded. Whatever was sent without its outcome is sent again by whoever delivers next."""


class _Post:
    """One handler's thread and outbox, and the lock between them and those who offer."""

    def __init__(self, handler: Handler, around: _Around) -> None:
        self.handler = handler
        self.failure: BaseException | None = None
        self._around = around
        self._outbox = Outbox(handler.name, handler.limits, around.jitter)
        self._changed = threading.Condition()
        self._recording = 0
        self._ends_at_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"esper-deliver-{handler.name}", daemon=True)

    def start(self, early: Iterable[Alert]) -> None:
        """Takes what was offered early, then starts the thread."""
        for alert in early:
            self.offer(alert)
        with self._changed:
            self._outbox.go_live()
        self._thread.start()

    def settled(self, run: RunId, event: AlertNotified | AlertSuppressed) -> None:
        with self._changed:
            self._outbox.settled(run, event)
            self._changed.notify()

    def offer(self, alert: Alert) -> None:
        with self._changed:
            outcomes = self._outbox.offer(alert, self._now())
            self._recording += len(outcomes)
            self._changed.notify()
        self._record(outcomes)

    def outstanding(self, run: RunId | None) -> int:
        with self._changed:
            return self._outbox.outstanding(run) + self._recording

    def end(self, at_s: float) -> None:
        """From now on the thread ends when nothing is left to do, or at `at_s`."""
        with self._changed:
            self._outbox.hurry(self._now())
            self._ends_at_s = at_s
            self._changed.notify()

    def join(self) -> None:
        """Waits for the thread until its time is up; one that still hangs in an attempt is left behind."""
        if self._thread.ident is not None and self._ends_at_s is not None:
            self._thread.join(max(0.0, self._ends_at_s - self._around.steady_s()))

    def _now(self) -> Now:
        return Now(self._around.now(), self._around.steady_s())

    def _run(self) -> None:
        try:
            while (sending := self._next()) is not None:
                answer = self._attempt(sending)
                with self._changed:
                    outcomes = self._outbox.answered(sending, answer, self._now())
                    self._recording += len(outcomes)
                self._record(outcomes)
        except BaseException as failure:  # The outermost line of this thread: kept, and raised again to whoever calls next.
            self.failure = failure

    def _next(self) -> Sending | None:
        """Waits for something to send; None when the thread is to end."""
        while True:
            with self._changed:
                now = self._now()
                if self._is_over(now):
                    return None
                step = self._outbox.next_step(now)
                self._recording += len(step.outcomes)
                if not step.outcomes and step.sending is None:
                    until_s = min((at_s for at_s in (step.until_s, self._ends_at_s) if at_s is not None), default=None)
                    self._changed.wait(None if until_s is None else min(max(0.0, until_s - now.steady_s), threading.TIMEOUT_MAX))
            self._record(step.outcomes)
            if step.sending is not None:
                return step.sending

    def _is_over(self, now: Now) -> bool:
        return self._ends_at_s is not None and (now.steady_s >= self._ends_at_s or not self._outbox.outstanding())

    def _attempt(self, sending: Sending) -> Answer:
        now = self._around.now()
        notices = self._notices(sending, now)
        return attempt(self.handler, notices, now) if notices else Answer(delivered=True)

    def _notices(self, sending: Sending, now: datetime) -> tuple[Notice, ...]:
        link_to = self._around.link_to
        match sending:
            case SendAlert(alert):
                return (notice_of(alert, link_to),)
            case SendHeldBack(held):
                return (held_back_notice(held, self.handler.name, link_to),)
            case SendAgain(alerts):
                return tuple(notice_of(alert, link_to) for alert in alerts if self._goes_on(alert, now))

    def _goes_on(self, alert: Alert, now: datetime) -> bool:
        lives = self._around.lives(alert.run)
        return lives is not None and (lives or now - alert.time < timedelta(seconds=self.handler.limits.deliver_within_s))

    def _record(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._around.record(outcome.run, outcome.event)
            with self._changed:
                self._recording -= 1


class Deliverer:
    """Delivers alerts at least once through every handler they are addressed to, and records one outcome for each of them.

    Before `start` nothing is sent: read the alerts' topic of every run that is not sealed, in order, `offer` each AlertFiring and
    AlertResolved and `settled` each AlertNotified and AlertSuppressed; then `start`. So a new process goes on where another stopped: what
    has an outcome is not sent again (a failed one is, while it is young), what has none is. Afterwards `offer` what is derived. May be
    called from any thread; no call but `close` waits for a handler.

    `record` appends an outcome to a run's observed records. It is called by the thread that offers and by those of handlers, several at
    once, and never under a lock of the deliverer. What it raises on a handler's thread ends that thread, and the next call here raises it.
    `lives`, called by handlers' threads, says whether a process writes a run, None of one that is gone: what fires in a dead one is sent
    again while it is young, in one that is gone not at all.
    """

    def __init__(
        self,
        handlers: Sequence[Handler],
        *,
        record: Recorder,
        now: Callable[[], datetime],
        link_to: LinkTo,
        lives: Callable[[RunId], bool | None],
        steady_s: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        names = [handler.name for handler in handlers]
        if len(set(names)) < len(names):
            raise RuleError(f"expected handlers with names of their own, got {', '.join(names)}")
        around = _Around(record, now, link_to, lives, steady_s, jitter)
        self._posts = {handler.name: _Post(handler, around) for handler in handlers}
        self._steady_s = steady_s
        self._early: list[Alert] | None = []

    def start(self) -> None:
        """Starts the threads; what was offered so far is theirs."""
        if self._early is None:
            raise RuleError("expected a deliverer that has not been started")
        early, self._early = self._early, None
        for post in self._posts.values():
            post.start(early)

    def offer(self, alert: Record) -> None:
        """Takes a record of AlertFiring or AlertResolved; one that was offered before changes nothing. Never waits for a handler.

        Raises DeliveryError when an outcome could not be recorded, now or earlier on a handler's thread.
        """
        offered = alert_of(alert)
        if self._early is not None:
            self._early.append(offered)
            return
        self._check()
        for post in self._posts.values():
            post.offer(offered)

    def settled(self, outcome: Record) -> None:
        """Takes a record of AlertNotified or AlertSuppressed that was read back; the outcomes of a handler that is no more are ignored."""
        event = decode(outcome)
        if not isinstance(event, (AlertNotified, AlertSuppressed)):
            raise RuleError(
                f"expected a record of AlertNotified or AlertSuppressed, got {outcome.type} in run {outcome.run}, id {outcome.id}"
            )
        if event.handler in self._posts:
            self._posts[event.handler].settled(outcome.run, event)

    def outstanding(self, run: RunId | None = None) -> int:
        """How many outcomes (of `run`) are still to come: an alert counts once for each handler that has not delivered or refused it."""
        self._check()
        early = sum(run is None or alert.run == run for alert in self._early or ())
        return early * len(self._posts) + sum(post.outstanding(run) for post in self._posts.values())

    def close(self, timeout_s: float) -> None:
        """Delivers what can be delivered within `timeout_s`, and ends. What is left has no outcome: whoever starts next sends it."""
        ends_at_s = self._steady_s() + timeout_s
        for post in self._posts.values():
            post.end(ends_at_s)
        for post in self._posts.values():
            post.join()
        self._check()

    def _check(self) -> None:
        for post in self._posts.values():
            if post.failure is not None:
                raise DeliveryError(f"handler {post.handler.name} has stopped: {post.failure}") from post.failure
