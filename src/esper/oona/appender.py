"""Turns what was emitted into records: builds telemetry, encodes, numbers, chains, and appends a group at a time."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from esper.errors import DataError
from esper.events.codec import encode
from esper.events.envelope import EventId, Moment, Record
from esper.events.fields import Event
from esper.events.kinds.telemetry import Heartbeat
from esper.oona.contract import RunWriter
from esper.oona.heads import Draft, Heads


class Telemetry(NamedTuple):
    """Telemetry that is not built yet: `build` runs once, on the writer thread."""

    kind: type[Event]
    build: Callable[[], Event]


class Item(NamedTuple):
    """One emitted event with what only the emitting thread knows. `moment` is absent on a heartbeat."""

    event: Event | Telemetry
    topic: str
    moment: int | None
    incarnation: int
    time: datetime
    epoch: int
    step: int
    cause: EventId | None
    trace: str | None


def append_items(log: RunWriter, items: Sequence[Item]) -> None:
    """Makes the records of `items` durable before it returns.

    Raises DataError for an item that cannot be built or encoded: the ones before it are durable then. Otherwise as `RunWriter.append`.
    """
    heads = log.heads()
    records: list[Record] = []
    try:
        for item in items:
            records.append(heads.next(_draft(item)))
    except Exception as error:
        # Whatever a builder raises: what came before it was emitted earlier, and stands.
        log.append(tuple(records), heads)
        kind = item.event.kind.KIND if isinstance(item.event, Telemetry) else item.event.KIND
        raise DataError(f"run {log.run}, topic {item.topic}, moment {item.moment}: cannot record one {kind}: {error}") from error
    log.append(tuple(records), heads)


def _draft(item: Item) -> Draft:
    event, topic, moment, incarnation, time, epoch, step, cause, trace = item
    if isinstance(event, Telemetry):
        event = _built(event)
    numbered = None if moment is None else Moment(moment)
    return Draft(event.KIND, topic, numbered, incarnation, time, epoch, step, cause, trace, encode(event))


def _built(telemetry: Telemetry) -> Event:
    event = telemetry.build()
    if type(event) is not telemetry.kind:
        raise DataError(f"expected one {telemetry.kind.KIND} of its builder, got {type(event).__name__}")
    return event


def heartbeat_item(heads: Heads, time: datetime, event: Heartbeat) -> Item:
    """The item of a heartbeat: without a moment, with the clocks, incarnation and anchor of the log's end."""
    head = heads.topic(Heartbeat.TOPIC)
    return Item(
        event=event,
        topic=Heartbeat.TOPIC,
        moment=None,
        incarnation=heads.incarnation,
        time=time,
        epoch=max(heads.epoch, head.epoch),
        step=max(heads.step, head.step),
        cause=heads.anchor,
        trace=None,
    )
