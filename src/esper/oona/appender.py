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
from esper.oona.contract import FACTS, RunWriter
from esper.oona.heads import Heads

_NO_END = (0, b"")


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
    numbers = _Numbers(log.heads())
    records: list[Record] = []
    try:
        for item in items:
            records.append(numbers.record(item))
    except Exception as error:
        # Whatever a builder raises: what came before it was emitted earlier, and stands.
        log.append(tuple(records))
        kind = item.event.kind.KIND if isinstance(item.event, Telemetry) else item.event.KIND
        raise DataError(f"run {log.run}, topic {item.topic}, moment {item.moment}: cannot record one {kind}: {error}") from error
    log.append(tuple(records))


class _Numbers:
    """Numbers and chains records from a log's end on. The log checks them once more: see `Heads.follow`."""

    def __init__(self, heads: Heads) -> None:
        self._run, self._writer, self._moment, self._fact, self._time = heads.run, heads.writer, heads.moment, heads.fact, heads.time
        self._ends = {name: (head.sequence, head.chain) for name, head in heads.topics.items()}

    def record(self, item: Item) -> Record:
        """The record of `item`: the next of its topic and of the run."""
        event, topic, numbered, incarnation, time, epoch, step, cause, trace = item
        if isinstance(event, Telemetry):
            event = _built(event)
        data = encode(event)
        sequence, previous = self._ends.get(topic, _NO_END)
        sequence += 1
        moment = self._moment if numbered is None else Moment(numbered)
        identity = heartbeat_id(self._run, sequence) if numbered is None else record_id(self._run, moment)
        fact = self._fact + 1 if topic in FACTS else None
        time = max(time, self._time)
        place = (identity, self._run, topic, self._writer, sequence, fact, moment, 0, incarnation)
        clocks = (event.KIND, time, epoch, step, cause, trace)
        tied = chain(Record(*place, *clocks, None, data), previous)
        self._moment, self._fact, self._time = moment, self._fact if fact is None else fact, time
        self._ends[topic] = (sequence, tied)
        return Record(*place, *clocks, tied, data)


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
