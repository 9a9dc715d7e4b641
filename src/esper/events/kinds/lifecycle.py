"""Where a seed is in its life, and what was measured about it before it may move on."""

from enum import StrEnum
from typing import ClassVar, Literal

from esper.events import topics
from esper.events.fields import Count, Event, Float, Fraction, Metrics, NonNegative, Part


class Stage(StrEnum):
    """The stages of a seed; the table of legal edges is `esper.folds.lifecycle`."""

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


class SeedRow(Part):
    """One slot of the seed table. `life` is the epoch at whose end the seed germinated: (site, seed, life) names one life."""

    site: str
    seed: Count
    """The slot, 0 and up within its site."""
    stage: Stage
    since_epoch: Count
    life: Count | None
    """Null: there is none."""
    blueprint: str | None
    kernel: str | None
    """Digest of the kernel's file."""
    embargo_until: Count | None
    """The first epoch at whose end a culled slot may be reset."""


class SeedTransitioned(Event):
    """A seed went from one stage to the next, in `epoch` of the envelope, for `reason`."""

    KIND: ClassVar[str] = "esper.seed.transitioned.v1"
    TOPIC: ClassVar[str] = topics.LIFECYCLE
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


class SeedEvaluated(Event):
    """A seed's effect on the validation loss, paired: mean and standard error of loss(without) - loss(with) over n pairs.

    `shadow` is measured before a graft, `evaluation` after it; k alternatives were tried, of which this is the best.
    """

    KIND: ClassVar[str] = "esper.seed.evaluated.v1"
    TOPIC: ClassVar[str] = topics.LIFECYCLE
    site: str
    seed: Count
    life: Count
    purpose: Literal["shadow", "evaluation"]
    alpha: Fraction
    """The share at which the seed was evaluated."""
    n: Count
    k: Count
    mean: Float
    standard_error: NonNegative
    loss_without: Float
    loss_with: Float
    metrics_without: Metrics
    metrics_with: Metrics
