"""`Store`: what a host of cells keeps of one run: the derived records, and the cells that go on from them.

Two implementations: the file beside a run's log (`observed`), and memory in the tests; one suite of tests runs against both.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from esper.events.envelope import Record
from esper.oona.contract import Position


class SavedState(NamedTuple):
    """A host's progress with a run: records are derived up to `derived_to`; `parts` are as they were after the record at `state_to`.

    Without `parts` the state is folded again from the run's first record, and `state_to` is the start.
    """

    derived_to: Position
    state_to: Position
    parts: Mapping[str, bytes]


class Store(Protocol):
    """The derived records, the position that they were derived to, and the state, of one run. One thread of one process writes.

    A host loads the state, applies the log from `state_to` to `derived_to` without writing what it derives, and goes on from there. The
    order of its calls is the order of the log; a call may be lost with the process, and is then made again with the same records.
    """

    def saved(self) -> SavedState:
        """The progress as of the last `save` that returned."""
        ...

    def save(
        self, records: Sequence[Record], derived_to: Position | None = None, parts: Mapping[str, bytes] | None = None
    ) -> tuple[Record, ...]:
        """Those of `records` that are new. Everything of one call is durable together when it returns, or nothing is.

        A record whose id is there already is not written again. `parts` (None: no state) are the parts of the state that changed since the
        last call that had some: with the others as they were, they are the state after `derived_to`. Raises LogError where a record's id is
        there with another topic, type or payload, and where nothing can be written; nothing has changed then.
        """
        ...

    def forget(self) -> None:
        """Deletes the state, durably. Derived records and `derived_to` stay."""
        ...
