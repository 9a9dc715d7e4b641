"""The bridge ships the runs of a directory to Kafka: every record, in the order of its log, in transactions, however long a broker is away.

A run's producer has the transactional id `bridge-<run>`. A page of records is one transaction; the position after it is written beside the
run once the transaction is committed. After any failure the producer is closed, and a new one begins at the first record that is not known
to be committed: aiokafka's producer cannot be used again after an outage longer than its request timeout. So a page may be on Kafka twice,
and never a part of one; a reader's admission drops the second.

A run that is resumed on another machine is fenced: the newer producer of its id wins. This bridge then leaves a mark beside the run, and
ships nothing more of it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaProducer

from esper.errors import DataError, LogError
from esper.events.envelope import RunId
from esper.kafka.clients import TRANSACTION_TIMEOUT_S, FencedError, outgoing, producing, transact
from esper.kafka.cluster import KafkaSettings
from esper.oona.contract import START, Position
from esper.oona.directory import Directory
from esper.oona.follower import Follower, RunPage

BRIDGED_FILE, FENCED_MARK = "bridged", "fenced"
_PAGE = 500
_POLL_S, _IDLE_S = 0.5, 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0


@dataclass
class BridgeState:
    """The state of a bridge. `away_since`: seconds since 1970, None while Kafka answers. `waiting`: records under way, by run."""

    shipped: int = 0
    away_since: float | None = None
    error: str | None = None
    waiting: dict[RunId, int] = field(default_factory=dict)
    fenced: set[RunId] = field(default_factory=set)


class Bridge:
    """Ships every run of `directory`. `jitter` returns numbers from 0 to 1: a pause is up to twice as long as it must be."""

    def __init__(self, directory: Directory, settings: KafkaSettings, *, jitter: Callable[[], float] = random.random) -> None:
        self.state = BridgeState()
        self._directory, self._settings, self._jitter = directory, settings, jitter
        self._positions: dict[RunId, Position] = {}
        self._producers: dict[RunId, tuple[AsyncExitStack, AIOKafkaProducer]] = {}
        self._used_at: dict[RunId, float] = {}

    async def run(self, stop: asyncio.Event, *, drain: bool = False) -> None:
        """Ships until `stop`, and with `drain` only until nothing waits and no process writes a run. Called once.

        Raises LogError for a directory that cannot be read; whatever Kafka does is waited for.
        """
        for run in self._directory.names(hidden=True):
            if (position := bridged_to(self._directory.path / run)) is not None:
                self._positions[run] = position
        follower = await asyncio.to_thread(Follower, self._directory, self._positions, from_start=True, limit=_PAGE)
        try:
            while not stop.is_set():
                pages = await asyncio.to_thread(follower.poll, _POLL_S)
                async with asyncio.TaskGroup() as group:
                    for page in pages:
                        if page.records and not is_fenced(self._directory.path / page.run):
                            group.create_task(self._ship(page, stop))
                for run in [run for run in self._producers if run not in follower.following or self._is_idle(run)]:
                    await self._close(run)
                if drain and not pages and not follower.behind and not follower.live:
                    return
        finally:
            await asyncio.to_thread(follower.close)
            for run in list(self._producers):
                await self._close(run)

    async def _ship(self, page: RunPage, stop: asyncio.Event) -> None:
        """Returns when the page is committed, the run is fenced, or `stop` is set."""
        folder, pause_s = self._directory.path / page.run, _FIRST_PAUSE_S
        self.state.waiting[page.run] = len(page.records)
        while not stop.is_set():
            began_at = time.time()
            try:
                await self._commit(page)
            except LogError as error:
                # A process that was stopped for longer than a transaction may last meets the same error; no other process need have begun.
                if isinstance(error, FencedError) and time.time() < began_at + TRANSACTION_TIMEOUT_S:
                    self.state.fenced.add(page.run)
                    _replace(folder / FENCED_MARK, f"{error}\n")
                    await self._close(page.run)
                    break
                self.state.away_since, self.state.error = self.state.away_since or time.time(), str(error)
                await self._close(page.run)
                await _pause(stop, pause_s * (1 + self._jitter()))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self.state.away_since = self.state.error = None
                self.state.shipped += len(page.records)
                _replace(folder / BRIDGED_FILE, page.position.to_text())
                break
        del self.state.waiting[page.run]

    async def _commit(self, page: RunPage) -> None:
        producer = await self._producer(page.run)
        first = page.position.records_since(START) - len(page.records) + 1
        messages = (outgoing(self._settings, record, row=row) for row, record in enumerate(page.records, start=first))
        await transact(producer, self._settings, messages)

    async def _producer(self, run: RunId) -> AIOKafkaProducer:
        self._used_at[run] = time.monotonic()
        if run not in self._producers:
            async with AsyncExitStack() as stack:
                producer = await stack.enter_async_context(producing(self._settings, transactional_id(run)))
                self._producers[run] = stack.pop_all(), producer
        return self._producers[run][1]

    def _is_idle(self, run: RunId) -> bool:
        return time.monotonic() > self._used_at[run] + _IDLE_S

    async def _close(self, run: RunId) -> None:
        if run in self._producers:
            stack, _ = self._producers.pop(run)
            try:
                await stack.aclose()
            except LogError as error:  # The producer was of no use any more.
                self.state.error = str(error)


def transactional_id(run: RunId) -> str:
    """The transactional id of the one process that may ship `run`."""
    return f"bridge-{run}"


def bridged_to(folder: Path) -> Position | None:
    """The position up to which the run in `folder` is known to be on Kafka; None where nothing is known."""
    try:
        return Position.from_text((folder / BRIDGED_FILE).read_text())
    except (OSError, UnicodeDecodeError, DataError):
        return None


def is_fenced(folder: Path) -> bool:
    """True where another machine has taken over the run in `folder`."""
    return (folder / FENCED_MARK).exists()


def _replace(path: Path, text: str) -> None:
    """Writes `text` to `path`: a reader, and a crash, find the old text or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.rename(path)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Returns after `seconds`, or as soon as `stop` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
