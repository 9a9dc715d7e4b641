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
_Detector = Literal["nonfinite", "missing", "spike", "divergence", "explosion", "vanishing", "drift", "oscillation", "stuck", "dead"]
DETECTORS = frozenset[str](get_args(_Detector))
"""The names of the detectors, as AnomalyDetected and rules have them."""
_Limit = Annotated[Finite, Field(ge=1)]
"""So many spreads, or so many times."""
_Least = Annotated[Finite, Field(gt=0)]
_Share = Annotated[Finite, Field(gt=0, le=1)]


class DetectorSettings(Part):
    """What is watched, and how far is too far. Levels and spreads are of the logarithm of a metric that is positive, of others as they are.

    A spread is a quarter range over 1.349, the standard deviation where values are normal: one outlier in four does not move it.
    """

    off: tuple[_Detector, ...] = ()
    """Detectors whose anomalies are not said, in any metric. What others say is the same."""

    losses: tuple[str, ...] = ("loss",)
    """Metrics that should fall: watched for spikes, divergence, drift, oscillation and for being stuck."""

    gradients: Annotated[tuple[str, ...], Field(validate_default=True)] = ("gradient_norm",)
    """Metrics that should keep their order of magnitude: watched for explosion, vanishing and for being stuck."""

    least_spread: _Least = 0.02
    """No spread is believed to be smaller: training on all data at once has none at all, and would be judged by rounding."""

    spike_spreads: _Limit = 5.5
    """A spike: one value so many spreads above the median of the last 64. Clean: 3.9, faulty: 5.9."""

    inner_spike_spreads: Annotated[_Limit, Field(validate_default=True)] = 9.0
    """The same for a value that is not above where the run began, as a batch of a few hard samples may be. Clean: 6.3, in batches
    of nine samples."""

    spike_factor: _Limit = 1.5
    """And at least so many times that median. Faulty: 3.4."""

    divergence_spreads: _Limit = 4.0
    """Divergence: the median of 7 values so many lagged spreads above the baseline. Clean: 2.3."""

    divergence_factor: _Limit = 1.35
    """And at least so many times the baseline."""

    climb_spreads: _Limit = 1.6
    """Or the median of 31 values so many: what rises less, and stays. Clean: 0.9, faulty: 1.7."""

    climb_factor: _Limit = 1.2
    """And at least so many times the baseline."""

    explosion_spreads: _Limit = 2.0
    """Explosion: the median of 7 gradient norms so many lagged spreads above the baseline. Faulty: 2.6."""

    explosion_factor: _Limit = 8.0
    """And at least so many times the baseline. Clean: 5.0; the least fault that was tried is 30."""

    vanishing_spreads: _Limit = 2.0
    """Vanishing: the median of 7 gradient norms so many lagged spreads below the baseline. Faulty: 2.8."""

    vanishing_factor: _Limit = 8.0
    """And at most a share of one in so many of it, also when it is granted the loss's own fall: fitting shrinks gradients too, clean to a
    sixteenth within 200 steps. With that granted, clean: 2.3; the least fault that was tried is 100."""

    drift_slack: _Least = 1.0
    """Drift is a CUSUM over means of 16 values against the median of earlier ones: what each mean is forgiven, in spreads of such means."""

    drift_sum: _Limit = 5.0
    """And the sum from which on it is drift. Clean: 3.0. One mean adds at most 7, so that one alone can be enough."""

    swing_spreads: _Limit = 2.5
    """Oscillation counts reversals of the smoothed loss: one that goes back by so many lagged spreads."""

    swing_factor: _Limit = 1.3
    """And by at least so many times."""

    swings: Positive = 4
    """Reversals within 256 values that are an oscillation. Clean: 2."""

    stuck_values: Annotated[int, Field(ge=2)] = 20
    """A metric that has the very same value so often in a row is stuck, unless it is zero. Clean: never twice in a row."""

    stuck_records: Annotated[int, Field(ge=2)] = 6
    """A site's activation variance that has the very same value in so many health records is stuck."""

    dead_rise: _Share = 0.25
    """Units die: the share of dead ones so much above the least that it has settled at, in two records. Clean: 0.11, faulty: 0.37."""

    dead_ratio: _Share = 0.4
    """And at least this share."""

    depth_factor: _Limit = 12.0
    """A layer's gradient vanishes: its variance, beside that of the strongest site, a share of one in so many of its baseline, in two
    records. Clean: 2.7, faulty: 38."""

    depth_spreads: _Limit = 5.0
    """And so many of its own spreads below."""

    adaptation_steps: Positive = 100
    """For so many steps after an adaptation (germination, graft, cull, rollback) the limits are raised, but for values that are not finite,
    explosion and stuck values."""

    adaptation_records: Positive = 10
    """The same in health records."""

    adaptation_factor: _Limit = 2.0
    """Raised by this factor: limits in spreads times it, limits as factors to its power."""

    accepted_after: Positive = 512
    """A level that has lasted so many values is the new normal: its anomaly is over. In health records a tenth of it."""

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
