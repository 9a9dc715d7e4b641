"""The bridge ships the runs of a directory to Kafka: every record once, in the order of its log, however long a broker is away.

A run's producer has the transactional id `bridge-<run>`. A transaction holds a page of records, and the claim that says how far the run is
on Kafka with them (`claims.py`). After any failure the producer is closed, and a new one begins behind the record that the claim names:
aiokafka's producer cannot be used again after an outage longer than its request timeout. The position that is written beside the run saves
reading what is shipped; where it is lost, or Kafka has less than it says, the claim counts.

A run that is shipped by another copy of its directory is fenced: this bridge leaves a mark beside the run, at which its trainer stops, and
ships nothing more of it.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaProducer

from esper.durable import replace_file
from esper.errors import DataError, LogError
from esper.events.envelope import RunId
from esper.kafka.clients import FencedError, outgoing, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import BRIDGE, CLAIMS, check_needs
from esper.kafka.copying.claims import Claim, TakenOverError, own_claim, transactional_id
from esper.kafka.event_loop import pause
from esper.kafka.probing import RefusedError
from esper.kafka.transactions import transact
from esper.oona.contract import START, Position
from esper.oona.directory import Directory
from esper.oona.file import FENCED_MARK, RUN_FILE, fenced_by
from esper.oona.follower import Follower, RunPage

BRIDGED_FILE, TOPICS_FILE = "bridged", "bridge.topics"
_PAGE, _UNDER_WAY = 500, 64
_POLL_S, _IDLE_S = 0.5, 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0
# Long enough for a directory that takes the run over to claim it before this one begins again.
_FENCED_PAUSE_S = 2.0


@dataclass
class BridgeState:
    """The state of a bridge. `waiting`: records under way, by run. `away_since`: seconds since 1970, None while Kafka takes all of them."""

    shipped: int = 0
    away_since: float | None = None
    error: str | None = None
    waiting: dict[RunId, int] = field(default_factory=dict)
    fenced: set[RunId] = field(default_factory=set)


@dataclass
class _Shipping:
    """A run's producer, and the claim that its last transaction wrote."""

    stack: AsyncExitStack
    producer: AIOKafkaProducer
    claim: Claim
    used_at: float


class _LessError(Exception):
    """Kafka has less of a run than its position says."""


class Bridge:
    """Ships every run of `directory`. `jitter` returns numbers from 0 to 1: a pause is up to twice as long as it must be."""

    def __init__(self, directory: Directory, settings: KafkaSettings, *, jitter: Callable[[], float] = random.random) -> None:
        self.state = BridgeState()
        self._directory, self._settings, self._jitter = directory, settings, jitter
        self._positions: dict[RunId, Position] = {}
        self._shippings: dict[RunId, _Shipping] = {}
        self._under_way: dict[RunId, asyncio.Task[None]] = {}
        self._again: set[RunId] = set()
        """Runs to be read again from their first record."""
        self._failing: set[RunId] = set()
        self._checked = False

    async def check(self) -> None:
        """Returns when the cluster is known to have the topics that this directory was shipped to before, and a bridge its rights.

        A topic that was made anew has another id, and lacks what the old one had: claims know that only where theirs was made anew, too.
        Asks once. Raises RefusedError where a topic or a right is missing, LogError where no broker answers.
        """
        if self._checked:
            return
        ids, file = await check_needs(self._settings, BRIDGE), self._directory.path / TOPICS_FILE
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        claims = self._settings.topic(CLAIMS)
        others = [name for name, found in ids.items() if known.get(name, found) != found]
        if others and claims not in others:
            raise RefusedError(
                f"Kafka at {self._settings.bootstrap}: topic {others[0]} was made anew since {self._directory.path} was shipped to it, and"
                f" what it had is gone; to ship every run again, delete topic {claims} too, then esper topics create"
            )
        replace_file(file, f"{json.dumps(ids)}\n".encode())
        self._checked = True

    async def run(self, stop: asyncio.Event, *, drain: bool = False, linger_s: float = 0.0) -> None:
        """Ships until `stop`, and with `drain` only until nothing waits and no process writes a run, for `linger_s`. Called once.

        Raises LogError for a directory that cannot be read; whatever Kafka does is waited for.
        """
        reached = ((run, bridged_to(self._directory.path / run)) for run in self._directory.names(hidden=True))
        self._positions |= {run: position for run, position in reached if position is not None}
        follower = await asyncio.to_thread(Follower, self._directory, self._positions, from_start=True, limit=_PAGE)
        busy_at = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                while not stop.is_set():
                    pages = await self._poll(follower)
                    for page in pages:
                        await self._begin(page, group, stop)
                    again, self._again = self._again, set()
                    for run in again:
                        follower.go_back(run, START)
                    await self._close_idle(follower)
                    if pages or again or self._again or self._under_way or follower.behind or follower.live:
                        busy_at = time.monotonic()
                    elif drain and time.monotonic() >= busy_at + linger_s:
                        return
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await asyncio.to_thread(follower.close)
            for run in list(self._shippings):
                await self._close(run)

    async def _poll(self, follower: Follower) -> tuple[RunPage, ...]:
        """New pages of runs of which none is under way: a run whose partition has no leader holds up no other.

        When this is cancelled, the thread ends first: a follower is used by one.
        """
        polling = asyncio.create_task(asyncio.to_thread(follower.poll, _POLL_S, self._under_way.keys()))
        try:
            return await asyncio.shield(polling)
        finally:
            await asyncio.wait([polling])

    async def _close_idle(self, follower: Follower) -> None:
        for run in self._shippings.keys() - self._under_way.keys():
            if run not in follower.following or time.monotonic() > self._shippings[run].used_at + _IDLE_S:
                await self._close(run)

    async def _begin(self, page: RunPage, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        # Pages are in memory: where so many runs wait for Kafka, all wait.
        while len(self._under_way) >= _UNDER_WAY:
            await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)
        if page.records and page.run not in self._again and fenced_by(self._directory.path / page.run) is None:
            self._under_way[page.run] = group.create_task(self._ship(page, stop))

    async def _ship(self, page: RunPage, stop: asyncio.Event) -> None:
        """Returns when the page is committed, the run is fenced or must be read again, or `stop` is set."""
        self.state.waiting[page.run] = len(page.records)
        try:
            await self._ship_until_done(page, stop)
        finally:
            del self.state.waiting[page.run], self._under_way[page.run]

    async def _ship_until_done(self, page: RunPage, stop: asyncio.Event) -> None:
        run, pause_s = page.run, _FIRST_PAUSE_S
        while not stop.is_set():
            try:
                await self.check()
                await self._commit(page)
            except _LessError:
                self._reached(run, START)
                self._again.add(run)
                break
            except TakenOverError as error:
                self.state.fenced.add(run)
                replace_file(self._directory.path / run / FENCED_MARK, f"{error}\n".encode())
                await self._close(run)
                break
            except LogError as error:
                await self._failed(run, error)
                if isinstance(error, FencedError):
                    pause_s = max(pause_s, _FENCED_PAUSE_S)
                await pause(stop, pause_s * (1 + self._jitter()))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._reached(run, page.position)
                break
        else:
            return
        self._failing.discard(run)  # Kafka answered.
        if not self._failing:
            self.state.away_since = self.state.error = None

    async def _failed(self, run: RunId, error: LogError) -> None:
        self.state.away_since, self.state.error = self.state.away_since or time.time(), str(error)
        self._failing.add(run)
        await self._close(run)

    def _reached(self, run: RunId, position: Position) -> None:
        self._positions[run] = position
        replace_file(self._directory.path / run / BRIDGED_FILE, position.to_text().encode())

    async def _commit(self, page: RunPage) -> None:
        """Ships what Kafka lacks of the page; with it stands how far the run is on Kafka."""
        shipping = await self._shipping(page.run)
        last = page.position.row(RUN_FILE)
        records = page.records[-(last - shipping.claim.row) :] if last > shipping.claim.row else ()
        if records:
            claim = shipping.claim.after(records, last)
            first = last - len(records) + 1
            messages = [outgoing(self._settings, record, row=row) for row, record in enumerate(records, start=first)]
            await transact(shipping.producer, self._settings, [*messages, claim.outgoing(self._settings, page.run)])
            shipping.claim = claim
            self.state.shipped += len(records)

    async def _shipping(self, run: RunId) -> _Shipping:
        if run not in self._shippings:
            async with AsyncExitStack() as stack:
                producer = await stack.enter_async_context(producing(self._settings, transactional_id(run)))
                claim = await own_claim(producer, self._settings, self._directory, run)
                self._shippings[run] = _Shipping(stack.pop_all(), producer, claim, time.monotonic())
        shipping = self._shippings[run]
        shipping.used_at = time.monotonic()
        if shipping.claim.row < self._positions.get(run, START).row(RUN_FILE):
            raise _LessError
        return shipping

    async def _close(self, run: RunId) -> None:
        if run in self._shippings:
            stack = self._shippings.pop(run).stack
            try:
                await stack.aclose()
            except LogError as error:  # The producer was of no use any more.
                self.state.error = str(error)


def bridged_to(folder: Path) -> Position | None:
    """The position up to which the run in `folder` is known to be on Kafka; None where nothing is known."""
    try:
        return Position.from_text((folder / BRIDGED_FILE).read_text())
    except (OSError, UnicodeDecodeError, DataError):
        return None
