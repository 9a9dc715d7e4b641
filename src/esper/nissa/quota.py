"""The share of a log that custom metrics may take: so many samples a second, and so many a day."""

import math
import time
from collections.abc import Callable
from threading import Lock

from esper.nissa.problems import ProblemError

_BURST_S = 10.0


class Quota:
    """A token bucket of samples that is full after ten seconds, and a limit of what the day's run holds. For any threads."""

    def __init__(self, per_s: float, per_day: int, passed_s: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._per_day, self._passed_s = per_s, per_day, passed_s
        self._lock = Lock()
        self._left = self._most = max(per_s * _BURST_S, 1.0)
        self._filled_at = passed_s()

    def take(self, samples: int, today: int) -> None:
        """Takes `samples` out of it. Raises ProblemError 429 where that is too much; `today` is what the day's run holds."""
        if today + samples > self._per_day:
            detail = f"expected at most {self._per_day} samples a day: nothing was recorded"
            raise ProblemError(429, "too-many-samples", detail, headers={"Retry-After": "3600"})
        with self._lock:
            now = self._passed_s()
            self._left = min(self._most, self._left + (now - self._filled_at) * self._per_s)
            self._filled_at = now
            # A batch that is larger than the bucket is taken from a full one, and is to be paid for afterwards.
            if self._left < min(samples, self._most):
                wait_s = math.ceil((min(samples, self._most) - self._left) / self._per_s)
                detail = f"expected at most {self._per_s:g} samples a second: nothing was recorded"
                raise ProblemError(429, "too-many-samples", detail, headers={"Retry-After": str(wait_s)})
            self._left -= samples
