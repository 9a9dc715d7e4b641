import pytest

from esper.errors import DataError
from esper.events.envelope import EventId, Moment, RunId, heartbeat_id, is_training, moment_of, record_id

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
