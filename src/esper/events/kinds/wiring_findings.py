"""Faults in the wiring of a training, and the verdict on one that came to its end."""

from typing import Annotated, Literal

from esper.events import topics
from esper.events.fields import VOLATILE, Count, Event, Float

WiringCheck = Literal[
    "learning-rate-zero",
    "learning-rate-absurd",
    "loss-upside-down",
    "steps-too-small",
    "decay-too-strong",
    "not-in-optimizer",
    "nothing-changes",
    "layer-unchanged",
    "updates-lost",
    "weights-faded",
    "weights-equal",
    "layer-without-gradient",
    "layer-unused",
    "gradients-kept",
    "normalisation-on-eval",
    "dropout-on-eval",
    "dropout-in-validation",
    "layer-dead",
    "layer-saturated",
    "output-saturated",
    "output-constant",
    "output-clipped",
    "probabilities-as-logits",
    "targets-not-paired",
    "targets-ignored",
    "targets-constant",
    "starts-far-off",
    "guessing",
    "still-guessing",
    "input-constant",
    "inputs-differ",
    "splits-overlap",
    "target-among-inputs",
]
"""A check of a training's wiring; `docs/alerts.md` says of each what it measures and what to look at."""


class WiringFound(Event, kind="esper.wiring.found.v1", topic=topics.RUN):
    """Something in a training's wiring keeps it, or a part of it, from learning. Each check finds at most once in a run."""

    check: WiringCheck
    severity: Literal["critical", "warning", "info"]
    """`critical`: the loss is lost; `warning`: training is useless, or a part of it is; `info`: it may be meant."""
    places: tuple[str, ...]
    """The modules or parameters that it is about, by name: the first 16; empty: the whole training."""
    groups: tuple[Count, ...]
    """The parameter groups of the optimizer that it is about."""
    measured: Annotated[str, VOLATILE]
    """What was measured, in words."""
    causes: str
    """What usually causes it."""
    look_at: str
    """What to look at first."""


class OutcomeJudged(Event, kind="esper.outcome.judged.v1", topic=topics.RUN):
    """The verdict on a training that came to its end: whether it has learned. Stands before RunFinished."""

    verdict: Literal["learned", "nothing", "worse than guessing", "unknown"]
    """`nothing`: no epoch's validation loss was below guessing; `worse than guessing`: the last one is above it, an earlier one was not."""
    loss: Float
    """The validation loss of the trained model."""
    best_loss: Float | None
    """The lowest validation loss of an epoch."""
    guessing: Float | None
    """The validation loss of the best constant output, found after the first epoch; null: not known, as with `objective=`."""
