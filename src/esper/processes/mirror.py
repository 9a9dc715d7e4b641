"""`esper mirror`: fills a directory from Kafka for good; and a mirror that is caught up for one command.

One process fills a directory, the holder of its lock. Its state is written to `mirror.json` in the directory every second, for people and
other programs: when it was caught up last, how far behind it is, why Kafka or the disk is away, which runs are refused and why.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from esper.errors import LogError
from esper.events.envelope import RunId
from esper.kafka.cluster import KafkaSettings
from esper.kafka.copying.mirroring import MIRROR_LOCK, Mirror
from esper.kafka.event_loop import run_kafka_loop, until_stopped
from esper.oona.directory import Directory
from esper.oona.lock import holder_of
from esper.state_files import MIRROR_STATE, read_state, write_state

_EVERY_S, _POLL_S = 1.0, 0.1
_SLOW_S = 5.0
_OTHER_S = 120.0
_FOLLOWER_S = 5.0


def run_mirror(directory: Directory, settings: KafkaSettings, stop: threading.Event, report: Callable[[str], None]) -> None:
    """Fills `directory` until `stop`, through every failure of Kafka. Each change of its state goes to `report`.

    Raises LogError where another process fills it.
    """
    run_kafka_loop(_run(directory, settings, stop, report))


def catch_up(directory: Directory, settings: KafkaSettings, runs: frozenset[RunId] | None, notice: Callable[[str], None]) -> None:
    """Returns when everything of `runs` (None: of all) that is on Kafka now is in `directory`.

    Where a process fills it for good, it is waited for, but not for long. `notice` gets what a person should know. Raises LogError.
    """
    began_at, waited_s = time.time(), time.monotonic()
    while (holder := holder_of(directory.path / MIRROR_LOCK)) is not None:
        state = read_state(directory.path / MIRROR_STATE)
        limit_s = _OTHER_S
        if state.get("pid") == holder:
            limit_s = _FOLLOWER_S
            if isinstance(at := state.get("caught_up_at"), float) and at >= began_at:
                return
        if time.monotonic() > waited_s + limit_s:
            if state.get("pid") != holder:
                raise LogError(f"expected process {holder} to end filling the mirror at {directory.path} within {limit_s:.0f} s")
            why = state.get("error") or "it is still catching up"
            notice(f"process {holder} fills {directory.path}, and has not caught up: {why}; what is there is shown")
            return
        time.sleep(_POLL_S)
    run_kafka_loop(_catch_up(Mirror(settings, directory, runs), notice))


@contextmanager
def filled(directory: Directory, settings: KafkaSettings, runs: frozenset[RunId] | None) -> Iterator[None]:
    """Within, `directory` is filled as records come, by a thread of this process where no other one does."""
    stop = threading.Event()

    def fill() -> None:
        # The thread's outermost line: what failed is reported by the readers' next command.
        while not stop.is_set():
            try:
                run_kafka_loop(_until(Mirror(settings, directory, runs), stop))
            except LogError:
                stop.wait(_EVERY_S)  # Another process fills it; should that end, this one does.

    thread = threading.Thread(target=fill, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def _until(mirror: Mirror, stop: threading.Event) -> None:
    stopped = asyncio.Event()
    filling = asyncio.create_task(mirror.run(stopped))
    await until_stopped(filling, stop, every_s=_POLL_S)
    stopped.set()
    await filling


async def _catch_up(mirror: Mirror, notice: Callable[[str], None]) -> None:
    stopped, slow_at = asyncio.Event(), time.monotonic() + _SLOW_S
    filling = asyncio.create_task(mirror.run(stopped, until_caught_up=True))
    while not filling.done():
        await asyncio.wait([filling], timeout=_POLL_S)
        if time.monotonic() > slow_at:
            slow_at = float("inf")
            notice("copying what is new on Kafka, once; the next command goes on from there")
        if mirror.state.stuck is not None and not stopped.is_set():
            notice(f"{mirror.state.stuck}; what is before it is shown")
            stopped.set()
    await filling


async def _run(directory: Directory, settings: KafkaSettings, stop: threading.Event, report: Callable[[str], None]) -> None:
    mirror, stopped = Mirror(settings, directory), asyncio.Event()
    filling = asyncio.create_task(mirror.run(stopped))
    reporter = _Reporter(directory, settings, mirror, report)
    try:
        await until_stopped(filling, stop, each=reporter.write)
    finally:
        stopped.set()
        await filling
        await asyncio.to_thread(reporter.write)


class _Reporter:
    """Writes a mirror's state to its file, and reports what changed in it."""

    def __init__(self, directory: Directory, settings: KafkaSettings, mirror: Mirror, report: Callable[[str], None]) -> None:
        self._directory, self._settings, self._mirror, self._report = directory, settings, mirror, report
        self._error: str | None = None
        self._stuck: str | None = None
        self._caught_up = False
        self._refused: set[RunId] = set()

    def write(self) -> None:
        """Writes the state as it is now."""
        state = self._mirror.state
        write_state(self._directory.path / MIRROR_STATE, self._settings.bootstrap, asdict(state))
        self._report_changes()

    def _report_changes(self) -> None:
        state = self._mirror.state
        if state.error is not None and self._error is None:
            self._report(f"{state.error}; what was copied can be read, and copying goes on by itself")
        elif state.error is None and self._error is not None:
            self._report(f"Kafka at {self._settings.bootstrap} answers again")
        if state.caught_up_at is not None and not self._caught_up:
            self._report(f"caught up: everything that is on Kafka is in {self._directory.path}")
        if state.stuck is not None and self._stuck is None:
            self._report(state.stuck)
        for run in state.refused.keys() - self._refused:
            self._report(state.refused[run])
        self._error, self._stuck, self._caught_up = state.error, state.stuck, state.caught_up_at is not None
        self._refused = set(state.refused)
