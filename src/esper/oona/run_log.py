"""The log of one run in its SQLite file: one process appends, any number read.

A reader holds no transaction between calls. It closes its connection once it has read RunFinished, so that the writer can leave WAL mode
and seal the file; a sealed file is opened for one request at a time, as immutable, and its mark is looked at before and after.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw
from pydantic import JsonValue

from esper.errors import DataError, LogError, RuleError
from esper.events.codec import decode
from esper.events.envelope import TRAINER, Record, RunId
from esper.events.kinds.run import RunFinished
from esper.oona import file, seal
from esper.oona.contract import FACTS, START, Page, Position
from esper.oona.doorbell import POLL_S, Bell, Ear
from esper.oona.heads import Heads
from esper.oona.lock import Lock, holder_of
from esper.oona.place import Reserve

FILE = "run.sqlite"
LOCK = "lock"
_VERIFY_PAGE = 2000
# How many sealed files one process has open at once, over all threads: `ulimit -n` is 1024 on many machines, and a connection takes up to
# three descriptors.
_sealed_at_once = threading.BoundedSemaphore(64)


class RunLog:
    """One run's log on disk: a `RunWriter` from `create` and `resume`, a `Log` that may only be read from `open`.

    One thread at a time appends; one thread at a time reads, waits or asks for the end. Close it, or use it in a `with` statement.
    """

    def __init__(self, path: Path, meta: file.Meta, reader: "_Reader", writer: "_Writer | None") -> None:
        self.path = path
        self.meta = meta
        self._reader = reader
        self._writer = writer

    @classmethod
    def create(cls, path: Path, run: RunId, writer: str = TRAINER) -> Self:
        """The new, empty log of `run` in folder `path`, locked. Raises LogError where the run exists or cannot be written."""
        with file.explained(path, "make the folder"):
            path.mkdir(exist_ok=True)
        lock = Lock.take(path / LOCK, f"run {run}")
        try:
            if (path / FILE).exists():
                raise LogError(f"cannot create run {run}: expected no log yet, got {path / FILE}; resume it instead")
            file.create_file(path / FILE, run, writer)
        except BaseException:
            lock.release()
            raise
        return cls._own(path, lock)

    @classmethod
    def resume(cls, path: Path) -> Self:
        """The log in folder `path`, locked, checked and ready to be continued.

        Raises LogError with the pid where another process writes it; where it is sealed; where SQLite's integrity_check, a number or a
        chain is wrong. Reads the whole file.
        """
        lock = Lock.take(path / LOCK, f"run {path.name}")
        try:
            mark = seal.read_mark(path)
            if mark is not None:
                raise LogError(f"run {path.name} is finished and sealed ({path / seal.MARK}): expected a run that can go on")
        except BaseException:
            lock.release()
            raise
        return cls._own(path, lock)

    @classmethod
    def seal_finished(cls, path: Path) -> bool:
        """True when the finished, unsealed run in folder `path` could be sealed; see `Directory.seal_finished`."""
        with cls.resume(path) as log:
            summary = log._owned("seal").summary()
            return summary is not None and log.seal(summary)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The log in folder `path`, to be read. Raises LogError for a file that is damaged, newer, or not a run's."""
        reader = _Reader(path)
        return cls(path, reader.meta, reader, None)

    @classmethod
    def _own(cls, path: Path, lock: Lock) -> Self:
        try:
            writer = _Writer(path, lock)
        except BaseException:
            lock.release()
            raise
        return cls(path, writer.meta, _Reader(path), writer)

    @property
    def run(self) -> RunId:
        """The run that this log holds."""
        return self.meta.run

    @property
    def writer(self) -> str:
        """The name that every record's `writer` field carries."""
        return self.meta.writer

    def heads(self) -> Heads:
        """How the log ends, as a copy. For a reader: by a walk over the whole file that checks every number and chain."""
        if self._writer is not None:
            return self._writer.heads.copy()
        with self._reader.connection() as connection:
            return walk(connection, self.path / FILE, self.meta)

    def append(self, records: tuple[Record, ...]) -> None:
        """Makes `records` durable, all or none, then rings the readers. Errors: see `RunWriter.append`."""
        self._owned("append to").append(records)

    def read(self, position: Position | None = None, limit: int = 1000, topics: frozenset[str] | None = None) -> Page:
        """At most `limit` records after `position`, of `topics`, oldest first, as one consistent view."""
        return self._reader.read((position or START).row(FILE), limit, topics)

    def end(self) -> Position:
        """The position after the last durable record."""
        return _at(self._reader.last_row())

    def wait(self, position: Position, timeout_s: float) -> bool:
        """True as soon as records stand after `position`, woken by the writer's bell or within 50 ms; False when `timeout_s` passed."""
        return self._reader.wait(position.row(FILE), timeout_s)

    def free_reserve(self) -> None:
        """Deletes the reserve file: room for a run's last words on a full disk."""
        self._owned("free the reserve of").reserve.free()

    def seal(self, summary: Mapping[str, JsonValue]) -> bool:
        """Leaves WAL mode, then marks the run as sealed with `summary`; the log is only read from then on.

        False when readers held the file for five seconds: the summary is kept in the file, and `Directory.seal_finished` does the rest.
        """
        self._reader.close()
        return self._owned("seal").seal(summary)

    def close(self) -> None:
        """Lets go of connections, socket, reserve and lock; a second call does nothing."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()

    def _owned(self, doing: str) -> "_Writer":
        if self._writer is None:
            raise RuleError(f"cannot {doing} {self.path / FILE}: it was opened for reading; create or resume the run to write it")
        return self._writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Writer:
    """The one writing connection of a run, with everything that goes with it: lock, reserve, bell, and how the log ends."""

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path / FILE
        self._lock = lock
        self._connection: apsw.Connection | None = file.open_for_writing(self.path)
        try:
            file.check_integrity(self._connection, self.path)
            self.meta = file.read_meta(self._connection, self.path)
            self.heads = walk(self._connection, self.path, self.meta)
            self.reserve = Reserve.make(path)
        except BaseException:
            self._connection.close()
            raise
        self._bell = Bell(path.parent, self.meta.run)

    def append(self, records: tuple[Record, ...]) -> None:
        connection = self._writing("append to")
        heads = self.heads.copy()
        try:
            for record in records:
                heads.follow(record)
                if record.id != file.id_of(record):
                    raise DataError(f"expected id {file.id_of(record)}, got {record.id}")
        except DataError as error:
            raise RuleError(str(error)) from error
        with file.explained(self.path, "append to"), connection:
            connection.executemany(file.INSERT, map(file.to_row, records))
        self.heads = heads
        self._bell.ring()

    def summary(self) -> Mapping[str, JsonValue] | None:
        """The summary to seal with: the one that was kept, else what RunFinished says; None for a run that did not finish."""
        with file.explained(self.path, "read"):
            row = self._writing("read").execute("SELECT * FROM records ORDER BY row DESC LIMIT 1").fetchone()
        last = None if row is None else file.to_record(self.meta.run, self.meta.writer, row)
        if last is None or last.type != RunFinished.KIND:
            return None
        said = decode(last).model_dump(mode="json", include={"metrics", "parameters"})
        return seal.kept_summary(self.meta.summary) or {"status": "finished", **said}

    def seal(self, summary: Mapping[str, JsonValue]) -> bool:
        connection = self._writing("seal")
        seal.keep_summary(connection, self.path, summary)
        sealed = seal.leave_wal(connection, self.path)
        connection.close()
        self._connection = None
        if sealed:
            self.reserve.free()
            seal.write_mark(self.path.parent, self.meta.run, self.heads, summary)
            self._bell.ring()
        return sealed

    def _writing(self, doing: str) -> apsw.Connection:
        if self._connection is None:
            raise LogError(f"cannot {doing} {self.path}: the log is closed")
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.reserve.free()
        self._bell.close()
        self._lock.release()


class _Reader:
    """Reads one run's file, live or sealed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path / FILE
        self._open: apsw.Connection | None = None
        self._ear: Ear | None = None
        self._finished = False
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
        with self.connection() as connection, connection:
            rows = _select(connection, row, limit, topics)
            full = bool(rows) and len(rows) == limit
            last = int(rows[-1][0]) if full else max(row, self._end(connection))
        try:
            records = tuple(file.to_record(self.meta.run, self.meta.writer, found) for found in rows)
        except DataError as error:
            raise LogError(f"cannot read {self._file}: the file is damaged: {error}") from error
        return Page(records, _at(last))

    def last_row(self) -> int:
        with self.connection() as connection:
            return self._end(connection)

    def _end(self, connection: apsw.Connection) -> int:
        """The last row. Once that is RunFinished nothing follows, and the file is let go of after each request."""
        found = connection.execute("SELECT row, type FROM records ORDER BY row DESC LIMIT 1").fetchone()
        row, kind = found or (0, "")
        self._finished = kind == RunFinished.KIND
        return int(row)

    def wait(self, row: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        if self._ear is None:
            self._ear = Ear.open(self._path.parent)
        while self.last_row() <= row:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._ear.listen(min(left, POLL_S))
        return True

    def _release(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        self._release()
        if self._ear is not None:
            self._ear.close()
            self._ear = None


def _is_archived(folder: Path) -> bool:
    """True for an unsealed run where this process may write nothing, and which nobody writes: SQLite could not make its shared memory."""
    wal = folder / (FILE + "-wal")
    unwritten = not wal.exists() or not wal.stat().st_size
    return unwritten and not os.access(folder, os.W_OK) and holder_of(folder / LOCK) is None


def walk(connection: apsw.Connection, path: Path, meta: file.Meta) -> Heads:
    """How the file ends, every number and chain on the way there checked. Raises LogError at the first that is wrong."""
    heads = Heads(meta.run, meta.writer)
    with file.explained(path, "read"):
        for row in connection.execute("SELECT * FROM records ORDER BY row"):
            try:
                heads.verify(file.to_record(meta.run, meta.writer, row))
            except DataError as error:
                raise LogError(f"cannot trust {path}: {error}; restore the file from a copy or a mirror") from error
    return heads


def _select(connection: apsw.Connection, row: int, limit: int, topics: frozenset[str] | None) -> list[file.Stored]:
    if topics is None:
        return connection.execute("SELECT * FROM records WHERE row > ? ORDER BY row LIMIT ?", (row, limit)).fetchall()
    names = sorted(topics)
    if topics <= FACTS:
        # One walk per topic along the index of facts, merged by SQLite: the telemetry between two facts is never touched.
        branch = "SELECT * FROM records WHERE fact IS NOT NULL AND topic = ? AND row > ?"
        query = " UNION ALL ".join([branch] * len(names) or [branch]) + " ORDER BY row LIMIT ?"
        bindings: list[str | int] = [value for name in names or [""] for value in (name, row)]
    else:
        query = f"SELECT * FROM records WHERE row > ? AND topic IN ({', '.join('?' * len(names))}) ORDER BY row LIMIT ?"  # noqa: S608
        bindings = [row, *names]
    return connection.execute(query, (*bindings, limit)).fetchall()


def _at(row: int) -> Position:
    return Position(((FILE, row),))
