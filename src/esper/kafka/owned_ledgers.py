"""The ledgers of one worker process: those of the partitions that it is told to own, each in a task of its own.

Group membership only hints at which partitions those are; fencing decides who writes. An error of one ledger is one of the process:
`failed` becomes true, and the host ends the process with FAILED, to be started again.
"""

import asyncio
import time
from collections.abc import Callable, Collection

from esper.kafka.cluster import KafkaSettings
from esper.kafka.ledger import Ledger, LedgerSettings

FAILED = 75
"""The exit status of a worker that is to be started again (EX_TEMPFAIL of sysexits.h)."""
_TICK_S = 1.0


class OwnedLedgers:
    """Ledgers by partition. `own` may be called again at any time; `close` writes what is left, then lets go."""

    def __init__(self, settings: KafkaSettings, ledger: LedgerSettings, report: Callable[[str], None]) -> None:
        self.failed = False
        self._settings, self._ledger, self._report = settings, ledger, report
        self._stops: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ledgers: dict[int, Ledger] = {}
        self._turned_at: dict[int, float] = {}
        self._told_at: float | None = None

    def status(self) -> dict[str, object]:
        """The ledgers that are open, by partition: their positions and counts."""
        return {
            str(partition): {"positions": ledger.positions, "counts": ledger.counts} for partition, ledger in sorted(self._ledgers.items())
        }

    def is_stuck(self, seconds: float, began_at: float) -> bool:
        """True where a ledger has not turned for `seconds`, or where `own` was never called, not even with none, since `began_at`."""
        limit = time.monotonic() - seconds
        return began_at < limit if self._told_at is None else any(turned_at < limit for turned_at in self._turned_at.values())

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

    async def released(self) -> None:
        """Returns when every ledger that was told to close is closed."""
        closing = [task for partition, task in self._tasks.items() if self._stops[partition].is_set()]
        await asyncio.gather(*closing, return_exceptions=True)

    async def close(self) -> None:
        """Writes every output and state; the partitions are free when this returns."""
        self.own(())
        await self.released()

    async def _drive(self, partition: int, stop: asyncio.Event, former: "asyncio.Task[None] | None") -> None:
        try:
            if former is not None:
                await former
            if stop.is_set():
                return
            ledger = await Ledger.open(self._settings, partition, self._ledger)
            self._ledgers[partition], self._turned_at[partition] = ledger, time.monotonic()
            try:
                await self._turn(ledger, stop)
            except BaseException:
                await ledger.abandon()
                raise
            await ledger.close()
        except Exception as error:
            self._report(f"partition {partition}: {error}")
            self.failed = True
        finally:
            self._ledgers.pop(partition, None)
            self._turned_at.pop(partition, None)

    async def _turn(self, ledger: Ledger, stop: asyncio.Event) -> None:
        ticked_at = time.monotonic()
        while not stop.is_set():
            await ledger.turn()
            now = self._turned_at[ledger.partition] = time.monotonic()
            if now >= ticked_at + _TICK_S:
                ticked_at = now
                ledger.judge_silence()
