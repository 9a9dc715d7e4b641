"""Messages: what is sent about an alert, about alerts that a rate limit suppressed, and to test a handler. Pure."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple, get_args

from esper.errors import RuleError
from esper.events.codec import decode
from esper.events.envelope import Moment, Record, RunId, written_time
from esper.events.kinds.observability import AlertFiring, AlertResolved
from esper.folds.monitoring.origin import origin_words
from esper.folds.monitoring.rules import Severity

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the least to the worst."""

_RUNS_COUNTED = 100


class AlertRecord(NamedTuple):
    """An alert's event and the record that holds it."""

    record: Record
    event: AlertFiring | AlertResolved

    @property
    def firing(self) -> bool:
        """False for a resolution."""
        return isinstance(self.event, AlertFiring)

    @property
    def key(self) -> str:
        """Run, fingerprint and since: the same for a firing and its resolution."""
        return alert_key(self.record.run, self.event.fingerprint, self.event.since)


class _Link(NamedTuple):
    """A command that shows a run, and a page of Nissa if its URL is known."""

    command: str
    url: str | None


LinkTo = Callable[[RunId, Moment | None], _Link]
"""The link to a run at a moment; without a moment, to its alerts."""


class Notice(NamedTuple):
    """A message. Two of one `key` and `status` are the same message, sent twice."""

    key: str
    fingerprint: str
    since: str
    ended: datetime | None
    """None while it fires."""
    labels: dict[str, str]
    annotations: dict[str, str]
    link: _Link

    @property
    def status(self) -> Literal["firing", "resolved"]:
        """As Alertmanager writes it."""
        return "firing" if self.ended is None else "resolved"

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.labels["alertname"]

    @property
    def severity(self) -> str:
        """A name in SEVERITIES."""
        return self.labels["severity"]

    @property
    def summary(self) -> str:
        """The rule's own sentence, or its name."""
        return self.annotations.get("summary", self.name)


@dataclass
class RateLimitSummary:
    """Number of alerts that a handler's rate limit suppressed, by severity and by run (the first hundred runs)."""

    first: Record
    first_time: datetime
    last_time: datetime
    severities: Counter[Severity] = field(default_factory=Counter)
    runs: Counter[RunId] = field(default_factory=Counter)

    def add(self, alert: AlertRecord) -> None:
        """Counts one more."""
        run, time = alert.record.run, alert.record.time
        self.severities[alert.event.severity] += 1
        if run in self.runs or len(self.runs) < _RUNS_COUNTED:
            self.runs[run] += 1
        self.first_time, self.last_time = min(self.first_time, time), max(self.last_time, time)


def alert_key(run: RunId, fingerprint: str, since: str) -> str:
    """The key of an alert; see `AlertRecord.key`."""
    return f"{run}/{fingerprint}/{since}"


def alert_of(record: Record) -> AlertRecord:
    """The alert in `record`. Raises RuleError for a record of another kind, DataError for damaged bytes."""
    event = decode(record)
    if not isinstance(event, AlertFiring | AlertResolved):
        raise RuleError(f"expected a record of AlertFiring or AlertResolved, got {record.type} in run {record.run}, id {record.id}")
    return AlertRecord(record, event)


def notice_of(alert: AlertRecord, link_to: LinkTo) -> Notice:
    """The message about one alert. Its labels carry the rule as `alertname`, as Alertmanager expects, and severity, topic and run."""
    record, event = alert
    link = link_to(record.run, record.moment)
    annotations = {"moment": str(record.moment), "command": link.command}
    if event.origin is not None:
        annotations["origin"] = origin_words(event.origin)
    if event.value is not None:
        annotations["value"] = f"{event.value:.6g}"
    return Notice(
        key=alert.key,
        fingerprint=event.fingerprint,
        since=event.since,
        ended=None if alert.firing else record.time,
        labels=event.labels | {"alertname": event.rule, "severity": event.severity, "topic": event.topic, "run": record.run},
        annotations=annotations | event.annotations,
        link=link,
    )


def summary_notice(summary: RateLimitSummary, handler: str, link_to: LinkTo) -> Notice:
    """The message about alerts that the rate limit of `handler` suppressed: number, severities, runs, and where to see them."""
    number, [(run, most)] = summary.severities.total(), summary.runs.most_common(1)
    by_severity = [f"{summary.severities[severity]} {severity}" for severity in reversed(SEVERITIES) if severity in summary.severities]
    where = f"{most} of run {run}" + (f", {number - most} of other runs" if number > most else "")
    since, link = written_time(summary.first_time), link_to(run, None)
    annotations = {
        "summary": f"{number} alerts were held back by the rate limit of {handler}: {', '.join(by_severity)}",
        "description": f"{where}; between {since} and {written_time(summary.last_time)}. All of them are in the log.",
        "command": link.command,
    }
    labels = {"alertname": "esper-alerts-held-back", "severity": max(summary.severities, key=SEVERITIES.index), "handler": handler}
    return _notice(labels, annotations, since, link, f"\x1f{summary.first.id}")


def handler_test_notice(handler: str, now: datetime) -> Notice:
    """The message that tests a handler. It names itself a test; no log has a record of it."""
    link = _Link("esper alerts test", None)
    annotations = {"summary": f"A test of the handler {handler}: alerts of this severity arrive here.", "command": link.command}
    labels = {"alertname": "esper-test", "severity": "info", "handler": handler}
    return _notice(labels, annotations, written_time(now.astimezone(UTC)), link)


def _notice(labels: dict[str, str], annotations: dict[str, str], since: str, link: _Link, identity: str = "") -> Notice:
    name = labels["alertname"]
    fingerprint = hashlib.sha256(f"{name}\x1f{labels['handler']}{identity}".encode()).hexdigest()[:32]
    return Notice(f"{name}/{fingerprint}/{since}", fingerprint, since, None, labels, annotations, link)


def linker(*, options: str = "", base_url: str | None = None) -> LinkTo:
    """Links made of `esper show RUN --at MOMENT` with `options` (such as " --log DIR"), and of Nissa's API under `base_url`."""

    def link_to(run: RunId, moment: Moment | None) -> _Link:
        command = f"alerts list {run}" if moment is None else f"show {run} --at {moment}"
        page = "alerts" if moment is None else f"state?at={moment}"
        url = None if base_url is None else f"{base_url.rstrip('/')}/api/v1/runs/{run}/{page}"
        return _Link(f"esper {command}{options}", url)

    return link_to
