from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError, RuleError
from esper.events.times import read_time, written_time


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_reads_back_as_written(time: datetime) -> None:
    assert read_time(written_time(time)) == time


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_written_times_order_as_times_do(one: datetime, other: datetime) -> None:
    assert (written_time(one) < written_time(other)) == (one < other)


def test_time_keeps_six_decimals_when_they_are_zero() -> None:
    assert written_time(datetime(2026, 3, 1, 12, tzinfo=UTC)) == "2026-03-01T12:00:00.000000Z"


@pytest.mark.parametrize("time", [datetime(2026, 3, 1), datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=1)))])
def test_time_outside_utc_is_refused(time: datetime) -> None:
    with pytest.raises(RuleError, match="expected an aware time in UTC"):
        written_time(time)


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00.000250+00:00",
        "2026-03-01 12:00:00.000250Z",
        "2026-02-30T12:00:00.000250Z",
        "2026-03-01T24:00:00.000250Z",
        "٢٠٢٦-03-01T12:00:00.000250Z",
        "",
    ],
)
def test_other_spellings_of_time_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected a time"):
        read_time(text)
