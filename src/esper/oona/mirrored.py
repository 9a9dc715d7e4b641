"""The file of a run that is copied from Kafka, in the hands of the one process that copies it: the same rows, bytes and chains.

Every record is verified before it is written, as a resume verifies a whole file. A mark beside the file says that it is a copy; its time is
that of the newest record, by which readers tell a run that is being written elsewhere from one that is not.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import apsw

from esper.durable import appended
from esper.errors import DataError, LogError
from esper.events.envelope import Record, RunId
from esper.events.kinds.run import RunFailed, RunFinished, StreamEnded
from esper.events.topics import RUN
from esper.oona import file
from esper.oona.contract import ConflictError
from esper.oona.gone import TopicEnd
from esper.oona.heads import Heads
from esper.oona.lock import holder_of
from esper.oona.notifier import Notifier
from esper.oona.places import Places
from esper.oona.run_log import checked

_GONE = "INSERT INTO meta VALUES ('gone', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_LAST_OF_TOPICS = "SELECT * FROM records WHERE row IN (SELECT max(row) FROM records GROUP BY topic) ORDER BY row"
_ENDS = "SELECT * FROM records WHERE row IN ((SELECT min(row) FROM records), (SELECT max(row) FROM records)) ORDER BY row"
_SILENT = frozenset({RunFailed.KIND, RunFinished.KIND, StreamEnded.KIND})


class MirroredRun:
    """The copy of one run. Close it, or use it in a `with` statement."""

    def __init__(self, folder: Path, run: RunId, writer: str) -> None:
        """Opens the copy in `folder`, made if need be. Raises LogError for a run that this machine writes, or that is sealed."""
        self._folder, self._path, self._mark = folder, folder / file.RUN_FILE, folder / file.MIRRORED_MARK
        if not self._path.exists():
            with file.explained(folder, "make the folder"):
                folder.mkdir(parents=True, exist_ok=True)
                appended(self._mark).close()
            file.create_file(self._path, run, writer)
        elif not self._mark.exists() or holder_of(folder / file.WRITER_LOCK) is not None:
            raise LogError(f"cannot copy run {run} into {folder}: it was written there: name another directory for the mirror")
        if file.read_mark(folder) is not None:
            raise LogError(f"cannot copy run {run} into {folder}: it is sealed")
        self._connection: apsw.Connection | None = file.open_for_writing(self._path)
        self._places = Places(self._connection, self._path)
        self._notifier = Notifier(folder.parent, run)
        try:
            self.heads = self._found()
            if (self.heads.run, self.heads.writer) != (run, writer):
                raise ConflictError(
                    f"expected run {run} of writer {writer} in {self._path}, got run {self.heads.run} of {self.heads.writer}"
                )
        except BaseException:
            self.close()
            raise

    def append(self, rows: Sequence[tuple[int, Record]]) -> None:
        """Makes `rows` durable, all or none. Rows that are missing before one must be of telemetry that is gone: the caller knows.

        Raises ConflictError for a record that does not continue the copy.
        """
        heads = self.heads.copy()
        try:
            for row, record in rows:
                missing = row - heads.row - 1
                if missing > 0 or heads.unknown:
                    heads.gone = heads.gone.having(heads.unknown + missing)
                heads.pass_over(row)
                if heads.gone.rows:
                    heads.learn(record)
                heads.verify(record)
        except DataError as error:
            raise ConflictError(f"cannot copy run {heads.run} from Kafka: {error}") from error
        heads.gone = heads.gone.having(heads.unknown)
        connection = self._open()
        with file.explained(self._path, "append to"), connection:
            connection.executemany(file.INSERT, ((row, *file.to_row(record)) for row, record in rows))
            if heads.gone != self.heads.gone:
                connection.execute(_GONE, (heads.gone.to_text(),))
            self._places.require("append to")
        self._places.require("append to")
        self.heads = heads
        self._beat(rows[-1][1])
        self._notifier.notify()

    def learn_ends(self, ends: Iterable[TopicEnd], row: int, moment: int) -> None:
        """Accounts for telemetry that is gone at the end of the copy: the run can go on from there then.

        `ends` are those of its topics, `row` and `moment` those of the run's last record. Everything that Kafka has is copied.
        """
        heads = self.heads.copy()
        if row <= heads.row and not heads.unknown:
            return
        heads.learn_ends(ends, row, moment)
        if heads.gone != self.heads.gone:
            with file.explained(self._path, "append to"), self._open() as connection:
                connection.execute(_GONE, (heads.gone.to_text(),))
        self.heads = heads

    def seal(self) -> bool:
        """Seals the copy of a finished run, as its writer sealed it. False when readers held the file open for five seconds."""
        connection = self._open()
        self._places.require("seal")
        with file.explained(self._path, "read"):
            first, last = (file.to_record(self.heads.run, self.heads.writer, row) for row in connection.execute(_ENDS))
        sealed = file.leave_wal(connection, self._path)
        self._connection = None
        connection.close()
        if sealed:
            file.write_mark(self._folder / file.SEAL_MARK, file.mark_of(self.heads, first, last))
            self._notifier.notify()
        return sealed

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        try:
            if self._connection is not None:
                self._connection = None
                self._places.close()
        finally:
            self._notifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise LogError(f"cannot use {self._path}: it is closed")
        return self._connection

    def _beat(self, record: Record) -> None:
        over = record.topic == RUN and record.type in _SILENT
        time = 0 if over else record.time.timestamp()
        with file.explained(self._mark, "write"):
            appended(self._mark).close()
            os.utime(self._mark, (time, time))

    def _found(self) -> Heads:
        """The copy's end, from the last record of each topic: all were verified when they were written. Where some are gone, from all."""
        connection = self._open()
        if file.read_gone(connection, self._path):
            return checked(connection, self._path)
        heads = Heads(*file.read_meta(connection, self._path))
        with file.explained(self._path, "read"):
            for row in connection.execute(_LAST_OF_TOPICS):
                heads.take_up(file.to_record(heads.run, heads.writer, row))
        return heads


def differing(folder: Path, rows: Iterable[tuple[int, Record]]) -> int | None:
    """The first of `rows` that stands in the copy in `folder` with other bytes; None where none does. Rows that are gone are equal."""
    path = folder / file.RUN_FILE
    with file.explained(path, "read"), closing(file.open_for_reading(path, immutable=file.read_mark(folder) is not None)) as connection:
        for row, record in rows:
            stored = connection.execute("SELECT chain FROM records WHERE row = ?", (row,)).get
            if stored is not None and stored != record.chain:
                return row
    return None
