"""The order of a run's facts over several topics: records come topic by topic and go out by fact number, each once.

Kafka keeps the order of a topic, and none between topics; a fold over a run's facts needs the order in which they were written. Admission
stands before this and handles duplicates and gaps of each topic; a fact that waits here for ever is one whose topic is not read.
"""

from dataclasses import dataclass, field

from esper.errors import DataError, RuleError
from esper.events.envelope import Record, RunId
from esper.folds.sorted_map import SortedMap


@dataclass(frozen=True, slots=True)
class FactOrder:
    """State of a run's merge: the number of the next fact, and the facts that came ahead of it."""

    run: RunId
    following: int = 1
    waiting: SortedMap[int, Record] = field(default_factory=SortedMap)

    @property
    def missing(self) -> tuple[int, int] | None:
        """The first and last number of the facts that those in `waiting` wait for; None where nothing waits."""
        first = next(iter(self.waiting), None)
        return None if first is None else (self.following, first - 1)


def merge(state: FactOrder, record: Record) -> tuple[FactOrder, tuple[Record, ...]]:
    """`state` after `record`, and the facts whose turn has come: none, or `record` and those that waited for it. A repeat gives none.

    Raises RuleError for a record that is no fact of this run, DataError for two records that claim the same number.
    """
    if record.fact is None or record.run != state.run:
        raise RuleError(f"expected a fact of run {state.run}, got {record.type} of run {record.run} at moment {record.moment}")
    if record.fact < state.following:
        return state, ()
    known = state.waiting.get(record.fact)
    if known is not None and (known.id, known.data) != (record.id, record.data):
        both = f"{known.id} in {known.topic} and {record.id} in {record.topic}"
        raise DataError(f"run {record.run}: expected one record with fact number {record.fact}, got {both}")
    waiting, following, ready = state.waiting.with_item(record.fact, record), state.following, []
    while waiting and (fact := waiting.get(following)) is not None:
        ready.append(fact)
        waiting, following = waiting.without(following), following + 1
    return FactOrder(state.run, following, waiting), tuple(ready)
