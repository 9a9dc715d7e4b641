"""The log of one run in its SQLite file: one process appends, any number read.

The writing end stands here, the reading end in `reader`. A process that forks keeps the writing end to itself: in the child it refuses to
append, and closing it there touches nothing, for the file, its locks and its reserve are the parent's.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw

from esper.errors import LogError, RuleError
from esper.events.envelope import TRAINER, Record, RunId
from esper.events.kinds.run import RunFinished
from esper.oona import file, seal
from esper.oona.contract import START, Page, Position
from esper.oona.heads import Heads
from esper.oona.lock import Lock
from esper.oona.notifier import Notifier
from esper.oona.place import Reserve
from esper.oona.reader import Reader, position_at, walk


class RunLog:
    """One run's log on disk: a `RunWriter` from `create` and `resume`, a `Log` that may only be read from `open`.

    One thread at a time appends; one thread at a time reads, waits or asks for the end. Close it, or use it in a `with` statement.
    """

    def __init__(self, path: Path, meta: file.Meta, reader: "Reader", writer: "_Writer | None") -> None:
        self.path = path
        self.meta = meta
        self._reader = reader
        self._writer = writer

    @classmethod
    def create(cls, path: Path, run: RunId, writer: str = TRAINER) -> Self:
        """The new, empty log of `run` in folder `path`, locked. Raises LogError where the run exists or cannot be written."""
        with file.explained(path, "make the folder"):
            path.mkdir(exist_ok=True)
            file.sync_folder(path.parent)
        lock = Lock.take(path / file.WRITER_LOCK, f"run {run}")
        try:
            if (path / file.RUN_FILE).exists():
                raise LogError(f"cannot create run {run}: expected no log yet, got {path / file.RUN_FILE}; resume it instead")
            file.create_file(path / file.RUN_FILE, run, writer)
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
        lock = Lock.take(path / file.WRITER_LOCK, f"run {path.name}")
        try:
            mark = seal.read_mark(path)
            if mark is not None:
                raise LogError(f"run {path.name} is finished and sealed ({path / file.SEAL_MARK}): expected a run that can go on")
        except BaseException:
            lock.release()
            raise
        return cls._own(path, lock)

    @classmethod
    def seal_finished(cls, path: Path) -> bool:
        """True when the finished, unsealed run in folder `path` could be sealed; see `Directory.seal_finished`."""
        with cls.open(path) as log:
            if [record.type for record in log.last()] != [RunFinished.KIND]:
                return False
        with cls.resume(path) as log:
            return log.seal()

    @classmethod
    def open(cls, path: Path) -> Self:
        """The log in folder `path`, to be read. Raises LogError for a file that is damaged, newer, or not a run's."""
        reader = Reader(path)
        return cls(path, reader.meta, reader, None)

    @classmethod
    def _own(cls, path: Path, lock: Lock) -> Self:
        try:
            writer = _Writer(path, lock)
        except BaseException:
            lock.release()
            raise
        return cls(path, writer.meta, Reader(path), writer)

    @property
    def run(self) -> RunId:
        """The run that this log holds."""
        return self.meta.run

    @property
    def writer(self) -> str:
        """The name that every record's `writer` field carries."""
        return self.meta.writer

    def heads(self) -> Heads:
        """How the log ends, as a copy. For a reader: by a walk over the whole file that checks all of it, the mark of a sealed run too."""
        return self._reader.heads() if self._writer is None else self._writer.heads.copy()

    def append(self, records: tuple[Record, ...], reached: Heads | None = None) -> None:
        """Makes `records` durable, all or none, then notifies the readers. Contract and errors: see `RunWriter.append`."""
        self._owned("append to").append(records, reached)

    def read(self, position: Position | None = None, limit: int = 1000, topics: frozenset[str] | None = None) -> Page:
        """At most `limit` records after `position`, of `topics`, oldest first, as one consistent view."""
        return self._reader.read((position or START).row(file.RUN_FILE), limit, topics)

    def last(self, limit: int = 1, topics: frozenset[str] | None = None) -> tuple[Record, ...]:
        """The newest `limit` records of `topics` (None: all), oldest first."""
        return self._reader.last(limit, topics)

    def skip(self, position: Position | None, keep: int) -> tuple[Position, int]:
        """Where a reader at `position` goes on who may be `keep` records behind, and how many it passes over."""
        row = (position or START).row(file.RUN_FILE)
        to = max(row, self._reader.last_row() - keep)
        return position_at(to), to - row

    def end(self) -> Position:
        """The position after the last durable record."""
        return position_at(self._reader.last_row())

    def wait(self, position: Position, timeout_s: float) -> bool:
        """True as soon as records stand after `position`, notified by the writer or within 50 ms; False when `timeout_s` passed."""
        return self._reader.wait(position.row(file.RUN_FILE), timeout_s)

    def free_reserve(self) -> None:
        """Deletes the reserve file: room for a run's last words on a full disk."""
        self._owned("free the reserve of").reserve.free()

    def seal(self) -> bool:
        """Leaves WAL mode, then marks the run as sealed; the log is only read from then on.

        False when readers held the file for five seconds: `Directory.seal_finished` does the rest. Raises RuleError for an empty log.
        """
        self._reader.close()
        return self._owned("seal").seal()

    def close(self) -> None:
        """Lets go of connections, socket, reserve and lock; a second call does nothing."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()

    def _owned(self, doing: str) -> "_Writer":
        if self._writer is None:
            raise RuleError(f"cannot {doing} {self.path / file.RUN_FILE}: it was opened for reading; create or resume the run to write it")
        return self._writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Writer:
    """The one writing connection of a run, with everything that goes with it: lock, reserve, notifier, and how the log ends."""

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path / file.RUN_FILE
        self._lock = lock
        self._process = os.getpid()
        self._connection: apsw.Connection | None = file.open_for_writing(self.path)
        try:
            file.check_integrity(self._connection, self.path)
            self.meta = file.read_meta(self._connection, self.path)
            self.heads = walk(self._connection, self.path, self.meta)
            self.reserve = Reserve.make(path)
            self._file = self._found()
        except BaseException:
            self._connection.close()
            raise
        self._notifier = Notifier(path.parent, self.meta.run)

    def append(self, records: tuple[Record, ...], reached: Heads | None) -> None:
        connection = self._writing("append to")
        heads = reached or self.heads.after(records)
        with file.explained(self.path, "append to"), connection:
            connection.executemany(file.INSERT, map(file.to_row, records))
        # A file that was removed takes everything that is written, and keeps nothing.
        if self._found() != self._file:
            raise LogError(f"cannot append to {self.path}: it was removed, moved or replaced while it was written")
        self.heads = heads
        self._notifier.notify()

    def _found(self) -> tuple[int, int] | None:
        """Which file stands at the path now; None where there is none."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def seal(self) -> bool:
        connection = self._writing("seal")
        with file.explained(self.path, "read"):
            ends = connection.execute("SELECT * FROM records WHERE row IN ((SELECT min(row) FROM records), (SELECT max(row) FROM records))")
            records = [file.to_record(self.meta.run, self.meta.writer, row) for row in ends]
        if not records:
            raise RuleError(f"cannot seal {self.path}: expected records, got none")
        sealed = seal.leave_wal(connection, self.path)
        connection.close()
        self._connection = None
        if sealed:
            self.reserve.free()
            seal.write_mark(self.path.parent, self.heads, records[0], records[-1])
            self._notifier.notify()
        return sealed

    def _writing(self, doing: str) -> apsw.Connection:
        if os.getpid() != self._process:
            raise RuleError(f"cannot {doing} {self.path} in a forked child: process {self._process} opened it and goes on writing it")
        if self._connection is None:
            raise LogError(f"cannot {doing} {self.path}: the log is closed")
        return self._connection

    def close(self) -> None:
        if os.getpid() != self._process:
            return
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.reserve.free()
        self._notifier.close()
        self._lock.release()
