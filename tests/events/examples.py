"""The record whose chain docs/events.md works out."""

from datetime import UTC, datetime

from esper.events.envelope import EventId, Moment, Record, RunId

EXAMPLE = Record(
    id=EventId("run/7"),
    run=RunId("run"),
    topic="system.events.run",
    writer="trainer",
    sequence=3,
    fact=5,
    moment=Moment(7),
    generation=0,
    incarnation=1,
    type="esper.stream.ended.v1",
    time=datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC),
    epoch=2,
    step=40,
    cause=EventId("run/1"),
    trace=None,
    chain=None,
    data=b'{"last_step":40}',
)
