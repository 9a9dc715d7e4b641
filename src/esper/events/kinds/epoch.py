"""The end of an epoch: losses, the digests of the training state, and everything that a policy may know."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from esper.events import topics
from esper.events.fields import VOLATILE, ByColumn, Count, Digest, Event, Float, Fraction, Metrics, NonNegative, Part, Signed
from esper.events.kinds.control import FieldReported
from esper.events.kinds.lifecycle import SeedRows, Stage

# How many validation losses every epoch repeats. A plateau is looked for over a few of them; a record that repeated all would make a run's
# log grow with the square of its epochs.
KEPT_LOSSES = 32


class SiteRow(Part):
    """A site: its health, the pressure to grow there, the blueprints that may be tried, the refusals and failures of this run.

    `effective_rank` is Roy and Vetterli's (2007); `gradient_pressure` the mean per-sample gradient norm at the site's output.
    """

    site: str
    activation_variance: NonNegative | None = None
    gradient_variance: NonNegative | None = None
    dead_neuron_ratio: Fraction | None = None
    avg_correlation: Signed | None = None
    effective_rank: NonNegative | None = None
    gradient_pressure: NonNegative | None = None
    refused: Count = 0
    """Decisions about seeds here, and commands, that were refused so far."""
    failed: Count = 0
    """Commands and kernels that failed here so far."""
    blueprints: tuple[str, ...] = ()
    """Blueprints that may be tried here now; others would exceed the limit of parameters."""
    frozen: str | None = None
    """The reason why nothing can grow here any more, see SiteFrozen; null: it can."""


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
    """The lowest of those before them that was finite; null: there is none."""
    best_loss: Float | None
    best_epoch: Count | None
    epochs_since_improvement: Count
    parameters: Count
    """Of the host with its seeds."""
    parameters_limit: Count
    germinations: Count
    """So far in this run."""
    stages: dict[Stage, Count]
    """Slots in each stage."""
    sites: Annotated[Sequence[SiteRow], ByColumn()]
    seeds: SeedRows
    field_reports: Annotated[Sequence[FieldReported], ByColumn()]
    """This run's so far, oldest first."""
    gate: GateSettings


class Measured(Part):
    """A sample-weighted mean loss in eval mode (for training: of the epoch's own steps) and metrics; accuracy is 0..1."""

    loss: Float
    metrics: Metrics
    samples: Count
    """Count of samples in the means."""


class StateDigests(Part):
    """sha256 of the training state *before* the epoch's adaptation; absent where the digest setting leaves it out."""

    parameters: Digest | None
    optimizer: Digest | None
    random: Digest | None


class EpochCompleted(Event, kind="esper.epoch.completed.v1", topic=topics.EPOCH):
    """An epoch ended: losses, digests, and the SystemState that the decisions of this epoch follow from."""

    train: Measured
    validation: Measured | None
    """Null where there is no validation data."""
    learning_rates: tuple[Float, ...]
    """By parameter group."""
    optimizer_steps: Count
    digests: StateDigests
    system: SystemState
    duration_s: Annotated[NonNegative, VOLATILE]
    samples_per_s: Annotated[NonNegative, VOLATILE]
