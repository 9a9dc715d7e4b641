"""Time as it stands in the log, in headers and under digests: ISO 8601 in UTC, with six decimals and a "Z". Nothing here reads a clock."""

import re
from datetime import UTC, datetime, timedelta

from esper.errors import DataError, RuleError

_WRITTEN = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z", re.ASCII)
_ZERO = timedelta()


def written_time(time: datetime) -> str:
    """`time` as text, for example 2026-03-01T12:00:00.000250Z: always 27 characters, so that texts order as times do.

    Raises RuleError for a time without a zone or in another than UTC: it would be another moment when read again.
    """
    if time.tzinfo is not UTC and time.utcoffset() != _ZERO:
        raise RuleError(f"expected an aware time in UTC, got {time!r}")
    # isoformat writes an offset of zero as "+00:00"; it is five times as fast as strftime.
    return time.isoformat("T", "microseconds")[:26] + "Z"


def read_time(text: str) -> datetime:
    """The aware time in UTC that `written_time` wrote as `text`; any other spelling raises DataError, so that chains can be made again."""
    if _WRITTEN.fullmatch(text) is None:
        raise DataError(f"expected a time like 2026-03-01T12:00:00.000250Z, got {text!r:.60}")
    try:
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError as error:
        raise DataError(f"expected a time that exists, got {text!r}") from error
