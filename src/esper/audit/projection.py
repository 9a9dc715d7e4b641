"""The projection of a log into DuckDB: `events` with every record, the typed tables made from them, and the positions they were read to.

Rows and positions are written in one transaction, so a process that is killed at any moment leaves a projection that goes on. A write-ahead
log beside the file is never replayed: what stands in it alone is read again, and one that was damaged or planted changes nothing. All of it
can be made again from the log, but for `conflicts`: what was found altered stays found. The file has one owner at a time (`ownership`).
"""

import hashlib
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Self

import duckdb
import pyarrow as pa

from esper.audit.reading import (
    FILES,
    MOST_RECORDS,
    SCHEMA,
    EventRow,
    EventRows,
    LastOfTopic,
    Reached,
    Reader,
    arrow_of,
    has_file,
    row_of,
    row_pages,
    stamp_of,
)
from esper.audit.table_sql import columns_of, comment_on, comments, ddl, described, insertion, selection, sql_text, tables_of
from esper.audit.tables import BY_NAME, OWN, TABLES, Table
from esper.errors import DataError, LogError
from esper.events.envelope import RunId
from esper.events.fields import Event
from esper.folds.admit import Admission
from esper.oona.checkpoint_files import digest_of_files
from esper.oona.directory import Directory
from esper.oona.file import MIRRORED_MARK

AUDIT_FILE = "audit.duckdb"
_SETTINGS: Mapping[str, str | int | bool] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "allow_community_extensions": False,
}
# Read since the last checkpoint, and in memory alone: what a projector that is killed reads again, in some seconds.
_MOST_HELD_BYTES = 512 << 20


class Refreshed(NamedTuple):
    """Number of records that a refresh added, of files that it read, and the files that could not be read to their end."""

    records: int
    files: int
    problems: tuple[Reached, ...]


class State(NamedTuple):
    """The contents of a projection: rows by table, runs, why files of runs could not be read, and conflicts by run."""

    runs: int
    tables: dict[str, int]
    problems: dict[RunId, str]
    conflicts: dict[RunId, int]


class StoredView(NamedTuple):
    """A view or a macro: its name, `VIEW`, `MACRO` or `MACRO TABLE`, its meaning in a line, and the statement that makes it."""

    name: str
    kind: str
    meaning: str
    text: str


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
        """Reads everything that is new in `runs` (None: all); it is durable after the next checkpoint, or when the file is closed."""
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

    def compare(self, runs: Iterable[RunId]) -> int:
        """Compares everything of `runs` that was read before with the log as it is now, and looks at the files of their checkpoints.

        The number of conflicts that are new.
        """
        new = 0
        for run in runs:
            new += sum(self._compare(run, file) for file in FILES)
            self._look_at_checkpoints(run)
        return new

    def rebuild(self, why: str) -> None:
        """Makes the file anew, empty; conflicts stay where they can be read. The next refresh reads everything."""
        kept = self._kept_conflicts()
        self.close()
        self.path.unlink(missing_ok=True)
        self._connection = self._opened()
        if kept is not None:
            with self._registered("kept", kept), self._transaction():
                self._connection.execute("INSERT INTO conflicts SELECT * FROM kept")
                self._count("conflicts", kept.num_rows)
        self.made_anew = why

    def digests(self) -> dict[str, str]:
        """A digest of each typed table and of `events`, over their rows in order: equal for equal rows, whenever and however they came."""
        return {name: self._digest(f'"{name}"') for name in ("events", *BY_NAME)}

    def rederived(self, name: str) -> str:
        """The digest that the typed table `name` would have if it were derived from `events` now."""
        table = BY_NAME[name]
        return self._digest(" UNION ALL ".join(f"({selection(table, kind, 'events')})" for kind in table.kinds).join("()"))

    @property
    def version(self) -> str:
        """A name for what the file holds now: it changes with every write."""
        made, writes = self._connection.execute("SELECT made, writes FROM meta").fetchall()[0]
        return f"{made}-{writes}"

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The owner's own connection, for statements of Esper itself."""
        return self._connection

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
        fresh = not self.path.exists()
        _remove_wal(self.path)
        try:
            connection = _connected(self.path)
        except duckdb.IOException as error:
            if "lock" in str(error).lower():
                raise LogError(f"cannot open {self.path}: another process has it open ({_first_line(error)})") from error
            connection = self._replaced(error)
            fresh = True
        except duckdb.Error as error:
            connection = self._replaced(error)
            fresh = True
        if fresh:
            _make(connection)
        return connection

    def _replaced(self, error: duckdb.Error) -> duckdb.DuckDBPyConnection:
        """A connection to a new file in place of one that DuckDB cannot open."""
        self.made_anew = f"it could not be opened: {_first_line(error)}"
        self.path.unlink(missing_ok=True)
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
        with self._registered("batch", batch.table), self._transaction():
            # Facts apart: payloads are compressed two thousand at a time, and who asks for facts has not to open those of telemetry.
            facts, others = (f"SELECT * FROM batch WHERE fact IS {which}" for which in ("NOT NULL", "NULL"))
            self._connection.execute(f"INSERT INTO events {facts} UNION ALL {others}")
            self._count("events", batch.table.num_rows)
            for table, kind in tables_of(batch.kinds):
                self._count(table.name, self._connection.execute(insertion(table, kind, "batch")).fetchall()[0][0])
            self._reach(batch.reached)

    def _marked(self, batch: EventRows) -> EventRows:
        """`batch` with a problem at every record that a typed table refuses."""
        problems = batch.table.column("problem").to_pylist()
        with closing(duckdb.connect(config=dict(_SETTINGS))) as scratch:
            for table, kind in tables_of(batch.kinds):
                for at, reason in _refused(scratch, table, kind, batch.table):
                    problems[at] = f"cannot stand in table {table.name}: {reason}"
        index = SCHEMA.get_field_index("problem")
        return batch._replace(table=batch.table.set_column(index, SCHEMA.field(index), pa.array(problems, pa.string())))

    def _reach(self, reached: Iterable[Reached]) -> None:
        for one in reached:
            (records,) = self._connection.execute("SELECT count(*) FROM events WHERE run = ? AND file = ?", [one.run, one.file]).fetchall()[
                0
            ]
            compared = self._connection.execute(
                "SELECT compared_at FROM positions WHERE run = ? AND file = ?", [one.run, one.file]
            ).fetchall()
            self._connection.execute("DELETE FROM positions WHERE run = ? AND file = ?", [one.run, one.file])
            self._connection.execute(
                "INSERT INTO positions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    one.run,
                    one.file,
                    one.row,
                    records,
                    one.problem,
                    one.gone,
                    one.mark,
                    one.stamp,
                    _now(),
                    compared[0][0] if compared else None,
                ],
            )

    def _compare(self, run: RunId, file: str) -> int:
        """Compares one file, a page at a time, and notes what differs; the number of conflicts that are new."""
        known = self._connection.execute('SELECT "row" FROM positions WHERE run = ? AND file = ?', [run, file]).fetchall()
        if not known:
            return 0
        last, before, new = int(known[0][0]), 0, 0
        try:
            for page in row_pages(self.directory, run, file, 0) if has_file(self.directory, run, file) else ():
                new += self._note(run, file, before, page[-1][0], [row_of(file, row, record) for row, record in page if row <= last])
                before = page[-1][0]
        except LogError:
            return new  # That it cannot be read stands in `positions`.
        new += self._note(run, file, before, last, [])
        with self._transaction():
            self._connection.execute("UPDATE positions SET compared_at = ? WHERE run = ? AND file = ?", [_now(), run, file])
        return new

    def _note(self, run: RunId, file: str, after: int, upto: int, rows: Sequence[EventRow]) -> int:
        """Notes the conflicts between `rows` and what was read before of rows `after` to `upto`."""
        given = {"run": run, "file": file, "after": after, "upto": upto, "now": _now()}
        with self._registered("found", arrow_of(rows)), self._transaction():
            added = int(self._connection.execute(_CONFLICTING, given).fetchall()[0][0])
            self._count("conflicts", added)
        if added:
            self.checkpoint()  # The log cannot give it again.
        return added

    def _look_at_checkpoints(self, run: RunId) -> None:
        """Takes the digests of the files of the checkpoints that `run` keeps; a copy from Kafka has none."""
        is_copy = (self.directory.path / run / MIRRORED_MARK).exists()
        kept = [] if is_copy else [name for (name,) in self._connection.execute(_KEPT_CHECKPOINTS, [run]).fetchall()]
        looks = [(run, name, *digest_of_files(self.directory.checkpoints(run), name), _now()) for name in kept]
        with self._transaction():
            self._connection.execute("DELETE FROM checkpoint_files WHERE run = ?", [run])
            if looks:
                self._connection.executemany("INSERT INTO checkpoint_files VALUES (?, ?, ?, ?, ?)", looks)

    def _count(self, name: str, added: int) -> None:
        if added:
            self._connection.execute("UPDATE table_rows SET rows = rows + ? WHERE name = ?", [added, name])

    @contextmanager
    def _registered(self, name: str, rows: pa.Table) -> Iterator[None]:
        self._connection.register(name, rows)
        try:
            yield
        finally:
            self._connection.unregister(name)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.begin()
        try:
            yield
            self._connection.execute("UPDATE meta SET writes = writes + 1")
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise

    def _kept_conflicts(self) -> pa.Table | None:
        try:
            found: pa.Table = self._connection.sql("SELECT * FROM conflicts").to_arrow_table()
        except duckdb.Error:
            return None
        return found if found.num_rows else None

    def _digest(self, relation: str) -> str:
        (found,) = self._connection.execute(_DIGEST.format(relation=relation)).fetchall()[0]
        return str(found)


_COMPARED = [name for name in SCHEMA.names if name not in ("follows", "problem")]
_CONFLICTING = f"""
INSERT INTO conflicts
SELECT $run, $file, place, topic, moment, what, found, $now
FROM (
    SELECT "row" AS place, coalesce(f.topic, e.topic) AS topic, coalesce(f.moment, e.moment) AS moment, sha256(f.data) AS found,
        CASE WHEN f.id IS NULL THEN 'missing' WHEN e.id IS NULL THEN 'added' ELSE 'altered' END AS what
    FROM found AS f
    FULL JOIN (FROM events WHERE run = $run AND file = $file AND "row" > $after AND "row" <= $upto) AS e USING ("row")
    WHERE ({" OR ".join(f'f."{name}" IS DISTINCT FROM e."{name}"' for name in _COMPARED if name != "row")})
) AS d
WHERE NOT EXISTS (
    FROM conflicts AS c WHERE c.run = $run AND c.file = $file AND c."row" = d.place AND c.found IS NOT DISTINCT FROM d.found
)
"""
_LAST_OF_TOPICS = """
SELECT run, topic, max(sequence) FILTER (problem IS NULL), max(incarnation) FILTER (problem IS NULL), arg_max(chain, "row")
FROM events WHERE file = 'run' AND run IN (SELECT unnest(?)) GROUP BY run, topic
"""
_KEPT_CHECKPOINTS = (
    "SELECT checkpoint FROM checkpoints WHERE run = ? GROUP BY checkpoint HAVING arg_max(status, moment) = 'saved' ORDER BY 1"
)
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


@contextmanager
def opened(snapshot: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads the snapshot at that path, and can neither write nor open anything else.

    Raises LogError where a write-ahead log lies beside it: a snapshot has none, and DuckDB would replay one that was planted.
    """
    if (planted := next(_wals_of(snapshot), None)) is not None:
        raise LogError(f"cannot trust {snapshot}: expected no write-ahead log beside it, got {planted}: remove both")
    with closing(duckdb.connect(os.fspath(snapshot), read_only=True, config=dict(_SETTINGS))) as connection:
        connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
        connection.execute("SET lock_configuration = true")
        yield connection


def state_of(snapshot: Path) -> State:
    """The contents of the snapshot at that path."""
    with opened(snapshot) as connection:
        (runs,) = connection.execute("SELECT count(DISTINCT run) FROM positions").fetchall()[0]
        return State(
            int(runs),
            dict(connection.execute("SELECT name, rows FROM table_rows ORDER BY name").fetchall()),
            dict(connection.execute("SELECT run, any_value(problem) FROM positions WHERE problem IS NOT NULL GROUP BY run").fetchall()),
            dict(connection.execute("SELECT run, count(*) FROM conflicts GROUP BY run").fetchall()),
        )


def views() -> Iterator[StoredView]:
    """Every view and macro, in the order in which they are made. The comment above each statement is its meaning."""
    folder = files("esper.audit") / "views"
    for path in sorted((path for path in folder.iterdir() if path.name.endswith(".sql")), key=lambda path: path.name):
        text = path.read_text(encoding="utf-8")
        meaning = text.partition("\n")[0].removeprefix("-- ")
        kind = "VIEW" if "CREATE VIEW" in text else "MACRO TABLE" if "AS TABLE" in text else "MACRO"
        yield StoredView(path.name.removesuffix(".sql"), kind, meaning, text)


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
    connection = duckdb.connect(config={**_SETTINGS, "enable_external_access": True})
    try:
        named = sql_text(os.fspath(path))
        connection.execute(f"ATTACH {named} AS audit (RECOVERY_MODE no_wal_writes, ROW_GROUP_SIZE {MOST_RECORDS})")
        connection.execute("USE audit")
        connection.execute("SET enable_external_access = false")
    except BaseException:
        connection.close()
        raise
    return connection


def _remove_wal(path: Path) -> None:
    """Removes what a process that was killed, or anybody else, left beside the file."""
    for left in _wals_of(path):
        left.unlink(missing_ok=True)


def _wals_of(path: Path) -> Iterator[Path]:
    """Write-ahead logs of the file. A checkpoint under way has parts of its own."""
    return (left for left in path.parent.glob(f"{path.name}.wal*") if left.is_file() or left.is_symlink())


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
