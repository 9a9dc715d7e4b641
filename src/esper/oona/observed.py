"""The file beside a run's log that its observer writes: a `Store` in SQLite, with readers.

One process writes it, the holder of the observer's lock; any number read. Derived records are kept for good: an alert that was delivered
cannot be derived again. The state can be folded again from the run. Nothing here knows what is derived, or from what.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import apsw

from esper.errors import LogError
from esper.events.envelope import MICROSECOND, SINCE, Record, RunId
from esper.oona import file
from esper.oona.contract import START, ConflictError, Page, Position, SavedState
from esper.oona.file import OBSERVED_FILE, OBSERVED_MARK
from esper.oona.places import Places

_TABLES = """
CREATE TABLE derived (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, writer TEXT NOT NULL, moment INTEGER NOT NULL,
    generation INTEGER NOT NULL, incarnation INTEGER NOT NULL, type TEXT NOT NULL, time INTEGER NOT NULL, epoch INTEGER NOT NULL,
    step INTEGER NOT NULL, cause TEXT, trace TEXT, data BLOB NOT NULL
) STRICT;
CREATE INDEX derived_by_topic ON derived (topic, row);
CREATE TABLE progress (name TEXT PRIMARY KEY, position TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE cells (name TEXT PRIMARY KEY, state BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""
_COLUMNS = "id, topic, writer, moment, generation, incarnation, type, time, epoch, step, cause, trace, data"
_INSERT = f"INSERT INTO derived ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING id"  # noqa: S608
_REACH = "INSERT INTO progress VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET position = excluded.position"
_KEEP = "INSERT INTO cells VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET state = excluded.state"
_DERIVED, _STATE = "derived", "state"


class Observed:
    """The store of one run in its observed file. Close it, or use it in a `with` statement."""

    def __init__(self, folder: Path, run: RunId) -> None:
        """Opens the file in `folder`, made if need be; a sealed one is sealed no more. Raises LogError where it cannot be written."""
        self.run = run
        self._path = folder / OBSERVED_FILE
        self._mark = folder / OBSERVED_MARK
        if not self._path.exists():
            file.create_file(self._path, run, "observer", _TABLES)
        with file.explained(self._path, "unseal"):
            self._mark.unlink(missing_ok=True)
        self._connection: apsw.Connection | None = file.open_for_writing(self._path)
        self._places = Places(self._connection, self._path)
        found, _ = file.read_meta(self._connection, self._path, _TABLES)
        if found != run:
            self.close()
            raise LogError(f"cannot write {self._path}: expected the observed file of run {run}, got that of run {found}")

    def derived_to(self) -> Position:
        """The position up to which records are derived; the state is not read."""
        return self._reached().get(_DERIVED, START)

    def saved(self) -> SavedState:
        """The progress as of the last `save`, as in `Store`."""
        reached = self._reached()
        with file.explained(self._path, "read"):
            parts = {str(name): bytes(state) for name, state in self._open().execute("SELECT name, state FROM cells")}
        return SavedState(reached.get(_DERIVED, START), reached.get(_STATE, START), parts)

    def _reached(self) -> dict[str, Position]:
        with file.explained(self._path, "read"):
            return {str(name): Position.from_text(str(text)) for name, text in self._open().execute("SELECT name, position FROM progress")}

    def save(
        self, records: Sequence[Record], derived_to: Position | None = None, parts: Mapping[str, bytes] | None = None
    ) -> tuple[Record, ...]:
        """Those of `records` that are new, as in `Store`."""
        connection = self._open()
        with file.explained(self._path, "append to"), connection:
            new = tuple(record for record in records if self._insert(connection, record))
            if derived_to is not None:
                connection.execute(_REACH, (_DERIVED, derived_to.to_text()))
                if parts is not None:
                    connection.execute(_REACH, (_STATE, derived_to.to_text()))
                    connection.executemany(_KEEP, parts.items())
            self._places.require("append to")
        self._places.require("append to")
        return new

    def _insert(self, connection: apsw.Connection, record: Record) -> bool:
        if connection.execute(_INSERT, _to_row(record)).fetchone() is not None:
            return True
        stored = connection.execute("SELECT topic, type, data FROM derived WHERE id = ?", (record.id,)).fetchone()
        if stored != (record.topic, record.type, record.data):
            raise ConflictError(
                f"run {self.run}, {record.topic}: derived event {record.id} stands in {self._path} with other bytes already"
            )
        return False

    def seal(self) -> bool:
        """Closes the file as ended, until it is opened for writing again; false when readers held it open for five seconds."""
        connection = self._open()
        self._places.require("seal")
        (count,) = connection.execute("SELECT count(*) FROM derived").fetchall()[0]
        sealed = file.leave_wal(connection, self._path)
        connection.close()
        self._connection = None
        if sealed:
            file.write_mark(self._mark, f"{count}\n")
        return sealed

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise LogError(f"cannot use {self._path}: it is closed")
        return self._connection

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._connection is not None:
            self._connection = None
            self._places.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_observed(folder: Path) -> bool:
    """True when an observer has written about the run in `folder`."""
    return (folder / OBSERVED_FILE).exists()


def is_settled(folder: Path) -> bool:
    """True when the observed file in `folder` is sealed: nothing about the run is firing or undelivered."""
    return (folder / OBSERVED_MARK).exists()


def read_observed(
    folder: Path, run: RunId, position: Position | None = None, limit: int = 1000, topics: frozenset[str] | None = None
) -> Page:
    """At most `limit` derived records of the run in `folder` after `position`, of `topics`, oldest first; none where it is not observed.

    Opens the file for this one request. Raises LogError for a damaged one.
    """
    row = (position or START).row(OBSERVED_FILE)
    if not is_observed(folder):
        return Page((), _at(row))
    among = "" if topics is None else f" AND topic IN ({', '.join('?' * len(topics))})"
    query = f"SELECT row, {_COLUMNS} FROM derived WHERE row > ?{among} ORDER BY row LIMIT ?"  # noqa: S608
    with _reading(folder) as connection:
        rows: list[file.Row] = connection.execute(query, (row, *sorted(topics or ()), limit)).fetchall()
        end = _end(connection)
    last = int(rows[-1][0]) if rows and len(rows) == limit else max(row, end)
    return Page(tuple(_to_record(run, found) for found in rows), _at(last))


def observed_rows(folder: Path, run: RunId, after: int, limit: int) -> tuple[tuple[int, Record], ...]:
    """At most `limit` derived records after row `after`, each with its row; none where the run in `folder` is not observed."""
    if not is_observed(folder):
        return ()
    query = f"SELECT row, {_COLUMNS} FROM derived WHERE row > ? ORDER BY row LIMIT ?"  # noqa: S608
    with _reading(folder) as connection:
        rows: list[file.Row] = connection.execute(query, (after, limit)).fetchall()
    return tuple((int(row[0]), _to_record(run, row)) for row in rows)


def observed_records(folder: Path, run: RunId, topic: str) -> Iterator[Record]:
    """The derived records of `topic` of the run in `folder` that stand there now, oldest first, a page at a time."""
    position: Position | None = None
    while (page := read_observed(folder, run, position, topics=frozenset({topic}))).records:
        yield from page.records
        position = page.position


def end_of_observed(folder: Path) -> Position:
    """The position after the last derived record of the run in `folder`; the start where it is not observed."""
    if not is_observed(folder):
        return _at(0)
    with _reading(folder) as connection:
        return _at(_end(connection))


def observed_to(folder: Path) -> Position:
    """The position in its log up to which the run in `folder` is observed; the start where it is not. Raises LogError."""
    if not is_observed(folder):
        return START
    with _reading(folder) as connection:
        text = connection.execute("SELECT position FROM progress WHERE name = ?", (_DERIVED,)).get
    return START if text is None else Position.from_text(str(text))


def check_observed(folder: Path, run: RunId) -> None:
    """Raises LogError, saying what may be done, where the observed file of `run` in `folder` is damaged, or another's. Reads all of it.

    No file is none.
    """
    if not is_observed(folder):
        return
    path = folder / OBSERVED_FILE
    try:
        with _reading(folder) as connection:
            file.check_integrity(connection, path)
            found, _ = file.read_meta(connection, path, _TABLES)
            if found != run:
                raise LogError(f"expected the observed file of run {run} at {path}, got that of run {found}: move it away")
    except LogError as error:
        raise LogError(f"{error}, or remove it: the run is whole, only what people were told of it is lost then") from error


@contextmanager
def _reading(folder: Path) -> Iterator[apsw.Connection]:
    """A connection for one request, and one view of the file."""
    path = folder / OBSERVED_FILE
    immutable = is_settled(folder) and not os.access(folder, os.W_OK)
    with file.explained(path, "read"), closing(file.open_for_reading(path, immutable=immutable)) as connection, connection:
        yield connection


def _end(connection: apsw.Connection) -> int:
    ends: list[file.Row] = connection.execute("SELECT coalesce(max(row), 0) FROM derived").fetchall()
    return int(ends[0][0])


def _at(row: int) -> Position:
    return Position.at(OBSERVED_FILE, row)


def _to_row(record: Record) -> file.Row:
    identity, _, topic, writer, _, _, moment, generation, incarnation, kind, time, epoch, step, cause, trace, _, data = record
    microseconds = (time - SINCE) // MICROSECOND
    return identity, topic, writer, moment, generation, incarnation, kind, microseconds, epoch, step, cause, trace, data


def _to_record(run: RunId, row: file.Row) -> Record:
    _, identity, topic, writer, moment, generation, incarnation, kind, time, epoch, step, cause, trace, data = row
    written, clocks = SINCE + MICROSECOND * time, (epoch, step, cause, trace)
    return Record(identity, run, topic, writer, None, None, moment, generation, incarnation, kind, written, *clocks, None, data)
