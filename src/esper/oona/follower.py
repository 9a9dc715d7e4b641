"""Reads the runs of a directory as they grow (`Follower`), and the records that observers derive beside them (`DerivedFollower`).

The cost follows the live runs, among thousands that have ended. The directory is listed once a second. A sealed run is recognized by its
mark and not opened; a run that no process writes is checked once a second, by the times and sizes of its files; only runs that are written,
or whose writer sent a notification, are checked at every turn. At most `_OPEN_AT_ONCE` files stay open.
"""

import math
import time
from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from esper.errors import LogError
from esper.events.envelope import Record, RunId
from esper.oona.contract import START, Page, Position
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE, RUN_FILE, in_mark, is_shortage, read_mark
from esper.oona.notifier import POLL_S, Listener
from esper.oona.observed import end_of_observed, is_observed, is_settled, read_observed
from esper.oona.run_log import RunLog

_LIST_S = 1.0
_LIST_DERIVED_S = 10.0
_OPEN_AT_ONCE = 64
_PAGES = 64  # Most pages that one poll returns: they and what follows from them are in memory at once.
_DERIVED_PAGE = 1000
# A file that changed this recently may hold more without showing it: what a transaction wrote is seen only when the disk has it, a file's
# time moves in ticks, and a WAL that begins again keeps its size. It is read at every turn for a moment, then twice a second, and once more
# after that.
_MOMENT_S, _RECENT_S, _AGAIN_S = 4 * POLL_S, 2.5, 0.5


class RunPage(NamedTuple):
    """New records of one run, and the position after them. `ended`: it is sealed and read to its end. `error`: why it cannot be read."""

    run: RunId
    records: tuple[Record, ...]
    position: Position
    ended: bool = False
    error: LogError | None = None


class _Followed:
    """The state of one file: the position it is read to, whether it holds more, its stamp, and whether more may be written now."""

    __slots__ = ("asked_at", "behind", "changed_at", "faulty", "live", "position", "stamp")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.stamp: tuple[tuple[int, int], ...] = ()
        self.changed_at = self.asked_at = -math.inf
        self.behind = True
        self.live = True
        self.faulty = False

    def may_have_grown(self, folder: Path, name: str) -> bool:
        """True where file `name` in `folder` holds more than was read, or may hold more. A change makes it live, and no longer faulty."""
        stamp = _stamp(folder, name)
        if stamp != self.stamp:
            self.stamp, self.changed_at, self.behind, self.live, self.faulty = stamp, time.monotonic(), True, True, False
        now = time.monotonic()
        again = self.asked_at < self.changed_at + _RECENT_S and now >= self.asked_at + _AGAIN_S
        grown = self.behind or now < self.changed_at + _MOMENT_S or again
        self.asked_at = now if grown else self.asked_at
        return grown


def _stamp(folder: Path, name: str) -> tuple[tuple[int, int], ...]:
    """Sizes and times of a SQLite file and its WAL; but for an empty WAL, which any reader may leave behind."""
    found: list[tuple[int, int]] = []
    for path in (folder / name, folder / (name + "-wal")):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_size:
            found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)


def unchanged_for_s(folder: Path) -> float:
    """Seconds since anything was written of the run in `folder`, or derived from it, by the clock of the files."""
    newest_ns = max((time_ns for name in (RUN_FILE, OBSERVED_FILE) for _, time_ns in _stamp(folder, name)), default=0)
    return time.time() - newest_ns / 1e9


class Follower:
    """Reads every run of a directory as it grows. One thread uses it; close it, or use it in a `with` statement.

    `positions` is where to go on, by run. Runs without one start at their first record, but for runs that are sealed when the follower
    first sees the directory: those are read only `from_start`. Runs `at_rest` are not read before they change, and then from their start.
    """

    def __init__(
        self,
        directory: Directory,
        positions: Mapping[RunId, Position] | None = None,
        *,
        topics: frozenset[str] | None = None,
        from_start: bool = False,
        limit: int = 1000,
        at_rest: Collection[RunId] = (),
    ) -> None:
        self._directory = directory
        self._at_rest = frozenset(at_rest)
        self._positions = dict(positions or {})
        self._topics = topics
        self._limit = limit
        self._runs: dict[RunId, _Followed] = {}
        self._logs: dict[RunId, RunLog] = {}
        self._done: set[RunId] = set()
        self._listener = Listener(directory.path)
        self._listed_at = 0.0
        self.shortage: LogError | None = None
        """Why the last turn read nothing: the system was short of something."""
        try:
            self._list(skip_sealed=not from_start)
        except BaseException:
            self._listener.close()
            raise

    @property
    def following(self) -> frozenset[RunId]:
        """The runs that may still get records."""
        return frozenset(self._runs)

    @property
    def done(self) -> frozenset[RunId]:
        """The sealed runs that were read to their ends, or skipped because they were sealed before."""
        return frozenset(self._done)

    @property
    def live(self) -> frozenset[RunId]:
        """The followed runs that a process was writing at the last check, at most a second ago."""
        return frozenset(name for name, run in self._runs.items() if run.live)

    @property
    def behind(self) -> frozenset[RunId]:
        """The followed runs that are not read to their ends, or may not be."""
        return frozenset(name for name, run in self._runs.items() if run.behind)

    def poll(self, timeout_s: float, but_for: Container[RunId] = ()) -> tuple[RunPage, ...]:
        """New records, at most one page per run, as soon as there are some; empty when `timeout_s` passed without any.

        Runs in `but_for` are left alone as long as they are there: it may change meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        notified: frozenset[RunId] = frozenset()
        while True:
            pages = self._turn_or_wait(notified, but_for)
            left = deadline - time.monotonic()
            if pages or left <= 0:
                return pages
            notified = self._listener.notified(min(left, POLL_S))

    def go_back(self, run: RunId, position: Position) -> None:
        """Reads `run` from `position` again, whether or not it was read to its end."""
        self._done.discard(run)
        self._runs[run] = _Followed(position)

    def close(self) -> None:
        """Closes every file and the socket."""
        for name in list(self._logs):
            self._release(name)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _turn_or_wait(self, notified: frozenset[RunId], but_for: Container[RunId]) -> tuple[RunPage, ...]:
        """A turn; none where the system is short of what it needs, of descriptors say: that may pass."""
        try:
            pages = self._turn(notified, but_for)
        except LogError as error:
            if not is_shortage(error):
                raise
            self.shortage = error
            return ()
        self.shortage = None
        return pages

    def _turn(self, notified: frozenset[RunId], but_for: Container[RunId]) -> tuple[RunPage, ...]:
        everything = time.monotonic() >= self._listed_at + _LIST_S
        if everything or not notified <= self._runs.keys() | self._done:
            self._list(skip_sealed=False)
        pages: list[RunPage] = []
        names = list(self._runs)
        for asked, name in enumerate(names, start=1):
            run = self._runs[name]
            try:
                page = self._asked(name, run, notified, but_for, everything=everything)
            except LogError as error:  # Of this run alone: the pages of others are kept.
                page = self._fault(name, run, error)
            if page:
                pages.append(page)
            if len(pages) >= _PAGES:
                # The next turn begins with the runs that this one did not reach.
                self._runs = {name: self._runs[name] for name in (*names[asked:], *names[:asked]) if name in self._runs}
                break
        return tuple(pages)

    def _asked(
        self, name: RunId, run: _Followed, notified: frozenset[RunId], but_for: Container[RunId], *, everything: bool
    ) -> RunPage | None:
        if everything and run.live:
            run.live = self._directory.is_live(name)
            run.behind = run.behind or not (run.live or run.faulty)  # What its writer wrote last.
        if name in but_for or not (everything or run.live or run.behind or name in notified):
            return None
        return self._ask(name, run, everything=everything, notified=name in notified)

    def _fault(self, name: RunId, run: _Followed, error: LogError) -> RunPage:
        self._release(name)
        # What the system is short of may be there again, without any change of the file.
        run.faulty, run.behind = not is_shortage(error), is_shortage(error)
        return RunPage(name, (), run.position, error=error)

    def _list(self, *, skip_sealed: bool) -> None:
        self._listed_at = time.monotonic()
        names = set(self._directory.names(hidden=True))
        for gone in self._runs.keys() - names:
            del self._runs[gone]
            self._release(gone)
        for name in names - self._runs.keys() - self._done:
            mark = read_mark(self._directory.path / name)
            position = self._positions.pop(name, None)
            if mark is not None and (skip_sealed if position is None else _is_read(mark, position)):
                self._done.add(name)
            elif mark is not None or self._directory.has_log(name):
                self._runs[name] = run = _Followed(position or START)
                if name in self._at_rest:
                    run.stamp, run.behind, run.live = _stamp(self._directory.path / name, RUN_FILE), False, False
        self._at_rest = frozenset()

    def _ask(self, name: RunId, run: _Followed, *, everything: bool, notified: bool) -> RunPage | None:
        """A page where the file may have grown. A seal changes the file too; where its stamp does not show it, `everything` finds it."""
        folder = self._directory.path / name
        grown = run.may_have_grown(folder, RUN_FILE) or notified
        sealed = (grown or everything) and read_mark(folder) is not None
        if run.faulty or not (grown or sealed):
            self._release(name)
            return None
        page = self._read(name, run)
        run.position, run.behind = page.position, len(page.records) == self._limit
        ended = sealed and not run.behind
        if ended:
            del self._runs[name]
            self._release(name)
            self._done.add(name)
        return RunPage(name, *page, ended) if page.records or ended else None

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


def _is_read(mark: str, position: Position) -> bool:
    return 0 < (in_mark(mark, "records", int) or 0) <= position.row(RUN_FILE)


class DerivedFollower:
    """Reads the derived records of every run of a directory, from the first, as they are written. One thread uses it.

    Runs that were settled (no alert firing or undelivered) before the first poll are skipped, until an observer writes more. A file that
    cannot be read leaves the others alone, and is read again when it has changed.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._files: dict[RunId, _Followed] = {}
        self._listed_at = self._checked_at = -math.inf

    @property
    def unreadable(self) -> frozenset[RunId]:
        """The runs whose observed file could not be read at the last attempt."""
        return frozenset(run for run, file in self._files.items() if file.faulty)

    def poll(self, live: frozenset[RunId]) -> Iterator[tuple[RunId, tuple[Record, ...]]]:
        """New records, at most one page per run. `live` runs are checked every time, others that are not settled once a second."""
        now = time.monotonic()
        if now >= self._listed_at + _LIST_DERIVED_S:
            try:
                self._list(skip_settled=self._listed_at < 0)
                self._listed_at = now
            except LogError as error:
                if not is_shortage(error):
                    raise
        checked = live
        if now >= self._checked_at + _LIST_S:
            self._checked_at = now
            checked = live | {run for run, file in self._files.items() if file.live}
        for run in checked:
            if records := self._read(run):
                yield run, records

    def _list(self, *, skip_settled: bool) -> None:
        names = set(self._directory.names(hidden=True))
        for gone in self._files.keys() - names:
            del self._files[gone]
        for run in names:
            folder = self._directory.path / run
            if file := self._files.get(run):
                file.live = file.live or not is_settled(folder)
            elif is_observed(folder):
                self._files[run] = file = _Followed(START)
                if skip_settled and is_settled(folder):
                    try:
                        file.position, file.live = end_of_observed(folder), False
                    except LogError:
                        file.faulty = True

    def _read(self, run: RunId) -> tuple[Record, ...]:
        folder = self._directory.path / run
        if run not in self._files and is_observed(folder):
            self._files[run] = _Followed(START)
        file = self._files.get(run)
        if file is None or not file.may_have_grown(folder, OBSERVED_FILE):
            return ()
        settled = is_settled(folder)
        try:
            page = read_observed(folder, run, file.position, _DERIVED_PAGE)
        except LogError as error:
            file.faulty, file.behind = not is_shortage(error), is_shortage(error)
            return ()
        file.position, file.behind, file.faulty = page.position, len(page.records) == _DERIVED_PAGE, False
        file.live = file.behind or not settled
        return page.records
