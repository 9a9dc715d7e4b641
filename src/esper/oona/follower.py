"""Follows a log: one run, or a whole directory with thousands of ended runs and dozens of live ones.

A directory is listed once a second. Sealed runs are done with by their marks, without being opened; a run that nobody writes is looked at
once a second by the times and sizes of its files; only runs that rang, or changed lately, are asked at every turn. So the cost follows the
live runs, and descriptors do too: at most `OPEN_AT_ONCE` files stay open.
"""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from esper.errors import LogError
from esper.events.envelope import RunId
from esper.oona import seal
from esper.oona.contract import START, Log, Page, Position
from esper.oona.directory import Directory
from esper.oona.doorbell import POLL_S, Ear
from esper.oona.lock import holder_of
from esper.oona.run_log import FILE, LOCK, RunLog

OPEN_AT_ONCE = 64
_LIST_S = 1.0
_BATCHES = 64  # Pages handed over at once: what follows them holds no more than that in memory.
# A file's time moves in ticks of up to 4 ms, and a WAL that begins again keeps its size: a file that changed this recently may have changed
# once more without showing it.
_RECENT_S = 2.0

Look = tuple[tuple[int, int], ...]


def follow(log: Log, position: Position | None = None, *, topics: frozenset[str] | None = None, wait_s: float) -> Iterator[Page]:
    """Pages of one run's log after `position`, for ever; an empty page each time that `wait_s` passed without a record."""
    at = position or START
    while True:
        page = log.read(at, topics=topics)
        if not page.records and page.position == at and log.wait(at, wait_s):
            page = log.read(at, topics=topics)
        at = page.position
        yield page


class Batch(NamedTuple):
    """What came from one run: a page, and whether the run is sealed and read to its end; or why it cannot be read."""

    run: RunId
    page: Page
    ended: bool
    error: LogError | None


class _Followed:
    """One unsealed run: how far it was read, what its files looked like then, and whether it may change any moment."""

    __slots__ = ("changed_at", "faulty", "live", "log", "look", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.log: RunLog | None = None
        self.look: Look = ()
        self.changed_at = -math.inf
        self.live = True
        self.faulty = False

    def sees(self, look: Look) -> bool:
        """Takes note of how the files look now; true when they changed, or may have changed without showing it."""
        if look != self.look:
            self.look, self.changed_at, self.live, self.faulty = look, time.monotonic(), True, False
        return not self.faulty and time.monotonic() < self.changed_at + _RECENT_S

    def release(self) -> None:
        """Closes the run's file: an idle reader would keep its writer from sealing it."""
        if self.log is not None:
            self.log.close()
            self.log = None


class Follower:
    """Reads every run of a directory as it grows. One thread uses it; close it, or use it in a `with` statement.

    `positions` is where to go on, by run. Runs without one start at their first record, but for runs that are sealed when the follower
    first sees the directory: those are read only `from_start`.
    """

    def __init__(
        self,
        directory: Directory,
        positions: Mapping[RunId, Position] | None = None,
        *,
        topics: frozenset[str] | None = None,
        from_start: bool = False,
        limit: int = 1000,
    ) -> None:
        self._directory = directory
        self._positions = dict(positions or {})
        self._topics = topics
        self._limit = limit
        self._runs: dict[RunId, _Followed] = {}
        self._done: set[RunId] = set()
        self._ear = Ear.open(directory.path)
        self._listed_at = 0.0
        self._list(skip_sealed=not from_start)

    @property
    def following(self) -> frozenset[RunId]:
        """The runs that may still bring records."""
        return frozenset(self._runs)

    def poll(self, timeout_s: float) -> tuple[Batch, ...]:
        """What is new, at most one page per run, as soon as there is something; empty when `timeout_s` passed without it."""
        deadline = time.monotonic() + timeout_s
        rung: frozenset[RunId] = frozenset()
        while True:
            found = self._turn(rung)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            rung = self._ear.listen(min(left, POLL_S))

    def close(self) -> None:
        """Lets go of every file and of the socket."""
        for run in self._runs.values():
            run.release()
        self._ear.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _turn(self, rung: frozenset[RunId]) -> tuple[Batch, ...]:
        everything = time.monotonic() >= self._listed_at + _LIST_S
        if everything or not rung <= self._runs.keys() | self._done:
            self._list(skip_sealed=False)
        batches: list[Batch] = []
        for name, run in list(self._runs.items()):
            if everything and run.live:
                run.live = holder_of(self._directory.path / name / LOCK) is not None
            if (everything or run.live or name in rung) and (batch := self._ask(name, run)):
                batches.append(batch)
            if len(batches) >= _BATCHES:
                break
        return tuple(batches)

    def _list(self, *, skip_sealed: bool) -> None:
        self._listed_at = time.monotonic()
        names = set(self._directory.names(hidden=True))
        for gone in self._runs.keys() - names:
            self._runs.pop(gone).release()
        for name in names - self._runs.keys() - self._done:
            folder = self._directory.path / name
            mark = seal.read_mark(folder)
            position = self._positions.pop(name, START)
            if mark is not None and (skip_sealed or position.row(FILE) >= seal.records_of(mark)):
                self._done.add(name)
            elif mark is not None or (folder / FILE).exists():
                self._runs[name] = _Followed(position)

    def _ask(self, name: RunId, run: _Followed) -> Batch | None:
        folder = self._directory.path / name
        sealed = seal.read_mark(folder) is not None
        if not run.sees(_look(folder)) and (run.faulty or not sealed):
            run.release()
            return None
        try:
            page = self._read(name, run)
        except LogError as error:
            run.release()
            run.faulty = True
            return Batch(name, Page((), run.position), ended=False, error=error)
        run.position = page.position
        ended = sealed and len(page.records) < self._limit
        if ended:
            self._runs.pop(name).release()
            self._done.add(name)
        return Batch(name, page, ended, None) if page.records or ended else None

    def _read(self, name: RunId, run: _Followed) -> Page:
        if run.log is None:
            run.log = self._directory.open(name)
        page = run.log.read(run.position, self._limit, self._topics)
        if sum(other.log is not None for other in self._runs.values()) > OPEN_AT_ONCE:
            run.release()
        return page


def _look(folder: Path) -> Look:
    """Sizes and times of the run's files."""
    found: list[tuple[int, int]] = []
    for name in (FILE, FILE + "-wal"):
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            continue
        found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)
