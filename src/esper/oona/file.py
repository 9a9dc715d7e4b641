"""The files of a run's directory: their names and formats; how they are made, opened, checked, sealed, and what is refused.

`run.sqlite` has one table, `records`, in the order of writing; run and writer stand once in `meta`, ids are computed (`<run>/<moment>`,
heartbeats `<run>/heartbeat/<sequence>`). `time` is microseconds since 1970 in UTC; `data` holds the payload's bytes as they were encoded,
which SQLite's JSON functions read. Durability: WAL with synchronous FULL, so a commit has reached the disk when it returns.

A finished run is sealed: its file leaves WAL mode, then it gets a mark, and is only read from then on. The mark is made last: where it is,
the file may be opened as immutable. It holds the run's summary, so that a list of runs opens no database.
"""

import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import apsw
from pydantic import JsonValue

from esper.durable import replace_durably, sync_folder
from esper.errors import DataError, LogError
from esper.events.codec import decode
from esper.events.envelope import MICROSECOND, SINCE, Moment, Record, RunId, heartbeat_id, is_training, read_time, record_id, written_time
from esper.events.kinds.run import RunFinished, RunStarted
from esper.events.kinds.telemetry import Heartbeat
from esper.oona.gone import NOTHING_GONE, Gone
from esper.oona.heads import Heads

RUN_FILE = "run.sqlite"
WRITER_LOCK = "lock"
RESERVE = "reserve"
CHECKPOINTS = "checkpoints"
KERNELS = ".kernels"
"""In the log's directory, shared by its runs."""
SEAL_MARK = "sealed"
FENCED_MARK = "fenced"
OBSERVED_FILE = "observed.sqlite"
OBSERVED_MARK = "observed.sealed"
ONE_HOST = ".one-host"
"""In the log's directory: the name of the one host that uses it. Where it is, files have a rollback journal, and no shared memory."""
MIRRORED_MARK = "mirrored"
"""Beside a run that a mirror copies from Kafka. Its time is that of the newest record; 0 once the run was stopped or has failed."""
REFUSED_MARK = "refused"
"""Beside a run that a mirror stopped copying; it holds the reason."""

_FORMAT = 2
"""1 had no index of telemetry."""
_LEAVE_WAL_S = 5.0
_RETRY_S = 0.05
_APPLICATION_ID = 0x45737072  # "Espr"
_BUSY_TIMEOUT_MS = 5000
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100

_META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;"
_TABLES = """
CREATE TABLE records (
    row INTEGER PRIMARY KEY, topic TEXT NOT NULL, sequence INTEGER NOT NULL, fact INTEGER, moment INTEGER NOT NULL,
    incarnation INTEGER NOT NULL, type TEXT NOT NULL, time INTEGER NOT NULL, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    cause TEXT, trace TEXT, chain BLOB NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE INDEX facts ON records (row) WHERE fact IS NOT NULL;
"""
_TELEMETRY = "CREATE INDEX telemetry ON records (topic) WHERE fact IS NULL;"
"""With the row, as every index has it: the records of a rare topic are found without a look at those between."""
RUN_TABLES = _TABLES + _TELEMETRY
# With the row, which SQLite would choose: a writer that does not know the log's end writes nothing, for the row is taken.
INSERT = (
    "INSERT INTO records (row, topic, sequence, fact, moment, incarnation, type, time, epoch, step, cause, trace, chain, data) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# Without what ANALYZE leaves behind.
_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE NOT (type = 'table' AND name GLOB 'sqlite_stat[1-4]')"
Row = tuple[Any, ...]  # Any: SQLite checks the types, the tables are STRICT.
_Value = TypeVar("_Value")

_REASONS: tuple[tuple[type[apsw.Error], str], ...] = (
    (apsw.FullError, "the disk is full; what was acknowledged is readable, free some space and resume the run"),
    (apsw.NotADBError, "expected a run's SQLite file, got something else"),
    (apsw.CorruptError, "the file is damaged; restore it from a copy or a mirror"),
    (apsw.ReadOnlyError, "the file or its folder is read-only"),
    (apsw.CantOpenError, "the file or its folder is missing, or may not be opened or written"),
    (apsw.BusyError, "another process holds it"),
    (apsw.ConstraintError, "it does not end where its writer left it, or another process writes it too; nothing was written"),
)


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Inside it, every failure of SQLite or of the file system becomes a LogError that names `path` and its remedy."""
    try:
        yield
    except OSError as error:
        raise LogError(f"cannot {doing} {path}: {error.strerror or error}") from error
    except apsw.Error as error:
        reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), type(error).__name__)
        raise LogError(f"cannot {doing} {path}: {reason} ({error})") from error


def is_shortage(error: LogError) -> bool:
    """True where what failed may work soon, with nothing changed in the log: the system was short of descriptors or memory."""
    cause = error.__cause__
    if isinstance(cause, apsw.CantOpenError):  # SQLite does not say why.
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as short:
            cause = short
    return isinstance(cause, OSError) and cause.errno in _SHORT


def is_full(error: LogError) -> bool:
    """True where what failed found no room on its disk."""
    cause = error.__cause__
    return isinstance(cause, apsw.FullError) or (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))


def create_file(path: Path, run: RunId, writer: str, tables: str = RUN_TABLES) -> None:
    """Makes the empty file of `run` at `path`, with `tables` and a table meta, whole or not at all.

    Raises LogError where it cannot be written.
    """
    draft = path.with_name(path.name + ".new")
    with explained(path, "create"):
        for left in (draft, Path(f"{draft}-journal")):
            left.unlink(missing_ok=True)
        with closing(_connect(draft, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)) as connection:
            # One call each: apsw stops at the row that a pragma answers with.
            connection.pragma("application_id", _APPLICATION_ID)
            connection.pragma("user_version", _FORMAT)
            with connection:
                connection.execute(_META + tables)
                created = datetime.now(UTC).isoformat(timespec="microseconds")
                meta = {"run": run, "writer": writer, "format": str(_FORMAT), "created": created}
                connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        draft.rename(path)
        sync_folder(path.parent)


def open_for_writing(path: Path) -> apsw.Connection:
    """A connection that appends durably. The caller holds the run's lock. Raises LogError for a file that is not fit to be continued."""
    _check_header(path)
    with explained(path, "open for writing"):
        connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        journal = "delete" if _is_of_one_host(path) else "wal"
        if connection.pragma("journal_mode", journal) != journal:
            raise LogError(f"cannot open {path} for writing: expected SQLite's journal mode {journal}, and it cannot be set here")
        # Of a rollback journal the folder too: one that comes back after a power failure would undo what was committed.
        connection.pragma("synchronous", "full" if journal == "wal" else "extra")
        connection.pragma("mmap_size", 0)
        return connection


def _connect(path: Path, flags: int) -> apsw.Connection:
    """A connection to the file itself, never through a link: it would be another's."""
    return apsw.Connection(os.fspath(path.parent.resolve() / path.name), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW)


def open_for_reading(path: Path, *, immutable: bool) -> apsw.Connection:
    """A read-only connection. `immutable` (no locks, no WAL) is for sealed files alone: it never sees a change."""
    _check_header(path)
    with explained(path, "open"):
        name = f"file:/{quote(os.fspath(path.absolute()).lstrip('/'))}?mode="
        # What a killed writer left in a rollback journal can only be undone by a connection that may write.
        undoes = not immutable and _is_of_one_host(path) and os.access(path.parent, os.W_OK)
        name += "rw" if undoes else "ro&immutable=1" if immutable else "ro"
        flags = apsw.SQLITE_OPEN_READWRITE if undoes else apsw.SQLITE_OPEN_READONLY
        connection = apsw.Connection(name, flags=flags | apsw.SQLITE_OPEN_URI)
        connection.pragma("query_only", undoes)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        # A reader's close must never checkpoint: that is the writer's business.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return connection


def _is_of_one_host(path: Path) -> bool:
    return (path.parent.parent / ONE_HOST).exists()


def bytes_in(path: Path) -> int:
    """The size of the file, 0 where there is none: SQLite removes a WAL at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_header(path: Path) -> None:
    """Raises LogError unless the file begins like a run's file in a format that this version reads."""
    header, size_bytes = _read_header(path)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise LogError(f"cannot open {path}: expected a run's SQLite file, got {size_bytes} bytes that begin with {header[:16]!r}")
    application_id, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
    if application_id != _APPLICATION_ID:
        raise LogError(f"cannot open {path}: expected application id {_APPLICATION_ID:#x} (Esper), got {application_id:#x}")
    if not 1 <= version <= _FORMAT:
        raise LogError(f"cannot open {path}: expected format 1 to {_FORMAT}, got format {version}, written by a newer Esper")
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    wal = path.with_name(path.name + "-wal")
    pages = int.from_bytes(header[28:32], "big")
    # With a WAL beside it the header may rightly be ahead of the file: a checkpoint that was cut short is repeated.
    if size_bytes < pages * page_bytes and not bytes_in(wal):
        raise LogError(f"cannot open {path}: the file is damaged: expected {pages * page_bytes} bytes, got {size_bytes}; it was cut off")


def _read_header(path: Path) -> tuple[bytes, int]:
    """The file's first bytes, and its size. Through SQLite's own file layer: a plain close would drop this process's locks on the file."""
    with explained(path, "open"):
        path.stat()
        file = apsw.VFSFile("", os.fspath(path.absolute()), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            size_bytes = file.xFileSize()
            header = file.xRead(min(size_bytes, _HEADER_BYTES), 0) if size_bytes else b""
            # The size after the header: a checkpoint between the two reads would make a healthy file look cut off.
            return header, file.xFileSize()
        finally:
            file.xClose()


def read_meta(connection: apsw.Connection, path: Path, tables: str = RUN_TABLES) -> tuple[RunId, str]:
    """The run and the writer of a file. Raises LogError where they are missing, and where its schema is not that of `tables`.

    A trigger or a view would make the file do, or show, what was never written to it.
    """
    with explained(path, "read"):
        if tables == RUN_TABLES and not has_telemetry_index(connection):
            tables = _TABLES
        expected = _schema_of(tables)
        found = frozenset(connection.execute(_SCHEMA).fetchall())
        for kind, name, *_ in sorted(found - expected, key=str):
            raise LogError(f"cannot trust {path}: expected the tables and indexes of an Esper log, got {kind} {name!r} beside them")
        for kind, name, *_ in sorted(expected - found, key=str):
            raise LogError(f"cannot trust {path}: expected the tables and indexes of an Esper log, got no {kind} {name!r}")
        rows = {str(key): str(value) for key, value in connection.execute("SELECT key, value FROM meta")}
    try:
        return RunId(rows["run"]), rows["writer"]
    except KeyError as error:
        raise LogError(f"cannot read {path}: expected {error} in its table meta; the file is damaged") from error


def has_telemetry_index(connection: apsw.Connection) -> bool:
    """False for a run's file of format 1."""
    return int(connection.pragma("user_version")) > 1


@cache
def _schema_of(tables: str) -> frozenset[tuple[object, ...]]:
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(_META + tables)
        return frozenset(connection.execute(_SCHEMA).fetchall())


def read_gone(connection: apsw.Connection, path: Path) -> Gone:
    """The records that a copied run lacks. Raises LogError where that cannot be read."""
    with explained(path, "read"):
        text = connection.execute("SELECT value FROM meta WHERE key = 'gone'").get
    try:
        return NOTHING_GONE if text is None else Gone.from_text(str(text))
    except DataError as error:
        raise LogError(f"cannot read {path}: {error}; the file is damaged") from error


def check_integrity(connection: apsw.Connection, path: Path) -> None:
    """Raises LogError unless SQLite finds the file's structure whole, its index included. Reads all of it.

    Not `quick_check`, which takes two thirds of the time: it does not compare the index with the table, and a reader of one topic that goes
    by a damaged index misses records without an error.
    """
    with explained(path, "check"):
        answer = connection.pragma("integrity_check", 1)  # The first fault is enough.
        if answer == "ok":
            answer = _surplus(connection)
    if answer != "ok":
        raise LogError(f"cannot trust {path}: the file is damaged: {' '.join(str(answer).split())}; restore it from a copy or a mirror")


def _surplus(connection: apsw.Connection) -> str:
    """The first index with entries that lead to no row of their own, which SQLite's check does not look for; "ok" where there is none."""
    for name, table, sql in connection.execute("SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index'").fetchall():
        where = str(sql).partition(" WHERE ")[2] or "1"
        listed, there = (
            connection.execute(f'SELECT count(*) FROM "{table}" {how} WHERE {where}').get  # noqa: S608 - the schema is Esper's own.
            for how in (f'INDEXED BY "{name}"', "NOT INDEXED")
        )
        if listed != there:
            return f"expected {there} entries in index {name}, got {listed}"
    return "ok"


def to_row(record: Record) -> Row:
    """`record` as the parameters of INSERT behind its row."""
    _, _, topic, _, sequence, fact, moment, _, incarnation, kind, time, epoch, step, cause, trace, chain, data = record
    return topic, sequence, fact, moment, incarnation, kind, (time - SINCE) // MICROSECOND, epoch, step, cause, trace, chain, data


def to_record(run: RunId, writer: str, row: Row) -> Record:
    """The record in a row of `records`, all columns in the table's order. Raises DataError for a row that a damaged file made up."""
    number, topic, sequence, fact, moment, incarnation, kind, time, *rest = row
    try:
        written = SINCE + MICROSECOND * time
    except (TypeError, OverflowError) as error:
        raise DataError(f"row {number}: expected microseconds since 1970, got {time!r}") from error
    identity = heartbeat_id(run, sequence) if kind == Heartbeat.KIND else record_id(run, Moment(moment))
    return Record(identity, run, topic, writer, sequence, fact, moment, 0, incarnation, kind, written, *rest)


def leave_wal(connection: apsw.Connection, path: Path) -> bool:
    """True once everything stands in the one file, durably; False when readers kept it open for five seconds."""
    deadline = time.monotonic() + _LEAVE_WAL_S
    connection.set_busy_timeout(0)
    while True:
        try:
            connection.pragma("wal_checkpoint(truncate)")
            if connection.pragma("journal_mode", "delete") == "delete":
                return True
        except apsw.BusyError:
            pass
        except apsw.Error as error:
            raise LogError(f"cannot seal {path}: {error}") from error
        if time.monotonic() > deadline:
            return False
        time.sleep(_RETRY_S)


def write_mark(path: Path, text: str) -> None:
    """Makes the mark at `path`, durably, whole or not at all. Raises LogError."""
    with explained(path, "write"):
        replace_durably(path, text.encode())


def mark_of(heads: Heads, first: Record, last: Record) -> str:
    """The text of the mark of the run that begins with `first`, ends with `last`, and has `heads`."""
    summary: dict[str, JsonValue] = {"status": "finished"}
    if last.type == RunFinished.KIND:  # Of a run that is no training, a list shows only that it has ended.
        began = decode(first)
        summary |= {"task": None, "epochs": last.epoch}
        if isinstance(began, RunStarted):
            summary |= began.model_dump(mode="json", include={"task", "name", "tags", "config"})
        summary |= decode(last).model_dump(mode="json", include={"parameters", "metrics"})
    return json.dumps(_end_of(heads) | {"summary": summary})


def _end_of(heads: Heads) -> dict[str, JsonValue]:
    return {"run": heads.run, "records": heads.row, "moment": heads.moment, "ended": written_time(heads.time)}


def read_mark(folder: Path) -> str | None:
    """The text of the mark of the run in `folder`, empty where it cannot be read; None for a run that is not sealed.

    Raises LogError where the system is short of descriptors or memory: then it is not known.
    """
    try:
        return (folder / SEAL_MARK).read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _SHORT:
            raise LogError(f"cannot read {folder / SEAL_MARK}: {error.strerror}") from error
        return ""


def read_refused(folder: Path) -> str | None:
    """The reason why a mirror copies no more of the run in `folder`; None where it does."""
    try:
        return (folder / REFUSED_MARK).read_text(errors="replace").strip()
    except OSError:
        return None


def fenced_by(folder: Path) -> str | None:
    """The reason, as a sentence, why the run in `folder` may not go on there: another copy of it is shipped to Kafka. None where it may."""
    try:
        return (folder / FENCED_MARK).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{folder / FENCED_MARK} cannot be read: {error.strerror}"


def in_mark(mark: str | None, name: str, kind: type[_Value]) -> _Value | None:
    """The value of `name` in the text of a mark; None where there is none of that kind."""
    value = _parsed(mark).get(name)
    return value if isinstance(value, kind) else None


def _parsed(mark: str | None) -> dict[str, JsonValue]:
    try:
        parsed = json.loads(mark or "")
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def require_end(folder: Path, heads: Heads, ends: Sequence[Record]) -> None:
    """Raises LogError where the run in `folder` is sealed, and its mark holds another end or summary than its records give.

    `ends` are its first and its last record.
    """
    mark, path = read_mark(folder), folder / SEAL_MARK
    if mark is None:
        return
    marked = _flat(_parsed(mark))
    for name, found in _flat(_parsed(mark_of(heads, ends[0], ends[-1])) if ends else _end_of(heads)).items():
        if marked.get(name) != found:
            raise LogError(
                f"cannot trust run {folder.name}: expected {name} {found!r}, as its records have it, in its mark {path}, "
                f"got {marked.get(name, 'nothing')!r}; restore the run from a copy or a mirror"
            )
    if is_training(heads.run) and [record.type for record in ends[-1:]] != [RunFinished.KIND]:
        raise LogError(f"cannot trust run {folder.name}: expected a run that has finished, for it has the mark {path}; remove the mark")


def _flat(mark: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    summary = mark.get("summary")
    return {name: value for name, value in mark.items() if name != "summary"} | (summary if isinstance(summary, dict) else {})


def sealed_ago_s(folder: Path, now: datetime) -> float:
    """The seconds since the run in `folder` ended, by its mark; infinity for a run that is not sealed, or whose mark has no time."""
    try:
        return (now - read_time(in_mark(read_mark(folder), "ended", str) or "")).total_seconds()
    except DataError:
        return math.inf


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Raises LogError at its end when the mark is not the same as at its start: the records read in between may be stale."""
    before = read_mark(folder)
    yield
    if read_mark(folder) != before or before is None:
        raise LogError(f"run {folder.name} was unsealed while it was read ({folder / SEAL_MARK} changed): read it again")
