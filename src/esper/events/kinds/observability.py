"""Events that observers derive from the log, and their events about themselves and about silent runs."""

from typing import Annotated, Literal

from pydantic import JsonValue

from esper.events import topics
from esper.events.fields import VOLATILE, Count, Digest, Event, Float, NonNegative, Part, Reference


class WindowAggregated(Event, kind="esper.window.aggregated.v1", topic=topics.AGGREGATES):
    """Statistics of one metric over one closed window of event time, in seconds since the epoch of UTC."""

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


class AnomalyDetected(Event, kind="esper.anomaly.detected.v1", topic=topics.ANOMALIES):
    """A detector found a value that it did not expect."""

    topic: str
    """The topic that the value stands in."""
    detector: str
    metric: str
    site: str | None
    seed: Count | None
    value: Float
    expected: Float | None
    score: Float
    """Distance from expected, in the detector's own measure."""
    since_step: Count | None = None
    """The optimizer step since which it is so. Null: an earlier version wrote none, or the run had no step."""


class TrendDetected(Event, kind="esper.trend.detected.v1", topic=topics.ANOMALIES):
    """An advisory trend over closed windows: Theil-Sen slope per second with its confidence interval."""

    topic: str
    metric: str
    slope_per_s: Float
    slope_low: Float
    slope_high: Float
    finding: Literal["rising", "falling", "plateau", "limit_ahead"]
    limit: Float | None
    limit_in_s: Float | None
    """When the trend reaches `limit`, from the window's end."""


class Origin(Part):
    """The cause that an alert leads to. What is unknown, or is not part of its topic, is null."""

    step: Count
    """The optimizer step since which it is so."""
    batch: Count | None
    """The number in its epoch of that step's first batch."""
    sample: Digest | None
    """Digest of a sample of that batch."""
    layer: str | None
    group: Count | None
    """The optimizer's parameter group of that layer."""
    decision: Reference | None
    """The id of the command that was applied last before, or of the last rollback."""
    rates_since: Count | None
    """The step since which the learning rates are as they are."""
    command: str
    """Shows the run at that moment."""


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
    origin: Origin | None = None
    """Null: an earlier version wrote none."""


class AlertPending(_Alert, kind="esper.alert.pending.v1", topic=topics.ALERTS):
    """A rule's condition holds, not yet for as long as the rule asks."""


class AlertFiring(_Alert, kind="esper.alert.firing.v1", topic=topics.ALERTS):
    """A rule's condition held for as long as the rule asks."""


class AlertResolved(_Alert, kind="esper.alert.resolved.v1", topic=topics.ALERTS):
    """A rule's condition no longer holds, or its stream ended."""


class _Delivery(Event):
    alert: Reference
    """The id of the AlertFiring or AlertResolved."""
    fingerprint: Digest
    handler: str


class AlertNotified(_Delivery, kind="esper.alert.notified.v1", topic=topics.ALERTS):
    """A handler was given an alert; (fingerprint, since) is the key by which receivers count once."""

    since: str
    """Of that alert."""
    outcome: Literal["delivered", "failed"]
    attempts: Count
    error: Annotated[str | None, VOLATILE]


class AlertSuppressed(_Delivery, kind="esper.alert.suppressed.v1", topic=topics.ALERTS):
    """An alert was deliberately not delivered; `why` is the rule that held it back."""

    why: Literal["rate_limit", "stale", "not_delivered", "acknowledged"]


class ObserverStarted(Event, kind="esper.observer.started.v1", topic=topics.OBSERVERS):
    """An observer began to derive: its rules with versions, and its settings."""

    rules: dict[str, Count]
    """Versions by name."""
    settings: dict[str, JsonValue]
    settings_digest: Digest


class RunWentSilent(Event, kind="esper.run.went-silent.v1", topic=topics.OBSERVERS):
    """A run wrote nothing for `silent_s`: its process is gone (dead), or it sends heartbeats without progress (idle)."""

    state: Literal["dead", "idle"]
    silent_s: NonNegative


class RunHeardAgain(Event, kind="esper.run.heard-again.v1", topic=topics.OBSERVERS):
    """A silent run wrote again."""

    silent_s: NonNegative


class FoldBlocked(Event, kind="esper.fold.blocked.v1", topic=topics.OBSERVERS):
    """A fact could not be understood or is missing; the run's state is unknown from there on."""

    topic: str
    """The topic whose fold stopped."""
    sequence: Count
    """Of the record that could not be applied."""
    reason: str


class FoldUnblocked(Event, kind="esper.fold.unblocked.v1", topic=topics.OBSERVERS):
    """Nothing blocks the run's folds any more: the blocking record was understood or read, and they went on from there."""

    topics: tuple[str, ...]
    """The topics that were blocked."""
