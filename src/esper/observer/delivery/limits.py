"""Limits of one handler: their settings, a token bucket, and the pause between attempts. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from esper.folds.monitoring.rules import Severity

_LONGEST_BACKOFF_S = 60.0
_LONGEST_RETRY_AFTER_S = 300.0


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
        self._rate, self._burst, self._tokens = rate_per_s, burst, float(burst)
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
        """The time of the next token."""
        return now_s + max(0.0, 1.0 - self._tokens) / self._rate


def pause_s(attempts: int, first_s: float, retry_after_s: float | None, jitter: Callable[[], float]) -> float:
    """Seconds to wait after `attempts` failures: doubled each time up to a minute, half of it by chance; at least `retry_after_s`.

    Chance keeps handlers on many machines from trying in step.
    """
    longest = min(first_s * 2.0 ** min(attempts - 1, 30), _LONGEST_BACKOFF_S)
    return max(longest * (0.5 + 0.5 * jitter()), min(retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S))
