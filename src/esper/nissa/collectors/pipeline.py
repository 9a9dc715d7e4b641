"""The pipeline itself: what was read of the log, how far behind, what was lost on the way, and what detectors and alerts said."""

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from esper.events.envelope import Record
from esper.events.kinds.observability import (
    AlertFiring,
    AlertNotified,
    AlertPending,
    AlertResolved,
    AlertSuppressed,
    AnomalyDetected,
    FoldBlocked,
    RunHeardAgain,
    RunWentSilent,
    TrendDetected,
)
from esper.events.kinds.run import SamplesDropped
from esper.events.topics import TOPICS, is_telemetry
from esper.folds.monitoring.detectors.detect import DETECTORS
from esper.nissa.collectors.collector import Collector
from esper.nissa.metrics.family import Family, Sample
from esper.nissa.metrics.model import RECORDS, UNREADABLE, Handler, Model, Watched

SEVERITIES = ("info", "warning", "critical")
OUTCOMES = ("delivered", "failed")

DROPPED = Family(
    "esper_samples_dropped_total",
    "counter",
    "Telemetry that found no room before it was taken, by topic.",
    {"topic": tuple(filter(is_telemetry, TOPICS))},
)
RUNS = Family("esper_runs", "gauge", "Runs of the log by how they stand.", {"standing": ("live", "interrupted", "sealed")})
FOLLOWING = Family("esper_follow_runs", "gauge", "Runs that are followed.")
TROUBLED = Family("esper_follow_unreadable_runs", "gauge", "Runs that are followed and cannot be read.")
CAUGHT_UP = Family("esper_follow_caught_up_timestamp_seconds", "gauge", "When everything that stood on disk had been read.")
POLLED = Family("esper_follow_poll_timestamp_seconds", "gauge", "When the log was looked at last.")
ANOMALIES = Family("esper_anomalies_total", "counter", "Values that detectors did not expect.", {"detector": tuple(sorted(DETECTORS))})
TRENDS = Family(
    "esper_trends_total",
    "counter",
    "Trends that were found.",
    {"finding": get_args(TrendDetected.model_fields["finding"].annotation)},
)
ALERTS = Family(
    "esper_alerts_total",
    "counter",
    "Changes of alerts.",
    {"state": ("pending", "firing", "resolved"), "severity": SEVERITIES},
)
FIRING = Family("esper_alerts_firing", "gauge", "Alerts that fire now.", {"severity": SEVERITIES})
NOTIFICATIONS = Family(
    "esper_alert_notifications_total",
    "counter",
    "Alerts that a handler was given.",
    {"handler": (), "outcome": OUTCOMES},
)
SUPPRESSED = Family(
    "esper_alerts_suppressed_total",
    "counter",
    "Alerts that were deliberately not delivered, by why.",
    {"why": ("rate_limit", "stale", "not_delivered")},
)
SILENT = Family("esper_runs_went_silent_total", "counter", "Runs that went silent.", {"state": ("dead", "idle")})
HEARD = Family("esper_runs_heard_again_total", "counter", "Silent runs that were heard again.")
BLOCKED = Family("esper_folds_blocked_total", "counter", "Runs with a fact that could not be understood or was missing.")

COUNTED = (RECORDS, UNREADABLE, DROPPED, ANOMALIES, TRENDS, ALERTS, NOTIFICATIONS, SUPPRESSED, SILENT, HEARD, BLOCKED)
FAMILIES = (*COUNTED, RUNS, FOLLOWING, TROUBLED, CAUGHT_UP, POLLED, FIRING)


def _dropped(model: Model, watched: Watched, _record: Record, event: SamplesDropped) -> Watched:
    model.tally.add(DROPPED, event.topic, by=event.count)
    return watched


def _anomaly(model: Model, watched: Watched, _record: Record, event: AnomalyDetected) -> Watched:
    model.tally.add(ANOMALIES, event.detector)
    return watched


def _trend(model: Model, watched: Watched, _record: Record, event: TrendDetected) -> Watched:
    model.tally.add(TRENDS, event.finding)
    return watched


def _pending(model: Model, watched: Watched, _record: Record, event: AlertPending) -> Watched:
    model.tally.add(ALERTS, "pending", event.severity)
    return watched


def _firing(model: Model, watched: Watched, record: Record, event: AlertFiring) -> Watched:
    model.tally.add(ALERTS, "firing", event.severity)
    model.fires(event.fingerprint, event.severity, record)
    return watched


def _resolved(model: Model, watched: Watched, _record: Record, event: AlertResolved) -> Watched:
    model.tally.add(ALERTS, "resolved", event.severity)
    model.fires_no_more(event.fingerprint, watched.run)
    return watched


def _notified(model: Model, watched: Watched, _record: Record, event: AlertNotified) -> Watched:
    model.tally.add(NOTIFICATIONS, event.handler, event.outcome)
    return watched


def _suppressed(model: Model, watched: Watched, _record: Record, event: AlertSuppressed) -> Watched:
    model.tally.add(SUPPRESSED, event.why)
    return watched


def _silent(model: Model, watched: Watched, _record: Record, event: RunWentSilent) -> Watched:
    model.tally.add(SILENT, event.state)
    return watched


def _heard(model: Model, watched: Watched, _record: Record, _event: RunHeardAgain) -> Watched:
    model.tally.add(HEARD)
    return watched


def _blocked(model: Model, watched: Watched, _record: Record, _event: FoldBlocked) -> Watched:
    model.tally.add(BLOCKED)
    return watched


HANDLERS: dict[type, Handler] = {
    SamplesDropped: _dropped,
    AnomalyDetected: _anomaly,
    TrendDetected: _trend,
    AlertPending: _pending,
    AlertFiring: _firing,
    AlertResolved: _resolved,
    AlertNotified: _notified,
    AlertSuppressed: _suppressed,
    RunWentSilent: _silent,
    RunHeardAgain: _heard,
    FoldBlocked: _blocked,
}


def collect(model: Model) -> Iterator[Sample]:
    """The samples of `FAMILIES`."""
    yield from model.samples(COUNTED)
    firing = Counter(severity for severity, _ in model.firing())
    yield from (Sample(FIRING, firing[severity], (severity,)) for severity in SEVERITIES)
    progress = model.progress
    if progress.polled_at is None:
        return
    yield Sample(POLLED, progress.polled_at)
    standings = (("live", len(progress.live)), ("interrupted", progress.interrupted), ("sealed", progress.sealed))
    yield from (Sample(RUNS, count, (name,)) for name, count in standings)
    yield Sample(FOLLOWING, progress.following)
    yield Sample(TROUBLED, progress.troubled)
    if progress.caught_up_at is not None:
        yield Sample(CAUGHT_UP, progress.caught_up_at)


COLLECTOR = Collector("pipeline", 1.0, FAMILIES, collect)
