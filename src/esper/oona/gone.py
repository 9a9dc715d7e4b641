"""Telemetry that a copy of a run lacks, because Kafka's retention had deleted it before it was copied. Facts are never deleted.

Records keep the rows that they had in the run's own log, so the rows of deleted ones are missing in the copy. Each missing row is accounted
for: by the sequences that its topic lacks, or, as long as no later record of its topic is known, by a count. Where the last records of a
topic are gone, its end may be known from elsewhere: the run can go on from it.
"""

import json
from dataclasses import dataclass, replace
from typing import NamedTuple

from esper.errors import DataError
from esper.events.topics import TELEMETRY

_WHAT = "expected what a copy of a run lacks, as {topics: {topic: [[first, last], ...]}, rows: number, ends: [...]}"


class TopicEnd(NamedTuple):
    """The last record of a topic, which is gone."""

    topic: str
    sequence: int
    chain: str
    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class Gone:
    """`ranges`: topic, first and last missing sequence, ordered, not touching. `rows`: number of further rows, of topics not known yet.

    `ends`: ends of topics, where they are known and gone; `row` and `moment` are those of the run's last record then.
    """

    ranges: tuple[tuple[str, int, int], ...] = ()
    rows: int = 0
    ends: tuple[TopicEnd, ...] = ()
    row: int = 0
    moment: int = 0

    def __bool__(self) -> bool:
        return bool(self.ranges or self.rows)

    @property
    def count(self) -> int:
        """Number of records that are gone."""
        return self.rows + sum(last - first + 1 for _, first, last in self.ranges)

    def left_of(self, rows: int) -> int:
        """The number of records in a copy whose last row is `rows`; what is gone may end behind that."""
        return max(rows, self.row) - self.count

    def next_sequence(self, topic: str, sequence: int) -> int:
        """The sequence of the record of `topic` that follows `sequence`."""
        found = (last for name, first, last in self.ranges if name == topic and first <= sequence + 1 <= last)
        return next(found, sequence) + 1

    def including(self, topic: str, first: int, last: int) -> "Gone":
        """These and the sequences `first` to `last` of `topic`, which follow all others of it."""
        touching = next((one for one in self.ranges if one[0] == topic and one[2] == first - 1), None)
        begin = first if touching is None else touching[1]
        return replace(self, ranges=tuple(sorted((*(one for one in self.ranges if one != touching), (topic, begin, last)))))

    def having(self, rows: int) -> "Gone":
        """These ranges, and `rows` further rows."""
        return self if rows == self.rows else replace(self, rows=rows)

    def to_text(self) -> str:
        """The value as JSON."""
        topics: dict[str, list[list[int]]] = {}
        for topic, first, last in self.ranges:
            topics.setdefault(topic, []).append([first, last])
        known = {"ends": self.ends, "row": self.row, "moment": self.moment}
        return json.dumps({"topics": topics, "rows": self.rows} | known, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Gone":
        """The value that `to_text` wrote. Raises DataError for anything else, and for a topic of facts."""
        try:
            parsed = json.loads(text)
            ranges = tuple((str(topic), int(first), int(last)) for topic, each in parsed["topics"].items() for first, last in each)
            ends = tuple(TopicEnd(str(end[0]), int(end[1]), str(end[2]), int(end[3]), int(end[4])) for end in parsed["ends"])
            gone = cls(tuple(sorted(ranges)), int(parsed["rows"]), ends, int(parsed["row"]), int(parsed["moment"]))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(f"{_WHAT}, got {text!r:.80}") from error
        if gone.rows < 0 or not all(topic in TELEMETRY and 1 <= first <= last for topic, first, last in gone.ranges):
            raise DataError(f"{_WHAT} of telemetry, got {text!r:.80}")
        return gone

    def words(self) -> str:
        """The loss as a sentence without its stop; empty where nothing is gone."""
        if not self:
            return ""
        parts = [f"{topic} {_span(first, last)}" for topic, first, last in self.ranges]
        parts += [f"{self.rows} more of topics that are not known"] if self.rows else []
        records = "record is" if self.count == 1 else "records are"
        return f"{self.count} telemetry {records} gone, deleted by Kafka's retention before they were copied: {'; '.join(parts)}"


NOTHING_GONE = Gone()


def _span(first: int, last: int) -> str:
    return f"sequence {first}" if first == last else f"sequences {first} to {last}"
