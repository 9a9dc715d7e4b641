"""Outbox of one handler: decides what is sent when, and the outcome of each alert. It is given the time and the answers; pure.

    offered -> waiting -> delivered                   the receiver took it
                       -> failed                      refused, every attempt failed, or a firing became too old between attempts
            -> rate_limit                             no token; counted in a summary with the others
            -> stale                                  a firing older than `deliver_within_s` before the first attempt
            -> not_delivered                          a resolution whose firing was offered and not delivered
            -> (nothing)                              below the handler's severity, or a resolution of what was only pending

Order and limits. A token bucket is refilled evenly up to `burst`; a token that a waiting message holds still counts, so no window of w
seconds has more than `burst + rate * w` messages, however long a receiver hung. A firing needs a token at once, so at most `burst` firings
wait. A resolution waits for its firing, then for a token; the rate limit and its age never suppress it, or a receiver would show the alert
for ever. Attempts after the first need no token: the failed ones did not arrive. Each alert has its own back-off, so one that its receiver
refuses delays no other.

State ends with the process. `settled` takes an outcome that was read back from the log. Delivered and suppressed alerts are done; failed
ones are tried again when they are offered: a firing that is young enough and its resolution after it, or the resolution of a delivered
firing. Rate-limited ones that are young enough are counted in a summary again, so that they are reported at least once.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from esper.events.codec import encode
from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.folds.monitoring.rules import Severity
from esper.folds.monitoring.run_monitor import own_id
from esper.observer.delivery.notices import SEVERITIES, AlertRecord, RateLimitSummary, alert_key, alert_of

_REMEMBERED = 16_384
"""Alerts whose outcome is remembered, so that one offered again is not sent again; the oldest are forgotten."""

_OPEN_AT_MOST = 10_000
"""Delivered firings that await their resolution, and as many undelivered ones; the resolution of a forgotten one is not sent."""

_LONGEST_BACKOFF_S = 60.0
_QUIET_S = 5.0
_SUMMARY_AT_LATEST_S = 60.0
"""A summary is sent when no alert was suppressed for five seconds, and a minute after the first one at the latest."""

_Suppressed = Literal["rate_limit", "stale", "not_delivered", "acknowledged"]
_Known = Literal["offered", "delivered", "failed"] | _Suppressed
"""An alert that was offered to this outbox, or an outcome that was read back and whose alert was not offered yet."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one handler; see docs/delivery.md for each."""

    severity: Severity = "info"
    rate_per_minute: float = 30.0
    burst: int = 30
    attempts: int = 15
    first_pause_s: float = 1.0
    resend_s: float | None = None
    """How often firing alerts are sent again; None: never."""
    deliver_within_s: float = 600.0


class Now(NamedTuple):
    """The machine's time, for the age of alerts, and seconds of a clock that never goes back, for waiting."""

    time: datetime
    steady_s: float


class AttemptResult(NamedTuple):
    """Result of one attempt. If not delivered: whether trying again is useless, and the pause that the receiver asks for."""

    delivered: bool
    error: str | None = None
    final: bool = False
    retry_after_s: float | None = None


class AlertOutcome(NamedTuple):
    """An alert's record, and the event to record about it."""

    alert: Record
    event: AlertNotified | AlertSuppressed


def outcome_record(outcome: AlertOutcome, now: datetime) -> Record:
    """The record of an outcome: caused by its alert, and at the same place."""
    alert, event = outcome
    data = encode(event)
    identity = own_id(alert.id, event.KIND, now, data)
    return alert._replace(id=identity, type=event.KIND, time=now, cause=alert.id, generation=alert.generation + 1, data=data)


def failure_of(outcome: AlertOutcome) -> str | None:
    """A sentence about a delivery that failed; None for any other outcome."""
    record, event = outcome
    if not isinstance(event, AlertNotified) or event.outcome != "failed":
        return None
    alert = alert_of(record)
    state = "firing" if alert.firing else "resolved"
    return f"run {record.run}: handler {event.handler} did not deliver {alert.event.rule} ({state}): {event.error}"


Sending = AlertRecord | RateLimitSummary | tuple[AlertRecord, ...]
"""One message: an alert, a summary, or the firing alerts that are sent again."""


class Step(NamedTuple):
    """Outcomes to record, a message to send, and the time of the next step (None: when an alert is offered)."""

    outcomes: tuple[AlertOutcome, ...]
    sending: Sending | None
    until_s: float | None


@dataclass
class _Waiting:
    message: AlertRecord | RateLimitSummary
    due_s: float
    attempts: int = 0
    error: str | None = None


class Outbox:
    """Messages of one handler. Not safe for threads: its owner holds a lock, and sends one message at a time."""

    def __init__(self, handler: str, limits: Limits, jitter: Callable[[], float]) -> None:
        self._handler, self._limits, self._jitter = handler, limits, jitter
        self._within = timedelta(seconds=limits.deliver_within_s)
        self._tokens, self._filled_at_s = float(limits.burst), -math.inf
        self._granted: dict[tuple[str, bool] | None, _Waiting] = {}  # With a token, by key and firing; at most `burst`. None: a summary.
        self._ungranted: deque[AlertRecord] = deque()  # Resolutions of delivered firings that wait for a token.
        self._after_firing: dict[str, AlertRecord] = {}  # Resolutions that wait for their firing, by key.
        self._open: OrderedDict[str, None] = OrderedDict()  # Keys of delivered firings without a delivered resolution.
        self._missed: OrderedDict[str, None] = OrderedDict()  # Keys of firings that were not delivered.
        self._known: OrderedDict[EventId, _Known] = OrderedDict()
        self._again: OrderedDict[str, AlertRecord] = OrderedDict()  # Delivered firings that are sent again.
        self._again_s, self._again_failures = math.inf, 0
        self._counting: RateLimitSummary | None = None
        self._quiet_s = self._latest_s = math.inf

    def outstanding(self, run: RunId | None = None) -> int:
        """Number of waiting alerts (of `run`); over all runs, summaries count too."""
        granted = [waiting.message for waiting in self._granted.values()]
        if run is None:
            return len(granted) + len(self._ungranted) + len(self._after_firing) + (self._counting is not None)
        return sum(
            isinstance(message, AlertRecord) and message.record.run == run
            for message in (*granted, *self._ungranted, *self._after_firing.values())
        )

    def settled(self, run: RunId, event: AlertNotified | AlertSuppressed) -> None:
        """Takes an outcome that was read back from the log, in the log's order and before its alert is offered."""
        self._known[event.alert] = event.why if isinstance(event, AlertSuppressed) else event.outcome
        if isinstance(event, AlertNotified) and event.outcome == "delivered":
            self._open[alert_key(run, event.fingerprint, event.since)] = None

    def offer(self, alert: AlertRecord, now: Now) -> tuple[AlertOutcome, ...]:
        """Takes an alert; the outcomes that are decided at once. An alert that was offered before changes nothing."""
        before = self._known.get(alert.record.id)
        if SEVERITIES.index(alert.event.severity) < SEVERITIES.index(self._limits.severity) or before == "offered":
            return ()
        self._known[alert.record.id] = "offered"
        self._known.move_to_end(alert.record.id)
        self._grant(now)
        return self._offer_firing(alert, before, now) if alert.firing else self._offer_resolved(alert, before)

    def hold(self, alert: AlertRecord) -> tuple[AlertOutcome, ...]:
        """Takes a firing that a person has acknowledged, and sends it to nobody; its resolution neither, unless it is offered anew."""
        if SEVERITIES.index(alert.event.severity) < SEVERITIES.index(self._limits.severity) or alert.record.id in self._known:
            return ()
        self._known[alert.record.id] = "acknowledged"
        self._missed[alert.key] = None
        return (self._suppressed(alert, "acknowledged"),)

    def next_step(self, now: Now) -> Step:
        """Outcomes to record and a message to send, which must be answered by `answered` before the next call."""
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        for remembered in (self._open, self._missed, self._again):
            while len(remembered) > _OPEN_AT_MOST:
                remembered.popitem(last=False)
        outcomes = self._expire(now)
        self._grant(now)
        first = min(self._granted.values(), key=lambda waiting: waiting.due_s, default=None)
        first_s = math.inf if first is None else first.due_s
        again_s = self._again_s if self._again else math.inf
        if first is not None and first_s <= min(again_s, now.steady_s):
            if first.message is self._counting:
                self._counting = None  # Alerts that are suppressed from now on go into the next summary.
            return Step(outcomes, first.message, None)
        if again_s <= now.steady_s:
            return Step(outcomes, tuple(self._again.values()), None)
        until_s = min(first_s, again_s, self._token_s(now), self._stale_s(now))
        return Step(outcomes, None, None if math.isinf(until_s) else until_s)

    def answered(self, sending: Sending, answer: AttemptResult, now: Now) -> tuple[AlertOutcome, ...]:
        """Takes the answer to a message; the outcomes that follow."""
        if not isinstance(sending, AlertRecord | RateLimitSummary):
            self._again_answered(answer, now)
            return ()
        place = _place(sending)
        waiting = self._granted[place]
        waiting.attempts += 1
        waiting.error = answer.error
        if not (answer.delivered or answer.final or waiting.attempts >= self._limits.attempts):
            waiting.due_s = now.steady_s + pause_s(waiting.attempts, self._limits.first_pause_s, answer.retry_after_s, self._jitter)
            return ()
        del self._granted[place]
        return () if isinstance(sending, RateLimitSummary) else self._notified(sending, waiting, delivered=answer.delivered, now=now)

    def hurry(self, now: Now) -> None:
        """Makes the summary due now: the owner is about to end."""
        self._latest_s = now.steady_s

    def _offer_firing(self, alert: AlertRecord, before: _Known | None, now: Now) -> tuple[AlertOutcome, ...]:
        if before == "delivered":
            self._send_again(alert, now.steady_s)
            return ()
        is_young = not self._is_stale(alert, now)
        is_open = before is None or (before == "failed" and is_young)
        if is_open and is_young and self._take_token():
            self._granted[_place(alert)] = _Waiting(alert, now.steady_s)
            return ()
        if is_young and (is_open or before == "rate_limit"):
            self._count(alert, now)
        self._missed[alert.key] = None
        return (self._suppressed(alert, "rate_limit" if is_young else "stale"),) if is_open else ()

    def _offer_resolved(self, alert: AlertRecord, before: _Known | None) -> tuple[AlertOutcome, ...]:
        self._again.pop(alert.key, None)
        if before != "delivered" and (alert.key, True) in self._granted:
            self._after_firing[alert.key] = alert
        elif before != "delivered" and alert.key in self._open:
            self._ungranted.append(alert)
        else:
            self._open.pop(alert.key, None)
            if alert.key in self._missed and before is None:
                return (self._suppressed(alert, "not_delivered"),)
        return ()

    def _count(self, alert: AlertRecord, now: Now) -> None:
        if self._counting is None:
            self._counting = RateLimitSummary(alert.record, alert.record.time, alert.record.time)
            self._latest_s = now.steady_s + _SUMMARY_AT_LATEST_S
        self._counting.add(alert)
        self._quiet_s = now.steady_s + _QUIET_S

    def _summary_s(self) -> float:
        return math.inf if self._counting is None or None in self._granted else min(self._quiet_s, self._latest_s)

    def _grant(self, now: Now) -> None:
        if now.steady_s > self._filled_at_s:
            free = max(0.0, float(self._limits.burst - len(self._granted)))
            self._tokens = min(self._tokens + (now.steady_s - self._filled_at_s) * self._limits.rate_per_minute / 60.0, free)
            self._filled_at_s = now.steady_s
        while self._ungranted and self._take_token():
            alert = self._ungranted.popleft()
            self._granted[_place(alert)] = _Waiting(alert, now.steady_s)
        due_s = self._summary_s()
        if due_s <= now.steady_s and self._counting is not None and self._take_token():
            self._granted[None] = _Waiting(self._counting, due_s)

    def _take_token(self) -> bool:
        # A hair less than one is one: many small additions do not reach 1.0 exactly.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True

    def _token_s(self, now: Now) -> float:
        """The time when a waiting resolution or summary has a token."""
        next_s = now.steady_s + max(0.0, 1.0 - self._tokens) * 60.0 / self._limits.rate_per_minute
        return next_s if self._ungranted else max(next_s, self._summary_s())

    def _firings(self) -> Iterator[tuple[AlertRecord, _Waiting]]:
        for waiting in self._granted.values():
            if isinstance(waiting.message, AlertRecord) and waiting.message.firing:
                yield waiting.message, waiting

    def _stale_s(self, now: Now) -> float:
        oldest = min((alert.record.time for alert, _ in self._firings()), default=None)
        return math.inf if oldest is None else now.steady_s + (oldest + self._within - now.time).total_seconds()

    def _expire(self, now: Now) -> tuple[AlertOutcome, ...]:
        outcomes: list[AlertOutcome] = []
        for alert, waiting in [(alert, waiting) for alert, waiting in self._firings() if self._is_stale(alert, now)]:
            del self._granted[_place(alert)]
            if waiting.attempts:
                waiting.error = f"{waiting.error}; not tried again: older than {self._limits.deliver_within_s:g} s"
                outcomes += self._notified(alert, waiting, delivered=False, now=now)
            else:
                outcomes += (self._suppressed(alert, "stale"), *self._missed_now(alert))
        return tuple(outcomes)

    def _again_answered(self, answer: AttemptResult, now: Now) -> None:
        resend_s = self._limits.resend_s
        assert resend_s is not None, "only such a handler sends again"
        self._again_failures = 0 if answer.delivered else self._again_failures + 1
        pause = pause_s(max(1, self._again_failures), self._limits.first_pause_s, answer.retry_after_s, self._jitter)
        self._again_s = now.steady_s + (min(resend_s, pause) if self._again_failures else resend_s)

    def _send_again(self, firing: AlertRecord, at_s: float) -> None:
        if self._limits.resend_s is not None:
            self._again_s = min(at_s, self._again_s) if self._again else at_s
            self._again[firing.key] = firing

    def _notified(self, alert: AlertRecord, waiting: _Waiting, *, delivered: bool, now: Now) -> tuple[AlertOutcome, ...]:
        """The outcome of an alert that was sent, and of a resolution that its failure ends."""
        event = AlertNotified(
            alert=alert.record.id,
            fingerprint=alert.event.fingerprint,
            since=alert.event.since,
            handler=self._handler,
            outcome="delivered" if delivered else "failed",
            attempts=waiting.attempts,
            error=waiting.error,
        )
        outcome = AlertOutcome(alert.record, event)
        if not alert.firing:
            self._open.pop(alert.key, None)
        elif not delivered:
            return (outcome, *self._missed_now(alert))
        else:
            self._open[alert.key] = None
            if (resolution := self._after_firing.pop(alert.key, None)) is not None:
                self._ungranted.append(resolution)
            else:
                self._send_again(alert, now.steady_s + (self._limits.resend_s or 0.0))
        return (outcome,)

    def _missed_now(self, firing: AlertRecord) -> tuple[AlertOutcome, ...]:
        """Remembers that a firing was not delivered; the outcome of the resolution that waited for it."""
        self._missed[firing.key] = None
        resolution = self._after_firing.pop(firing.key, None)
        return () if resolution is None else (self._suppressed(resolution, "not_delivered"),)

    def _suppressed(self, alert: AlertRecord, why: _Suppressed) -> AlertOutcome:
        event = AlertSuppressed(alert=alert.record.id, fingerprint=alert.event.fingerprint, handler=self._handler, why=why)
        return AlertOutcome(alert.record, event)

    def _is_stale(self, alert: AlertRecord, now: Now) -> bool:
        return now.time - alert.record.time >= self._within


def pause_s(attempts: int, first_s: float, retry_after_s: float | None, jitter: Callable[[], float]) -> float:
    """Seconds to wait after `attempts` failures: doubled each time up to a minute, half of it by chance; at least `retry_after_s`.

    Chance keeps handlers on many machines from trying in step.
    """
    longest = min(first_s * 2.0 ** min(attempts - 1, 30), _LONGEST_BACKOFF_S)
    return max(longest * (0.5 + 0.5 * jitter()), retry_after_s or 0.0)


def _place(message: AlertRecord | RateLimitSummary) -> tuple[str, bool] | None:
    return (message.key, message.firing) if isinstance(message, AlertRecord) else None
