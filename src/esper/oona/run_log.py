"""The log of one run in its SQLite file: one process appends, any number read, whether it is being written, left by a writer, or sealed.

No transaction is held between requests. Once RunFinished has been read, the connection is closed after each request, so that the writer can
leave WAL mode; a sealed file is opened for one request at a time, as immutable, and its mark is compared before and after.

A process that forks keeps the writing end to itself: in the child it refuses to append, and closing it there touches nothing, for the file,
its locks and its reserve are the parent's.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Self

import apsw

from esper.durable import new_file, sync_folder
from esper.errors import DataError, LogError, RuleError
from esper.events.envelope import TRAINER, Record, RunId
from esper.events.kinds.run import RunFinished
from esper.events.topics import FACTS
from esper.oona import file
from esper.oona.contract import START, Page, Position
from esper.oona.gone import Gone
from esper.oona.heads import Heads
from esper.oona.lock import Lock, holder_of
from esper.oona.notifier import POLL_S, Listener, Notifier
from esper.oona.places import Places

_RESERVE_BYTES = 1 << 20
RESTORE = "restore the file from a copy or a mirror"
_LISTED = "SELECT count(*), coalesce(sum(fact), 0) FROM records INDEXED BY facts WHERE fact IS NOT NULL"
_LAST_FACT = f"SELECT fact FROM records NOT INDEXED WHERE topic IN ({', '.join(map(repr, sorted(FACTS)))}) ORDER BY row DESC LIMIT 1"  # noqa: S608
_LISTED_TELEMETRY = "SELECT count(*) FROM records INDEXED BY telemetry WHERE fact IS NULL"
_ENDS = "SELECT * FROM records WHERE row IN ((SELECT min(row) FROM records), (SELECT max(row) FROM records))"
# How many sealed files one process has open at once, over all threads: `ulimit -n` is 1024 on many machines, and a connection takes up to
# three descriptors.
_sealed_at_once = threading.BoundedSemaphore(64)


class RunLog:
    """The log of a run on disk: a `RunWriter` from `create` and `resume`; else a `Log` that may only be read.

    One thread at a time appends; one thread at a time reads, waits or asks for the end. Close it, or use it in a `with` statement.
    """

    def __init__(self, path: Path, writer: "_Writer | None" = None) -> None:
        """Opens the log in folder `path`, to be read. Raises LogError for a file that is damaged, newer, or not a run's."""
        self.path = path
        self._file = path / file.RUN_FILE
        self._writer = writer
        self._connection: apsw.Connection | None = None
        self._listener: Listener | None = None
        self._finished = False
        self._is_counted = False
        self._counted_indexes = set[str]()
        with self._reading() as connection:
            self.run, self.writer = file.read_meta(connection, self._file)

    @classmethod
    def create(cls, path: Path, run: RunId, writer: str = TRAINER) -> Self:
        """The new, empty log of `run` in folder `path`, locked. Raises LogError where the run exists or cannot be written."""
        with file.explained(path, "make the folder"):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)
        require_folder(path)
        with _locked(path, run) as lock:
            if (path / file.RUN_FILE).exists():
                raise LogError(f"cannot create run {run}: expected no log yet, got {path / file.RUN_FILE}; resume it instead")
            file.create_file(path / file.RUN_FILE, run, writer)
            require_folder(path)  # It may have been exchanged meanwhile.
            return cls._written_by(path, _Writer(path, lock))

    @classmethod
    def resume(cls, path: Path) -> Self:
        """The log in folder `path`, locked, checked and ready to be continued.

        Raises LogError with the pid where another process writes it; where it is sealed; where SQLite's integrity_check, a number or a
        chain is wrong. Reads the whole file.
        """
        with _locked(path, path.name) as lock:
            if file.read_mark(path) is not None:
                raise LogError(f"run {path.name} is finished and sealed ({path / file.SEAL_MARK}): expected a run that can go on")
            log = cls._written_by(path, _Writer(path, lock))
            (path / file.MIRRORED_MARK).unlink(missing_ok=True)  # From now on it is no copy.
            return log

    @classmethod
    def _written_by(cls, path: Path, writer: "_Writer") -> Self:
        try:
            return cls(path, writer)
        except BaseException:
            writer.close()
            raise

    def heads(self) -> Heads:
        """The log's end, as a copy.

        For a reader, all of it is checked: SQLite's structure, every number and chain, the tails of an end, the mark of a sealed run.
        """
        if self._writer is not None:
            return self._writer.heads.copy()
        with self._reading() as connection:
            heads = checked(connection, self._file)
            ends = self._records(connection.execute(_ENDS).fetchall())
        file.require_end(self.path, heads, ends)
        return heads

    def append(self, records: tuple[Record, ...], reached: Heads | None = None) -> None:
        """Makes `records` durable, all or none, then notifies the readers. Contract and errors: see `RunWriter.append`."""
        self._owned("append to").append(records, reached)

    def read(self, position: Position | None = None, limit: int = 1000, topics: frozenset[str] | None = None) -> Page:
        """At most `limit` records after `position`, of `topics`, oldest first, as one consistent view."""
        row = (position or START).row(file.RUN_FILE)
        with self._reading() as connection, connection:
            self._require_whole(connection, topics)
            rows = _select(connection, row, limit, topics)
            full = bool(rows) and len(rows) == limit
            last = int(rows[-1][0]) if full else max(row, self._last_row(connection))
        return Page(self._records(rows), _at(last))

    def last(self, limit: int = 1, topics: frozenset[str] | None = None) -> tuple[Record, ...]:
        """The newest `limit` records of `topics` (None: all), oldest first, as one consistent view."""
        with self._reading() as connection, connection:
            self._require_whole(connection, topics)
            rows = _select(connection, 0, limit, topics, newest=True)
            self._last_row(connection)
        return self._records(rows[::-1])

    def rows(self, after: int, limit: int) -> tuple[tuple[int, Record], ...]:
        """At most `limit` records after row `after`, each with its row; that they can be read is all that is checked."""
        with self._reading() as connection, connection:
            rows = _select(connection, after, limit, None)
            self._last_row(connection)
        return tuple(zip((int(row[0]) for row in rows), self._records(rows), strict=True))

    def skip(self, position: Position | None, keep: int) -> tuple[Position, int]:
        """The later of `position` and the position `keep` records before the end, and how many records that skips."""
        row = (position or START).row(file.RUN_FILE)
        to = max(row, self.end().row(file.RUN_FILE) - keep)
        return _at(to), to - row

    def end(self) -> Position:
        """The position after the last durable record."""
        with self._reading() as connection:
            return _at(self._last_row(connection))

    def gone(self) -> Gone:
        """The records that this log lacks, as a copy made from Kafka may."""
        with self._reading() as connection:
            return file.read_gone(connection, self._file)

    def wait(self, position: Position, timeout_s: float) -> bool:
        """True as soon as records stand after `position`, notified by the writer or within 50 ms; False when `timeout_s` passed."""
        deadline = time.monotonic() + timeout_s
        if self._listener is None:
            self._listener = Listener(self.path.parent)
        while not self.end().records_since(position):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._listener.notified(min(left, POLL_S))
        return True

    def free_reserve(self) -> None:
        """Deletes the reserve file: room for the end of a run on a full disk."""
        self._owned("free the reserve of").free_reserve()

    def seal(self) -> bool:
        """Leaves WAL mode, then marks the run as sealed; the log is only read from then on.

        False when readers held the file for five seconds: `Directory.seal_finished` does the rest. Raises RuleError for an empty log.
        """
        self._stop_reading()
        return self._owned("seal").seal()

    def close(self) -> None:
        """Closes connections and socket, frees reserve and lock; a second call does nothing."""
        self._stop_reading()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _owned(self, doing: str) -> "_Writer":
        if self._writer is None:
            raise RuleError(f"cannot {doing} {self._file}: it was opened for reading; create or resume the run to write it")
        return self._writer

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """A connection for one request."""
        sealed = file.read_mark(self.path) is not None
        if sealed or (self._connection is None and _is_archived(self.path)):
            self._release()
            with (
                file.unchanged(self.path) if sealed else nullcontext(),
                _sealed_at_once,
                file.explained(self._file, "read"),
                closing(file.open_for_reading(self._file, immutable=True)) as connection,
            ):
                yield connection
            return
        if self._connection is None:
            self._connection = file.open_for_reading(self._file, immutable=False)
        try:
            with file.explained(self._file, "read"):
                yield self._connection
        finally:
            if self._finished:
                self._release()

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _stop_reading(self) -> None:
        """Closes connection and socket; the next request opens them again."""
        self._release()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _require_whole(self, connection: apsw.Connection, topics: frozenset[str] | None) -> None:
        """Raises LogError where reading would miss records without an error: a sealed file was cut, or the index lacks facts. Asks once."""
        if not self._is_counted:
            marked = file.in_mark(file.read_mark(self.path), "records", int)
            if marked and (found := self._last_row(connection)) != marked:
                raise LogError(f"cannot trust {self._file}: expected {marked} records, as the run's mark says, got {found}; {RESTORE}")
            self._is_counted = True
        for name, used in (("facts", (topics or frozenset()) & FACTS), ("telemetry", (topics or frozenset()) - FACTS)):
            if used and name not in self._counted_indexes:
                self._require_index(connection, name)
                self._counted_indexes.add(name)

    def _require_index(self, connection: apsw.Connection, name: str) -> None:
        """Raises LogError unless the index leads to every fact up to the last one's number, or to all other records."""
        last = connection.execute(_LAST_FACT).get or 0
        if name == "facts":
            listed, total = connection.execute(_LISTED).fetchall()[0]
            whole, what = (listed, total) == (last, last * (last + 1) // 2), f"every fact up to the last one's number, {last}"
        elif file.has_telemetry_index(connection):
            listed = connection.execute(_LISTED_TELEMETRY).get
            others = file.read_gone(connection, self._file).left_of(self._last_row(connection)) - last
            whole, what = listed == others, f"{others} records of telemetry"
        else:
            return
        if not whole:
            raise LogError(f"cannot trust {self._file}: expected its index to lead to {what}, got {listed}; {RESTORE}")

    def _records(self, rows: list[file.Row]) -> tuple[Record, ...]:
        try:
            return tuple(file.to_record(self.run, self.writer, row) for row in rows)
        except DataError as error:
            raise LogError(f"cannot read {self._file}: the file is damaged: {error}") from error

    def _last_row(self, connection: apsw.Connection) -> int:
        """The last row; 0 before the first. Once that is RunFinished nothing follows, and the file is closed after each request."""
        row, kind = connection.execute("SELECT row, type FROM records ORDER BY row DESC LIMIT 1").fetchone() or (0, "")
        self._finished = kind == RunFinished.KIND
        return int(row)


class _Writer:
    """The one writing connection of a run, with everything that goes with it: lock, reserve, notifier, and the log's end."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self._folder = folder
        self._path = folder / file.RUN_FILE
        self._reserve = folder / file.RESERVE
        self._lock = lock
        self._process = os.getpid()
        self._connection: apsw.Connection | None = file.open_for_writing(self._path)
        try:
            self.heads = checked(self._connection, self._path)
            if self.heads.unknown:
                what = f"{self.heads.unknown} telemetry records are gone at its end, and the numbers of the next ones are not known"
                raise LogError(
                    f"run {self.heads.run} cannot go on in {folder}: {what}; go on from Kafka: esper resume RUN --log kafka://..."
                )
            require_acknowledged(folder, self.heads.row, lock.noted)
            self._places = Places(self._connection, self._path, folder / file.WRITER_LOCK)
            self._make_reserve()
        except BaseException:
            self._connection.close()
            raise
        self._notifier = Notifier(folder.parent, self.heads.run)

    def append(self, records: tuple[Record, ...], reached: Heads | None = None) -> None:
        connection = self._writing("append to")
        heads = reached or self.heads.after(records)
        with file.explained(self._path, "append to"), connection:
            rows = enumerate(records, start=self.heads.row + 1)
            connection.executemany(file.INSERT, ((row, *file.to_row(record)) for row, record in rows))
            self._places.require("append to")  # Before the commit: what is refused is not written.
        self._places.require("append to")
        self.heads = heads
        self._lock.note(heads.row)
        self._notifier.notify()

    def seal(self) -> bool:
        connection = self._writing("seal")
        self._places.require("seal")
        with file.explained(self._path, "read"):
            ends = [file.to_record(self.heads.run, self.heads.writer, row) for row in connection.execute(_ENDS)]
        if not ends:
            raise RuleError(f"cannot seal {self._path}: expected records, got none")
        self.free_reserve()
        sealed = file.leave_wal(connection, self._path)
        connection.close()
        self._connection = None
        if sealed:
            file.write_mark(self._folder / file.SEAL_MARK, file.mark_of(self.heads, ends[0], ends[-1]))
            self._notifier.notify()
        return sealed

    def _make_reserve(self) -> None:
        """Makes a file that keeps room for RunFailed on a disk that fills up. Raises LogError on a disk that is full already."""
        try:
            with file.explained(self._reserve, "write"), new_file(self._reserve) as reserve:
                # Written, not truncated to its length or fallocated: a hole keeps no room, and not every system has the other.
                reserve.write(bytes(_RESERVE_BYTES))
                reserve.flush()
                os.fsync(reserve.fileno())
        except LogError:
            self.free_reserve()  # A part of it would only make the full disk fuller.
            raise

    def free_reserve(self) -> None:
        if self._connection is not None and self._places.lost is None:  # Else it is freed already, or another's.
            with suppress(OSError):  # What is written next says whether there is room.
                self._reserve.unlink(missing_ok=True)

    def _writing(self, doing: str) -> apsw.Connection:
        if os.getpid() != self._process:
            raise RuleError(f"cannot {doing} {self._path} in a forked child: process {self._process} opened it and goes on writing it")
        if self._connection is None:
            raise LogError(f"cannot {doing} {self._path}: the log is closed")
        return self._connection

    def close(self) -> None:
        if os.getpid() != self._process:
            return
        try:
            if self._connection is not None:
                self.free_reserve()
                self._connection = None
                self._places.close()
        finally:
            self._notifier.close()
            self._lock.release()


@contextmanager
def _locked(folder: Path, run: str) -> Iterator[Lock]:
    """The lock of the run in `folder`, which the block passes on; released where it fails."""
    lock = Lock(folder / file.WRITER_LOCK, f"run {run}")
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def checked(connection: apsw.Connection, path: Path) -> Heads:
    """The file's end, after a check of SQLite's structure and of every number and chain. Raises LogError at the first fault."""
    heads = Heads(*file.read_meta(connection, path), gone=file.read_gone(connection, path))
    file.check_integrity(connection, path)
    with file.explained(path, "read"):
        for following, row in enumerate(connection.execute("SELECT * FROM records ORDER BY row"), start=1):
            try:
                if heads.gone or row[0] != following:
                    heads.pass_over(row[0])
                heads.verify(file.to_record(heads.run, heads.writer, row))
            except DataError as error:
                raise LogError(f"cannot trust {path}: {error}; {RESTORE}") from error
    heads.reach_ends()
    if heads.unknown != heads.gone.rows:
        what = f"expected {heads.gone.count} records to be gone, got {heads.gone.count - heads.gone.rows + heads.unknown}"
        raise LogError(f"cannot trust {path}: {what}; {RESTORE}")
    return heads


def require_folder(path: Path) -> None:
    """Raises LogError where the folder of a new run is a link: who put it there wants another to be written."""
    if path.is_symlink():
        raise LogError(f"cannot make a run at {path}: expected a folder, got a link")


def require_acknowledged(folder: Path, row: int, noted: int) -> None:
    """Raises LogError where the log in `folder` ends at `row`, before the record that its writer noted as durable: no chain shows that."""
    if row < noted:
        what = f"the log ends {noted - row} records before the one that was written last; {RESTORE}"
        raise LogError(f"cannot trust {folder}: {what}, or remove {folder / file.WRITER_LOCK} to do without them")


def _is_archived(folder: Path) -> bool:
    """True for an unsealed run that no process writes, in a folder that this one may not write: SQLite could not make its shared memory."""
    unwritten = not file.bytes_in(folder / (file.RUN_FILE + "-wal"))
    return unwritten and not os.access(folder, os.W_OK) and holder_of(folder / file.WRITER_LOCK) is None


def _select(connection: apsw.Connection, row: int, limit: int, topics: frozenset[str] | None, *, newest: bool = False) -> list[file.Row]:
    """At most `limit` rows of `topics` after row `row`: the first, or the `newest`, newest first."""
    order = f"ORDER BY row {'DESC' if newest else 'ASC'} LIMIT ?"
    if topics is None:
        return connection.execute(f"SELECT * FROM records WHERE row > ? {order}", (row, limit)).fetchall()  # noqa: S608
    if not (topics <= FACTS or file.has_telemetry_index(connection)):
        among = ", ".join("?" * len(topics))
        query = f"SELECT * FROM records WHERE row > ? AND topic IN ({among}) {order}"  # noqa: S608
        return connection.execute(query, (row, *sorted(topics), limit)).fetchall()
    # Facts along their own index, and each topic of telemetry along its part of the other: what stands between is never touched.
    facts, parts = sorted(topics & FACTS), [("fact IS NULL AND topic = ?", [name]) for name in sorted(topics - FACTS)]
    if facts:
        parts.append((f"fact IS NOT NULL AND topic IN ({', '.join('?' * len(facts))})", facts))
    among = " UNION ALL ".join(f"SELECT * FROM (SELECT row FROM records WHERE row > ? AND {where} {order})" for where, _ in parts)  # noqa: S608
    values = [value for _, names in parts for value in (row, *names, limit)]
    query = f"SELECT * FROM records WHERE row IN ({among or 'NULL'}) {order}"  # noqa: S608
    return connection.execute(query, (*values, limit)).fetchall()


def _at(row: int) -> Position:
    return Position.at(file.RUN_FILE, row)
