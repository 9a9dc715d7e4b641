"""What one handler sends, when, and what becomes of each alert: a machine that is told the time and the answers, and does nothing itself.

An alert comes by `offer`. It waits here until `next_step` says to send it, and leaves with one outcome:

    offered -> waiting -> delivered                   the receiver took it
                       -> failed                      refused, or every attempt failed, or a firing became too old between attempts
            -> rate_limit                             no token; counted, and told in one message with the others
            -> stale                                  a firing older than `deliver_within_s` before the first attempt
            -> not_delivered                          a resolution of a firing that was offered and did not arrive
            -> (nothing)                              not addressed here, or a resolution of what only was pending

Order and limits. A firing is taken only with a token, which it keeps while it waits: so no more than `burst` firings ever wait. A
resolution waits behind its firing, then for a token, and is never held back nor too old: whoever was told that it fires must be told that
it is over, or shows it for ever. Attempts after the first need no token: what failed reached nobody. Each alert has its own back-off, so
one that its receiver cannot digest delays no other.

Nothing here survives the process. `settled` takes an outcome that was read back from the log: delivered and suppressed ones are done
with; a failed one is tried again when it is offered: a firing that is still young enough, and its resolution after it, or the resolution of
what was delivered; held-back ones that are young enough are counted into a message again, so that they are told at least once.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple

from esper.events.envelope import EventId, RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.exchange import Answer, Now, Outcome, SendAgain, SendAlert, SendHeldBack, Sending, Step
from esper.observer.delivery.limits import Bucket, Limits, pause_s
from esper.observer.delivery.notices import SEVERITIES, Alert, AlertKey
from esper.observer.delivery.tally import Tally

REMEMBERED = 16_384
"""Alerts whose outcome is remembered, so that one offered again is not sent again; the oldest are forgotten."""

OPEN_AT_MOST = 10_000
"""Delivered firings whose resolution is awaited, and as many that were not delivered; the resolution of a forgotten one is not sent."""


Known = Literal["done", "failed_before", "held_before", "unsent_before"]
_READ_BACK: dict[str, Known] = {"rate_limit": "held_before", "not_delivered": "unsent_before"}


@dataclass
class _Waiting:
    alert: Alert
    due_s: float
    attempts: int = 0
    error: str | None = None


class _Open(NamedTuple):
    """A firing that was delivered: its id, and what to send again while it fires, where that is known."""

    by: EventId
    alert: Alert | None


class Outbox:
    """The messages of one handler. Not safe for threads: its owner holds a lock, and sends one thing at a time.

    Until `go_live` it forgets nothing of what it is told, so that everything read back can be matched with everything offered.
    """

    def __init__(self, handler: str, limits: Limits, jitter: Callable[[], float]) -> None:
        self._handler = handler
        self._limits = limits
        self._jitter = jitter
        self._within = timedelta(seconds=limits.deliver_within_s)
        self._bucket = Bucket(limits.rate_per_minute / 60.0, limits.burst)
        self._waiting: dict[EventId, _Waiting] = {}
        self._granted: dict[EventId, None] = {}  # Of those waiting, in order: who has a token. At most `burst`.
        self._ungranted: deque[EventId] = deque()  # Resolutions that may go as soon as there is a token; at most OPEN_AT_MOST.
        self._firing: dict[AlertKey, EventId] = {}  # Of those waiting: the firings, at most `burst`.
        self._resolving: dict[AlertKey, EventId] = {}  # Of those waiting: the resolutions.
        self._open: OrderedDict[AlertKey, _Open] = OrderedDict()
        self._missed: OrderedDict[AlertKey, None] = OrderedDict()  # Firings that were offered and not delivered.
        self._known: OrderedDict[EventId, Known] = OrderedDict()
        self._tally = Tally(limits, jitter)
        self._again_s: float | None = None
        self._again_failures = 0
        self._live = False

    def go_live(self) -> None:
        """Everything that was read back has been told: from now on memory is bounded."""
        self._live = True
        self._trim()

    def outstanding(self, run: RunId | None = None) -> int:
        """How many alerts (of `run`) wait here; over all runs, a message about held-back ones counts too."""
        if run is None:
            return len(self._waiting) + bool(self._tally)
        return sum(waiting.alert.run == run for waiting in self._waiting.values())

    def settled(self, run: RunId, event: AlertNotified | AlertSuppressed) -> None:
        """Takes an outcome that was read back from the log, in the log's order. One that this machine made itself changes nothing."""
        if self._known.get(event.alert) == "done":
            return
        self._drop(event.alert)
        if isinstance(event, AlertSuppressed):
            self._remember(event.alert, _READ_BACK.get(event.why, "done"))
        elif event.outcome == "failed":
            self._remember(event.alert, "failed_before")
        else:
            self._remember(event.alert, "done")
            self._opened(AlertKey(run, event.fingerprint, event.since), _Open(event.alert, None))

    def offer(self, alert: Alert, now: Now) -> tuple[Outcome, ...]:
        """Takes an alert; the outcomes that are decided at once. An alert that waits here already, or is done with, changes nothing."""
        if SEVERITIES.index(alert.event.severity) < SEVERITIES.index(self._limits.severity) or alert.id in self._waiting:
            return ()
        before = self._known.get(alert.id)
        if before is not None and not self._is_worth_another(alert, before, now):
            self._offered_again(alert, before, now)
            return ()
        self._grant(now)
        return self._offer_firing(alert, now) if alert.firing else self._offer_resolved(alert, now)

    def next_step(self, now: Now) -> Step:
        """What is to be done now. What it says to send must be answered by `answered` before it is asked again."""
        outcomes = self._expire(now)
        self._grant(now)
        first = min((self._waiting[alert_id] for alert_id in self._granted), key=lambda waiting: waiting.due_s, default=None)
        alert_s = math.inf if first is None else first.due_s
        tally_s = self._tally.due_s if self._tally.granted and self._tally.due_s is not None else math.inf
        again_s = self._again_due_s()
        due_s = min(alert_s, tally_s, again_s)
        if due_s > now.steady_s:
            until_s = min(due_s, self._token_s(now), self._stale_s(now))
            return Step(outcomes, None, None if math.isinf(until_s) else until_s)
        if first is not None and due_s == alert_s:
            return Step(outcomes, SendAlert(first.alert), None)
        if due_s == tally_s:
            return Step(outcomes, SendHeldBack(self._tally.message()), None)
        return Step(outcomes, SendAgain(tuple(self._still_firing())), None)

    def answered(self, sending: Sending, answer: Answer, now: Now) -> tuple[Outcome, ...]:
        """Takes what came of an attempt; the outcomes that follow."""
        match sending:
            case SendAlert(alert):
                return self._alert_answered(alert, answer, now)
            case SendHeldBack():
                self._tally.answered(answer, now.steady_s)
            case SendAgain():
                self._again_answered(answer, now)
        return ()

    def hurry(self, now: Now) -> None:
        """Makes the message about held-back alerts due now: the owner is about to end."""
        self._tally.hurry(now.steady_s)

    def _offer_firing(self, alert: Alert, now: Now) -> tuple[Outcome, ...]:
        if self._is_stale(alert, now):
            return (self._suppressed(alert, "stale"),)
        if not self._bucket.take():
            self._tally.add(alert, now.steady_s)
            return (self._suppressed(alert, "rate_limit"),)
        self._waiting[alert.id] = _Waiting(alert, now.steady_s)
        self._firing[alert.key] = alert.id
        self._granted[alert.id] = None
        return ()

    def _offer_resolved(self, alert: Alert, now: Now) -> tuple[Outcome, ...]:
        opened = self._open.get(alert.key)
        if alert.key not in self._firing:
            if opened is None:
                return (self._suppressed(alert, "not_delivered"),) if alert.key in self._missed else ()
            self._open[alert.key] = opened._replace(alert=None)
            self._ungranted.append(alert.id)
        self._waiting[alert.id] = _Waiting(alert, now.steady_s)
        self._resolving[alert.key] = alert.id
        return ()

    def _is_worth_another(self, alert: Alert, before: Known, now: Now) -> bool:
        if alert.firing:
            return before == "failed_before" and not self._is_stale(alert, now)
        # Where a failed firing is tried again, the resolution that was not sent for its sake follows it.
        return (before == "failed_before" and alert.key in self._open) or (before == "unsent_before" and alert.key in self._firing)

    def _offered_again(self, alert: Alert, before: Known, now: Now) -> None:
        if before == "held_before" and not self._is_stale(alert, now):
            self._tally.add(alert, now.steady_s)
        opened = self._open.get(alert.key)
        self._finished(alert, arrived=opened is not None)
        if alert.firing and opened is not None and opened.by == alert.id and alert.key not in self._resolving:
            self._opened(alert.key, _Open(alert.id, alert), again_s=now.steady_s)

    def _grant(self, now: Now) -> None:
        self._bucket.refill(now.steady_s, len(self._granted) + self._tally.granted)
        while self._ungranted:
            if self._ungranted[0] in self._waiting:
                if not self._bucket.take():
                    return
                self._granted[self._ungranted[0]] = None
            self._ungranted.popleft()
        if self._tally.wants_token(now.steady_s):
            self._tally.granted = self._bucket.take()

    def _token_s(self, now: Now) -> float:
        # When somebody who waits for a token gets it, or begins to wait for one.
        if self._ungranted or self._tally.wants_token(now.steady_s):
            return self._bucket.next_s(now.steady_s)
        return math.inf if self._tally.granted or self._tally.due_s is None else self._tally.due_s

    def _stale_s(self, now: Now) -> float:
        oldest = min((self._waiting[alert_id].alert.time for alert_id in self._firing.values()), default=None)
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
        waiting = self._waiting.get(alert.id)
        if waiting is None:
            return ()  # Another's outcome was read back meanwhile.
        waiting.attempts += 1
        waiting.error = answer.error
        if answer.delivered:
            outcome = self._notified(waiting, "delivered", answer.error)
            if alert.firing:
                self._arrived(alert, now)
            return (outcome,)
        if answer.final or waiting.attempts >= self._limits.attempts:
            return self._gave_up(waiting, answer.error)
        waiting.due_s = now.steady_s + pause_s(waiting.attempts, self._limits.first_pause_s, answer.asked_s, self._jitter)
        return ()

    def _arrived(self, firing: Alert, now: Now) -> None:
        resolution = self._resolving.get(firing.key)
        if resolution is not None:
            self._opened(firing.key, _Open(firing.id, None))
            self._ungranted.append(resolution)
        else:
            resend_s = self._limits.resend_s
            self._opened(firing.key, _Open(firing.id, firing), again_s=None if resend_s is None else now.steady_s + resend_s)

    def _again_answered(self, answer: Answer, now: Now) -> None:
        resend_s = self._limits.resend_s
        assert resend_s is not None, "sent again, though this handler does not"
        self._again_failures = 0 if answer.delivered else self._again_failures + 1
        wait_s = resend_s
        if self._again_failures:
            wait_s = min(resend_s, pause_s(self._again_failures, self._limits.first_pause_s, answer.asked_s, self._jitter))
        self._again_s = now.steady_s + wait_s

    def _again_due_s(self) -> float:
        if self._again_s is None or next(self._still_firing(), None) is None:
            return math.inf
        return self._again_s

    def _still_firing(self) -> Iterator[Alert]:
        return (entry.alert for entry in self._open.values() if entry.alert is not None)

    def _gave_up(self, waiting: _Waiting, error: str | None) -> tuple[Outcome, ...]:
        return (self._notified(waiting, "failed", error), *self._without_firing(waiting.alert))

    def _without_firing(self, alert: Alert) -> tuple[Outcome, ...]:
        resolution = self._resolving.get(alert.key) if alert.firing else None
        return () if resolution is None else (self._suppressed(self._waiting[resolution].alert, "not_delivered"),)

    def _notified(self, waiting: _Waiting, outcome: Literal["delivered", "failed"], error: str | None) -> Outcome:
        alert = waiting.alert
        self._finished(alert, arrived=outcome == "delivered")
        event = AlertNotified(
            alert=alert.id,
            fingerprint=alert.event.fingerprint,
            since=alert.event.since,
            handler=self._handler,
            outcome=outcome,
            attempts=waiting.attempts,
            error=error,
        )
        return Outcome(alert.run, event)

    def _suppressed(self, alert: Alert, why: Literal["rate_limit", "stale", "not_delivered"]) -> Outcome:
        self._finished(alert, arrived=False)
        return Outcome(alert.run, AlertSuppressed(alert=alert.id, fingerprint=alert.event.fingerprint, handler=self._handler, why=why))

    def _is_stale(self, alert: Alert, now: Now) -> bool:
        return now.time - alert.time >= self._within

    def _finished(self, alert: Alert, *, arrived: bool) -> None:
        self._drop(alert.id)
        self._remember(alert.id, "done")
        self._missed.pop(alert.key, None)
        if not alert.firing:  # Whatever became of the message: it is over, and must not be sent again as firing.
            self._open.pop(alert.key, None)
        elif not arrived:
            self._missed[alert.key] = None
            self._trim()

    def _drop(self, alert_id: EventId) -> None:
        waiting = self._waiting.pop(alert_id, None)
        self._granted.pop(alert_id, None)
        if waiting is not None:
            waits = self._firing if waiting.alert.firing else self._resolving
            if waits.get(waiting.alert.key) == alert_id:
                del waits[waiting.alert.key]

    def _remember(self, alert_id: EventId, how: Known) -> None:
        self._known.pop(alert_id, None)
        self._known[alert_id] = how
        self._trim()

    def _opened(self, key: AlertKey, entry: _Open, *, again_s: float | None = None) -> None:
        self._open.pop(key, None)
        self._open[key] = entry
        self._trim()
        if again_s is not None and self._limits.resend_s is not None:
            self._again_s = again_s if self._again_s is None else min(again_s, self._again_s)

    def _trim(self) -> None:
        while self._live and len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        while self._live and len(self._open) > OPEN_AT_MOST:
            self._open.popitem(last=False)
        while self._live and len(self._missed) > OPEN_AT_MOST:
            self._missed.popitem(last=False)
