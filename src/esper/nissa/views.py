"""What the API answers with. Numbers that are not finite are the log's words, null is not measured."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from esper.events.fields import Count, Float, Fraction, NonNegative
from esper.events.kinds.control import Adaptation
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, Stage
from esper.events.kinds.run import Code, DataFingerprint, Determinism, Hardware, Parent, Site
from esper.events.kinds.telemetry import HealthColumns
from esper.folds.control import CommandRow, Counts, DecisionRow
from esper.folds.rows import CheckpointRow, EpochRow, Irregularity, ReportRow, RollbackRow, SettingRow
from esper.folds.run import Status
from esper.folds.seeds import LastCommand

Standing = Literal["live", "finished", "failed", "interrupted", "unreadable"]


class View(BaseModel):
    """A frozen answer."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_inf_nan="strings",
        allow_inf_nan=True,
        from_attributes=True,
        json_schema_serialization_defaults_required=True,
    )


class RunSummary(View):
    """A run in a list. `interrupted`: nobody writes it and it has not ended."""

    run: str
    standing: Standing
    task: str | None = None
    began: datetime | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    """Planned; null for a stream."""
    validation_loss: Float | None = None
    parameters: Count | None = None
    sealed: bool = False
    problem: str | None = None


class RunPage(View):
    """Runs, the newest first."""

    runs: tuple[RunSummary, ...]
    cursor: str | None
    """Goes on after these; null: there are no more."""
    total: Count


class NoteView(View):
    """Something that happened to the run itself, in words."""

    moment: Count
    epoch: Count
    kind: str
    text: str


class RunView(View):
    """A run: how it began, where it stands, and what happened to it."""

    summary: RunSummary
    status: Status
    moment: Count
    epoch: Count
    step: Count
    incarnation: Count
    digest: str
    """Of the state that the facts fold to."""
    blocked: str | None
    """Why the state is unknown from here on; null: it is known."""
    settings: dict[str, JsonValue]
    sites: tuple[Site, ...]
    rng_seed: int | None
    parent: Parent | None
    code: Code | None
    packages: dict[str, str]
    data: tuple[DataFingerprint, ...]
    determinism: Determinism | None
    hardware: Hardware | None
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    notes: tuple[NoteView, ...]


class EvaluationView(View):
    """The last evaluation of a life."""

    id: str
    moment: Count
    epoch: Count
    event: SeedEvaluated


class SlotView(View):
    """One slot of the seed table."""

    row: SeedRow
    alpha: Fraction | None
    evaluation: EvaluationView | None
    command: LastCommand | None


class StateView(View):
    """The state of a run at a moment."""

    run: str
    at: Count
    """The moment that was asked for."""
    moment: Count
    """Of the last fact at or before it."""
    epoch: Count
    step: Count
    incarnation: Count
    status: Status
    digest: str
    """sha256 over the state's canonical form; the same as the live fold's, on every machine."""
    epochs: tuple[EpochRow, ...]
    seeds: tuple[SlotView, ...]
    decisions: tuple[DecisionRow, ...]
    """Since the last completed epoch."""
    open_commands: tuple[CommandRow, ...]
    counts: Counts
    field_reports: tuple[ReportRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    setting_changes: tuple[SettingRow, ...]
    dropped: dict[str, Count]
    irregularities: tuple[Irregularity, ...]


class SpanView(View):
    """A stage of one life, from the end of `from_epoch` to the end of `to_epoch`; null while it lasts."""

    stage: Stage
    from_epoch: Count
    to_epoch: Count | None
    moment: Count
    reason: str


class LifeView(View):
    """One life of a seed, from germination to its end. `undone`: a rollback took it back altogether."""

    site: str
    seed: Count
    life: Count
    blueprint: str | None
    kernel: str | None
    stage: Stage
    spans: tuple[SpanView, ...]
    evaluation: SeedEvaluated | None
    undone: bool


class SeedsView(View):
    """The seed table as it stands, and every life there was, oldest first."""

    run: str
    moment: Count
    slots: tuple[SlotView, ...]
    lives: tuple[LifeView, ...]


class DecisionView(View):
    """One decision with its numbers, and what became of it."""

    id: str
    moment: Count
    epoch: Count
    adaptation: Adaptation
    site: str | None
    seed: Count | None
    blueprint: str | None
    confidence: Float
    urgency: Float
    reason: str
    evidence: tuple[str, ...]
    fate: Literal["pending", "applied", "refused", "command refused", "failed", "recorded"]
    rule: str | None
    """The first rule of the gate that it broke."""
    detail: str | None


class DecisionPage(View):
    """Decisions, oldest first."""

    run: str
    decisions: tuple[DecisionView, ...]
    after: Count | None
    """The moment to go on after; null: there are no more now."""


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


class Accepted(View):
    """How many samples are durable."""

    accepted: Count


class Health(View):
    """The process is up."""

    status: Literal["ok"]


class CollectorView(View):
    """How a collector does."""

    name: str
    ok: Count
    failed: Count
    hung: Count
    error: str | None


class Ready(View):
    """Whether the service follows the log, and how closely."""

    status: Literal["ready", "not ready"]
    lag_s: NonNegative | None
    """Seconds since everything on disk had been read; null: never yet."""
    lag_limit_s: NonNegative
    following: Count
    live: Count
    observed_by: int | None
    """The process that observes and delivers; null: nobody does."""


class StatusView(View):
    """The service itself."""

    version: str
    now: datetime
    ready: Ready
    collectors: tuple[CollectorView, ...]
    absent: tuple[str, ...]
    """Metrics without a value now: never measured, or no longer."""


class InvalidPart(View):
    """What is wrong where."""

    pointer: str
    detail: str


class Problem(View):
    """What went wrong (RFC 9457). It never repeats what was sent."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: tuple[InvalidPart, ...] = ()


def slot_view(slot: Any) -> SlotView:  # Any: pydantic checks it.
    """`slot` of a seed table as the API shows it."""
    return SlotView.model_validate(slot)
