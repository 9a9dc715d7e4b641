"""Limits of one handler: a token bucket, the pause between attempts, and the summary of what the rate limit suppressed. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from esper.observer.delivery.notices import Alert, RateLimitSummary, Severity

LONGEST_PAUSE_S = 60.0
_LONGEST_RETRY_AFTER_S = 300.0
QUIET_S = 5.0
"""A summary is sent when no alert was suppressed for this long,"""

SUMMARY_AT_LATEST_S = 60.0
"""and at the latest this long after the first one: one message a minute during a long flood."""


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


class Bucket:
    """Token bucket: at most `burst` tokens, refilled evenly. A token that a waiting message holds still counts.

    So no window of w seconds has more than `burst + rate * w` messages, however long a receiver hung.
    """

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._at_s: float | None = None

    def refill(self, now_s: float, reserved: int) -> None:
        """Adds the tokens of the time that passed, up to `burst` together with the `reserved` ones."""
        passed = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(self._tokens + passed * self._rate, max(0.0, float(self._burst - reserved)))

    def take(self) -> bool:
        """Takes a token; False where there is none."""
        # A hair less than one is one: many small additions do not reach 1.0 exactly.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True

    def next_s(self, now_s: float) -> float:
        """When the next token is there."""
        return now_s + max(0.0, 1.0 - self._tokens) / self._rate


def pause_s(attempts: int, first_s: float, retry_after_s: float | None, jitter: Callable[[], float]) -> float:
    """Seconds to wait after `attempts` failures: doubled each time up to a minute, half of it by chance; at least `retry_after_s`.

    Chance keeps handlers on many machines from trying in step.
    """
    longest = min(first_s * 2.0 ** min(attempts - 1, 30), LONGEST_PAUSE_S)
    return max(longest * (0.5 + 0.5 * jitter()), min(retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S))


class PendingSummary:
    """Counts suppressed alerts, and keeps their summary until it is delivered or given up. True while there is something to send."""

    def __init__(self, limits: Limits, jitter: Callable[[], float]) -> None:
        self.has_token = False
        self._limits = limits
        self._jitter = jitter
        self._counting: RateLimitSummary | None = None
        self._quiet_s = self._latest_s = 0.0
        self._sending: RateLimitSummary | None = None
        self._attempts = 0
        self._attempt_s = 0.0

    def __bool__(self) -> bool:
        return self.due_s is not None

    @property
    def due_s(self) -> float | None:
        """When to send the summary; None where nothing is counted."""
        if self._sending is not None:
            return self._attempt_s
        return None if self._counting is None else min(self._quiet_s, self._latest_s)

    def wants_token(self, now_s: float) -> bool:
        """True where a summary is due and has no token yet."""
        return not self.has_token and self.due_s is not None and self.due_s <= now_s

    def add(self, alert: Alert, now_s: float) -> None:
        """Counts one suppressed alert."""
        if self._counting is None:
            self._counting = RateLimitSummary(alert.record, alert.record.time, alert.record.time)
            self._latest_s = now_s + SUMMARY_AT_LATEST_S
        self._counting.add(alert)
        self._quiet_s = now_s + QUIET_S

    def summary(self) -> RateLimitSummary:
        """The summary to send; alerts that are suppressed from now on go into the next one."""
        if self._sending is None:
            assert self._counting is not None, "no alert was suppressed"
            self._attempt_s = min(self._quiet_s, self._latest_s)
            self._sending, self._counting = self._counting, None
        return self._sending

    def answered(self, *, over: bool, retry_after_s: float | None, now_s: float) -> None:
        """Forgets a summary that is `over` (delivered or refused) or failed for the last time; else it is due again after a pause."""
        self._attempts += 1
        if over or self._attempts >= self._limits.attempts:
            self._sending, self._attempts, self.has_token = None, 0, False
        else:
            self._attempt_s = now_s + pause_s(self._attempts, self._limits.first_pause_s, retry_after_s, self._jitter)

    def hurry(self, now_s: float) -> None:
        """Makes what is counted due now."""
        self._latest_s = now_s
