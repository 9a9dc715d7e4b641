"""The answers of the API as models. Where the log or a fold has a row of its own, an answer is that row.

Every model is frozen; numbers that are not finite are the log's words for them, and null is not measured.
"""

from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from esper.events.fields import Count, Float, NonNegative
from esper.events.kinds.control import DecisionMade
from esper.events.kinds.lifecycle import SeedEvaluated, SeedTransitioned, Stage
from esper.events.kinds.observability import AlertFiring, WindowAggregated
from esper.events.kinds.run import Code, DataFingerprint, Determinism, Hardware, Site
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.folds.control_state import CommandRow, Counts, Fate
from esper.folds.run_state import CheckpointRow, EpochRow, Irregularity, ReportRow, RollbackRow, Status
from esper.folds.seeds import Slot
from esper.folds.timeline import Note, Span
from esper.history.run_list import RunStatus
from esper.nissa.collectors import CollectorStatus
from esper.nissa.custom import InvalidPart

_View = TypeVar("_View", bound="View")


class View(BaseModel):
    """A frozen answer."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", allow_inf_nan=True, json_schema_serialization_defaults_required=True
    )


def view_of(model: type[_View], /, *sources: object, **given: object) -> _View:
    """A `model` with the fields `given`, and each other from the first of `sources` that has an attribute of its name.

    Nothing is validated: sources are rows and events, which were checked when they were read.
    """
    values: dict[str, Any] = {}  # Any: written as the model's fields say.
    for name in model.model_fields:
        source = next((source for source in sources if hasattr(source, name)), None)
        if name in given:
            values[name] = given[name]
        elif source is not None:
            values[name] = getattr(source, name)
    return model.model_construct(**values)  # type: ignore[return-value] # pydantic's plugin loses the type variable.


class _Stamp(View):
    """Coordinates of a record."""

    id: str
    moment: Count
    epoch: Count
    step: Count
    time: datetime


class TransitionView(_Stamp, SeedTransitioned):
    """A seed went from one stage to the next."""

    cause: str | None


class HealthView(_Stamp, SeedHealthMeasured):
    """The health of every site and live seed at one step."""


class AlertView(_Stamp, AlertFiring):
    """A change of an alert."""

    run: str
    state: Literal["pending", "firing", "resolved"]


class AnomalyView(_Stamp):
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


class AggregateView(View, WindowAggregated):
    """Statistics of one metric over one window."""

    moment: Count


class _EventView(_Stamp):
    """A record as it stands in the log; `data` is its payload byte for byte, its schema is that of `type`."""

    run: str
    topic: str
    writer: str
    sequence: Count | None
    fact: Count | None
    generation: Count
    incarnation: Count
    type: str
    cause: str | None
    trace: str | None
    chain: str | None
    data: dict[str, JsonValue]


class EventPage(View):
    """Records, oldest first."""

    events: tuple[_EventView, ...]
    cursor: str
    """Goes on after these, now or later."""
    more: bool


class HealthPage(View):
    """The newest measurements of health, oldest first."""

    run: str
    measurements: tuple[HealthView, ...]


class FiringView(View):
    """The alerts that fire now, over all runs."""

    alerts: tuple[AlertView, ...]


class MetricHistory(View):
    """The last 100 windows of one metric of one run, oldest first."""

    run: str
    topic: str
    metric: str
    windows: tuple[AggregateView, ...]


class HistoryView(View):
    """The last 100 windows of every metric of a run, or of one."""

    metrics: tuple[MetricHistory, ...]


class RunLine(View):
    """A run in a list. `interrupted`: no process writes it and it has not ended."""

    run: str
    standing: RunStatus
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

    runs: tuple[RunLine, ...]
    cursor: str | None
    """Goes on after these; null: there are no more."""
    total: Count


class RunView(View):
    """A run: how it began, where it stands, and what happened to it."""

    summary: RunLine
    status: Status
    moment: Count
    epoch: Count
    step: Count
    incarnation: Count
    digest: str
    """Of the state that the facts fold to."""
    blocked: str | None
    """The reason why the state is unknown from here on; null: it is known."""
    settings: dict[str, JsonValue] = {}
    sites: tuple[Site, ...]
    rng_seed: int | None = None
    code: Code | None = None
    packages: dict[str, str] = {}
    data: tuple[DataFingerprint, ...] = ()
    determinism: Determinism | None = None
    hardware: Hardware | None = None
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    notes: tuple[Note, ...]


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
    seeds: tuple[Slot, ...]
    decisions: tuple["DecisionView", ...]
    """Since the last completed epoch."""
    open_commands: tuple[CommandRow, ...]
    counts: Counts
    field_reports: tuple[ReportRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    dropped: dict[str, Count]
    irregularities: tuple[Irregularity, ...]


class LifeView(View):
    """A life of a seed, from germination to its end. `undone`: a rollback took it back altogether."""

    site: str
    seed: Count
    life: Count
    blueprint: str | None
    kernel: str | None
    stage: Stage
    spans: tuple[Span, ...]
    evaluation: SeedEvaluated | None
    undone: bool


class SeedsView(View):
    """The seed table as it stands, and every life there was, oldest first."""

    run: str
    moment: Count
    slots: tuple[Slot, ...]
    lives: tuple[LifeView, ...]


class DecisionView(View, DecisionMade):
    """A decision with its numbers and its fate."""

    id: str
    moment: Count
    epoch: Count
    fate: Fate
    rule: str | None
    """The first rule of the gate that it broke."""
    detail: str | None


class DecisionPage(View):
    """Decisions, oldest first."""

    run: str
    decisions: tuple[DecisionView, ...]
    after: Count | None
    """The moment to go on after; null: there are no more now."""


class Accepted(View):
    """Number of samples that are durable."""

    accepted: Count


class Healthy(View):
    """The process is up."""

    status: Literal["ok"]


class Ready(View):
    """Progress of the following: `ready` with a lag below the limit."""

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
    collectors: tuple[CollectorStatus, ...]
    absent: tuple[str, ...]
    """Metrics without a value now: never measured, or no longer."""


class Problem(View):
    """A refusal or a fault (RFC 9457). It never repeats what was sent."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: tuple[InvalidPart, ...] = ()
