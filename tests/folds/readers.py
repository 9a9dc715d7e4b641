"""A reader for tests: what a host does with `admit`, `merge` and the fold, over a log that it can read again; and ways to deliver a log."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from esper.events.digests import derived_id
from esper.events.envelope import EventId, Record
from esper.folds.admit import Apply, Drop, Expired, Guard, Hole, admit
from esper.folds.merge import Merge, merge
from esper.folds.run import RunState, initial, step
from tests.folds.histories import RUN

Repeat = tuple[int, int, int]


@dataclass
class Reader:
    """Takes records as they come; reads a hole again from `log`, as a host would."""

    log: Sequence[Record]
    guard: Guard = field(default_factory=Guard.start)
    merge: Merge = field(default_factory=lambda: Merge.start(RUN))
    state: RunState = field(default_factory=lambda: initial(RUN))
    applied: list[tuple[str, int | None]] = field(default_factory=list)
    derived: list[EventId] = field(default_factory=list)
    holes: list[tuple[str, int, int]] = field(default_factory=list)
    expired: list[tuple[str, int]] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)

    def take_all(self, records: Iterable[Record]) -> "Reader":
        """This reader, after `records`."""
        for record in records:
            self.take(record)
        return self

    def take(self, record: Record) -> None:
        """Admits one record and does what the verdict says."""
        match admit(self.guard, record):
            case Apply(guard):
                self.guard = guard
                self._apply(record)
            case Drop() as drop:
                self.drops.append(drop)
            case Expired(guard, to):
                self.guard = guard
                self.expired.append((record.topic, to))
                self.take(record)
            case Hole(guard, from_, to):
                self.guard = guard
                self.holes.append((record.topic, from_, to))
                self.take_all(found for found in self.log if found.topic == record.topic and found.sequence in range(from_, to + 1))
                self.take(record)

    def _apply(self, record: Record) -> None:
        self.applied.append((record.topic, record.sequence))
        self.derived.append(derived_id(record.id, "rule", 1, "0" * 8, 0))
        if record.fact is None:
            return
        merged = merge(self.merge, record)
        self.merge = merged.merge
        for fact in merged.ready:
            self.state = step(self.state, fact)


def interleaved(records: Sequence[Record], order: Sequence[int]) -> list[Record]:
    """`records` in another order that keeps each topic's own: the topics take turns as the permutation `order` of places says."""
    queues: dict[str, list[Record]] = {}
    for record in records:
        queues.setdefault(record.topic, []).append(record)
    left = {topic: iter(queue) for topic, queue in queues.items()}
    return [next(left[records[place].topic]) for place in order]


def repeated(delivery: Sequence[Record], repeats: Sequence[Repeat]) -> list[Record]:
    """`delivery` with stretches sent again: each repeat says behind which place, from where and how many (all modulo what was sent)."""
    sent = list(delivery)
    for behind, start, count in repeats:
        place = behind % len(sent) + 1
        first = start % place
        sent[place:place] = sent[first : min(first + count, place)]
    return sent
