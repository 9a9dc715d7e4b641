"""What a message says, whoever carries it: a notice of one alert, or of many that were held back. Pure."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from esper.errors import RuleError
from esper.events.codec import decode
from esper.events.envelope import EventId, Moment, Record, RunId, written_time
from esper.events.kinds.observability import AlertFiring, AlertResolved

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From the least to the worst."""

HELD_BACK = "esper-alerts-held-back"
TEST = "esper-test"


class AlertKey(NamedTuple):
    """One stretch of an alert, from firing to resolved."""

    run: RunId
    fingerprint: str
    since: str


class Alert(NamedTuple):
    """What an AlertFiring or AlertResolved record says."""

    id: EventId
    run: RunId
    moment: Moment
    time: datetime
    event: AlertFiring | AlertResolved

    @property
    def firing(self) -> bool:
        """False for a resolution."""
        return isinstance(self.event, AlertFiring)

    @property
    def key(self) -> AlertKey:
        """The same for a firing and its resolution."""
        return AlertKey(self.run, self.event.fingerprint, self.event.since)


class Link(NamedTuple):
    """Where a run can be seen as it was: a command to type, and a page where there is one."""

    command: str
    url: str | None


LinkTo = Callable[[RunId, Moment | None], Link]
"""The link to a run at a moment; at no moment, to its alerts."""


class Notice(NamedTuple):
    """One message to people."""

    key: str
    """Run, fingerprint and since: whoever gets two of one key and status has got one twice. Firing and resolution have one key."""
    name: str
    firing: bool
    severity: Severity
    fingerprint: str
    since: str
    ended: datetime | None
    """Absent while it fires."""
    summary: str
    labels: dict[str, str]
    annotations: dict[str, str]
    link: Link


class HeldBack(NamedTuple):
    """Alerts that one handler's limit held back, counted."""

    number: int
    severities: Mapping[Severity, int]
    runs: Mapping[RunId, int]
    """The first hundred of them."""
    first: datetime
    last: datetime
    first_alert: EventId


def alert_of(record: Record) -> Alert:
    """The alert in `record`. Raises RuleError where the record is neither AlertFiring nor AlertResolved, DataError for damaged bytes."""
    event = decode(record)
    if not isinstance(event, (AlertFiring, AlertResolved)):
        raise RuleError(f"expected a record of AlertFiring or AlertResolved, got {record.type} in run {record.run}, id {record.id}")
    return Alert(record.id, record.run, record.moment, record.time, event)


def notice_of(alert: Alert, link_to: LinkTo) -> Notice:
    """The message about one alert. Its labels carry the rule as `alertname`, as Alertmanager wants it, and severity, topic and run."""
    event = alert.event
    link = link_to(alert.run, alert.moment)
    labels = event.labels | {"alertname": event.rule, "severity": event.severity, "topic": event.topic, "run": alert.run}
    said = {"moment": str(alert.moment), "command": link.command}
    if event.value is not None:
        said["value"] = f"{event.value:.6g}"
    return Notice(
        key=f"{alert.run}/{event.fingerprint}/{event.since}",
        name=event.rule,
        firing=alert.firing,
        severity=event.severity,
        fingerprint=event.fingerprint,
        since=event.since,
        ended=None if alert.firing else alert.time,
        summary=event.annotations.get("summary", event.rule),
        labels=labels,
        annotations=said | event.annotations,
        link=link,
    )


def held_back_notice(held: HeldBack, handler: str, link_to: LinkTo) -> Notice:
    """The one message about alerts that `handler` held back: how many, how bad, of which runs, and how to see them."""
    worst = max(held.severities, key=SEVERITIES.index)
    run = max(held.runs, key=lambda counted: held.runs[counted])
    by_severity = ", ".join(f"{held.severities[severity]} {severity}" for severity in reversed(SEVERITIES) if severity in held.severities)
    summary = f"{held.number} alerts were held back by the rate limit of {handler}: {by_severity}"
    others = held.number - held.runs[run]
    where = f"{held.runs[run]} of run {run}" + (f", {others} of other runs" if others else "")
    link = link_to(run, None)
    since = written_time(held.first)
    fingerprint = hashlib.sha256(f"{HELD_BACK}\x1f{handler}\x1f{held.first_alert}".encode()).hexdigest()[:32]
    return Notice(
        key=f"{HELD_BACK}/{fingerprint}/{since}",
        name=HELD_BACK,
        firing=True,
        severity=worst,
        fingerprint=fingerprint,
        since=since,
        ended=None,
        summary=summary,
        labels={"alertname": HELD_BACK, "severity": worst, "handler": handler},
        annotations={
            "summary": summary,
            "description": f"{where}; between {since} and {written_time(held.last)}. All of them are in the log.",
            "command": link.command,
        },
        link=link,
    )


def trial_notice(handler: str, now: datetime) -> Notice:
    """The message that tries a handler out. It says that it is a test, and nothing in any log stands behind it."""
    since = written_time(now.astimezone(UTC))
    summary = f"A test of the handler {handler}: alerts of this severity arrive here."
    fingerprint = hashlib.sha256(f"{TEST}\x1f{handler}".encode()).hexdigest()[:32]
    return Notice(
        key=f"{TEST}/{fingerprint}/{since}",
        name=TEST,
        firing=True,
        severity="info",
        fingerprint=fingerprint,
        since=since,
        ended=None,
        summary=summary,
        labels={"alertname": TEST, "severity": "info", "handler": handler},
        annotations={"summary": summary, "command": "esper alerts test"},
        link=Link("esper alerts test", None),
    )


def linker(*, options: str = "", base_url: str | None = None) -> LinkTo:
    """Makes links: `esper show RUN --at MOMENT` with `options` (such as " --log DIR"), and the same in Nissa's API where it has a URL.

    Without a moment: `esper alerts list RUN`, and the run's alerts.
    """
    base = None if base_url is None else base_url.rstrip("/")

    def link_to(run: RunId, moment: Moment | None) -> Link:
        page = None if base is None else f"{base}/api/v1/runs/{run}"
        if moment is None:
            return Link(f"esper alerts list {run}{options}", None if page is None else f"{page}/alerts")
        return Link(f"esper show {run} --at {moment}{options}", None if page is None else f"{page}/state?at={moment}")

    return link_to
