"""The projection of a log into DuckDB: `events` with every record, the typed tables made from them, and the positions they were read to.

Rows and positions are written in one transaction, so a process that is killed at any moment leaves a projection that goes on. A write-ahead
log beside the file is never replayed: what stands in it alone is read again, and one that was damaged or planted changes nothing. All of it
can be made again from the log, but for `conflicts`: what was found altered stays found. The file has one owner at a time (`ownership`).
"""

import hashlib
import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

import duckdb
import pyarrow as pa

from esper.audit.reading import (
    FILES,
    MOST_RECORDS,
    SCHEMA,
    EventRows,
    LastOfTopic,
    Reached,
    Reader,
    has_file,
    stamp_of,
)
from esper.audit.snapshot import CONFINED, wals_of
from esper.audit.sql_files import views
from esper.audit.table_sql import columns_of, comment_on, comments, ddl, described, insertion, selection, sql_text, tables_of
from esper.audit.tables import BY_NAME, OWN, TABLES, Table
from esper.errors import DataError, LogError
from esper.events.envelope import RunId
from esper.events.fields import Event
from esper.folds.gaps_and_duplicates import Admission
from esper.oona.directory import Directory

AUDIT_FILE = "audit.duckdb"
# Read since the last checkpoint, and in memory alone: what a projector that is killed reads again, in some seconds.
_MOST_HELD_BYTES = 512 << 20


class Refreshed(NamedTuple):
    """Number of records that a refresh added, of files that it read, and the files that could not be read to their end."""

    records: int
    files: int
    problems: tuple[Reached, ...]


class Projection:
    """The projection of the log in `directory`, in the hands of its owner. Close it, or use it in a `with` statement. For one thread."""

    def __init__(self, directory: Directory, path: Path | None = None) -> None:
        """Opens the file, made if need be; a damaged one, or one of another version, is made anew. Raises LogError."""
        self.directory = directory
        self.path = directory.path / AUDIT_FILE if path is None else path
        self.made_anew: str | None = None
        self._held_bytes = 0
        self._connection = self._opened()
        try:
            problem = self._fault()
            if problem is not None:
                self.rebuild(problem)
        except BaseException:
            self.close()
            raise

    def refresh(self, runs: Collection[RunId] | None = None) -> Refreshed:
        """Reads everything that is new in `runs` (None: all); it is durable after the next checkpoint, or when the file is closed.

        Where the file was removed or replaced since it was opened, it is made anew before.
        """
        if not self.is_in_place:
            self.rebuild("it was removed or replaced while it was open")
        changed = self._changed(self.directory.names(hidden=True) if runs is None else runs)
        records, problems = 0, []
        for batch in _ahead(self._reader({run for run, _ in changed}).batches(changed)):
            self._write(batch)
            self._held_bytes += batch.table.nbytes
            if self._held_bytes > _MOST_HELD_BYTES:
                self.checkpoint()
            records += batch.table.num_rows
            problems += [reached for reached in batch.reached if reached.problem is not None]
        return Refreshed(records, len(changed), tuple(problems))

    def rebuild(self, why: str) -> None:
        """Makes the file anew, empty; conflicts stay where they can be read. The next refresh reads everything."""
        kept = self._kept_conflicts()
        self.close()
        _remove(self.path)
        self._connection = self._opened()
        if kept is not None:
            with self.registered("kept", kept), self.transaction():
                self._connection.execute("INSERT INTO conflicts SELECT * FROM kept")
                self.count_rows("conflicts", kept.num_rows)
        self.made_anew = why

    def digests(self) -> dict[str, str]:
        """A digest of each typed table and of `events`, over their rows in order: equal for equal rows, whenever and however they came."""
        return {name: self._digest(f'"{name}"') for name in ("events", *BY_NAME)}

    @property
    def is_in_place(self) -> bool:
        """True where the file at the path is the one that was opened, and no link."""
        return _identity(self.path) == self._opened_as

    @property
    def version(self) -> str:
        """A name for what the file holds now: it changes with every write."""
        made, writes = self._connection.execute("SELECT made, writes FROM meta").fetchall()[0]
        return f"{made}-{writes}"

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The owner's own connection, for statements of Esper itself."""
        return self._connection

    def count_rows(self, name: str, added: int) -> None:
        """Counts rows that were added to the table `name`, within a transaction."""
        if added:
            self._connection.execute("UPDATE table_rows SET rows = rows + ? WHERE name = ?", [added, name])

    @contextmanager
    def registered(self, name: str, rows: pa.Table) -> Iterator[None]:
        """Within, statements may read `rows` by that name."""
        self._connection.register(name, rows)
        try:
            yield
        finally:
            self._connection.unregister(name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Within, everything is written together or not at all."""
        self._connection.begin()
        try:
            yield
            self._connection.execute("UPDATE meta SET writes = writes + 1")
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise

    def checkpoint(self) -> None:
        """Writes everything into the one file, durably: from then on it can be copied."""
        self._connection.execute("CHECKPOINT")
        self._held_bytes = 0

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> duckdb.DuckDBPyConnection:
        if self.path.is_symlink():  # Somebody else's: DuckDB would write where it leads.
            self.path.unlink()
        _remove_wal(self.path)
        before = _identity(self.path)
        try:
            connection = _connected(self.path)
        except duckdb.IOException as error:
            if "lock" in str(error).lower():
                raise LogError(f"cannot open {self.path}: another process has it open ({_first_line(error)})") from error
            connection, before = self._replaced(error), None
        except duckdb.Error as error:
            connection, before = self._replaced(error), None
        self._opened_as = _identity(self.path)
        if before is None:
            _make(connection)
        elif before != self._opened_as:
            connection.close()
            raise LogError(f"cannot open {self.path}: it was removed or replaced at that moment; try again")
        return connection

    def _replaced(self, error: duckdb.Error) -> duckdb.DuckDBPyConnection:
        """A connection to a new file in place of one that DuckDB cannot open."""
        self.made_anew = f"it could not be opened: {_first_line(error)}"
        _remove(self.path)
        try:
            return _connected(self.path)
        except duckdb.Error as second:
            raise LogError(f"cannot make {self.path}: {_first_line(second)}") from second

    def _fault(self) -> str | None:
        """The reason not to trust the file; None: there is none. DuckDB may lose the end of a damaged WAL without a word."""
        try:
            if self._connection.execute("SELECT tables FROM meta").fetchall() != [(_version(),)]:
                return "its tables are those of another version"
            for name, rows in self._connection.execute("SELECT name, rows FROM table_rows").fetchall():
                (counted,) = self._connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0]
                if counted != rows:
                    return f"table {name} has {counted} rows, and {rows} were written"
            uneven = self._connection.execute(_UNEVEN).fetchall()
        except duckdb.Error as error:
            return f"it cannot be read: {_first_line(error)}"
        return f"run {uneven[0][0]} has {uneven[0][2]} records in events, and {uneven[0][1]} were read" if uneven else None

    def _changed(self, runs: Iterable[RunId]) -> list[tuple[RunId, str]]:
        stamps = {(run, file): stamp for run, file, stamp in self._connection.execute("SELECT run, file, stamp FROM positions").fetchall()}
        return [
            (run, file)
            for run in runs
            for file in FILES
            if stamps.get((run, file), "") != (stamp := stamp_of(self.directory.path / run, file))
            or (stamp == "" and (run, file) in stamps)
            if has_file(self.directory, run, file) or (run, file) in stamps
        ]

    def _reader(self, runs: Collection[RunId]) -> Reader:
        rows = {(run, file): row for run, file, row in self._connection.execute('SELECT run, file, "row" FROM positions').fetchall()}
        topics = {
            (run, topic): LastOfTopic(Admission(sequence or 0, b"", ((incarnation, 1),) if incarnation else ()), bytes(tied or b""))
            for run, topic, sequence, incarnation, tied in self._connection.execute(_LAST_OF_TOPICS, [list(runs)]).fetchall()
        }
        return Reader(self.directory, rows, topics)

    def _write(self, batch: EventRows) -> None:
        """Makes `batch` durable, all or nothing. A record that a typed table refuses stays in `events`, with the reason."""
        try:
            self._insert_batch(batch)
        except (duckdb.DataError, duckdb.InvalidInputException) as error:
            marked = self._marked(batch)
            if marked.table.equals(batch.table):
                raise DataError(f"cannot project {batch.table.num_rows} records: {_first_line(error)}") from error
            self._insert_batch(marked)

    def _insert_batch(self, batch: EventRows) -> None:
        with self.registered("batch", batch.table), self.transaction():
            # Facts apart: payloads are compressed two thousand at a time, and who asks for facts has not to open those of telemetry.
            facts, others = (f"SELECT * FROM batch WHERE fact IS {which}" for which in ("NOT NULL", "NULL"))
            self._connection.execute(f"INSERT INTO events {facts} UNION ALL {others}")
            self.count_rows("events", batch.table.num_rows)
            for table, kind in tables_of(batch.kinds):
                self.count_rows(table.name, self._connection.execute(insertion(table, kind, "batch")).fetchall()[0][0])
            self._reach(batch.reached)

    def _marked(self, batch: EventRows) -> EventRows:
        """`batch` with a problem at every record that a typed table refuses."""
        problems = batch.table.column("problem").to_pylist()
        with closing(duckdb.connect(config=dict(CONFINED))) as scratch:
            for table, kind in tables_of(batch.kinds):
                for at, reason in _refused(scratch, table, kind, batch.table):
                    problems[at] = f"cannot stand in table {table.name}: {reason}"
        index = SCHEMA.get_field_index("problem")
        return batch._replace(table=batch.table.set_column(index, SCHEMA.field(index), pa.array(problems, pa.string())))

    def _reach(self, reached: Iterable[Reached]) -> None:
        for one in reached:
            given = {"run": one.run, "file": one.file}
            [(records, compared_at)] = self._connection.execute(_COUNTED, given).fetchall()
            self._connection.execute("DELETE FROM positions WHERE run = $run AND file = $file", given)
            values = (*given.values(), one.row, records, one.problem, one.gone, one.mark, one.stamp, now(), compared_at)
            self._connection.execute(f"INSERT INTO positions VALUES ({', '.join('?' * len(values))})", list(values))

    def _kept_conflicts(self) -> pa.Table | None:
        try:
            found: pa.Table = self._connection.sql("SELECT * FROM conflicts").to_arrow_table()
        except duckdb.Error:
            return None
        return found if found.num_rows else None

    def _digest(self, relation: str) -> str:
        (found,) = self._connection.execute(_DIGEST.format(relation=relation)).fetchall()[0]
        return str(found)


_LAST_OF_TOPICS = """
SELECT run, topic, max(sequence) FILTER (problem IS NULL), max(incarnation) FILTER (problem IS NULL), arg_max(chain, "row")
FROM events WHERE file = 'run' AND run IN (SELECT unnest(?)) GROUP BY run, topic
"""
_COUNTED = """
SELECT (SELECT count(*) FROM events WHERE run = $run AND file = $file),
    (SELECT compared_at FROM positions WHERE run = $run AND file = $file)
"""
_UNEVEN = """
SELECT p.run, p.records, coalesce(e.records, 0)
FROM positions AS p
LEFT JOIN (SELECT run, file, count(*) AS records, max("row") AS last FROM events GROUP BY run, file) AS e USING (run, file)
WHERE p.records <> coalesce(e.records, 0) OR e.last > p."row"
"""
# Digests of rows, then of a thousand moments at a time: a list of ten million digests would be a third of a gigabyte.
_DIGEST = """
SELECT coalesce(sha256(string_agg(part, '' ORDER BY run, thousand)), sha256('')) FROM (
    SELECT run, moment // 1000 AS thousand, sha256(string_agg(row_digest, '' ORDER BY moment, row_digest)) AS part
    FROM (SELECT run, moment, sha256(CAST(t AS VARCHAR)) AS row_digest FROM {relation} AS t) GROUP BY run, thousand
)
"""


def _make(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes every table and view."""
    connection.begin()
    for name, meaning, columns in described():
        connection.execute(ddl(name, columns))
        for comment in comments(name, meaning, columns):
            connection.execute(comment)
    connection.execute("CREATE TABLE table_rows (name VARCHAR, rows BIGINT)")
    connection.execute(
        comment_on("TABLE", "table_rows", "Rows of each table as they were written, to be compared when the file is opened.")
    )
    counted = [name for name, _, _ in described() if name not in ("positions", "checkpoint_files")]
    connection.execute("INSERT INTO table_rows SELECT unnest(?), 0", [counted])
    for view in views():
        connection.execute(view.text)
        connection.execute(comment_on(view.kind, view.name, view.meaning))
    connection.execute("CREATE TABLE meta (tables VARCHAR, made VARCHAR, writes BIGINT)")
    connection.execute(comment_on("TABLE", "meta", "The version of the tables, and how often this file was written."))
    connection.execute("INSERT INTO meta VALUES (?, ?, 0)", [_version(), secrets.token_hex(4)])
    connection.commit()


@cache
def _version() -> str:
    """A digest of everything that the tables are made by."""
    own = [ddl(name, columns) for name, (_, columns) in OWN.items()]
    typed = [
        text for table in TABLES for text in (ddl(table.name, columns_of(table)), *(selection(table, kind, "e") for kind in table.kinds))
    ]
    return hashlib.sha256("\x1f".join((*own, *typed, *(view.text for view in views()))).encode()).hexdigest()


def _ahead(batches: Iterator[EventRows]) -> Iterator[EventRows]:
    """The same batches; the next one is read, on a thread of its own, while one is written."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _refused(scratch: duckdb.DuckDBPyConnection, table: Table, kind: type[Event], records: pa.Table) -> Iterator[tuple[int, str]]:
    """The places of the `records` that `table` refuses, with the reason: looked for by halves, for nearly all are taken."""
    halves = [(0, records.num_rows)]
    while halves:
        at, count = halves.pop()
        scratch.register("part", records.slice(at, count))
        try:
            # Into a table of its types: the SELECT alone does not read what it does not return.
            scratch.execute(f"CREATE OR REPLACE TEMP TABLE made AS {selection(table, kind, 'part')}")
        except duckdb.Error as error:
            if count == 1:
                yield at, _first_line(error)
            else:
                halves += [(at, count // 2), (at + count // 2, count - count // 2)]


def _connected(path: Path) -> duckdb.DuckDBPyConnection:
    """A connection to the file, beside which no write-ahead log is written: what is in no checkpoint is read from the log again.

    A log would hold every payload once more, and be read by nobody.
    """
    connection = duckdb.connect(config={**CONFINED, "enable_external_access": True})
    try:
        named = sql_text(os.fspath(path))
        connection.execute(f"ATTACH {named} AS audit (RECOVERY_MODE no_wal_writes, ROW_GROUP_SIZE {MOST_RECORDS})")
        connection.execute("USE audit")
        connection.execute("SET enable_external_access = false")
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what stands at `path`, a link itself included; None: nothing."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LogError(f"cannot make {path} anew: expected a file that may be removed, got: {error.strerror}") from error


def _remove_wal(path: Path) -> None:
    """Removes what a process that was killed, or anybody else, left beside the file."""
    for left in wals_of(path):
        left.unlink(missing_ok=True)


def now() -> datetime:
    """The time as the tables have it: in UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
