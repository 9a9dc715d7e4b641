"""A journal that keeps what it is told in a list, in the order in which it happened, with whatever else a test puts between."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from esper.events.codec import encode
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.telemetry import Doing

E = TypeVar("E", bound=Event)
RUN = RunId("run")
COMMIT = "commit"


@dataclass(frozen=True)
class Said:
    """One fact as it was emitted."""

    id: EventId
    event: Event
    epoch: int
    step: int
    cause: EventId | None
    trace: str | None


@dataclass
class ListedJournal:
    """A `EventSink` over lists. `story` holds facts, commits, and marks of other things, oldest first."""

    story: list[Said | str] = field(default_factory=list)
    measured: list[Event] = field(default_factory=list)
    pending_facts: tuple[Record, ...] = ()

    def emit(self, event: Event, *, epoch: int, step: int, cause: EventId | None = None, trace: str | None = None) -> EventId:
        """Keeps the fact; ids count from 1."""
        identity = EventId(f"{RUN}/{len(self.story) + 1}")
        self.story.append(Said(identity, event, epoch, step, cause, trace))
        return identity

    def measure(self, kind: type[Event], build: Callable[[], Event], *, epoch: int, step: int) -> None:
        """Builds at once, and checks that the builder makes what was announced."""
        assert (epoch, step) >= (0, 0)
        event = build()
        assert type(event) is kind
        self.measured.append(event)

    def commit(self) -> None:
        """Marks that everything before is on disk."""
        self.story.append(COMMIT)

    def doing(self, what: Doing) -> None:
        """Nobody watches."""

    @property
    def said(self) -> list[Said]:
        """The facts alone."""
        return [one for one in self.story if isinstance(one, Said)]

    def of(self, kind: type[E]) -> list[E]:
        """Every event of `kind`, in order."""
        return [one.event for one in self.said if isinstance(one.event, kind)]

    def kinds(self, epoch: int | None = None) -> list[str]:
        """The story in words: the class names of facts (of `epoch`), and all marks."""
        told = (one for one in self.story if isinstance(one, str) or epoch in (None, one.epoch))
        return [one if isinstance(one, str) else type(one.event).__name__ for one in told]


def logged(*events: Event, epoch: int = 1) -> tuple[Record, ...]:
    """`events` as records of a log that a resumed run has before it."""
    return tuple(
        Record(
            id=EventId(f"{RUN}/{moment}"),
            run=RUN,
            topic=event.TOPIC,
            writer="trainer",
            sequence=moment,
            fact=moment,
            moment=Moment(moment),
            generation=1,
            incarnation=1,
            type=event.KIND,
            time=datetime(2026, 1, 1, tzinfo=UTC),
            epoch=epoch,
            step=0,
            cause=None,
            trace=None,
            chain=None,
            data=encode(event),
        )
        for moment, event in enumerate(events, start=1)
    )
