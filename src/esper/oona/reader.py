"""Reads one run's file, whatever state it is in: being written, left by a writer, or sealed.

No transaction is held between requests. Once RunFinished has been read the connection is let go of after each request, so that the writer
can leave WAL mode; a sealed file is opened for one request at a time, as immutable, and its mark is looked at before and after.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from esper.errors import DataError, LogError
from esper.events.envelope import Record
from esper.events.kinds.run import RunFinished
from esper.events.topics import FACTS
from esper.oona import file, seal
from esper.oona.contract import Page, Position
from esper.oona.heads import Heads
from esper.oona.lock import holder_of
from esper.oona.notifier import POLL_S, Listener

_RESTORE = "restore the file from a copy or a mirror"
_LISTED = "SELECT count(*), coalesce(sum(fact), 0) FROM records INDEXED BY facts WHERE fact IS NOT NULL"
_LAST_FACT = f"SELECT fact FROM records NOT INDEXED WHERE topic IN ({', '.join(map(repr, sorted(FACTS)))}) ORDER BY row DESC LIMIT 1"  # noqa: S608
# How many sealed files one process has open at once, over all threads: `ulimit -n` is 1024 on many machines, and a connection takes up to
# three descriptors.
_sealed_at_once = threading.BoundedSemaphore(64)


class Reader:
    """The reading end of the run in one folder. One thread at a time uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path / file.RUN_FILE
        self._open: apsw.Connection | None = None
        self._listener: Listener | None = None
        self._finished = False
        self._is_counted = False
        self._is_indexed = False
        with self.connection() as connection:
            self.meta = file.read_meta(connection, self._file)

    @contextmanager
    def connection(self) -> Iterator[apsw.Connection]:
        """A connection for one request."""
        if seal.read_mark(self._path) is not None:
            self._release()
            with seal.unchanged(self._path), self._immutable() as connection:
                yield connection
            return
        if self._open is None and _is_archived(self._path):
            with self._immutable() as connection:
                yield connection
            return
        if self._open is None:
            self._open = file.open_for_reading(self._file, immutable=False)
        try:
            with file.explained(self._file, "read"):
                yield self._open
        finally:
            if self._finished:
                self._release()

    @contextmanager
    def _immutable(self) -> Iterator[apsw.Connection]:
        with _sealed_at_once, file.explained(self._file, "read"):
            connection = file.open_for_reading(self._file, immutable=True)
            try:
                yield connection
            finally:
                connection.close()

    def read(self, row: int, limit: int, topics: frozenset[str] | None) -> Page:
        """At most `limit` records after row `row`, of `topics`, as one consistent view."""
        with self.connection() as connection, connection:
            self._require_whole(connection, topics)
            rows = _select(connection, row, limit, topics)
            full = bool(rows) and len(rows) == limit
            last = int(rows[-1][0]) if full else max(row, self._end(connection))
        return Page(self._records(rows), position_at(last))

    def last(self, limit: int, topics: frozenset[str] | None) -> tuple[Record, ...]:
        """The newest `limit` records of `topics`, oldest first, as one consistent view."""
        with self.connection() as connection, connection:
            self._require_whole(connection, topics)
            rows = _select_last(connection, limit, topics)
            self._end(connection)
        return self._records(rows[::-1])

    def heads(self) -> Heads:
        """How the file ends, all of it checked: SQLite's structure, every number and chain, the tails of an end, a sealed run's mark."""
        with self.connection() as connection:
            file.check_integrity(connection, self._file)
            heads = walk(connection, self._file, self.meta)
        seal.require_end(self._path, heads)
        return heads

    def _require_whole(self, connection: apsw.Connection, topics: frozenset[str] | None) -> None:
        """Raises LogError where reading would miss records without a word: a sealed file was cut, or the index lacks facts. Asks once."""
        if not self._is_counted:
            marked = seal.records_of(seal.read_mark(self._path) or "")
            if marked and (found := self._end(connection)) != marked:
                raise LogError(f"cannot trust {self._file}: expected {marked} records, as the run's mark says, got {found}; {_RESTORE}")
            self._is_counted = True
        if not self._is_indexed and _is_of_facts(topics):
            listed, total = connection.execute(_LISTED).fetchall()[0]
            last = connection.execute(_LAST_FACT).get
            if (listed, total) != (last or 0, (last or 0) * ((last or 0) + 1) // 2):
                what = f"expected its index to lead to every fact up to the last one's number, {last}, got {listed}"
                raise LogError(f"cannot trust {self._file}: {what}; {_RESTORE}")
            self._is_indexed = True

    def _records(self, rows: list[file.Stored]) -> tuple[Record, ...]:
        try:
            return tuple(file.to_record(self.meta.run, self.meta.writer, found) for found in rows)
        except DataError as error:
            raise LogError(f"cannot read {self._file}: the file is damaged: {error}") from error

    def last_row(self) -> int:
        """The number of the last durable row; 0 before the first."""
        with self.connection() as connection:
            return self._end(connection)

    def _end(self, connection: apsw.Connection) -> int:
        """The last row. Once that is RunFinished nothing follows, and the file is let go of after each request."""
        found = connection.execute("SELECT row, type FROM records ORDER BY row DESC LIMIT 1").fetchone()
        row, kind = found or (0, "")
        self._finished = kind == RunFinished.KIND
        return int(row)

    def wait(self, row: int, timeout_s: float) -> bool:
        """True as soon as a row stands after `row`; False when `timeout_s` passed."""
        deadline = time.monotonic() + timeout_s
        if self._listener is None:
            self._listener = Listener(self._path.parent)
        while self.last_row() <= row:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._listener.notified(min(left, POLL_S))
        return True

    def _release(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Lets go of connection and socket; the next request opens them again."""
        self._release()
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _is_archived(folder: Path) -> bool:
    """True for an unsealed run where this process may write nothing, and which nobody writes: SQLite could not make its shared memory."""
    wal = folder / (file.RUN_FILE + "-wal")
    unwritten = not wal.exists() or not wal.stat().st_size
    return unwritten and not os.access(folder, os.W_OK) and holder_of(folder / file.WRITER_LOCK) is None


def walk(connection: apsw.Connection, path: Path, meta: file.Meta) -> Heads:
    """How the file ends, every number and chain on the way there checked. Raises LogError at the first that is wrong."""
    heads = Heads(meta.run, meta.writer)
    with file.explained(path, "read"):
        for row in connection.execute("SELECT * FROM records ORDER BY row"):
            try:
                heads.verify(file.to_record(meta.run, meta.writer, row))
            except DataError as error:
                raise LogError(f"cannot trust {path}: {error}; {_RESTORE}") from error
    return heads


def _select(connection: apsw.Connection, row: int, limit: int, topics: frozenset[str] | None) -> list[file.Stored]:
    if topics is None:
        return connection.execute("SELECT * FROM records WHERE row > ? ORDER BY row LIMIT ?", (row, limit)).fetchall()
    if not topics:
        return []
    names = sorted(topics)
    # Facts along their own index: the telemetry between two facts is never touched.
    among = "fact IS NOT NULL AND " if _is_of_facts(topics) else ""
    query = f"SELECT * FROM records WHERE {among}row > ? AND topic IN ({', '.join('?' * len(names))}) ORDER BY row LIMIT ?"  # noqa: S608
    return connection.execute(query, (row, *names, limit)).fetchall()


def _is_of_facts(topics: frozenset[str] | None) -> bool:
    return topics is not None and topics <= FACTS


def _select_last(connection: apsw.Connection, limit: int, topics: frozenset[str] | None) -> list[file.Stored]:
    names = sorted(topics or ())
    if topics is not None and not names:
        return []
    facts = "fact IS NOT NULL AND " if _is_of_facts(topics) else ""
    among = "" if topics is None else f"WHERE {facts}topic IN ({', '.join('?' * len(names))}) "
    query = f"SELECT * FROM records {among}ORDER BY row DESC LIMIT ?"  # noqa: S608
    return connection.execute(query, (*names, limit)).fetchall()


def position_at(row: int) -> Position:
    """The position after row `row` of a run's file."""
    return Position(((file.RUN_FILE, row),))
