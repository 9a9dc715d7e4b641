"""The journal of a trainer, kept by an emitter: the one place where the trainer's words become the log's."""

from collections.abc import Callable

from esper.events.envelope import EventId, Record
from esper.events.fields import Event
from esper.events.kinds.run import Tail
from esper.oona.emitter import Emitter, Telemetry
from esper.tolaria.journal import Doing


class EmittedJournal:
    """A `tolaria.journal.Journal` over an Emitter."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def emit(self, event: Event, *, epoch: int, step: int, cause: EventId | None = None, trace: str | None = None) -> EventId:
        """The id of a fact."""
        identity = self._emitter.emit(event, epoch=epoch, step=step, cause=cause, trace=trace)
        assert identity is not None, "a fact always has an id"
        return identity

    def measure(self, kind: type[Event], build: Callable[[], Event], *, epoch: int, step: int) -> None:
        """Takes telemetry, or counts it as dropped."""
        self._emitter.emit(Telemetry(kind, build), epoch=epoch, step=step)

    def commit(self) -> None:
        """Returns when everything emitted is on disk."""
        self._emitter.commit()

    def doing(self, what: Doing) -> None:
        """Says what the trainer is at."""
        self._emitter.doing(what)

    @property
    def upcoming(self) -> tuple[Record, ...]:
        """The logged facts that were not met again yet."""
        return self._emitter.upcoming

    def tails(self, *, epoch: int, step: int) -> tuple[Tail, ...]:
        """Ends the telemetry streams and says how every topic ended."""
        return self._emitter.tails(epoch=epoch, step=step)
