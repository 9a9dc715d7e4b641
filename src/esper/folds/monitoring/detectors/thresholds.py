"""The limits of the detectors, and where each one comes from.

They were set on trainings of rng seeds 0 to 25 (`benchmarks/trainings.py`, `benchmarks/faults.py`): 119 clean ones of 179,000 steps, and
two with each fault in each training that it can harm. "clean" is the furthest that a clean training went, "faulty" the least with which a
fault was found; a limit lies between them, and where there was room nearer to clean, because real faults may be milder. What came of them
on rng seeds that no limit was set on stands in docs/detectors.md.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from esper.events.fields import Finite, Part, Positive
from esper.folds.monitoring.measurements import METRICS, is_known

MISSING = "missing"
_Detector = Literal[
    "nonfinite",
    "missing",
    "gone",
    "setback",
    "relapse",
    "halted",
    "spike",
    "divergence",
    "explosion",
    "vanishing",
    "drift",
    "oscillation",
    "stuck",
    "dead",
    "apart",
    "overfitting",
    "lost",
    "flat",
    "plateau",
    "perfect",
    "waiting",
    "stall",
    "slower",
    "growing",
    "repeated",
    "unshuffled",
    "shrunk",
]
DETECTORS = frozenset[str](get_args(_Detector))
"""The names of the detectors, as AnomalyDetected and rules have them."""
_Limit = Annotated[Finite, Field(ge=1)]
_Least = Annotated[Finite, Field(gt=0)]
_Share = Annotated[Finite, Field(gt=0, le=1)]


class DetectorSettings(Part):
    """Metrics that are watched, and limits. Levels and spreads are of the logarithm of a metric that is positive, of others as they are.

    A spread is a quarter range over 1.349, the standard deviation where values are normal: one outlier in four does not move it. Limits
    named `spreads` count spreads; those named `factor` are ratios of the values themselves, which must be reached as well.
    """

    off: tuple[_Detector, ...] = ()
    """Detectors whose anomalies are left out, in every metric. The findings of the others stay the same."""

    losses: tuple[str, ...] = ("loss",)
    """Metrics that should fall: watched for spikes, divergence, drift, oscillation and for being stuck."""

    gradients: Annotated[tuple[str, ...], Field(validate_default=True)] = ("gradient_norm",)
    """Metrics that should keep their order of magnitude: watched for explosion, vanishing and for being stuck."""

    setback_spreads: _Limit = 6.0
    """Setback and relapse: the rise of a level that lasts, in standard deviations of it: where noise is normal, one block in 10^9."""
    setback_share: _Share = 0.5
    """Setback: the share of the progress that is lost."""
    relapse_share: _Share = 0.9
    """Relapse: the share of the progress that is lost: nearly all."""

    overfitting_epochs: Positive = 5
    """Epochs without a better validation loss after which its rise is overfitting, while training goes on falling."""
    overfitting_share: _Share = 0.25
    """The share of the progress that validation has lost then."""
    plateau_epochs: Positive = 20
    """Epochs without a better validation loss that are a plateau."""
    perfect_share: _Share = 0.01
    """The share of the first loss below which a validation loss is too good to be believed unseen."""

    waiting_share: _Share = 0.5
    """Waiting: the share of the time that steps wait for data, above the least share so far."""
    waiting_s: _Least = 0.01
    """And the least wait a step, on average, that a person would notice; the least duration of a slower step."""
    stall_s: _Least = 2.0
    """A single wait for data that is a stall."""
    slower_factor: _Limit = 4.0
    """Slower: the median duration of a step over the least so far."""

    repeated_batches: Annotated[int, Field(ge=2)] = 8
    """The very same batch, by its digest, so often in a row."""
    shrunk_share: _Share = 0.9
    """Shrunk: the share of the most samples that an epoch had, below which two epochs in a row lie."""

    least_spread: _Least = 0.02
    """The smallest spread that is believed: training on all data at once has none at all, and would be judged by rounding."""

    spike_spreads: _Limit = 5.5
    """Spike: one value above the median of the last 64. Clean: 3.9, faulty: 5.9."""
    inner_spike_spreads: Annotated[_Limit, Field(validate_default=True)] = 9.0
    """The same for a value that is not above where the run began, as a batch of a few hard samples may be. Clean: 6.3, in batches
    of nine samples."""
    spike_factor: _Limit = 1.5
    """Value over that median. Faulty: 3.4."""

    divergence_spreads: _Limit = 4.0
    """Divergence: the median of 7 values above the baseline, in lagged spreads. Clean: 2.3."""
    divergence_factor: _Limit = 1.35
    """That median over the baseline."""
    climb_spreads: _Limit = 1.6
    """Divergence too: the median of 31 values above the baseline, which rises less, and stays. Clean: 0.9, faulty: 1.7."""
    climb_factor: _Limit = 1.2
    """That median over the baseline."""

    explosion_spreads: _Limit = 2.0
    """Explosion: the median of 7 gradient norms above the baseline, in lagged spreads. Faulty: 2.6."""
    explosion_factor: _Limit = 8.0
    """That median over the baseline. Clean: 5.0; the least fault that was tried is 30."""

    vanishing_spreads: _Limit = 2.0
    """Vanishing: the median of 7 gradient norms below the baseline, in lagged spreads. Faulty: 2.8."""
    vanishing_factor: _Limit = 8.0
    """The baseline over that median, also after the loss's own fall is granted: fitting shrinks gradients too, clean to a sixteenth within
    200 steps. With that granted, clean: 2.3; the least fault that was tried is 100."""

    drift_slack: _Least = 1.0
    """Drift is a CUSUM over means of 16 values against the median of earlier ones: the part of each mean that is forgiven, in spreads of
    such means."""
    drift_sum: _Limit = 5.0
    """The sum from which on it is drift. Clean: 3.0. One mean adds at most 7, so that one alone can be enough."""

    swing_spreads: _Limit = 2.5
    """Oscillation counts reversals of the smoothed loss: the distance that one goes back, in lagged spreads."""
    swing_factor: _Limit = 1.3
    """The same as a ratio."""
    swings: Positive = 4
    """Reversals within 256 values that are an oscillation. Clean: 2."""

    stuck_values: Annotated[int, Field(ge=2)] = 20
    """Equal values in a row with which a metric is stuck, unless they are zero. Clean: never two."""
    stuck_records: Annotated[int, Field(ge=2)] = 6
    """Health records in a row with an equal activation variance with which a site is stuck."""

    dead_rise: _Share = 0.25
    """Units die: the rise of the share of dead ones above the least that it has settled at, in two records. Clean: 0.11, faulty: 0.37."""
    dead_ratio: _Share = 0.4
    """The least share of dead units that is an anomaly."""

    depth_factor: _Limit = 12.0
    """A layer's gradient vanishes: the baseline over its variance, both beside that of the strongest site, in two records. Clean: 2.7,
    faulty: 38."""
    depth_spreads: _Limit = 5.0
    """The same in its own spreads."""

    adaptation_steps: Positive = 100
    """Steps after an adaptation (germination, graft, cull, rollback) for which limits are raised, but for values that are not finite,
    explosion and stuck values."""
    adaptation_records: Positive = 10
    """The same in health records."""
    adaptation_factor: _Limit = 2.0
    """The factor by which they are raised: limits in spreads times it, limits as factors to its power."""

    accepted_after: Positive = 512
    """Values after which a level is the new normal, and its anomaly is over. In health records a tenth of it."""

    @field_validator("losses", "gradients")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if not any(is_known(topic, name) for topic in METRICS)]
        if unknown:
            raise ValueError(f"expected metrics of watched topics, {unknown[0]!r} is none")
        if len(set(names)) < len(names):  # It would be judged as if each value had come twice.
            raise ValueError("expected each metric once")
        return names

    @field_validator("gradients")
    @classmethod
    def _no_losses(cls, gradients: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        both = set(gradients).intersection(info.data.get("losses", ()))  # Absent where they were refused themselves.
        if both:
            raise ValueError(f"expected no metric that is among the losses: {', '.join(sorted(both))}")
        return gradients

    @field_validator("inner_spike_spreads")
    @classmethod
    def _needs_more(cls, inner: float, info: ValidationInfo) -> float:
        spreads = info.data.get("spike_spreads", inner)  # Absent where it was refused itself.
        if inner < spreads:
            raise ValueError(f"expected at least the {spreads:g} of spike_spreads: what is not above where the run began needs more")
        return inner
