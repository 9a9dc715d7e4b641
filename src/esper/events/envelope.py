"""A record: one event with its coordinates, as it stands in the log; its ids, and its time as text. Reads no clock, draws no random id."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, NewType

from esper.errors import DataError, RuleError

RunId = NewType("RunId", str)
EventId = NewType("EventId", str)
Moment = NewType("Moment", int)

TRAINER = "trainer"

_WRITTEN = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z", re.ASCII)
_ZERO = timedelta()
# A time as a whole number: (time - SINCE) // MICROSECOND; what files and chains hold.
SINCE = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Record(NamedTuple):
    """An event as it stands in the log; see docs/events.md for the meaning of every field.

    `sequence` and `chain` are absent on a derived event, `fact` on telemetry and derived events, `cause` only at a run's first record.
    `time` is aware, in UTC, to the microsecond.
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
    """True for the id of a training; False for a run about no training, `machine:<id>:<date>`, `nissa:...` or `audit:...`."""
    return ":" not in run


def record_id(run: RunId, moment: Moment) -> EventId:
    """The id of the record that a run's own writer wrote at `moment`."""
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


def written_time(time: datetime) -> str:
    """`time` as text, for example 2026-03-01T12:00:00.000250Z: always 27 characters, so that texts sort as times do.

    Raises RuleError for a time without a zone or in another than UTC: it would be another time when read again.
    """
    if time.tzinfo is not UTC and time.utcoffset() != _ZERO:
        raise RuleError(f"expected an aware time in UTC, got {time!r}")
    return f"{_second(time.year, time.month, time.day, time.hour, time.minute, time.second)}.{time.microsecond:06}Z"


@lru_cache(maxsize=16)
def _second(*parts: int) -> str:
    # Times come in order, many within a second: remembering it halves what isoformat takes, for each record that is chained.
    return "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}".format(*parts)


def read_time(text: str) -> datetime:
    """The aware time in UTC that `written_time` wrote as `text`; any other spelling raises DataError, so that chains can be made again."""
    if _WRITTEN.fullmatch(text) is None:
        raise DataError(f"expected a time like 2026-03-01T12:00:00.000250Z, got {text!r:.60}")
    try:
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError as error:
        raise DataError(f"expected a time that exists, got {text!r}") from error
