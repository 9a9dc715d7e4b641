"""Event time as whole microseconds: what folds compare and keep, exact where a float of seconds is not."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """`time` in microseconds since 1970 in UTC."""
    return (time - _EPOCH) // _MICROSECOND


def time_at(time_us: int) -> datetime:
    """The aware time in UTC, so many microseconds after 1970 began."""
    return _EPOCH + timedelta(microseconds=time_us)
