"""Records of a log as batches of rows for `events`, each with the reason why it may not stand in a typed table.

A record is judged once, when it is read: it decodes, it stands in its kind's topic, its sequence is the next of its topic, and its chain
follows from its predecessor's. A record that fails is kept all the same: checks find it. Nothing is written here.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from esper.errors import DataError, LogError
from esper.events.codec import decode_payload
from esper.events.digests import chain
from esper.events.envelope import MICROSECOND, SINCE, Record, RunId
from esper.events.kinds import KINDS_BY_NAME
from esper.folds.gaps_and_duplicates import Admission, Apply, Drop, Gap, admit
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE, RUN_FILE, SEAL_MARK, read_mark
from esper.oona.observed import is_observed, observed_rows
from esper.oona.run_log import RunLog

WRITTEN, OBSERVED = "run", "observed"
FILES: Mapping[str, str] = {WRITTEN: RUN_FILE, OBSERVED: OBSERVED_FILE}
MOST_RECORDS = 16_384
"""Of one batch, and of one piece of a table in the file: what is full is written while the next batch is read."""
_MOST_BYTES = 128 << 20
_PAGE = 1024
_LONGEST_PROBLEM = 500
EventRow = tuple[object, ...]
_INTEGER, _TEXT = pa.int64(), pa.string()
SCHEMA = pa.schema(
    [
        ("id", _TEXT),
        ("run", _TEXT),
        ("topic", _TEXT),
        ("file", _TEXT),
        ("row", _INTEGER),
        ("writer", _TEXT),
        ("sequence", _INTEGER),
        ("fact", _INTEGER),
        ("moment", _INTEGER),
        ("generation", _INTEGER),
        ("incarnation", _INTEGER),
        ("type", _TEXT),
        ("time", pa.timestamp("us")),
        ("epoch", _INTEGER),
        ("step", _INTEGER),
        ("cause", _TEXT),
        ("trace", _TEXT),
        ("chain", pa.binary()),
        ("follows", pa.bool_()),
        ("data", pa.large_string()),
        ("problem", _TEXT),
    ]
)


@dataclass(slots=True)
class LastOfTopic:
    """The last record of one topic of a run that was read: what admitted it, and its chain.

    `undigested` is that record, where `admission` has no digest of it yet.
    """

    admission: Admission = field(default_factory=Admission)
    chain: bytes = b""
    undigested: Record | None = None


class Reached(NamedTuple):
    """The row up to which one file of a run was read, and what it looked like before. `problem`: why it could not be read further.

    `mark`: what its seal says, of the run's own file.
    """

    run: RunId
    file: str
    row: int
    stamp: str
    problem: str | None = None
    gone: str | None = None
    mark: str | None = None


class EventRows(NamedTuple):
    """Rows for `events`, the kinds in them that have tables, and how far the files were read with them."""

    table: pa.Table
    kinds: frozenset[str]
    reached: tuple[Reached, ...]


def stamp_of(folder: Path, file: str) -> str:
    """Size, time and identity of a file, its WAL and its seal: where they are the same, nothing was written. Empty: there is no file."""
    found = []
    for path in (folder / FILES[file], folder / (FILES[file] + "-wal"), *((folder / SEAL_MARK,) if file == WRITTEN else ())):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_size:
            found.append(f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}")
    return " ".join(found)


def row_pages(directory: Directory, run: RunId, file: str, after: int) -> Iterator[tuple[tuple[int, Record], ...]]:
    """Pages of the records of one file after row `after`, each with its row. Raises LogError where the file cannot be read."""
    folder = directory.path / run
    if file == OBSERVED:
        while page := observed_rows(folder, run, after, _PAGE):
            yield page
            after = page[-1][0]
        return
    with RunLog(folder) as log:
        if log.run != run:
            raise LogError(f"expected run {run} in {folder}, got {log.run}: name the directory so, or move a copy out of the log")
        while page := log.rows(after, _PAGE):
            yield page
            after = page[-1][0]


def gone_of(directory: Directory, run: RunId) -> str | None:
    """The records that a copy made from Kafka lacks, as text; None: nothing, as in any other run."""
    with RunLog(directory.path / run) as log:
        gone = log.gone()
    return gone.to_text() if gone else None


def has_file(directory: Directory, run: RunId, file: str) -> bool:
    """True where the run has that file."""
    return is_observed(directory.path / run) if file == OBSERVED else directory.has_log(run)


class Reader:
    """Reads files of a directory on from `rows` and gathers their records into batches; `topics` is where each run's topics stood."""

    def __init__(
        self, directory: Directory, rows: Mapping[tuple[RunId, str], int], topics: Mapping[tuple[RunId, str], LastOfTopic]
    ) -> None:
        self._directory = directory
        self._rows = rows
        self._topics = dict(topics)
        self._pages: list[pa.Table] = []
        self._records = self._bytes = 0
        self._most = _PAGE  # Twice as many each time: the first are soon there to be written, while more are read.
        self._kinds: set[str] = set()
        self._reached: dict[tuple[RunId, str], Reached] = {}

    def batches(self, files: Iterable[tuple[RunId, str]]) -> Iterator[EventRows]:
        """Everything new in `files`, in batches of whole pages. A file that cannot be read has a problem, and the others are read."""
        for run, file in files:
            folder = self._directory.path / run
            reached = Reached(run, file, self._rows.get((run, file), 0), stamp_of(folder, file))
            try:
                gone = gone_of(self._directory, run) if file == WRITTEN else None
                self._reached[run, file] = reached = reached._replace(gone=gone, mark=read_mark(folder) if file == WRITTEN else None)
                for page in row_pages(self._directory, run, file, reached.row):
                    # A page at a time: the next one takes the memory of its texts again, which the processor still has at hand.
                    self._pages.append(arrow_of([self._row(file, row, record) for row, record in page]))
                    self._records += len(page)
                    self._reached[run, file] = reached = reached._replace(row=page[-1][0])
                    if self._records >= self._most or self._bytes >= _MOST_BYTES:
                        # The stamp is of the whole file: it stands where all of it was read, and so with the last batch alone.
                        self._reached[run, file] = reached._replace(stamp="")
                        yield self._taken()
                self._reached[run, file] = reached
            except LogError as error:
                self._reached[run, file] = reached._replace(problem=str(error))
        if self._reached:
            yield self._taken()

    def _row(self, file: str, row: int, record: Record) -> EventRow:
        problem, follows = _undecodable(record), None
        if file == WRITTEN:
            state = self._topics.setdefault((record.run, record.topic), LastOfTopic())
            follows = record.chain == chain(record, state.chain)
            problem = _refused(state, record) or problem
            state.chain = record.chain or b""
        if problem is None:
            self._kinds.add(record.type)
        self._bytes += len(record.data)
        return row_of(file, row, record, follows, problem)

    def _taken(self) -> EventRows:
        batch = EventRows(pa.concat_tables([SCHEMA.empty_table(), *self._pages]), frozenset(self._kinds), tuple(self._reached.values()))
        self._pages, self._records, self._bytes, self._kinds, self._reached = [], 0, 0, set(), {}
        self._most = min(2 * self._most, MOST_RECORDS)
        return batch


def row_of(file: str, row: int, record: Record, follows: bool | None = None, problem: str | None = None) -> EventRow:
    """`record` as a row of `events`; a payload that is not UTF-8 is written with escapes, and has a problem."""
    identity, run, topic, writer, sequence, fact, moment, generation, incarnation, kind, time, epoch, step, cause, trace, tied, data = (
        record
    )
    place = (identity, run, topic, file, row, writer, sequence, fact, moment, generation, incarnation, kind, (time - SINCE) // MICROSECOND)
    return *place, epoch, step, cause, trace, tied, follows, _utf8(data), None if problem is None else problem[:_LONGEST_PROBLEM]


def _utf8(data: bytes) -> bytes:
    """`data`, its bytes that are not UTF-8 written as escapes."""
    if data.isascii():
        return data
    return data.decode(errors="backslashreplace").encode()


def arrow_of(rows: Sequence[EventRow]) -> pa.Table:
    """Rows of `events` as a table."""
    columns = tuple(zip(*rows, strict=True)) or ((),) * len(SCHEMA)
    made = (
        _texts(column) if name == "data" else pa.array(column, kind)
        for name, kind, column in zip(SCHEMA.names, SCHEMA.types, columns, strict=True)
    )
    return pa.table(list(made), schema=SCHEMA)


def _texts(payloads: Sequence[bytes]) -> pa.Array:
    """UTF-8 texts as an array: joined, for they are nearly all that a table holds, and `pa.array` copies each several times."""
    ends = array("q", accumulate(map(len, payloads), initial=0))
    return pa.LargeStringArray.from_buffers(len(payloads), pa.py_buffer(ends), pa.py_buffer(b"".join(payloads)))


def _undecodable(record: Record) -> str | None:
    """The reason why `record` has no event of its kind and topic; None: it has."""
    try:
        decode_payload(record.type, record.data)
    except DataError as error:
        return str(error)
    kind = KINDS_BY_NAME[record.type]
    return None if kind.TOPIC in ("*", record.topic) else f"{record.type} stands in topic {record.topic}, expected {kind.TOPIC}"


def _refused(state: LastOfTopic, record: Record) -> str | None:
    """The reason why `record` does not come after those of its topic that were read; None: it does, and `state` has it now."""
    known, following = state.admission, state.admission.sequence + 1
    if record.sequence == following and known.incarnations and known.incarnations[-1][0] == record.incarnation:
        # The next one, as nearly all are. A digest of its bytes, which takes longer than all else here, is wanted only if it comes again.
        state.admission, state.undigested = Admission(following, b"", known.incarnations), record
        return None
    if state.undigested is not None:
        known = state.admission = _digested(known, state.undigested)
        state.undigested = None
    verdict = admit(known, record)
    if isinstance(verdict, Gap):
        # What is missing is found in the sequences themselves; what follows is read on from here.
        verdict = admit(Admission(verdict.to, b"", known.incarnations), record)
    if isinstance(verdict, Drop):
        return verdict.detail
    assert isinstance(verdict, Apply), "a gap that was passed is none"
    state.admission = verdict.admission
    return None


def _digested(admission: Admission, last: Record) -> Admission:
    """`admission` with the digest of the `last` record that it admitted."""
    verdict = admit(Admission(admission.sequence - 1, b"", admission.incarnations), last)
    assert isinstance(verdict, Apply), "it was the next one"
    return verdict.admission
