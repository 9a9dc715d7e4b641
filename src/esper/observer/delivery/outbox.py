"""Outbox of one handler: decides what is sent when, and the outcome of each alert. It is given the time and the answers; pure.

An alert comes by `offer`. It waits until `next_step` sends it, and leaves with one outcome:

    offered -> waiting -> delivered                   the receiver took it
                       -> failed                      refused, every attempt failed, or a firing became too old between attempts
            -> rate_limit                             no token; counted in a summary with the others
            -> stale                                  a firing older than `deliver_within_s` before the first attempt
            -> not_delivered                          a resolution whose firing was offered and not delivered
            -> (nothing)                              below the handler's severity, or a resolution of what was only pending

Order and limits. A firing needs a token at once and keeps it while it waits, so at most `burst` firings wait. A resolution waits for its
firing, then for a token; the rate limit and its age never suppress it, or a receiver would show the alert for ever. Attempts after the
first need no token: the failed ones reached nobody. Each alert has its own back-off, so one that its receiver refuses delays no other.

State ends with the process. `settled` takes an outcome that was read back from the log. Delivered and suppressed alerts are done; failed
ones are tried again when they are offered: a firing that is young enough and its resolution after it, or the resolution of a delivered
firing. Rate-limited ones that are young enough are counted in a summary again, so that they are reported at least once.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.limits import Bucket, Limits, PendingSummary, pause_s
from esper.observer.delivery.notices import SEVERITIES, Alert, RateLimitSummary, alert_key

_REMEMBERED = 16_384
"""Alerts whose outcome is remembered, so that one offered again is not sent again; the oldest are forgotten."""

_OPEN_AT_MOST = 10_000
"""Delivered firings that await their resolution, and as many undelivered ones; the resolution of a forgotten one is not sent."""

_Known = Literal["done", "failed_before", "limited_before", "unsent_before"]
_READ_BACK: dict[str, _Known] = {"rate_limit": "limited_before", "not_delivered": "unsent_before"}


class Now(NamedTuple):
    """The machine's time, for the age of alerts, and seconds of a clock that never goes back, for waiting."""

    time: datetime
    steady_s: float


class Answer(NamedTuple):
    """Result of one attempt. If not delivered: whether trying again is useless, and the pause that the receiver asks for."""

    delivered: bool
    error: str | None = None
    final: bool = False
    retry_after_s: float | None = None


class Outcome(NamedTuple):
    """What to record about an alert."""

    alert: Record
    event: AlertNotified | AlertSuppressed


Sending = Alert | RateLimitSummary | tuple[Alert, ...]
"""One message: an alert, a summary, or the firing alerts that are sent again."""


class Step(NamedTuple):
    """What to do now: record outcomes, send something; and when to ask again (None: when something is offered)."""

    outcomes: tuple[Outcome, ...]
    sending: Sending | None
    until_s: float | None


@dataclass
class _Waiting:
    alert: Alert
    due_s: float
    attempts: int = 0
    error: str | None = None


class Outbox:
    """Messages of one handler. Not safe for threads: its owner holds a lock, and sends one message at a time.

    It forgets nothing until `go_live`, so that all that was read back meets all that is offered again.
    """

    def __init__(self, handler: str, limits: Limits, jitter: Callable[[], float]) -> None:
        self._handler = handler
        self._limits = limits
        self._jitter = jitter
        self._within = timedelta(seconds=limits.deliver_within_s)
        self._bucket = Bucket(limits.rate_per_minute / 60.0, limits.burst)
        self._waiting: dict[EventId, _Waiting] = {}
        self._granted: dict[EventId, None] = {}  # Waiting alerts that hold a token, in order; at most `burst`.
        self._ungranted: deque[EventId] = deque()  # Resolutions that wait for a token; at most _OPEN_AT_MOST.
        self._firing: dict[str, EventId] = {}  # Waiting firings; at most `burst`.
        self._resolving: dict[str, EventId] = {}  # Waiting resolutions.
        self._open: OrderedDict[str, Alert | None] = OrderedDict()  # Delivered firings; the alert where it is to be sent again.
        self._missed: OrderedDict[str, None] = OrderedDict()  # Firings that were not delivered.
        self._known: OrderedDict[EventId, _Known] = OrderedDict()
        self._summary = PendingSummary(limits, jitter)
        self._again_s = math.inf
        self._again_failures = 0
        self._live = False

    def go_live(self) -> None:
        """Bounds memory from now on: every outcome of the past was read back."""
        self._live = True
        self._trim()

    def outstanding(self, run: RunId | None = None) -> int:
        """Number of waiting alerts (of `run`); over all runs, a summary counts too."""
        if run is None:
            return len(self._waiting) + bool(self._summary)
        return sum(waiting.alert.record.run == run for waiting in self._waiting.values())

    def settled(self, run: RunId, event: AlertNotified | AlertSuppressed) -> None:
        """Takes an outcome that was read back from the log, in the log's order. One that this outbox made itself changes nothing."""
        if self._known.get(event.alert) == "done":
            return
        self._drop(event.alert)
        if isinstance(event, AlertSuppressed):
            self._remember(event.alert, _READ_BACK.get(event.why, "done"))
        elif event.outcome == "failed":
            self._remember(event.alert, "failed_before")
        else:
            self._remember(event.alert, "done")
            self._opened(alert_key(run, event.fingerprint, event.since), None)

    def offer(self, alert: Alert, now: Now) -> tuple[Outcome, ...]:
        """Takes an alert; the outcomes that are decided at once. An alert that waits already, or is done, changes nothing."""
        if SEVERITIES.index(alert.event.severity) < SEVERITIES.index(self._limits.severity) or alert.record.id in self._waiting:
            return ()
        before = self._known.get(alert.record.id)
        if before is not None and not self._is_worth_another(alert, before, now):
            self._offered_again(alert, before, now)
            return ()
        self._grant(now)
        return self._offer_firing(alert, now) if alert.firing else self._offer_resolved(alert, now)

    def next_step(self, now: Now) -> Step:
        """What to do now. A message must be answered by `answered` before the next call."""
        outcomes = self._expire(now)
        self._grant(now)
        first = min((self._waiting[alert_id] for alert_id in self._granted), key=lambda waiting: waiting.due_s, default=None)
        alert_s = math.inf if first is None else first.due_s
        summary_s = self._summary.due_s if self._summary.has_token and self._summary.due_s is not None else math.inf
        again_s = self._again_due_s()
        due_s = min(alert_s, summary_s, again_s)
        if due_s > now.steady_s:
            until_s = min(due_s, self._token_s(now), self._stale_s(now))
            return Step(outcomes, None, None if math.isinf(until_s) else until_s)
        if first is not None and due_s == alert_s:
            return Step(outcomes, first.alert, None)
        if due_s == summary_s:
            return Step(outcomes, self._summary.summary(), None)
        return Step(outcomes, tuple(self._still_firing()), None)

    def answered(self, sending: Sending, answer: Answer, now: Now) -> tuple[Outcome, ...]:
        """Takes the answer to a message; the outcomes that follow."""
        match sending:
            case Alert():
                return self._alert_answered(sending, answer, now)
            case RateLimitSummary():
                over = answer.delivered or answer.final
                self._summary.answered(over=over, retry_after_s=answer.retry_after_s, now_s=now.steady_s)
            case _:
                self._again_answered(answer, now)
        return ()

    def hurry(self, now: Now) -> None:
        """Makes the summary due now: the owner is about to end."""
        self._summary.hurry(now.steady_s)

    def _offer_firing(self, alert: Alert, now: Now) -> tuple[Outcome, ...]:
        if self._is_stale(alert, now):
            return (self._suppressed(alert, "stale"),)
        if not self._bucket.take():
            self._summary.add(alert, now.steady_s)
            return (self._suppressed(alert, "rate_limit"),)
        self._waiting[alert.record.id] = _Waiting(alert, now.steady_s)
        self._firing[alert.key] = alert.record.id
        self._granted[alert.record.id] = None
        return ()

    def _offer_resolved(self, alert: Alert, now: Now) -> tuple[Outcome, ...]:
        if alert.key not in self._firing:
            if alert.key not in self._open:
                return (self._suppressed(alert, "not_delivered"),) if alert.key in self._missed else ()
            self._open[alert.key] = None
            self._ungranted.append(alert.record.id)
        self._waiting[alert.record.id] = _Waiting(alert, now.steady_s)
        self._resolving[alert.key] = alert.record.id
        return ()

    def _is_worth_another(self, alert: Alert, before: _Known, now: Now) -> bool:
        if alert.firing:
            return before == "failed_before" and not self._is_stale(alert, now)
        # If a failed firing is tried again, the resolution that was not sent because of it follows.
        return (before == "failed_before" and alert.key in self._open) or (before == "unsent_before" and alert.key in self._firing)

    def _offered_again(self, alert: Alert, before: _Known, now: Now) -> None:
        if before == "limited_before" and not self._is_stale(alert, now):
            self._summary.add(alert, now.steady_s)
        delivered = alert.key in self._open
        self._finished(alert, delivered=delivered)
        if alert.firing and delivered and alert.key not in self._resolving:
            self._opened(alert.key, alert, again_s=now.steady_s)

    def _grant(self, now: Now) -> None:
        self._bucket.refill(now.steady_s, len(self._granted) + self._summary.has_token)
        while self._ungranted:
            if self._ungranted[0] in self._waiting:
                if not self._bucket.take():
                    return
                self._granted[self._ungranted[0]] = None
            self._ungranted.popleft()
        if self._summary.wants_token(now.steady_s):
            self._summary.has_token = self._bucket.take()

    def _token_s(self, now: Now) -> float:
        # When a waiting message gets its token, or the summary begins to wait for one.
        if self._ungranted or self._summary.wants_token(now.steady_s):
            return self._bucket.next_s(now.steady_s)
        return math.inf if self._summary.has_token or self._summary.due_s is None else self._summary.due_s

    def _stale_s(self, now: Now) -> float:
        oldest = min((self._waiting[alert_id].alert.record.time for alert_id in self._firing.values()), default=None)
        return math.inf if oldest is None else now.steady_s + (oldest + self._within - now.time).total_seconds()

    def _expire(self, now: Now) -> tuple[Outcome, ...]:
        outcomes: list[Outcome] = []
        firings = [self._waiting[alert_id] for alert_id in self._firing.values()]
        for waiting in [waiting for waiting in firings if self._is_stale(waiting.alert, now)]:
            if waiting.attempts:
                outcomes += self._gave_up(waiting, f"{waiting.error}; not tried again: older than {self._limits.deliver_within_s:g} s")
            else:
                outcomes += (self._suppressed(waiting.alert, "stale"), *self._without_firing(waiting.alert))
        return tuple(outcomes)

    def _alert_answered(self, alert: Alert, answer: Answer, now: Now) -> tuple[Outcome, ...]:
        waiting = self._waiting.get(alert.record.id)
        if waiting is None:
            return ()  # The outcome of another process was read back meanwhile.
        waiting.attempts += 1
        waiting.error = answer.error
        if answer.delivered:
            outcome = self._notified(waiting, "delivered", answer.error)
            if alert.firing:
                self._arrived(alert, now)
            return (outcome,)
        if answer.final or waiting.attempts >= self._limits.attempts:
            return self._gave_up(waiting, answer.error)
        waiting.due_s = now.steady_s + pause_s(waiting.attempts, self._limits.first_pause_s, answer.retry_after_s, self._jitter)
        return ()

    def _arrived(self, firing: Alert, now: Now) -> None:
        resolution = self._resolving.get(firing.key)
        if resolution is not None:
            self._opened(firing.key, None)
            self._ungranted.append(resolution)
        else:
            self._opened(firing.key, firing, again_s=now.steady_s + (self._limits.resend_s or 0.0))

    def _again_answered(self, answer: Answer, now: Now) -> None:
        resend_s = self._limits.resend_s
        assert resend_s is not None, "only such a handler sends again"
        self._again_failures = 0 if answer.delivered else self._again_failures + 1
        wait_s = resend_s
        if self._again_failures:
            wait_s = min(resend_s, pause_s(self._again_failures, self._limits.first_pause_s, answer.retry_after_s, self._jitter))
        self._again_s = now.steady_s + wait_s

    def _again_due_s(self) -> float:
        return math.inf if next(self._still_firing(), None) is None else self._again_s

    def _still_firing(self) -> Iterator[Alert]:
        return (firing for firing in self._open.values() if firing is not None)

    def _gave_up(self, waiting: _Waiting, error: str | None) -> tuple[Outcome, ...]:
        return (self._notified(waiting, "failed", error), *self._without_firing(waiting.alert))

    def _without_firing(self, alert: Alert) -> tuple[Outcome, ...]:
        resolution = self._resolving.get(alert.key) if alert.firing else None
        return () if resolution is None else (self._suppressed(self._waiting[resolution].alert, "not_delivered"),)

    def _notified(self, waiting: _Waiting, outcome: Literal["delivered", "failed"], error: str | None) -> Outcome:
        alert = waiting.alert
        self._finished(alert, delivered=outcome == "delivered")
        event = AlertNotified(
            alert=alert.record.id,
            fingerprint=alert.event.fingerprint,
            since=alert.event.since,
            handler=self._handler,
            outcome=outcome,
            attempts=waiting.attempts,
            error=error,
        )
        return Outcome(alert.record, event)

    def _suppressed(self, alert: Alert, why: Literal["rate_limit", "stale", "not_delivered"]) -> Outcome:
        self._finished(alert, delivered=False)
        return Outcome(
            alert.record, AlertSuppressed(alert=alert.record.id, fingerprint=alert.event.fingerprint, handler=self._handler, why=why)
        )

    def _is_stale(self, alert: Alert, now: Now) -> bool:
        return now.time - alert.record.time >= self._within

    def _finished(self, alert: Alert, *, delivered: bool) -> None:
        self._drop(alert.record.id)
        self._remember(alert.record.id, "done")
        self._missed.pop(alert.key, None)
        if not alert.firing:  # Delivered or not, the alert is over, and must not be sent again as firing.
            self._open.pop(alert.key, None)
        elif not delivered:
            self._missed[alert.key] = None
            self._trim()

    def _drop(self, alert_id: EventId) -> None:
        waiting = self._waiting.pop(alert_id, None)
        self._granted.pop(alert_id, None)
        if waiting is not None:
            waits = self._firing if waiting.alert.firing else self._resolving
            if waits.get(waiting.alert.key) == alert_id:
                del waits[waiting.alert.key]

    def _remember(self, alert_id: EventId, how: _Known) -> None:
        self._known[alert_id] = how
        self._known.move_to_end(alert_id)
        self._trim()

    def _opened(self, key: str, firing: Alert | None, *, again_s: float = math.inf) -> None:
        self._open[key] = firing
        self._open.move_to_end(key)
        self._trim()
        if self._limits.resend_s is not None:
            self._again_s = min(again_s, self._again_s)

    def _trim(self) -> None:
        bounds: tuple[tuple[OrderedDict[Any, Any], int], ...]  # Any: dictionaries of three types.
        bounds = ((self._known, _REMEMBERED), (self._open, _OPEN_AT_MOST), (self._missed, _OPEN_AT_MOST))
        for remembered, at_most in bounds:
            while self._live and len(remembered) > at_most:
                remembered.popitem(last=False)
