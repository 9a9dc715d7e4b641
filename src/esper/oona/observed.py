"""The file beside a run's log that its observer writes: the derived records, the position that they were derived
to, and the state.

One process writes it, the holder of the observer's lock; any number read. Derived records are kept for good: an alert that was delivered
cannot be derived again. The state can be folded again from the run. Nothing here knows what is derived, or from what.

Its end stands in `meta`: the number of records, the chain over all of them, the positions, and a digest of each part of the state. What is
edited, removed or added by anyone who does not make the end anew is found by it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

import apsw

from esper.errors import DataError, LogError
from esper.events.digests import chain
from esper.events.envelope import MICROSECOND, SINCE, Record, RunId
from esper.oona import file
from esper.oona.contract import START, ConflictError, Page, Position
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
_KEEP_END = "INSERT INTO meta VALUES ('end', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@dataclass(frozen=True, slots=True)
class _End:
    """The end of an observed file: how many records stand there, the chain over them, positions, and sha256 of each part of the state."""

    records: int = 0
    chain: str = ""
    positions: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)

    def after(self, record: Record) -> "_End":
        """The end with `record` behind it."""
        before = bytes.fromhex(self.chain) + f"{record.id} {record.generation} ".encode()
        return replace(self, records=self.records + 1, chain=chain(record, before).hex())

    def keeping(self, parts: Mapping[str, bytes]) -> "_End":
        """The end with these parts of the state beside the others."""
        return replace(self, parts={**self.parts, **{name: hashlib.sha256(state).hexdigest() for name, state in parts.items()}})

    def to_text(self) -> str:
        """The end as it stands in `meta`."""
        return json.dumps({"records": self.records, "chain": self.chain, "positions": self.positions, "parts": self.parts})


class SavedState(NamedTuple):
    """A host's progress with a run: records are derived up to `derived_to`; `parts` are as they were after the record at `state_to`.

    Without `parts` the state is folded again from the run's first record, and `state_to` is the start.
    """

    derived_to: Position
    state_to: Position
    parts: Mapping[str, bytes]


class Observed:
    """The observed file of one run, for its one writer. Close it, or use it in a `with` statement.

    A host of cells loads the state, applies the log from `state_to` to `derived_to` without writing what it derives, and goes on from
    there. The order of its calls is the order of the log; a call may be lost with the process, and is then made again with the same
    records.
    """

    def __init__(self, folder: Path, run: RunId) -> None:
        """Opens the file in `folder`, made if need be; a sealed one is sealed no more. Raises LogError where it cannot be written."""
        self.run = run
        self._path = folder / OBSERVED_FILE
        self._mark = folder / OBSERVED_MARK
        if not self._path.exists():
            if folder.is_symlink() and not (folder / file.RUN_FILE).exists():
                raise LogError(f"cannot create {self._path}: expected the folder of run {run}, got a link to one without its log")
            file.create_file(self._path, run, "observer", _TABLES)
        with file.explained(self._path, "unseal"):
            self._mark.unlink(missing_ok=True)
        self._connection: apsw.Connection | None = file.open_for_writing(self._path)
        self._places = Places(self._connection, self._path)
        found, _ = file.read_meta(self._connection, self._path, _TABLES)
        try:
            if found != run:
                raise LogError(f"cannot write {self._path}: expected the observed file of run {run}, got that of run {found}")
            end = _written_end(self._connection, self._path)
            with file.explained(self._path, "read"):
                found_end = replace(_last_of(self._connection), chain=end.chain, parts=end.parts)
            _require_end(self._path, end, found_end)
        except BaseException:
            self.close()
            raise

    def derived_to(self) -> Position:
        """The position up to which records are derived; the state is not read."""
        return self._reached().get(_DERIVED, START)

    def saved(self) -> SavedState:
        """The progress as of the last `save` that returned."""
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
        """Those of `records` that are new. Everything of one call is durable together when it returns, or nothing is.

        A record whose id is there already is not written again. `parts` (None: no state) are the parts of the state that changed since the
        last call that had some: with the others as they were, they are the state after `derived_to`. Raises ConflictError where a record's
        id is there with another topic, type or payload, LogError where nothing can be written; nothing has changed then.
        """
        connection = self._open()
        with file.explained(self._path, "append to"), connection:
            new = tuple(record for record in records if self._insert(connection, record))
            if derived_to is not None:
                connection.execute(_REACH, (_DERIVED, derived_to.to_text()))
                if parts is not None:
                    connection.execute(_REACH, (_STATE, derived_to.to_text()))
                    connection.executemany(_KEEP, parts.items())
            if new or derived_to is not None:
                self._move_end(connection, new, parts or {})
            self._places.require("append to")
        self._places.require("append to")
        return new

    def _move_end(self, connection: apsw.Connection, new: Sequence[Record], parts: Mapping[str, bytes]) -> None:
        """Keeps the end after these. The one before is read where it stands: this process may have the file open twice."""
        end = _written_end(connection, self._path).keeping(parts)
        for record in new:
            end = end.after(record)
        end = replace(end, positions=_last_of(connection).positions)
        connection.execute(_KEEP_END, (end.to_text(),))

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
        end = _last_row(connection)
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
        return _at(_last_row(connection))


def observed_to(folder: Path) -> Position:
    """The position in its log up to which the run in `folder` is observed; the start where it is not. Raises LogError."""
    if not is_observed(folder):
        return START
    with _reading(folder) as connection:
        text = connection.execute("SELECT position FROM progress WHERE name = ?", (_DERIVED,)).get
    return START if text is None else Position.from_text(str(text))


def check_observed(folder: Path, run: RunId) -> None:
    """Raises LogError, saying what may be done, where the observed file of `run` in `folder` is damaged, altered, or another's.

    Reads all of it. No file is none.
    """
    path, mark = folder / OBSERVED_FILE, folder / OBSERVED_MARK
    if not is_observed(folder):
        if is_settled(folder):
            raise LogError(f"expected {path} beside its mark {mark}, got nothing: what people were told of the run is lost")
        return
    try:
        with _reading(folder) as connection:
            found, _ = file.read_meta(connection, path, _TABLES)
            if found != run:
                raise LogError(f"expected the observed file of run {run} at {path}, got that of run {found}: move it away")
            file.check_integrity(connection, path)
            end = _found_end(connection, path, run)
            _require_end(path, _written_end(connection, path), end)
        _require_mark(mark, end.records)
    except LogError as error:
        raise LogError(f"{error}, or remove it: the run is whole, only what people were told of it is lost then") from error


@contextmanager
def _reading(folder: Path) -> Iterator[apsw.Connection]:
    """A connection for one request, and one view of the file."""
    path = folder / OBSERVED_FILE
    # Where shared memory cannot be made, and no WAL holds more.
    immutable = not os.access(folder, os.W_OK) and not file.bytes_in(folder / f"{OBSERVED_FILE}-wal")
    with file.explained(path, "read"), closing(file.open_for_reading(path, immutable=immutable)) as connection, connection:
        yield connection


def _written_end(connection: apsw.Connection, path: Path) -> _End:
    """The end that the observer kept. Raises LogError where there is none beside records, or something else."""
    with file.explained(path, "read"):
        text = connection.execute("SELECT value FROM meta WHERE key = 'end'").get
    if text is None:
        return _End()
    try:
        return _End(**json.loads(str(text)))
    except (ValueError, TypeError) as error:
        raise LogError(f"cannot trust {path}: expected its end in its table meta, got {str(text)[:80]!r}") from error


def _last_of(connection: apsw.Connection) -> _End:
    """Number of records and positions, at one look; nothing is read of what stands between."""
    positions = {str(name): str(text) for name, text in connection.execute("SELECT name, position FROM progress")}
    return _End(_last_row(connection), positions=positions)


def _found_end(connection: apsw.Connection, path: Path, run: RunId) -> _End:
    """The end that follows from everything in the file. Raises LogError for a record that cannot be read, or is missing."""
    with file.explained(path, "read"):
        end = replace(_last_of(connection), records=0)
        for row in connection.execute(f"SELECT row, {_COLUMNS} FROM derived ORDER BY row"):  # noqa: S608
            try:
                end = end.after(_to_record(run, row))
            except (TypeError, OverflowError, DataError) as error:
                raise LogError(f"cannot trust {path}: row {row[0]} holds no record: {error}") from error
            if row[0] != end.records:
                raise LogError(f"cannot trust {path}: expected row {end.records}, got row {row[0]}")
        return end.keeping({str(name): bytes(state) for name, state in connection.execute("SELECT name, state FROM cells")})


def _require_end(path: Path, written: _End, found: _End) -> None:
    for name in _End.__dataclass_fields__:
        if (expected := getattr(written, name)) != (got := getattr(found, name)):
            what = "other ones" if isinstance(got, dict) else "another" if isinstance(got, str) else got
            expected = "those" if isinstance(expected, dict) else "the one" if isinstance(expected, str) else expected
            raise LogError(f"cannot trust {path}: expected {expected} {name} that its observer wrote, got {what}: move it away")


def _require_mark(mark: Path, records: int) -> None:
    """Raises LogError where `mark` is there with another number of records."""
    with file.explained(mark, "read"):
        if mark.exists() and (text := mark.read_text(errors="replace")) != f"{records}\n":
            raise LogError(
                f"cannot trust {mark}: expected {records}, the number of records beside it, got {text.strip()[:20]!r}: remove it"
            )


def _last_row(connection: apsw.Connection) -> int:
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
