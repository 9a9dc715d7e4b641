"""How much a handler may send and how often it tries: a token bucket and a back-off, both told the time. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from esper.observer.delivery.notices import Severity

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LONGEST_ASKED_PAUSE_S = 300.0
"""What a receiver asks for with Retry-After is kept, up to here."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one handler may do; see docs/delivery.md for each."""

    severity: Severity = "info"
    """The least severity that is addressed to it."""
    rate_per_minute: float = 30.0
    burst: int = 30
    attempts: int = 15
    first_pause_s: float = FIRST_PAUSE_S
    resend_s: float | None = None
    """How often what fires is sent again; None: never."""
    deliver_within_s: float = 600.0


class Bucket:
    """Tokens for messages: `burst` at most, refilled evenly. A token reserved for a waiting message counts as if it were still here.

    So whatever waited while a handler hung, no window of w seconds sees more than `burst + rate * w` messages.
    """

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._at_s: float | None = None

    def refill(self, now_s: float, reserved: int) -> None:
        """Adds what time brought; never above `burst` together with the `reserved` ones."""
        passed = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(self._tokens + passed * self._rate, max(0.0, float(self._burst - reserved)))

    def take(self) -> bool:
        """True where there was a token; it is gone then."""
        # A hair less than one is one: so many additions of a small part do not reach 1.0 exactly, and nobody would wait for the rest.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True

    def next_s(self, now_s: float) -> float:
        """When the next token is there."""
        return now_s + max(0.0, 1.0 - self._tokens) / self._rate


def pause_s(attempts: int, first_s: float, asked_s: float | None, jitter: Callable[[], float]) -> float:
    """Seconds to wait after that many attempts failed: doubled each time up to a minute, and by chance between half and all of that.

    Chance keeps handlers of many machines from trying in step. A receiver that asks for more gets more.
    """
    longest = min(first_s * 2.0 ** min(attempts - 1, 30), LONGEST_PAUSE_S)
    return max(longest * (0.5 + 0.5 * jitter()), min(asked_s or 0.0, LONGEST_ASKED_PAUSE_S))
