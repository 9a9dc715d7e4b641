"""A record: one event with its coordinates, as it stands in the log.

Nothing here reads a clock or makes an id out of chance; `data` holds the payload's bytes exactly as they were written.
"""

from datetime import datetime
from typing import NamedTuple, NewType

from esper.errors import DataError

RunId = NewType("RunId", str)
EventId = NewType("EventId", str)
Moment = NewType("Moment", int)

TRAINER = "trainer"


class Record(NamedTuple):
    """One event as it stands in the log; see docs/events.md for the meaning of every field.

    `sequence` and `chain` are absent on a derived event, `fact` on telemetry and derived events, `cause` only at a run's first record.
    `time` is aware, in UTC, to the microsecond (`esper.events.times` writes and reads it; a time of another zone cannot be written).
    """

    id: EventId
    run: RunId
    topic: str
    writer: str
    sequence: int | None
    fact: int | None
    moment: Moment
    generation: int
    incarnation: int
    type: str
    time: datetime
    epoch: int
    step: int
    cause: EventId | None
    trace: str | None
    chain: bytes | None
    data: bytes


def is_training(run: str) -> bool:
    """True for the id of a training; False for a run about no training (`machine:<id>:<date>`, `nissa:<id>:<date>`)."""
    return ":" not in run


def record_id(run: RunId, moment: Moment) -> EventId:
    """The id of what a run's own writer says at `moment`."""
    return EventId(f"{run}/{moment}")


def heartbeat_id(run: RunId, sequence: int) -> EventId:
    """The id of a heartbeat, which has no moment of its own and is numbered in its topic alone."""
    return EventId(f"{run}/heartbeat/{sequence}")


def moment_of(event_id: EventId) -> Moment:
    """The moment inside the id of a run's own record.

    Raises DataError for the id of a derived event or a heartbeat: those have none.
    """
    run, _, moment = event_id.rpartition("/")
    if not run or "/" in run or not (moment.isascii() and moment.isdecimal()):
        raise DataError(f"expected an id <run>/<moment>, got {event_id!r}")
    return Moment(int(moment))
