"""Records that stand in no log."""

from datetime import UTC, datetime

from esper.events.codec import encode
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.observability import AlertFiring, AlertResolved, AnomalyDetected
from esper.events.kinds.telemetry import Gpu, ResourcesMeasured

AGENT_RUN = RunId("machine:here:2026-01-01")


def standing(event: Event, run: RunId, *, time: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> Record:
    """`event` as a record of `run`."""
    return Record(
        id=EventId(f"{run}/1"),
        run=run,
        topic=event.TOPIC,
        writer="some",
        sequence=1,
        fact=None,
        moment=Moment(1),
        generation=0,
        incarnation=1,
        type=event.KIND,
        time=time,
        epoch=0,
        step=0,
        cause=None,
        trace=None,
        chain=None,
        data=encode(event),
    )


def anomaly(run: RunId, identity: str = "a" * 32) -> Record:
    """What an observer derived from a run's first record."""
    event = AnomalyDetected(
        topic="telemetry.training.steps", detector="spike", metric="loss", site=None, seed=None, value=9.0, expected=1.0, score=8.0
    )
    own = standing(event, run)
    return own._replace(id=EventId(identity), writer="observer", sequence=None, generation=1, cause=own.id)


def alert(run: RunId, kind: type[AlertFiring | AlertResolved] = AlertFiring, identity: str = "b" * 32) -> Record:
    """A change of an alert of `run`."""
    said = {
        "fingerprint": "ab" * 8,
        "rule": "r",
        "severity": "critical",
        "topic": "telemetry.training.steps",
        "labels": {},
        "annotations": {},
        "value": 1.0,
        "since": "2026-01-01T00:00:00.000000Z",
    }
    return standing(kind.model_validate(said), run)._replace(id=EventId(identity), writer="observer", sequence=None, generation=1)


def resources(gpus: tuple[Gpu, ...] = ()) -> ResourcesMeasured:
    """A machine."""
    return ResourcesMeasured(
        cpu_utilization=0.5,
        memory_used_bytes=1,
        memory_total_bytes=2,
        disk_free_bytes=3,
        disk_total_bytes=4,
        network_received_bytes=5,
        network_sent_bytes=6,
        gpus=gpus,
        log_dropped_samples=0,
    )
