from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError, RuleError
from esper.events.envelope import EventId, Moment, RunId, heartbeat_id, is_training, moment_of, read_time, record_id, written_time

RUN = RunId("01958f3a-7c41-7e02-9a53-0123456789ab")


def test_moment_is_read_back_from_a_record_id() -> None:
    assert moment_of(record_id(RUN, Moment(1234))) == 1234


def test_moment_is_read_back_from_the_id_of_a_machines_record() -> None:
    assert moment_of(record_id(RunId("machine:9b1c6f:2026-03-01"), Moment(7))) == 7


@pytest.mark.parametrize(
    "event_id",
    [heartbeat_id(RUN, 3), EventId("9f" * 16), EventId("/7"), EventId("run/"), EventId("run/-7"), EventId("run/\u0667")],
)
def test_id_without_a_moment_is_refused(event_id: EventId) -> None:
    with pytest.raises(DataError, match="expected an id <run>/<moment>"):
        moment_of(event_id)


@pytest.mark.parametrize(("run", "training"), [(RUN, True), ("machine:9b1c6f:2026-03-01", False), ("nissa:main:2026-03-01", False)])
def test_a_run_of_a_machine_or_of_nissa_is_no_training(run: str, training: bool) -> None:
    assert is_training(run) is training


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
