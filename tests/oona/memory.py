"""A log in memory: the contract without a disk, for tests."""

import threading
from typing import Self

from esper.errors import LogError
from esper.events.envelope import TRAINER, Record, RunId
from esper.oona.contract import START, Page, Position
from esper.oona.gone import NOTHING_GONE, Gone
from esper.oona.heads import Heads

_FILE = "memory"


class MemoryLog:
    """A `RunWriter` that keeps its records in a list. Threads may read and wait while one appends."""

    def __init__(self, run: RunId, writer: str = TRAINER) -> None:
        self.sealed = False
        self._records: list[Record] = []
        self._heads = Heads(run, writer)
        self._grown = threading.Condition()

    @property
    def run(self) -> RunId:
        """The run that this log holds."""
        return self._heads.run

    @property
    def writer(self) -> str:
        """The name that every record's `writer` field must carry."""
        return self._heads.writer

    def heads(self) -> Heads:
        """How the log ends, as a copy."""
        return self._heads.copy()

    def append(self, records: tuple[Record, ...], reached: Heads | None = None) -> None:
        """Adds `records`, all or none. Raises RuleError for records that do not continue the log, LogError once it is sealed."""
        if self.sealed:
            raise LogError(f"run {self.run} is sealed: expected no record after its end, got {len(records)}")
        heads = reached or self._heads.after(records)
        with self._grown:
            self._records.extend(records)
            self._heads = heads
            self._grown.notify_all()

    def read(self, position: Position | None = None, limit: int = 1000, topics: frozenset[str] | None = None) -> Page:
        """At most `limit` records after `position`, of `topics`, oldest first."""
        found: list[Record] = []
        rows = self._records
        row = (position or START).row(_FILE)
        end = len(rows)
        while row < end and len(found) < limit:
            if topics is None or rows[row].topic in topics:
                found.append(rows[row])
            row += 1
        return Page(tuple(found), Position.at(_FILE, row))

    def last(self, limit: int = 1, topics: frozenset[str] | None = None) -> tuple[Record, ...]:
        """The newest `limit` records of `topics`, oldest first."""
        found = [record for record in self._records if topics is None or record.topic in topics]
        return tuple(found[max(0, len(found) - limit) :])

    def skip(self, position: Position | None, keep: int) -> tuple[Position, int]:
        """Where a reader goes on who may be `keep` records behind, and how many it passes over."""
        row = (position or START).row(_FILE)
        to = max(row, len(self._records) - keep)
        return Position.at(_FILE, to), to - row

    def end(self) -> Position:
        """The position after the last record."""
        return Position.at(_FILE, len(self._records))

    def gone(self) -> Gone:
        """Nothing is gone."""
        return NOTHING_GONE

    def wait(self, position: Position, timeout_s: float) -> bool:
        """True as soon as records stand after `position`; False when `timeout_s` passed without one."""
        with self._grown:
            return self._grown.wait_for(lambda: len(self._records) > position.row(_FILE), timeout_s)

    def free_reserve(self) -> None:
        """Does nothing: memory keeps no reserve."""

    def seal(self) -> bool:
        """Ends the log for good; True."""
        self.sealed = True
        return True

    def close(self) -> None:
        """Does nothing: the records stay as long as the log does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
