"""The notifications of the live tails: the thread that follows the log notifies, the tails wait on the event loop."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from esper.events.envelope import RunId

_EVERY_S = 0.02  # However many records are written, a tail is woken at most once in this time.


class Tails:
    """Notifies the tails of a run that it grew. At most `limit` tails may listen at one time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grown: set[RunId] = set()
        self._listening: dict[asyncio.Event, RunId] = {}

    @property
    def full(self) -> bool:
        """True when no more tails may listen."""
        return len(self._listening) >= self._limit

    @contextmanager
    def listening(self, run: RunId) -> Iterator[asyncio.Event]:
        """An event that is set when `run` grew; the tail that waits on it clears it. On the event loop alone."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._listening[event] = run
        try:
            yield event
        finally:
            del self._listening[event]

    def notify(self, runs: Iterable[RunId]) -> None:
        """Notifies the tails of `runs` that these grew. From any thread; never waits."""
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                return  # No tail listens: each begins by reading the log.
            first = not self._grown
            self._grown.update(runs)
            if first and self._grown:
                self._loop.call_soon_threadsafe(self._loop.call_later, _EVERY_S, self._wake)

    def _wake(self) -> None:
        with self._lock:
            grown, self._grown = self._grown, set()
        for event, run in self._listening.items():
            if run in grown:
                event.set()
