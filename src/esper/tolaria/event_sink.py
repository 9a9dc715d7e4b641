"""The part of a log that the trainer needs: emit facts, measure telemetry, wait until both are durable, know the logged facts.

While a resumed run catches up, `emit` writes nothing that stands in the log already: it compares, and returns the logged id.
"""

from collections.abc import Callable
from typing import Protocol

from esper.events.envelope import EventId, Record
from esper.events.fields import Event
from esper.events.kinds.run import Tail
from esper.events.kinds.telemetry import Doing


class EventSink(Protocol):
    """Events of one run, emitted by the thread that trains."""

    def emit(self, event: Event, *, epoch: int, step: int, cause: EventId | None = None, trace: str | None = None) -> EventId:
        """The id of `event`, which now has its place; never waits for a disk. Raises LogError once the log has failed."""
        ...

    def measure(self, kind: type[Event], build: Callable[[], Event], *, epoch: int, step: int) -> None:
        """Takes telemetry of `kind`, or counts it as dropped; never waits. `build` runs later, on another thread."""
        ...

    def commit(self) -> None:
        """Returns when everything emitted so far is on disk."""
        ...

    def doing(self, what: Doing) -> None:
        """Set the activity that heartbeats report."""
        ...

    @property
    def upcoming(self) -> tuple[Record, ...]:
        """While catching up: the logged facts that have not been met again yet, in order. Else empty."""
        ...

    def tails(self, *, epoch: int, step: int) -> tuple[Tail, ...]:
        """Ends every telemetry stream and returns each topic's last sequence and chain; nothing but the run's end may follow."""
        ...
