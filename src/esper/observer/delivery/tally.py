"""The count of what a handler's limit held back, and when that is told: once it is calm, at the latest a minute after the first. Pure."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime

from esper.events.envelope import EventId, RunId
from esper.observer.delivery.exchange import Answer
from esper.observer.delivery.limits import Limits, pause_s
from esper.observer.delivery.notices import Alert, HeldBack, Severity

CALM_S = 5.0
"""So long nothing was held back: then it is told."""

AT_LATEST_S = 60.0
"""After the first one it is told, calm or not; during a long flood that is one message a minute."""

RUNS_COUNTED = 100
"""Runs counted apart; a message names the one with most."""


class _Count:
    """What was held back since the last message."""

    def __init__(self, alert: Alert, now_s: float) -> None:
        self.count = 0
        self.severities: Counter[Severity] = Counter()
        self.runs: Counter[RunId] = Counter()
        self.first: datetime = alert.time
        self.last: datetime = alert.time
        self.first_alert: EventId = alert.id
        self.latest_s = now_s + AT_LATEST_S
        self.calm_s = now_s

    def add(self, alert: Alert, now_s: float) -> None:
        """Counts one more."""
        self.count += 1
        self.severities[alert.event.severity] += 1
        if alert.run in self.runs or len(self.runs) < RUNS_COUNTED:
            self.runs[alert.run] += 1
        self.first, self.last = min(self.first, alert.time), max(self.last, alert.time)
        self.calm_s = now_s + CALM_S

    def held(self) -> HeldBack:
        """The same as a value."""
        return HeldBack(self.count, dict(self.severities), dict(self.runs), self.first, self.last, self.first_alert)


class Tally:
    """Counts held-back alerts, and keeps the message about them until it is delivered or given up. It is told the time."""

    def __init__(self, limits: Limits, jitter: Callable[[], float]) -> None:
        self.granted = False
        """Whether the message has its token."""
        self._limits = limits
        self._jitter = jitter
        self._counting: _Count | None = None
        self._message: HeldBack | None = None
        self._attempts = 0
        self._due_s = 0.0

    def __bool__(self) -> bool:
        return self._counting is not None or self._message is not None

    @property
    def due_s(self) -> float | None:
        """When the message is to be sent; None where there is nothing to tell."""
        if self._message is not None:
            return self._due_s
        return None if self._counting is None else min(self._counting.calm_s, self._counting.latest_s)

    def wants_token(self, now_s: float) -> bool:
        """True where a message is due and has no token yet."""
        return not self.granted and self.due_s is not None and self.due_s <= now_s

    def add(self, alert: Alert, now_s: float) -> None:
        """Counts one that was held back."""
        self._counting = self._counting or _Count(alert, now_s)
        self._counting.add(alert, now_s)

    def message(self) -> HeldBack:
        """What to tell; what is held back from now on is told the next time."""
        if self._message is None:
            assert self._counting is not None, "nothing was held back"
            self._message, self._due_s = self._counting.held(), min(self._counting.calm_s, self._counting.latest_s)
            self._counting = None
        return self._message

    def answered(self, answer: Answer, now_s: float) -> None:
        """Takes what came of telling it. Given up, it is forgotten: every alert that it counted is in the log as held back."""
        self._attempts += 1
        if answer.delivered or answer.final or self._attempts >= self._limits.attempts:
            self._message, self._attempts, self.granted = None, 0, False
            return
        self._due_s = now_s + pause_s(self._attempts, self._limits.first_pause_s, answer.asked_s, self._jitter)

    def hurry(self, now_s: float) -> None:
        """Makes what was counted due now."""
        if self._counting is not None:
            self._counting.latest_s = now_s
