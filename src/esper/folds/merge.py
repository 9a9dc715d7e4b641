"""The order of a run's facts over several topics: what comes topic by topic goes out by fact number, each once.

Kafka keeps the order of a topic, and none between topics; a fold over a run's facts needs the order in which they were written. `admit`
stands before this and sees to duplicates and holes of each topic; a fact that waits here for ever is one whose topic is not read.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from esper.errors import DataError, RuleError
from esper.events.envelope import Record, RunId
from esper.folds.table import Table


@dataclass(frozen=True, slots=True)
class Merge:
    """Where the merging of a run's facts is: the number of the next one, and what came ahead of it."""

    run: RunId
    following: int = 1
    waiting: Table[int, Record] = field(default_factory=Table)

    @classmethod
    def start(cls, run: RunId, after: int = 0) -> "Merge":
        """A merge of `run` that goes on behind fact number `after`."""
        return cls(run, after + 1)

    @property
    def missing(self) -> tuple[int, int] | None:
        """The first and last number of the facts that what is waiting waits for; None where nothing waits."""
        first = next(iter(self.waiting), None)
        return None if first is None else (self.following, first - 1)


class Merged(NamedTuple):
    """A merge after a fact, and the facts whose turn has come, in order."""

    merge: Merge
    ready: tuple[Record, ...]


def merge(state: Merge, record: Record) -> Merged:
    """`state` after `record`, and the facts that it lets through: none, or `record` and those that waited for it. A repeat gives nothing.

    Raises RuleError for a record that is no fact of this run, DataError for two records that claim the same number.
    """
    if record.fact is None or record.run != state.run:
        raise RuleError(f"expected a fact of run {state.run}, got {record.type} of run {record.run} at moment {record.moment}")
    if record.fact < state.following:
        return Merged(state, ())
    known = state.waiting.get(record.fact)
    if known is not None and (known.id, known.data) != (record.id, record.data):
        both = f"{known.id} in {known.topic} and {record.id} in {record.topic}"
        raise DataError(f"run {record.run}: expected one record with fact number {record.fact}, got {both}")
    if record.fact > state.following:
        return Merged(Merge(state.run, state.following, state.waiting.with_item(record.fact, record)), ())
    ready, waiting, following = [record], state.waiting, record.fact + 1
    while waiting and (fact := waiting.get(following)) is not None:
        ready.append(fact)
        waiting, following = waiting.without(following), following + 1
    return Merged(Merge(state.run, following, waiting), tuple(ready))
