"""Time as it stands in the log, in headers and under digests: ISO 8601 in UTC, with six decimals and a "Z". Nothing here reads a clock."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from esper.errors import DataError, RuleError

_WRITTEN = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z", re.ASCII)
_ZERO = timedelta()
# A time as a whole number: (time - SINCE) // MICROSECOND; what files and chains hold.
SINCE = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def written_time(time: datetime) -> str:
    """`time` as text, for example 2026-03-01T12:00:00.000250Z: always 27 characters, so that texts order as times do.

    Raises RuleError for a time without a zone or in another than UTC: it would be another moment when read again.
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
