"""The alerts of a log: which are pending or firing, which are resolved, and the outcome of their delivery."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from esper.errors import LogError, RuleError
from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.kinds.accountability import AlertAcknowledged
from esper.events.kinds.observability import AlertNotified, AlertSuppressed, Origin
from esper.events.kinds.run import RunFailed
from esper.folds.monitoring.open_alerts import FAILED_FOR, AlertChange, AlertStatus, status_of
from esper.history.trail import AlertKey, acknowledgements_of, end_of
from esper.oona.directory import Directory
from esper.oona.observed import is_observed, is_settled, observed_records

_SUPPRESSED = {
    "rate_limit": "held back by the rate limit",
    "stale": "not sent, too old",
    "not_delivered": "not sent, for nobody there was told that it fires",
    "acknowledged": "not sent, for it was acknowledged",
}


@dataclass(frozen=True, slots=True)
class _Delivery:
    """The outcome of one change of an alert at one handler: delivered, failed, or why it was not sent."""

    handler: str
    what: AlertStatus
    outcome: str
    error: str | None


@dataclass(slots=True)
class AlertLine:
    """An alert from its beginning to now. `moment` is where the run was when it last changed; `fired` is False for one that never did."""

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
    fingerprint: str
    origin: Origin | None = None
    """What it leads to."""
    acknowledged: AlertAcknowledged | None = None
    """The newest acknowledgement, also one that is over."""
    fired: bool = False
    told: list[_Delivery] = field(default_factory=list)


def alert_id(run: RunId, fingerprint: str) -> str:
    """The id by which people name an alert: the ends of its run's id and the beginning of its fingerprint."""
    return f"{run[-6:]}-{fingerprint[:8]}"


def alerts_of(directory: Directory, run: RunId) -> tuple[AlertLine, ...]:
    """Every alert of `run`, in the order in which they began."""
    return _alerts_of(directory, run, acknowledgements_of(directory))


def _alerts_of(directory: Directory, run: RunId, taken_over: Mapping[AlertKey, AlertAcknowledged]) -> tuple[AlertLine, ...]:
    lines: dict[tuple[str, str], AlertLine] = {}
    changes: dict[EventId, tuple[AlertLine, AlertStatus]] = {}
    for record in observed_records(directory.path / run, run, topics.ALERTS):
        event = decode(record)
        if isinstance(event, AlertChange):
            status, changed = status_of(event), record.time.isoformat(timespec="seconds")
            if (line := lines.get((event.fingerprint, event.since))) is None:
                line = lines[event.fingerprint, event.since] = _line_of(record, event, taken_over)
            line.status, line.changed, line.moment, line.value = status, changed, record.moment, event.value
            line.fired = line.fired or status == "firing"
            changes[record.id] = (line, status)
        elif isinstance(event, AlertNotified | AlertSuppressed) and event.alert in changes:
            line, status = changes[event.alert]
            outcome, error = (event.outcome, event.error) if isinstance(event, AlertNotified) else (_SUPPRESSED[event.why], None)
            line.told.append(_Delivery(event.handler, status, outcome, error))
    return tuple(lines.values())


def _line_of(record: Record, event: AlertChange, taken_over: Mapping[AlertKey, AlertAcknowledged]) -> AlertLine:
    """The alert as `event`, which begins it, has it."""
    return AlertLine(
        run=record.run,
        rule=event.rule,
        severity=event.severity,
        status=status_of(event),
        labels=event.labels,
        since=event.since,
        changed=record.time.isoformat(timespec="seconds"),
        moment=record.moment,
        value=event.value,
        summary=event.annotations.get("summary", ""),
        fingerprint=event.fingerprint,
        origin=event.origin,
        acknowledged=taken_over.get((record.run, event.fingerprint)),
    )


def current_alerts(directory: Directory, unreadable: Callable[[LogError], None]) -> Iterator[AlertLine]:
    """The alerts that are pending or firing in any run, the newest run first; none of a run that failed more than FAILED_FOR ago.

    A run whose observed file is sealed has none and is not opened. The error of one that cannot be read is passed to `unreadable`.
    """
    taken_over = acknowledgements_of(directory)
    for run in directory.names(hidden=True):
        folder = directory.path / run
        if is_observed(folder) and not is_settled(folder):
            try:
                lines = _alerts_of(directory, run, taken_over)
            except LogError as error:
                unreadable(error)
                continue
            current = [line for line in lines if line.status != "resolved"]
            if current and not _failed_long_ago(directory, run):
                yield from current


def _failed_long_ago(directory: Directory, run: RunId) -> bool:
    try:
        record, end = end_of(directory, run)
    except RuleError:  # It goes on, or was interrupted.
        return False
    return isinstance(end, RunFailed) and datetime.now(UTC) - record.time > FAILED_FOR
