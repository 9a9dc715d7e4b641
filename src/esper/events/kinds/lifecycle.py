"""Stages of seeds, the seed table, and evaluations of a seed's effect."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from esper.events import topics
from esper.events.fields import ByColumn, Count, Event, Float, Fraction, Metrics, NonNegative, Part, Reference, Signed


class Stage(StrEnum):
    """The stages of a seed; the table of legal edges is `esper.folds.transitions`."""

    DORMANT = "DORMANT"
    GERMINATED = "GERMINATED"
    LOADING = "LOADING"
    TRAINING = "TRAINING"
    GRAFTING = "GRAFTING"
    STABILIZATION = "STABILIZATION"
    EVALUATING = "EVALUATING"
    FINE_TUNING = "FINE_TUNING"
    FOSSILIZED = "FOSSILIZED"
    CULLED = "CULLED"
    CANCELLED = "CANCELLED"
    ROLLED_BACK = "ROLLED_BACK"


class Evaluation(Part):
    """The effect of a seed on the validation loss: the gain loss(without) - loss(with) over n pairs, weighted by their samples."""

    epoch: Count
    """The epoch at whose end it was measured."""
    alpha: Fraction
    """The share at which the seed was evaluated."""
    n: Count
    k: Count
    """Alternatives that were tried, of which this is the best."""
    look: Count
    """Which look at the seed in its stage this is: 1 is the first at which it may pass."""
    mean: Float
    """The gain, weighted by samples; above 0 where the seed helps."""
    standard_error: NonNegative
    """Of `mean`."""
    skewness: Float = 0.0
    """Of `mean`: the third moment of its estimate by `standard_error` cubed; below 0 where few large losses stand against small gains."""
    loss_without: Float
    loss_with: Float


class SeedRow(Part):
    """A slot of the seed table, with measurements of its present life at the last epoch's end; (site, seed, life) names one life."""

    site: str
    seed: Count
    """The slot, 0 and up within its site."""
    stage: Stage = Stage.DORMANT
    since_epoch: Count = 0
    """The epoch at whose end the stage began."""
    life: Count | None = None
    """The epoch at whose end the seed germinated; null: there is none."""
    blueprint: str | None = None
    kernel: str | None = None
    """Digest of the kernel's file."""
    embargo_until: Count | None = None
    """The first epoch at whose end a culled slot may be reset."""
    alpha: Fraction | None = None
    """The seed's share of the site's output."""
    ready: bool | None = None
    """True once the seed has finished its stage's work; never in FINE_TUNING and FOSSILIZED. Null: the slot is empty."""
    recovering: bool = False
    """Disabled after a value that was not finite, or left without a kernel, until it is removed."""
    errors: Count = 0
    """Values that were not finite in this life so far; the first disables the seed."""
    activation_variance: NonNegative | None = None
    gradient_variance: NonNegative | None = None
    dead_neuron_ratio: Fraction | None = None
    avg_correlation: Signed | None = None
    health_score: Fraction | None = None
    loss_at_germination: Float | None = None
    """The validation loss when the seed germinated."""
    loss_before_graft: Float | None = None
    """The validation loss when its graft began."""
    evaluation: Evaluation | None = None
    """The last one of this life; null: never evaluated."""
    evaluated: Reference | None = None
    """The id of the SeedEvaluated that holds it."""


SeedRows = Annotated[Sequence[SeedRow], ByColumn()]


class SeedTransitioned(Event, kind="esper.seed.transitioned.v1", topic=topics.LIFECYCLE):
    """A seed went from one stage to the next, in `epoch` of the envelope, for `reason`."""

    site: str
    seed: Count
    """The slot, 0 and up within its site."""
    from_stage: Stage
    to_stage: Stage
    reason: str
    life: Count | None
    """The epoch at whose end the seed germinated: (site, seed, life) names one life."""
    blueprint: str | None
    kernel: str | None
    """Digest of the kernel's file."""
    embargo_until: Count | None
    """The first epoch at whose end a culled slot may be reset."""


class OfLife(Event):
    """Fields of an event about one life of a seed."""

    site: str
    seed: Count
    """The slot, 0 and up within its site."""
    life: Count
    """The epoch at whose end the seed germinated: (site, seed, life) names one life."""


class SeedEvaluated(OfLife, kind="esper.seed.evaluated.v1", topic=topics.LIFECYCLE):
    """A seed's effect on the validation loss: `shadow` is measured before a graft, `evaluation` after it."""

    purpose: Literal["shadow", "evaluation"]
    evaluation: Evaluation
    metrics_without: Metrics
    metrics_with: Metrics
