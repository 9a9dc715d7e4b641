"""`esper bridge`: ships the runs of a directory to Kafka. One per directory.

Its state is written to `bridge.json` in the directory every second, for people and other programs: the cluster, since when it is away and
why, the records that wait, the runs that were taken over elsewhere, and the free disk, which is what a long absence costs.
"""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from esper.errors import LogError
from esper.events.envelope import RunId
from esper.kafka.cluster import KafkaSettings
from esper.kafka.copying.shipping import Bridge, bridged_to
from esper.kafka.event_loop import run_kafka_loop, until_stopped
from esper.kafka.probing import RefusedError
from esper.observer.leader import LEAVE_AFTER_S
from esper.oona.contract import START
from esper.oona.directory import Directory
from esper.oona.file import fenced_by, read_mark
from esper.oona.lock import Lock, holder_of
from esper.state_files import BRIDGE_STATE, write_state

BRIDGE_LOCK, BRIDGE_LOG = "bridge.lock", "bridge.log"
_STOP_S = 5.0
_LOW_DISK = 0.05


def bridge_of(path: Path) -> int | None:
    """The pid of the process that ships the directory at `path`; None where none does."""
    return holder_of(path / BRIDGE_LOCK)


def run_bridge(
    directory: Directory,
    settings: KafkaSettings,
    stop: threading.Event,
    report: Callable[[str], None],
    *,
    drain: bool = False,
    background: bool = False,
) -> None:
    """Ships until `stop`, and with `drain` until nothing is left to ship. Each change of its state goes to `report`.

    In the background it lets training go first, and leaves when nothing was left to ship for a minute, or where another bridge runs.
    Raises LogError where another process ships the directory, and where a broker answers that does not serve a bridge: see `Bridge.check`.
    """
    if background:
        os.nice(10)
        if bridge_of(directory.path) is not None:
            return
    lock = Lock(directory.path / BRIDGE_LOCK, f"the bridge of {directory.path}")
    try:
        run_kafka_loop(_run(directory, settings, stop, report, linger_s=LEAVE_AFTER_S if background else 0.0 if drain else None))
    finally:
        lock.release()


async def _run(
    directory: Directory, settings: KafkaSettings, stop: threading.Event, report: Callable[[str], None], *, linger_s: float | None
) -> None:
    bridge, stopped = Bridge(directory, settings), asyncio.Event()
    reporter = _Reporter(directory, settings, bridge, report)
    checking = asyncio.create_task(_check(bridge))
    await until_stopped(checking, stop, each=reporter.write)
    if not checking.done():
        return
    checking.result()
    shipping = asyncio.create_task(bridge.run(stopped, drain=linger_s is not None, linger_s=linger_s or 0.0))
    try:
        await until_stopped(shipping, stop, each=reporter.write)
    finally:
        stopped.set()
        # A broker that does not answer is not waited for: what is not committed now is shipped by the next bridge.
        await asyncio.wait([shipping], timeout=_STOP_S)
        if not shipping.done():
            shipping.cancel()
            await asyncio.wait([shipping], timeout=_STOP_S)
        await asyncio.to_thread(reporter.write)
    if shipping.done() and not shipping.cancelled():
        shipping.result()


async def _check(bridge: Bridge) -> None:
    """Raises RefusedError where a broker answers that does not serve the bridge; one that does not answer is waited for."""
    try:
        await bridge.check()
    except RefusedError:
        raise
    except LogError:
        return


class _Reporter:
    """Writes a bridge's state to its file, and reports what changed in it."""

    def __init__(self, directory: Directory, settings: KafkaSettings, bridge: Bridge, report: Callable[[str], None]) -> None:
        self._directory, self._settings, self._bridge, self._report = directory, settings, bridge, report
        self._away = self._low = False
        self._fenced: set[RunId] = set()
        self._over: set[RunId] = set()
        """The sealed runs that are shipped: there may be thousands, and they are not opened again."""

    def write(self) -> None:
        """Writes the state as it is now."""
        state, disk = self._bridge.state, shutil.disk_usage(self._directory.path)
        waiting = {run: count for run in self._directory.names(hidden=True) if (count := self._waiting(run))}
        away = {"away_since": state.away_since, "error": state.error}
        written = {**away, "waiting": waiting, "fenced": sorted(state.fenced), "free_bytes": disk.free}
        write_state(self._directory.path / BRIDGE_STATE, self._settings.bootstrap, written)
        self._report_changes(sum(waiting.values()), disk.free, disk.free < _LOW_DISK * disk.total)

    def _waiting(self, run: RunId) -> int:
        if run in self._over and run not in self._bridge.state.waiting:
            return 0
        folder = self._directory.path / run
        sealed = read_mark(folder) is not None
        count = waiting_records(self._directory, run)
        if sealed and not count and fenced_by(folder) is None:
            self._over.add(run)
        return count

    def _report_changes(self, waiting: int, free: int, low: bool) -> None:
        state = self._bridge.state
        away = state.away_since is not None
        if away and not self._away:
            self._report(f"{state.error}; {waiting:,} records wait on disk, {free / 1e9:.1f} GB are free; training goes on")
        elif self._away and not away:
            self._report(f"Kafka at {self._settings.bootstrap} answers again; {waiting:,} records wait")
        if away and low and not self._low:
            self._report(
                f"the disk of {self._directory.path} has {free / 1e9:.1f} GB left while Kafka is away: free some, or training will stop"
            )
        for run in state.fenced - self._fenced:
            self._report(f"{fenced_by(self._directory.path / run)}: nothing more of it is shipped from here")
        self._away, self._low, self._fenced = away, low, set(state.fenced)


def waiting_records(directory: Directory, run: RunId) -> int:
    """Number of records of `run` that are not known to be on Kafka; 0 for one that is shipped from elsewhere."""
    folder = directory.path / run
    if not directory.has_log(run) or fenced_by(folder) is not None:
        return 0
    with directory.open(run) as log:
        return log.end().records_since(bridged_to(folder) or START)
