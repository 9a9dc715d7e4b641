"""Alerts, outcomes and records made for tests, at times counted in seconds from one beginning."""

from datetime import UTC, datetime, timedelta
from typing import Literal

from esper.events import topics
from esper.events.codec import encode
from esper.events.envelope import EventId, Moment, Record, RunId, written_time
from esper.events.fields import Event
from esper.events.kinds.observability import AlertFiring, AlertNotified, AlertResolved, AlertSuppressed
from esper.folds.monitoring.rules import Severity
from esper.observer.delivery.notices import AlertRecord, LinkTo, linker
from esper.observer.delivery.outbox import AttemptResult, Now

BEGIN = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC)
RUN = RunId("01958f3a-7c41-7e02-9a53-5d0c8e4b61f7")
LINK: LinkTo = linker()

DELIVERED = AttemptResult(delivered=True)
FAILED = AttemptResult(delivered=False, error="expected status 2xx, got 500")
REFUSED = AttemptResult(delivered=False, error="expected status 2xx, got 400", final=True)


def now(at_s: float) -> Now:
    """Both clocks, `at_s` after the beginning; the steady one began long before."""
    return Now(BEGIN + timedelta(seconds=at_s), 1000.0 + at_s)


def alert(
    number: int,
    *,
    firing: bool = True,
    at_s: float = 0.0,
    severity: Severity = "warning",
    run: RunId = RUN,
    value: float | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> AlertRecord:
    """The alert of that number, firing or resolved; both have one key."""
    kind = AlertFiring if firing else AlertResolved
    event = kind(
        fingerprint=f"{number:016x}",
        rule="loss-not-finite",
        severity=severity,
        topic=topics.STEPS,
        labels={"metric": "loss"} if labels is None else labels,
        annotations={"summary": "the loss is not a finite number"} if annotations is None else annotations,
        value=value,
        since=written_time(BEGIN),
    )
    return AlertRecord(derived(EventId(f"{number:030x}{'f1' if firing else '0f'}"), run, event, BEGIN + timedelta(seconds=at_s)), event)


def outcome_record(run: RunId, event: AlertNotified | AlertSuppressed, number: int = 0) -> Record:
    """The record in which an outcome stands."""
    return derived(EventId(f"{number:032x}"), run, event, BEGIN)


def notified(of: AlertRecord, outcome: Literal["delivered", "failed"] = "delivered", handler: str = "team") -> AlertNotified:
    """The outcome of an alert that was sent."""
    return AlertNotified(
        alert=of.record.id, fingerprint=of.event.fingerprint, since=of.event.since, handler=handler, outcome=outcome, attempts=1, error=None
    )


def suppressed(
    of: AlertRecord, why: Literal["rate_limit", "stale", "not_delivered", "acknowledged"], handler: str = "team"
) -> AlertSuppressed:
    """The outcome of an alert that was not."""
    return AlertSuppressed(alert=of.record.id, fingerprint=of.event.fingerprint, handler=handler, why=why)


def derived(record_id: EventId, run: RunId, event: Event, time: datetime = BEGIN) -> Record:
    """The record of an event that an observer derived."""
    return Record(
        id=record_id,
        run=run,
        topic=event.TOPIC,
        writer="observer",
        sequence=None,
        fact=None,
        moment=Moment(1234),
        generation=1,
        incarnation=1,
        type=event.KIND,
        time=time,
        epoch=3,
        step=70,
        cause=EventId(f"{run}/1234"),
        trace=None,
        chain=None,
        data=encode(event),
    )
