"""A finished run in the hands of someone who may write its files and knows how Esper numbers, chains and ends records.

Nothing here knows what is checked. A forger reads all records, changes the list as he likes, recomputes as much as he cares for, and writes
it back.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from esper.events.digests import chain
from esper.events.envelope import SINCE, written_time

_READ = "SELECT * FROM records ORDER BY row"
_WRITE = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_HEARTBEAT = "esper.run.heartbeat.v1"
_ENDS = ("esper.run.finished.v1", "esper.run.failed.v1")
MARK, OBSERVED = "sealed", "observed.sqlite"
Payload = dict[str, Any]
"""A payload as JSON: forgers ask no model."""


@dataclass
class Row:
    """A row of `records`, in the order of its columns."""

    row: int
    topic: str
    sequence: int
    fact: int | None
    moment: int
    incarnation: int
    type: str
    time: int
    epoch: int
    step: int
    cause: str | None
    trace: str | None
    chain: bytes
    data: bytes

    @property
    def payload(self) -> Payload:
        """The payload, to be read."""
        parsed: Payload = json.loads(self.data)
        return parsed

    def change(self, **fields: object) -> None:
        """Sets fields of the payload, those of inner objects by `outer__inner`."""
        payload = self.payload
        for name, value in fields.items():
            *outer, last = name.split("__")
            place = payload
            for part in outer:
                place = place[part]
            place[last] = value
        self.data = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()


class Forger:
    """The records of the run in `folder`, to be changed; written when the `with` statement ends."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "run.sqlite"
        with closing(sqlite3.connect(self.path)) as file:
            self.meta = {str(key): str(value) for key, value in file.execute("SELECT key, value FROM meta")}
            self.rows = [Row(*row) for row in file.execute(_READ)]
        self._copies = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            return
        if any(row.row >= after.row for row, after in pairwise(self.rows)):
            self.place()
        with closing(sqlite3.connect(self.path)) as file, file:
            file.execute("DELETE FROM records")
            file.executemany(_WRITE, map(astuple, self.rows))

    def of(self, kind: str, **fields: object) -> Iterator[Row]:
        """The rows of the kind `esper.<kind>.v1` whose payloads have `fields`."""
        for row in self.rows:
            if row.type == f"esper.{kind}.v1" and fields.items() <= row.payload.items():
                yield row

    def one(self, kind: str, number: int = 0, **fields: object) -> Row:
        """One of them, the first where no number is given; -1 is the last."""
        return list(self.of(kind, **fields))[number]

    def remove(self, rows: Iterable[Row]) -> None:
        """Takes `rows` out of the list."""
        gone = {id(row) for row in rows}
        self.rows = [row for row in self.rows if id(row) not in gone]

    def put(self, after: Row, *rows: Row) -> None:
        """Puts `rows` behind `after`."""
        place = self.rows.index(after) + 1
        self.rows[place:place] = rows

    def like(self, row: Row, **fields: object) -> Row:
        """A copy of `row` with `fields` of its payload changed, and a moment that no other record has: `number` gives it its own."""
        self._copies += 1
        copy = Row(*astuple(row))
        copy.moment = len(self.rows) + 1000 + self._copies
        copy.change(**fields)
        return copy

    def id_of(self, row: Row) -> str:
        """The id of a record."""
        return f"{self.meta['run']}/{row.moment}"

    def follow(self, cause: Row) -> list[Row]:
        """The records that follow from `cause`, directly or through others, with itself."""
        family, ids = [cause], {self.id_of(cause)}
        for row in self.rows:
            if row.cause in ids and row not in family:
                family.append(row)
                ids.add(self.id_of(row))
        return family

    def number(self) -> None:
        """Numbers all records anew, in the order of the list, and mends what names another record: causes, and ids in payloads."""
        moments, sequences, facts, moment = dict[int, int](), dict[str, int](), 0, 0
        for place, row in enumerate(self.rows, start=1):
            if row.type != _HEARTBEAT:
                moment += 1
                moments.setdefault(row.moment, moment)
            sequences[row.topic] = sequences.get(row.topic, 0) + 1
            facts += row.fact is not None
            row.row, row.moment, row.sequence = place, moment, sequences[row.topic]
            row.fact = None if row.fact is None else facts
        renamed = _renamer(self.meta["run"], moments)
        for row in self.rows:
            row.cause = None if row.cause is None else renamed(row.cause)
            row.data = renamed(row.data.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        self._mend_observed(moments, renamed)

    def _mend_observed(self, moments: dict[int, int], renamed: Callable[[str], str]) -> None:
        """Gives what was observed the moments and causes that its records have now."""
        if not (self.folder / OBSERVED).exists():
            return
        with closing(sqlite3.connect(self.folder / OBSERVED)) as file, file:
            derived = file.execute("SELECT row, moment, cause FROM derived").fetchall()
            mended = [(moments.get(moment, moment), None if cause is None else renamed(cause), row) for row, moment, cause in derived]
            file.executemany("UPDATE derived SET moment = ?, cause = ? WHERE row = ?", mended)

    def place(self) -> None:
        """Gives the records rows in the order of the list; no other number changes."""
        for place, row in enumerate(self.rows, start=1):
            row.row = place

    def tie(self, rows: Iterable[Row] | None = None) -> None:
        """Recomputes the chains of `rows` alone, else all of them, and then the tails that stand in the run's end."""
        chosen = None if rows is None else {id(row) for row in rows}
        ends: dict[str, Row] = {}
        for row in self.rows:
            if chosen is None and row.type in _ENDS:
                tails = [{"topic": topic, "sequence": last.sequence, "chain": last.chain.hex()} for topic, last in sorted(ends.items())]
                row.change(tails=tails)
            if chosen is None or id(row) in chosen:
                row.chain = chain(self._fields(row), ends[row.topic].chain if row.topic in ends else b"")
            ends[row.topic] = row

    def seal(self) -> None:
        """Makes the mark anew, as a writer that comes to this end makes it."""
        last, start = self.rows[-1], self.rows[0]
        summary: Payload = {"status": "finished"}
        if last.type == _ENDS[0]:
            summary |= {"task": start.payload["task"], "epochs": last.epoch}
            summary |= {name: last.payload[name] for name in ("metrics", "parameters")}
        ended = written_time(SINCE + timedelta(microseconds=last.time))
        mark = {"run": self.meta["run"], "records": len(self.rows), "moment": last.moment, "ended": ended, "summary": summary}
        (self.folder / MARK).write_text(json.dumps(mark))

    def finish(self) -> None:
        """Everything that can be recomputed without the run's own keys, which there are none: numbers, chains, tails, mark."""
        self.number()
        self.tie()
        self.seal()

    def _fields(self, row: Row) -> tuple[object, ...]:
        place = (row.topic, self.meta["writer"], row.sequence, row.fact, row.moment, 0, row.incarnation, row.type)
        time = SINCE + timedelta(microseconds=row.time)
        return (None, self.meta["run"], *place, time, row.epoch, row.step, row.cause, row.trace, None, row.data)


def _renamer(run: str, moments: dict[int, int]) -> Callable[[str], str]:
    ids = re.compile(re.escape(run) + r"/(\d+)")

    def renamed(text: str) -> str:
        return ids.sub(lambda found: f"{run}/{moments.get(int(found[1]), int(found[1]))}", text)

    return renamed
