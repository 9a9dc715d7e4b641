"""Turns what was emitted into records: builds telemetry, encodes, numbers, chains, and appends a group at a time."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from esper.errors import DataError
from esper.events.codec import encode
from esper.events.digests import chain
from esper.events.envelope import EventId, Moment, Record, heartbeat_id, record_id
from esper.events.fields import Event
from esper.events.kinds.telemetry import Heartbeat
from esper.events.topics import is_fact
from esper.oona.contract import RunWriter
from esper.oona.heads import Heads


class Telemetry(NamedTuple):
    """Telemetry that is not built yet: `build` runs once, on the writer thread, and must touch nothing that training goes on to change."""

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
            record = _record(heads, item)
            heads.follow(record)
            records.append(record)
    except Exception as error:
        # Whatever a builder raises: what came before it was emitted earlier, and stands.
        if records:
            log.append(tuple(records))
        kind = item.event.kind.KIND if isinstance(item.event, Telemetry) else item.event.KIND
        raise DataError(f"run {log.run}, topic {item.topic}, moment {item.moment}: cannot record one {kind}: {error}") from error
    if records:
        log.append(tuple(records))


def _record(heads: Heads, item: Item) -> Record:
    event = item.event.build() if isinstance(item.event, Telemetry) else item.event
    head = heads.topic(item.topic)
    sequence = head.sequence + 1
    moment = heads.moment if item.moment is None else Moment(item.moment)
    record = Record(
        id=heartbeat_id(heads.run, sequence) if item.moment is None else record_id(heads.run, moment),
        run=heads.run,
        topic=item.topic,
        writer=heads.writer,
        sequence=sequence,
        fact=heads.fact + 1 if is_fact(item.topic) else None,
        moment=moment,
        generation=0,
        incarnation=item.incarnation,
        type=type(event).KIND,
        time=max(item.time, heads.time),
        epoch=item.epoch,
        step=item.step,
        cause=item.cause,
        trace=item.trace,
        chain=None,
        data=encode(event),
    )
    return record._replace(chain=chain(record, head.chain))


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
