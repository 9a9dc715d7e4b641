"""An epoch's end: what was reached, the digests of the state, and everything that a policy may know."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from esper.events import topics
from esper.events.fields import VOLATILE, Count, Digest, Event, Float, Fraction, Metrics, NonNegative, Part, Reference, Signed
from esper.events.kinds.lifecycle import Stage

Texts = tuple[str, ...]
Counts = tuple[Count, ...]
MaybeCounts = tuple[Count | None, ...]
MaybeFloats = tuple[Float | None, ...]
MaybeFractions = tuple[Fraction | None, ...]
MaybeNonNegatives = tuple[NonNegative | None, ...]
MaybeSigned = tuple[Signed | None, ...]

# How many validation losses every epoch repeats. A plateau is looked for over a few of them; a record that repeated all would make a run's
# log grow with the square of its epochs.
KEPT_LOSSES = 32


class Columns(Part):
    """Tuples of equal length, one entry per thing measured. A column that was not measured at all may be null, where its type says so.

    Columns inside columns, and maps of columns, have the same length as those around them.
    """

    @model_validator(mode="after")
    def _equal_lengths(self) -> "Columns":
        lengths = column_lengths(self)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected columns of equal length, got {lengths}")
        return self


def column_lengths(part: Part) -> dict[str, int]:
    """How long each column in `part` is, by its place; those that are null are left out."""
    lengths: dict[str, int] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, tuple):
            lengths[name] = len(value)
        elif isinstance(value, Columns):
            lengths |= {f"{name}.{inner}": length for inner, length in column_lengths(value).items()}
        elif isinstance(value, dict):
            lengths |= {f"{name}.{key}": len(column) for key, column in value.items() if isinstance(column, tuple)}
    return lengths


class SiteColumns(Columns):
    """One entry per site: its health, where growth presses, what may be tried there, what went wrong there in this run.

    `effective_rank` is Roy and Vetterli's (2007); `gradient_pressure` the mean per-sample gradient norm at the site's output.
    """

    site: Texts
    activation_variance: MaybeNonNegatives
    gradient_variance: MaybeNonNegatives
    dead_neuron_ratio: MaybeFractions
    avg_correlation: MaybeSigned
    effective_rank: MaybeNonNegatives
    gradient_pressure: MaybeNonNegatives
    refused: Counts
    """Decisions about seeds here, and commands, that were refused so far."""
    failed: Counts
    """Commands and kernels that failed here so far."""
    blueprints: tuple[Texts, ...]
    """Those that may be tried here now; others would exceed the limit of parameters."""


class SeedColumns(Columns):
    """One entry per slot. `evaluated_*` repeat the life's last SeedEvaluated; null: never evaluated."""

    site: Texts
    seed: Counts
    """The slot, 0 and up within its site."""
    stage: tuple[Stage, ...]
    life: MaybeCounts
    """The epoch at whose end the seed germinated; null: there is none."""
    epochs_in_stage: Counts
    blueprint: tuple[str | None, ...]
    kernel: tuple[str | None, ...]
    """Digest of the kernel's file."""
    embargo_until: MaybeCounts
    """The first epoch at whose end a culled slot may be reset."""
    alpha: MaybeFractions
    """The seed's share of the site's output."""
    ready: tuple[bool | None, ...]
    """Whether the seed has finished what its stage is for; never in FINE_TUNING and FOSSILIZED. Null: the slot is empty."""
    recovering: tuple[bool, ...]
    """Disabled after a value that was not finite, or left without a kernel, until it is removed."""
    errors: Counts
    """Values that were not finite in this life so far; the first disables the seed."""
    activation_variance: MaybeNonNegatives
    gradient_variance: MaybeNonNegatives
    dead_neuron_ratio: MaybeFractions
    avg_correlation: MaybeSigned
    health_score: MaybeFractions
    loss_at_germination: MaybeFloats
    """The validation loss when the seed germinated."""
    loss_before_graft: MaybeFloats
    """The validation loss when its graft began."""
    evaluated: tuple[Reference | None, ...]
    """The id of that SeedEvaluated."""
    evaluated_epoch: MaybeCounts
    evaluated_alpha: MaybeFractions
    evaluated_n: MaybeCounts
    evaluated_k: MaybeCounts
    evaluated_mean: MaybeFloats
    evaluated_standard_error: MaybeNonNegatives
    evaluated_loss_without: MaybeFloats
    evaluated_loss_with: MaybeFloats


class FieldReportColumns(Columns):
    """This run's field reports so far, oldest first."""

    blueprint: Texts
    site: Texts
    seed: Counts
    life: Counts
    outcome: Texts
    metric_before: MaybeFloats
    metric_after: MaybeFloats


class GateSettings(Part):
    """The limits a decision must pass; see `esper.folds.gate`."""

    confidence_above: Float = 0.7
    """Of germinate, graft, fossilize and cull."""
    urgency_above: Float = 0.6
    """Of germinate, graft, fossilize and cull."""
    adaptations_per_epoch: Count = 3
    """Germinate, graft, fossilize and cull are applied at most so often after one epoch."""
    adaptation_every: Annotated[int, Field(ge=1)] = 1
    """Germinate, graft and fossilize pass only after epochs divisible by this."""
    cooldown: Count = 5
    """Epochs between germinations of different epochs."""
    embargo: Count = 3
    """Epochs that a culled slot waits before it may be reset."""


class SystemState(Part):
    """All that a policy may know at an epoch's end, measured at every epoch whatever the telemetry settings.

    `validation_losses` and `earlier_loss` are of the time since the last graft cycle ended, `best_loss` is over the whole run.
    """

    epoch: Count
    epochs_planned: Count | None
    """Null for a stream."""
    train_loss: Float
    train_metrics: Metrics
    validation_loss: Float | None
    validation_metrics: Metrics
    validation_losses: Annotated[tuple[Float, ...], Field(max_length=KEPT_LOSSES)]
    """The newest 32, oldest first."""
    earlier_loss: Float | None
    """The lowest of those before them, or one of those that was not finite or not above 0; null: there are none."""
    best_loss: Float | None
    best_epoch: Count | None
    epochs_since_improvement: Count
    parameters: Count
    """Of the host with its seeds."""
    parameters_limit: Count
    germinations: Count
    """So far in this run."""
    stages: dict[Stage, Count]
    """How many slots are in each stage."""
    sites: SiteColumns
    seeds: SeedColumns
    field_reports: FieldReportColumns
    gate: GateSettings


class Measured(Part):
    """A sample-weighted mean loss in eval mode (for training: of the epoch's own steps) and metrics; accuracy is 0..1."""

    loss: Float
    metrics: Metrics
    samples: Count
    """That the means are over."""


class StateDigests(Part):
    """sha256 of the training state *before* the epoch's adaptation; absent where the digest setting says so."""

    parameters: Digest | None
    optimizer: Digest | None
    random: Digest | None


class EpochCompleted(Event):
    """An epoch ended: losses, digests, and the SystemState that the decisions of this epoch follow from."""

    KIND: ClassVar[str] = "esper.epoch.completed.v1"
    TOPIC: ClassVar[str] = topics.EPOCH
    train: Measured
    validation: Measured | None
    """Null where there is no validation data."""
    learning_rates: tuple[Float, ...]
    """One per parameter group."""
    optimizer_steps: Count
    digests: StateDigests
    system: SystemState
    duration_s: Annotated[NonNegative, Field(json_schema_extra=VOLATILE)]
    samples_per_s: Annotated[NonNegative, Field(json_schema_extra=VOLATILE)]
