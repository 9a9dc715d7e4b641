"""What observers and workers derive from the log, and what they write about themselves."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from esper.events import topics
from esper.events.fields import VOLATILE, Count, Digest, Event, Float, NonNegative, Reference


class WindowAggregated(Event):
    """Statistics of one metric over one closed window of event time, in seconds since the epoch of UTC."""

    KIND: ClassVar[str] = "esper.window.aggregated.v1"
    TOPIC: ClassVar[str] = topics.AGGREGATES
    topic: str
    """The topic that was aggregated."""
    metric: str
    starts_s: Float
    length_s: NonNegative
    count: Count
    mean: Float
    minimum: Float
    maximum: Float
    standard_deviation: NonNegative


class AnomalyDetected(Event):
    """A detector found a value that it did not expect."""

    KIND: ClassVar[str] = "esper.anomaly.detected.v1"
    TOPIC: ClassVar[str] = topics.ANOMALIES
    topic: str
    """The topic that the value stands in."""
    detector: str
    metric: str
    site: str | None
    seed: Count | None
    value: Float
    expected: Float | None
    score: Float
    """How far from expected, in the detector's own measure."""


class TrendDetected(Event):
    """An advisory trend over closed windows: Theil-Sen slope per second with its confidence interval."""

    KIND: ClassVar[str] = "esper.trend.detected.v1"
    TOPIC: ClassVar[str] = topics.ANOMALIES
    topic: str
    metric: str
    slope_per_s: Float
    slope_low: Float
    slope_high: Float
    finding: Literal["rising", "falling", "plateau", "limit_ahead"]
    limit: Float | None
    limit_in_s: Float | None
    """When the trend reaches `limit`, from the window's end."""


class _Alert(Event):
    fingerprint: Digest
    """Digest of topic, rule and labels: the same alert has the same."""
    rule: str
    severity: Literal["info", "warning", "critical"]
    topic: str
    """The one topic that the rule reads."""
    labels: dict[str, str]
    annotations: dict[str, str]
    value: Float | None
    """The value that was judged."""
    since: str
    """The time at which the condition began to hold."""


class AlertPending(_Alert):
    """A rule's condition holds, not yet for as long as the rule asks."""

    KIND: ClassVar[str] = "esper.alert.pending.v1"
    TOPIC: ClassVar[str] = topics.ALERTS


class AlertFiring(_Alert):
    """A rule's condition held for as long as the rule asks."""

    KIND: ClassVar[str] = "esper.alert.firing.v1"
    TOPIC: ClassVar[str] = topics.ALERTS


class AlertResolved(_Alert):
    """A rule's condition no longer holds, or its stream ended."""

    KIND: ClassVar[str] = "esper.alert.resolved.v1"
    TOPIC: ClassVar[str] = topics.ALERTS


class AlertNotified(Event):
    """A handler was given an alert; (fingerprint, since) is the key by which receivers count once."""

    KIND: ClassVar[str] = "esper.alert.notified.v1"
    TOPIC: ClassVar[str] = topics.ALERTS
    alert: Reference
    """The id of the AlertFiring or AlertResolved."""
    fingerprint: Digest
    since: str
    """That alert's."""
    handler: str
    outcome: Literal["delivered", "failed"]
    attempts: Count
    error: Annotated[str | None, Field(json_schema_extra=VOLATILE)]


class AlertSuppressed(Event):
    """An alert was deliberately not delivered; `why` says which rule held it back."""

    KIND: ClassVar[str] = "esper.alert.suppressed.v1"
    TOPIC: ClassVar[str] = topics.ALERTS
    alert: Reference
    """The id of the AlertFiring or AlertResolved."""
    fingerprint: Digest
    handler: str
    why: Literal["rate_limit", "stale", "not_delivered"]


class ObserverStarted(Event):
    """An observer or worker began to derive: its rules with versions, and its settings."""

    KIND: ClassVar[str] = "esper.observer.started.v1"
    TOPIC: ClassVar[str] = topics.OBSERVERS
    rules: dict[str, Count]
    """Versions by name."""
    settings: dict[str, JsonValue]
    settings_digest: Digest


class RunWentSilent(Event):
    """Nothing came from a run for `silent_s`: its process is gone (dead), or it beats without progress (idle)."""

    KIND: ClassVar[str] = "esper.run.went-silent.v1"
    TOPIC: ClassVar[str] = topics.OBSERVERS
    state: Literal["dead", "idle"]
    silent_s: NonNegative


class RunHeardAgain(Event):
    """A silent run was heard again."""

    KIND: ClassVar[str] = "esper.run.heard-again.v1"
    TOPIC: ClassVar[str] = topics.OBSERVERS
    silent_s: NonNegative


class FoldBlocked(Event):
    """A fact could not be understood or is missing; the run's state is unknown from there on."""

    KIND: ClassVar[str] = "esper.fold.blocked.v1"
    TOPIC: ClassVar[str] = topics.OBSERVERS
    topic: str
    """Where the fold stands."""
    sequence: Count
    """Of the record that it could not apply."""
    reason: str


class FoldUnblocked(Event):
    """Nothing blocks the run's folds any more: what could not be understood or read is, and they went on from there."""

    KIND: ClassVar[str] = "esper.fold.unblocked.v1"
    TOPIC: ClassVar[str] = topics.OBSERVERS
    topics: tuple[str, ...]
    """Those that were blocked."""
