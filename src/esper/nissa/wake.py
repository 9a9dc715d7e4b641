"""Wakes the live tails when the log grew: the thread that follows the log rings, tails wait on the event loop.

Rings are put together: however many records came, a tail is woken at most once in `EVERY_S`.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from esper.events.envelope import RunId

EVERY_S = 0.02


class Wake:
    """The bell between one thread and an event loop's tasks. `most` tails may listen at one time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung: set[RunId] = set()
        self._listening: dict[asyncio.Event, RunId] = {}
        self._closing = False

    @property
    def full(self) -> bool:
        """Whether no more tails may listen."""
        return len(self._listening) >= self._most

    @property
    def closing(self) -> bool:
        """Whether the service ends: tails must too."""
        return self._closing

    @contextmanager
    def listening(self, run: RunId) -> Iterator[asyncio.Event]:
        """An event that is set when `run` grew; whoever waits on it clears it. On the event loop alone."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._listening[event] = run
        try:
            yield event
        finally:
            del self._listening[event]

    def ring(self, runs: Iterable[RunId]) -> None:
        """Says that `runs` grew. From any thread; never waits."""
        with self._lock:
            loop = self._loop
            if loop is None or self._closing:
                return  # Nobody listens yet, or any more: whoever comes reads the log first.
            first = not self._rung
            self._rung.update(runs)
        if first:
            loop.call_soon_threadsafe(loop.call_later, EVERY_S, self._wake)

    def close(self) -> None:
        """Ends every tail. On the event loop."""
        with self._lock:
            self._closing = True
        for event in self._listening:
            event.set()

    def _wake(self) -> None:
        with self._lock:
            rung, self._rung = self._rung, set()
        for event, run in self._listening.items():
            if run in rung:
                event.set()
