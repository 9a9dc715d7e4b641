"""Runs of one directory that are kept open, so that the next question about one reads only what was written since. For any threads.

Every answer is read from the disk. A run that ends must be released at once: an open file keeps its writer from sealing it.
"""

import hashlib
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

from esper.errors import LogError
from esper.events.codec import decode
from esper.events.envelope import Moment, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.observability import WindowAggregated
from esper.events.topics import AGGREGATES, DERIVED, TOPICS
from esper.folds.run_state import RunState, digest
from esper.history.run_history import History
from esper.oona import observed
from esper.oona.contract import Page, Position
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE, RUN_FILE, read_mark

MOST_OPEN = 16
_MOST_WINDOWS = 100  # Of one metric of a run.
_OWN = frozenset(TOPICS) - DERIVED
_STREAM_ENDS = 32  # Most StreamEnded that may stand among the newest records of a topic.

_Window = tuple[WindowAggregated, Moment]


class _RecordPage(NamedTuple):
    """Records in order, the cursor after them, and whether there were more."""

    records: tuple[Record, ...]
    cursor: str
    more: bool


class _OpenRun:
    """A run that is kept open. Its lock is held by the thread that uses it."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.lock = Lock()
        self.windows: defaultdict[tuple[str, str], deque[_Window]] = defaultdict(lambda: deque(maxlen=_MOST_WINDOWS))
        self.windows_to: Position | None = None
        self._digest: tuple[RunState | None, str] = (None, "")

    def digest(self) -> str:
        """The digest of the state that the facts fold to now; made once, for a large state takes a while."""
        state = self.history.known.state
        if self._digest[0] is not state:
            self._digest = (state, digest(state))
        return self._digest[1]


class OpenRuns:
    """The runs of `directory`, a few of them kept open. Cursors are texts that only this class reads. Methods raise LogError."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._lock = Lock()
        self._open: OrderedDict[RunId, _OpenRun] = OrderedDict()

    @contextmanager
    def use(self, run: RunId) -> Iterator[_OpenRun]:
        """`run`, for this thread alone. After a LogError nothing that was read of it is kept."""
        opened = self._opened(run)
        with opened.lock:
            try:
                yield opened
            except LogError:
                with self._lock:
                    if self._open.get(run) is opened:
                        del self._open[run]
                opened.history.close()
                raise

    def page(self, run: RunId, after: str | None, limit: int, topics: frozenset[str] | None) -> _RecordPage:
        """Records of `run` after the cursor (None: from the first), of `topics` (None: all of its own); derived ones come last."""
        position = _position(after)
        own, derived = (_OWN, frozenset[str]()) if topics is None else (topics & _OWN, topics & DERIVED)
        pages: list[Page] = []
        if own or not derived:
            with self.use(run) as opened:
                pages.append(opened.history.log.read(position, limit, None if own == _OWN else own))
        left = limit - sum(len(page.records) for page in pages)
        if derived and left:
            pages.append(observed.read_observed(self._directory.path / run, run, position, left, derived))
        records = tuple(record for page in pages for record in page.records)
        return _RecordPage(records, _cursor(position, *(page.position for page in pages)), len(records) == limit)

    def skip(self, run: RunId, after: str | None, keep: int) -> tuple[str, int]:
        """The later of `after` and the cursor `keep` records before the end of `run`, and how many records that skips; the end for None."""
        position = _position(after)
        with self.use(run) as opened:
            at, missed = opened.history.log.skip(position, keep)
        if after is not None:
            return _cursor(position, at), missed
        return _cursor(at, observed.end_of_observed(self._directory.path / run)), 0

    def latest(self, run: RunId, kind: type[Event], limit: int) -> list[Record]:
        """The newest `limit` records of `kind` that `run` itself wrote, oldest first."""
        with self.use(run) as opened:
            found = opened.history.log.last(limit + _STREAM_ENDS, frozenset({kind.TOPIC}))
        return [record for record in found if record.type == kind.KIND][-limit:]

    def windows(self, run: RunId) -> dict[tuple[str, str], list[_Window]]:
        """The last 100 windows of every metric of `run`, oldest first, by topic and metric."""
        folder = self._directory.path / run
        with self.use(run) as opened:
            while (page := observed.read_observed(folder, run, opened.windows_to, topics=frozenset({AGGREGATES}))).records:
                for record in page.records:
                    if isinstance(event := decode(record), WindowAggregated):
                        opened.windows[event.topic, event.metric].append((event, record.moment))
                opened.windows_to = page.position
            return {key: list(kept) for key, kept in opened.windows.items()}

    def seal_digest(self, run: RunId) -> str | None:
        """A digest of the seal of `run`; None while it is not sealed. What is read of a sealed run never changes."""
        mark = read_mark(self._directory.path / run)
        return None if mark is None else hashlib.sha256(mark.encode()).hexdigest()[:32]

    def release(self, run: RunId) -> None:
        """Closes the file of `run`; the next question opens it again."""
        with self._lock:
            opened = self._open.get(run)
        if opened is not None:
            with opened.lock:
                opened.history.close()

    def close(self) -> None:
        """Closes every file."""
        for run in list(self._open):
            self.release(run)

    def _opened(self, run: RunId) -> _OpenRun:
        with self._lock:
            if run in self._open:
                self._open.move_to_end(run)
                return self._open[run]
        fresh = _OpenRun(History(self._directory.open(run), run))
        with self._lock:
            opened = self._open.setdefault(run, fresh)
            self._open.move_to_end(run)
            oldest = self._open.popitem(last=False)[1] if len(self._open) > MOST_OPEN else None
        if opened is not fresh:
            fresh.history.close()
        if oldest is not None:
            with oldest.lock:
                oldest.history.close()
        return opened


def _position(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    own, _, derived = cursor.partition(".")
    return Position(((OBSERVED_FILE, int(derived)), (RUN_FILE, int(own))))


def _cursor(*positions: Position | None) -> str:
    rows = {file: row for position in positions if position is not None for file, row in position.rows}
    return f"{rows.get(RUN_FILE, 0)}.{rows.get(OBSERVED_FILE, 0)}"
