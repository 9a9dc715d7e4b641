"""Follows a log: a directory with thousands of ended runs and dozens of live ones.

A directory is listed once a second. Sealed runs are done with by their marks, without being opened; a run that nobody writes is looked at
once a second by the times and sizes of its files; only runs that rang, or changed lately, are asked at every turn. So the cost follows the
live runs, and descriptors do too: at most `OPEN_AT_ONCE` files stay open.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from esper.errors import LogError
from esper.events.envelope import RunId
from esper.oona import seal
from esper.oona.contract import START, Page, Position
from esper.oona.directory import Directory
from esper.oona.doorbell import POLL_S, Ear
from esper.oona.file import RUN_FILE, WRITER_LOCK
from esper.oona.lock import holder_of
from esper.oona.run_log import RunLog

_OPEN_AT_ONCE = 64
LIST_S = 1.0
_BATCHES = 64  # Pages handed over at once: what follows them holds no more than that in memory.
# A file's time moves in ticks of up to 4 ms, and a WAL that begins again keeps its size: a file that changed this recently may have changed
# once more without showing it.
RECENT_S = 2.0

Look = tuple[tuple[int, int], ...]


class Batch(NamedTuple):
    """What came from one run: a page, and whether the run is sealed and read to its end; or why it cannot be read."""

    run: RunId
    page: Page
    ended: bool
    error: LogError | None


class _Followed:
    """One unsealed run: how far it was read, whether more waits there, what its files looked like then, and whether somebody writes it."""

    __slots__ = ("behind", "changed_at", "faulty", "live", "look", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.look: Look = ()
        self.changed_at = -math.inf
        self.behind = True
        self.live = True
        self.faulty = False

    def may_bring(self, look: Look) -> bool:
        """Takes note of how the files look now; true when there is something to read, or may be without showing it."""
        if look != self.look:
            self.look, self.changed_at, self.behind, self.live, self.faulty = look, time.monotonic(), True, True, False
        return not self.faulty and (self.behind or time.monotonic() < self.changed_at + RECENT_S)


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
        self._logs: dict[RunId, RunLog] = {}
        self._done: set[RunId] = set()
        self._ear = Ear.open(directory.path)
        self._listed_at = 0.0
        try:
            self._list(skip_sealed=not from_start)
        except BaseException:
            self._ear.close()
            raise

    @property
    def following(self) -> frozenset[RunId]:
        """The runs that may still bring records."""
        return frozenset(self._runs)

    @property
    def done(self) -> frozenset[RunId]:
        """The sealed runs that were read to their ends, or passed over because they were sealed before."""
        return frozenset(self._done)

    @property
    def live(self) -> frozenset[RunId]:
        """The followed runs that some process was writing when it was last looked at, at most a second ago."""
        return frozenset(name for name, run in self._runs.items() if run.live)

    @property
    def behind(self) -> frozenset[RunId]:
        """The followed runs of which more waits on the disk than was handed over, or may: they were not read to their ends yet."""
        return frozenset(name for name, run in self._runs.items() if run.behind)

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

    def go_back(self, run: RunId, position: Position) -> None:
        """Reads `run` from `position` again, whether or not it was read to its end."""
        self._done.discard(run)
        self._runs[run] = _Followed(position)

    def close(self) -> None:
        """Lets go of every file and of the socket."""
        for name in list(self._logs):
            self._release(name)
        self._ear.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _turn(self, rung: frozenset[RunId]) -> tuple[Batch, ...]:
        everything = time.monotonic() >= self._listed_at + LIST_S
        if everything or not rung <= self._runs.keys() | self._done:
            self._list(skip_sealed=False)
        batches: list[Batch] = []
        names = list(self._runs)
        for asked, name in enumerate(names, start=1):
            run = self._runs[name]
            if everything and run.live:
                run.live = holder_of(self._directory.path / name / WRITER_LOCK) is not None
            if (everything or run.live or run.behind or name in rung) and (batch := self._ask(name, run)):
                batches.append(batch)
            if len(batches) >= _BATCHES:
                # The next turn begins with those that were not asked in this one.
                self._runs = {name: self._runs[name] for name in (*names[asked:], *names[:asked]) if name in self._runs}
                break
        return tuple(batches)

    def _list(self, *, skip_sealed: bool) -> None:
        self._listed_at = time.monotonic()
        names = set(self._directory.names(hidden=True))
        for gone in self._runs.keys() - names:
            del self._runs[gone]
            self._release(gone)
        for name in names - self._runs.keys() - self._done:
            folder = self._directory.path / name
            mark = seal.read_mark(folder)
            position = self._positions.pop(name, None)
            if mark is not None and _is_read(mark, position, skip=skip_sealed):
                self._done.add(name)
            elif mark is not None or self._directory.has_log(name):
                self._runs[name] = _Followed(position or START)

    def _ask(self, name: RunId, run: _Followed) -> Batch | None:
        folder = self._directory.path / name
        sealed = seal.read_mark(folder) is not None
        if not run.may_bring(look_at(folder, RUN_FILE)) and (run.faulty or not sealed):
            self._release(name)
            return None
        try:
            page = self._read(name, run)
        except LogError as error:
            self._release(name)
            run.faulty, run.behind = True, False
            return Batch(name, Page((), run.position), ended=False, error=error)
        run.position, run.behind = page.position, len(page.records) == self._limit
        ended = sealed and not run.behind
        if ended:
            del self._runs[name]
            self._release(name)
            self._done.add(name)
        return Batch(name, page, ended, None) if page.records or ended else None

    def _read(self, name: RunId, run: _Followed) -> Page:
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = self._directory.open(name)
        page = log.read(run.position, self._limit, self._topics)
        if len(self._logs) > _OPEN_AT_ONCE:
            self._release(name)
        return page

    def _release(self, name: RunId) -> None:
        """Closes the run's file: an idle reader would keep its writer from sealing it."""
        log = self._logs.pop(name, None)
        if log is not None:
            log.close()


def _is_read(mark: str, position: Position | None, *, skip: bool) -> bool:
    """True for a sealed run that has nothing to bring: all of it was read before, or it was never followed and is to be skipped."""
    return skip if position is None else 0 < seal.records_of(mark) <= position.row(RUN_FILE)


def look_at(folder: Path, file: str) -> Look:
    """Sizes and times of a SQLite file and its WAL; but for an empty WAL, which any reader may leave behind."""
    found: list[tuple[int, int]] = []
    for name in (file, file + "-wal"):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        if status.st_size:
            found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)
