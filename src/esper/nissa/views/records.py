"""What stands in single records: transitions, health, events as they are, and what observers derived."""

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from esper.events.fields import Count, Float, NonNegative
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.telemetry import HealthColumns
from esper.nissa.views.view import View


class Stamp(View):
    """Where a record stands."""

    id: str
    moment: Count
    epoch: Count
    step: Count
    time: datetime


class TransitionView(Stamp):
    """A seed went from one stage to the next."""

    site: str
    seed: Count
    from_stage: Stage
    to_stage: Stage
    reason: str
    life: Count | None
    blueprint: str | None
    kernel: str | None
    embargo_until: Count | None
    cause: str | None


class TransitionPage(View):
    """Transitions, oldest first."""

    run: str
    transitions: tuple[TransitionView, ...]
    cursor: str
    more: bool


class HealthView(Stamp):
    """The health of every site and live seed at one step."""

    health: HealthColumns
    last_adaptation_step: Count | None


class HealthPage(View):
    """The newest measurements of health, oldest first."""

    run: str
    measurements: tuple[HealthView, ...]


class EventView(View):
    """One record as it stands in the log; `data` is its payload byte for byte, its schema is that of `type`."""

    id: str
    run: str
    topic: str
    writer: str
    sequence: Count | None
    fact: Count | None
    moment: Count
    generation: Count
    incarnation: Count
    type: str
    time: datetime
    epoch: Count
    step: Count
    cause: str | None
    trace: str | None
    chain: str | None
    data: dict[str, JsonValue]


class EventPage(View):
    """Records, oldest first."""

    events: tuple[EventView, ...]
    cursor: str
    """Goes on after these, now or later."""
    more: bool


class AlertView(Stamp):
    """A change of an alert."""

    run: str
    state: Literal["pending", "firing", "resolved"]
    fingerprint: str
    rule: str
    severity: Literal["info", "warning", "critical"]
    topic: str
    labels: dict[str, str]
    annotations: dict[str, str]
    value: Float | None
    since: str


class AlertPage(View):
    """Changes of alerts, oldest first."""

    run: str
    alerts: tuple[AlertView, ...]
    cursor: str
    more: bool


class FiringView(View):
    """What fires now, over all runs."""

    alerts: tuple[AlertView, ...]


class AnomalyView(Stamp):
    """A value or a trend that was not expected."""

    kind: str
    topic: str
    metric: str
    detector: str | None = None
    site: str | None = None
    seed: Count | None = None
    value: Float | None = None
    expected: Float | None = None
    score: Float | None = None
    finding: str | None = None
    slope_per_s: Float | None = None


class AnomalyPage(View):
    """Anomalies and trends, oldest first."""

    run: str
    anomalies: tuple[AnomalyView, ...]
    cursor: str
    more: bool


class Aggregate(View):
    """Statistics of one metric over one window."""

    topic: str
    metric: str
    starts_s: Float
    length_s: NonNegative
    count: Count
    mean: Float
    minimum: Float
    maximum: Float
    standard_deviation: NonNegative
    moment: Count


class AggregatePage(View):
    """Windows, oldest first."""

    run: str
    aggregates: tuple[Aggregate, ...]
    cursor: str
    more: bool


class MetricHistory(View):
    """The last 100 windows of one metric of one run, oldest first."""

    run: str
    topic: str
    metric: str
    windows: tuple[Aggregate, ...]


class HistoryView(View):
    """The last 100 windows of every run and metric that was asked for."""

    metrics: tuple[MetricHistory, ...]
