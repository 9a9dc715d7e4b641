"""The contracts of the log: `Log` for readers, `RunWriter` for the one process that writes a run.

Order of writing everywhere: data durable, then what readers see. Nothing here opens a file.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from esper.errors import DataError, LogError
from esper.events.envelope import Record, RunId
from esper.events.topics import FACTS
from esper.oona.gone import Gone
from esper.oona.heads import Heads


class ConflictError(LogError):
    """Records that contradict those that were written, or do not continue them."""


@dataclass(frozen=True, slots=True)
class Position:
    """A reader's place in a log: an opaque cursor, the last row read of each file. Only `esper.oona` looks inside; others keep its text."""

    rows: tuple[tuple[str, int], ...] = ()

    @classmethod
    def at(cls, file: str, row: int) -> Self:
        """The position after row `row` of `file`."""
        return cls(((file, row),))

    def row(self, file: str) -> int:
        """The last row read of `file`; 0 before the first."""
        return dict(self.rows).get(file, 0)

    def records_since(self, earlier: "Position") -> int:
        """The number of records of all topics between `earlier` and this position of the same log; 0 where that is later."""
        return sum(max(0, row - earlier.row(file)) for file, row in self.rows)

    def to_text(self) -> str:
        """The position as JSON, to be stored beside what was made of the records before it."""
        return json.dumps(dict(self.rows), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The position that `to_text` wrote. Raises DataError for anything else."""
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise DataError(f"expected the text of a log position, got {text!r}") from error
        if not isinstance(rows, dict) or not all(type(row) is int and row >= 0 for row in rows.values()):
            raise DataError(f"expected the text of a log position, a map of file to row, got {text!r}")
        return cls(tuple(sorted(rows.items())))


START = Position()
_PAGE = 1000


class Page(NamedTuple):
    """Records in the log's order, and the position after them."""

    records: tuple[Record, ...]
    position: Position


class Log(Protocol):
    """An ordered, durable, append-only sequence of one run's records. Any number of readers, in any process, beside the one writer."""

    def read(self, position: Position | None = None, limit: int = 1000, topics: frozenset[str] | None = None) -> Page:
        """At most `limit` records after `position` (None: from the first), of `topics` (None: all), oldest first.

        A page with fewer than `limit` records ends at the log's end as it was then, whatever the topics. Never blocks for new records.
        """

    def last(self, limit: int = 1, topics: frozenset[str] | None = None) -> tuple[Record, ...]:
        """The newest `limit` records of `topics` (None: all), oldest first; looked for from the end, whatever stands before."""

    def skip(self, position: Position | None, keep: int) -> tuple[Position, int]:
        """The later of `position` (None: the start) and the position `keep` records before the end, and how many records that skips."""

    def end(self) -> Position:
        """The position after the last durable record."""

    def gone(self) -> Gone:
        """The telemetry that this log lacks, as a copy made from Kafka may; of any other log nothing."""

    def wait(self, position: Position, timeout_s: float) -> bool:
        """True as soon as records stand after `position`; False when `timeout_s` passed without one."""


def pages_of(log: Log, start: Position | None, topics: frozenset[str] | None, limit: int = _PAGE) -> Iterator[Page]:
    """The pages of `log` after `start`, of `topics` (None: all), at least one, up to the log's end as it is when that is reached."""
    page = log.read(start, limit, topics)
    while len(page.records) == limit:
        yield page
        page = log.read(page.position, limit, topics)
    yield page


def records_of(log: Log, topics: frozenset[str] | None, limit: int = _PAGE) -> Iterator[Record]:
    """The records of `topics` (None: all) that stand in `log` when they are reached, oldest first.

    Raises LogError where one is missing that is not known to be gone.
    """
    last: dict[str, int] = {}
    for page in pages_of(log, None, topics, limit):
        for record in page.records:
            expected = last.get(record.topic, 0) + 1
            if record.sequence != expected:
                expected = log.gone().next_sequence(record.topic, expected - 1)
            numbered = record.fact is not None or record.topic not in FACTS
            if record.sequence != expected or not numbered:
                what = f"sequence {expected}, got {record.sequence}" if numbered else "a fact's number, got none"
                at = f"run {record.run}, topic {record.topic}, moment {record.moment}"
                raise LogError(f"{at}: expected {what}; the log is damaged: esper doctor checks all of it")
            last[record.topic] = expected
            yield record


def records_between(log: Log, start: Position, end: Position) -> Iterator[Record]:
    """The records of `log` after `start`, up to `end` and no further, oldest first, a page at a time."""
    while (left := end.records_since(start)) > 0:
        limit = min(left, _PAGE)
        # Where records are gone there are fewer than rows, and a page may reach beyond the end.
        while (page := log.read(start, limit)).position.records_since(end) and limit > 1:
            limit //= 2
        if page.position.records_since(end) or not page.records:
            return
        yield from page.records
        start = page.position


class RunWriter(Log, Protocol):
    """The log in the hands of the run's one writing process. `append` and `seal` are called by one thread at a time."""

    @property
    def run(self) -> RunId:
        """The run that this log holds."""

    @property
    def writer(self) -> str:
        """The name that every record's `writer` field must carry."""

    def heads(self) -> Heads:
        """The log's end, as a copy: numbers and chains that the next records continue."""

    def append(self, records: tuple[Record, ...], reached: Heads | None = None) -> None:
        """Makes `records` durable, all or none, before it returns; readers see them from then on.

        `reached` is the log's end after them, where `Heads.next` made them from a copy of its end; without it each of them is checked.

        Raises RuleError for records that do not continue the log's numbers, LogError when they could not be written: the records appended
        before stand, and `heads` is still the log's end.
        """

    def free_reserve(self) -> None:
        """Frees the space that was kept for the end of a run on a full disk."""

    def seal(self) -> bool:
        """Ends the log for good: nothing is appended after it. False when a reader held it open too long; the next holder seals it."""

    def close(self) -> None:
        """Closes files and releases locks; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
