"""The alerts of a log as people ask for them: what is pending or firing, what was resolved, and whom it reached."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from esper.errors import LogError
from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.folds.monitoring.open_alerts import AlertChange, AlertStatus, status_of
from esper.oona.directory import Directory
from esper.oona.observed import is_observed, is_settled, observed_records

_SUPPRESSED = {
    "rate_limit": "held back by the rate limit",
    "stale": "not sent, too old",
    "not_delivered": "not sent, for nobody there was told that it fires",
}


@dataclass(frozen=True, slots=True)
class _Told:
    """What became of one change of an alert at one handler: delivered, failed, or why it was not sent."""

    handler: str
    what: AlertStatus
    outcome: str
    error: str | None = None


@dataclass(slots=True)
class AlertLine:
    """One alert from its beginning to now. `moment` is where the run was when it last changed; `fired` is False for one that never did."""

    run: RunId
    rule: str
    severity: str
    status: AlertStatus
    labels: dict[str, str]
    since: str
    changed: str
    moment: Moment
    value: float | None
    summary: str
    fired: bool = False
    told: list[_Told] = field(default_factory=list)


def alerts_of(directory: Directory, run: RunId) -> tuple[AlertLine, ...]:
    """Every alert of `run`, in the order in which they began."""
    return _lines(run, observed_records(directory.path / run, run, topics.ALERTS))


def current_alerts(directory: Directory, unreadable: Callable[[LogError], None]) -> Iterator[AlertLine]:
    """What is pending or firing in any run, the newest run first. Runs whose observed file is sealed have none, and are not opened.

    One that cannot be read is told to `unreadable`, and hides no other.
    """
    for run in directory.names(hidden=True):
        folder = directory.path / run
        if is_observed(folder) and not is_settled(folder):
            try:
                lines = alerts_of(directory, run)
            except LogError as error:
                unreadable(error)
                continue
            yield from (line for line in lines if line.status != "resolved")


def _lines(run: RunId, records: Iterable[Record]) -> tuple[AlertLine, ...]:
    lines: dict[tuple[str, str], AlertLine] = {}
    changes: dict[EventId, tuple[AlertLine, AlertStatus]] = {}
    for record in records:
        event = decode(record)
        if isinstance(event, AlertChange):
            line = lines.get((event.fingerprint, event.since)) or _begun(run, record, event)
            lines[event.fingerprint, event.since] = line
            line.status, line.moment, line.value = status_of(event), record.moment, event.value
            line.changed = record.time.isoformat(timespec="seconds")
            line.fired = line.fired or line.status == "firing"
            changes[record.id] = (line, line.status)
        elif isinstance(event, AlertNotified | AlertSuppressed) and event.alert in changes:
            line, status = changes[event.alert]
            outcome = event.outcome if isinstance(event, AlertNotified) else _SUPPRESSED[event.why]
            line.told.append(_Told(event.handler, status, outcome, event.error if isinstance(event, AlertNotified) else None))
    return tuple(lines.values())


def _begun(run: RunId, record: Record, event: AlertChange) -> AlertLine:
    return AlertLine(
        run=run,
        rule=event.rule,
        severity=event.severity,
        status=status_of(event),
        labels=dict(event.labels),
        since=event.since,
        changed=record.time.isoformat(timespec="seconds"),
        moment=record.moment,
        value=event.value,
        summary=event.annotations.get("summary", ""),
    )
