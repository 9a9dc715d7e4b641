"""The ledgers of one worker process: those of the partitions that it is told to own, each in a task of its own.

Group membership only hints at which partitions those are; fencing decides who writes. An error of one ledger is one of the process:
`failed` becomes true, and the host ends the process with FAILED, to be started again.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import NoReturn

from esper.kafka.cluster import KafkaSettings
from esper.kafka.ledgers.ledger import Ledger, LedgerSettings

FAILED = 75
"""The exit status of a worker that is to be started again (EX_TEMPFAIL of sysexits.h)."""
CLOSE_S = 12.0
"""The longest that `close` waits: a worker has 20 s to stop, and a broker that is away would keep a transaction for longer."""

_OPENING_S = 120.0
"""Time before a ledger that is being opened is expected to read: it waits for the end of its predecessor's transactions first."""


def end_process() -> NoReturn:
    """Ends this process with FAILED, at once: a host may hang. The next owner of its partitions aborts what is open."""
    os._exit(FAILED)


class OwnedLedgers:
    """Ledgers by partition. `own` may be called again at any time; `close` writes what is left, then lets go."""

    def __init__(self, settings: KafkaSettings, ledger: LedgerSettings, report: Callable[[str], None]) -> None:
        self.failed = False
        self.opened = 0
        """Number of ledgers opened so far."""
        self.open: dict[int, Ledger] = {}
        """The ledgers that are open, by partition."""
        self._closed = Counter[str]()
        self._settings, self._ledger, self._report = settings, ledger, report
        self._stops: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._moved_at: dict[int, float] = {}
        self._told_at: float | None = None

    @property
    def counts(self) -> Counter[str]:
        """The counts of all ledgers since the process began, those that are closed too."""
        counts = Counter(self._closed)
        for ledger in self.open.values():
            counts.update(ledger.counts)
        return counts

    def status(self) -> dict[str, object]:
        """The ledgers that are open, by partition: their positions, what is left to read, runs and counts."""
        return {
            str(partition): {
                "positions": ledger.positions,
                "lag": ledger.lag,
                "runs": ledger.runs,
                "stopped runs": ledger.stopped_runs,
                "counts": ledger.counts,
            }
            for partition, ledger in sorted(self.open.items())
        }

    def is_stuck(self, seconds: float, began_at: float) -> bool:
        """True where a ledger read nothing and did not turn for `seconds`, or where nothing was said of ownership since `began_at`."""
        limit = time.monotonic() - seconds
        return began_at < limit if self._told_at is None else any(moved_at < limit for moved_at in self._moved_at.values())

    def own(self, partitions: Collection[int]) -> None:
        """Opens the ledgers of `partitions` that are not open, and closes the others. Returns at once."""
        self._told_at = time.monotonic()
        for partition in self._stops.keys() - set(partitions):
            self._stops[partition].set()
        for partition in set(partitions):
            former = self._tasks.get(partition)
            if former is None or self._stops[partition].is_set():
                stop = self._stops[partition] = asyncio.Event()
                self._tasks[partition] = asyncio.create_task(self._drive(partition, stop, former), name=f"ledger-{partition}")

    async def close(self, within_s: float = CLOSE_S) -> None:
        """Writes every output and state; the partitions are free when this returns.

        What cannot be written `within_s` is reported and left to the next owner, and `failed` becomes true: the process must end then.
        """
        self.own(())
        closing = [task for task in self._tasks.values() if not task.done()]
        _, late = await asyncio.wait(closing, timeout=within_s) if closing else ((), ())
        if late:
            names = ", ".join(sorted(task.get_name() for task in late))
            self._report(
                f"{names}: not everything was written within {within_s:g} s; the next owner aborts what is open and derives it again"
            )
            self.failed = True

    async def _drive(self, partition: int, stop: asyncio.Event, former: "asyncio.Task[None] | None") -> None:
        try:
            if former is not None:
                await former
            self._moved_at[partition] = time.monotonic() + _OPENING_S
            ledger = await self._open(partition, stop)
            if ledger is None:
                return
            self.opened += 1
            self.open[partition] = ledger
            self._move(partition)
            for topic, count in ledger.expired.items():
                self._report(
                    f"partition {partition}: {count} messages of {topic} were deleted by retention before they were read; going on"
                )
            try:
                while not stop.is_set():
                    await ledger.turn()
            except BaseException:
                await ledger.abandon()
                raise
            await ledger.close()
        except Exception as error:
            self._report(f"partition {partition}: {error}")
            self.failed = True
        finally:
            closed = self.open.pop(partition, None)
            if closed is not None:
                self._closed.update(closed.counts)
            self._moved_at.pop(partition, None)

    async def _open(self, partition: int, stop: asyncio.Event) -> Ledger | None:
        """The ledger of `partition`; None where it was to stop before it was open: a recovery may take long, and writes nothing."""
        opening = asyncio.create_task(
            Ledger.open(self._settings, partition, self._ledger, progress=partial(self._move, partition)), name=f"opening-{partition}"
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening})
            return None
        return opening.result()

    def _move(self, partition: int) -> None:
        self._moved_at[partition] = time.monotonic()
