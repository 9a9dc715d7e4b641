"""Measurements while training runs: health, steps, heartbeats, the machine, and the user's own metrics."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from esper.events import topics
from esper.events.fields import VOLATILE, Columns, Count, Digest, Event, Float, Fraction, NonNegative, Part, Reference, Signed
from esper.events.kinds.lifecycle import Stage

_Counts = tuple[Count, ...]
_Floats = tuple[Float | None, ...]
_Fractions = tuple[Fraction | None, ...]
_NonNegatives = tuple[NonNegative | None, ...]
_Signed = tuple[Signed | None, ...]


class HealthColumns(Columns):
    """Health, an entry per site (seed, stage, alpha, ready null) and per live seed; floats are float32, null where not measured.

    `dead_neuron_ratio`: share of units whose mean absolute activation is at most 0.025 of the layer's mean (Sokar et al. 2023).
    `avg_correlation`: mean pairwise correlation of a fixed sample of units, debiased.
    """

    site: tuple[str, ...]
    seed: tuple[Count | None, ...]
    """The slot, 0 and up within its site; null: the site's own health."""
    stage: tuple[Stage | None, ...]
    activation_variance: _NonNegatives
    gradient_variance: _NonNegatives
    dead_neuron_ratio: _Fractions
    units: tuple[Count | None, ...]
    """The units that `dead_neuron_ratio` is a share of: those of the layer, and of more than 64 an even sample; null where not measured."""
    avg_correlation: _Signed
    latency_ms: Annotated[_NonNegatives, VOLATILE]
    """The body's last forward."""
    errors: _Counts
    """Values that were not finite since the last measurement."""
    recovering: tuple[bool, ...]
    """Disabled after a value that was not finite, until it is culled."""
    alpha: _Fractions
    """The seed's share of the site's output."""
    ready: tuple[bool | None, ...]
    """True once the seed has finished its stage's work; never in FINE_TUNING and FOSSILIZED. Null: a site's own health."""
    health_score: _Fractions


class SeedHealthMeasured(Event, kind="esper.seed.health-measured.v1", topic=topics.SEED_HEALTH):
    """The health of every site and live seed at one step."""

    health: HealthColumns
    last_adaptation_step: Count | None
    last_adaptation: Reference | None = None
    """The id of the command that was applied last, or of the last rollback; null: there was none."""
    groups: dict[str, Count] = Field(default_factory=dict)
    """The optimizer's parameter group of each site's layer; without those that it does not train."""


class StepColumns(Columns):
    """Optimizer steps, an entry each."""

    step: _Counts
    loss: _Floats
    gradient_norm: _NonNegatives
    step_latency_ms: Annotated[_NonNegatives, VOLATILE]
    data_wait_ms: Annotated[_NonNegatives, VOLATILE]


class BatchColumns(Columns):
    """The first batch of each optimizer step, an entry each."""

    step: _Counts
    number: _Counts
    """Its number in the epoch, from 1."""
    sample: tuple[Digest, ...]
    """Digest of 32 values of its first and of its last tensor, evenly spread: equal for equal batches."""


class StepsMeasured(Event, kind="esper.steps.measured.v1", topic=topics.STEPS):
    """A span of optimizer steps: columns per step, and once per record what changes slowly."""

    steps: StepColumns
    metrics: dict[str, _Floats]
    """Each a column as long as those of `steps`."""
    learning_rates: tuple[Float, ...]
    """By parameter group."""
    live_seeds: Count
    last_adaptation_step: Count | None
    samples_per_s: Annotated[NonNegative | None, VOLATILE]
    memory_bytes: Annotated[Count | None, VOLATILE]
    batches: BatchColumns | None = None
    """Null: an earlier version wrote none."""
    last_adaptation: Reference | None = None
    """The id of the command that was applied last, or of the last rollback; null: there was none."""

    @model_validator(mode="after")
    def _metrics_are_columns(self) -> "StepsMeasured":
        for name, column in self.metrics.items():
            if len(column) != len(self.steps.step):
                raise ValueError(f"expected {len(self.steps.step)} values of metric {name!r}, got {len(column)}")
        if self.batches is not None and len(self.batches.number) != len(self.steps.step):
            raise ValueError(f"expected {len(self.steps.step)} batches, got {len(self.batches.number)}")
        return self


Doing = Literal["step", "validating", "waiting", "adapting", "saving"]
"""Activity of a trainer."""


class Heartbeat(Event, kind="esper.run.heartbeat.v1", topic=topics.HEARTBEAT):
    """The writer is alive: seconds since the last emit, and what the trainer is doing."""

    idle_s: Annotated[NonNegative, VOLATILE]
    doing: Doing


class Gpu(Part):
    """A GPU as its driver reports it."""

    index: Count
    name: str
    utilization: Float | None
    """0..1; null where the driver does not report it, as for a partitioned one."""
    memory_used_bytes: Count
    memory_total_bytes: Count
    temperature_celsius: Float | None
    power_watts: Float | None


class ResourcesMeasured(Event, kind="esper.resources.measured.v1", topic=topics.RESOURCES):
    """A machine and the logs on it. A missing driver gives no `gpus`, never a zero."""

    cpu_utilization: Float
    """0..1, over all cores."""
    memory_used_bytes: Count
    memory_total_bytes: Count
    disk_free_bytes: Count
    disk_total_bytes: Count
    network_received_bytes: Count
    network_sent_bytes: Count
    gpus: tuple[Gpu, ...]
    log_dropped_samples: Count | None


class CustomMetricRecorded(Event, kind="esper.metric.recorded.v1", topic=topics.CUSTOM_METRICS):
    """Samples of one of the user's own metrics, accepted after validation; `about` names the run where there is one."""

    name: Annotated[str, Field(pattern=r"^esper_custom_[a-z][a-z0-9_]{0,99}$")]
    type: Literal["counter", "gauge"]
    labels: dict[str, str]
    value: Float
    about: str | None
    """The run that the metric is about."""
