"""Settings of the training loop: length, batches, checkpoints, limits of stability, measurements."""

from typing import Annotated, Literal, Protocol

from pydantic import Field

from esper.events.fields import Count, Finite, Part, Positive

_Clip = Annotated[Finite, Field(gt=0)]


class TrainerSettings(Part):
    """Settings of the training loop; every one is recorded in RunStarted."""

    epochs: Positive = 80
    """Epochs to train, rolled-back ones included."""

    epoch_steps: Positive | None = None
    """Optimizer steps per epoch for a stream; None takes the loader once."""

    accumulate: Positive = 1
    """Micro-batches per optimizer step."""

    clip: _Clip | None = 1.0
    """Largest gradient norm of the host's parameters; None clips nothing."""

    checkpoint_every: Positive = 5
    """Epochs between checkpoints; one is also saved before every graft and at the start."""

    keep_checkpoints: Positive = 3
    """Number of the newest checkpoints that are kept, beside the one of those saved that has the best validation loss."""

    measure_every: Positive = 10
    """Steps between health measurements and between looks at the losses (one transfer from the device each)."""

    explosion_factor: Annotated[Finite, Field(gt=1)] = 10.0
    """A span's mean loss above this many times the last good epoch's, and above the first epoch's, is unstable."""

    max_rollbacks: Count = 3
    """Rollbacks allowed; the next one ends the run."""

    patience: Positive | None = None
    """Epochs without improvement of the validation loss after which training stops; None never."""

    digest: Literal["full", "parameters", "off"] = "full"
    """Which digests EpochCompleted carries; `parameters` leaves out optimizer and random state."""

    threads: Positive = 1
    """Torch's threads while training; bits are the same only for the same number."""

    telemetry: bool = True
    """Record steps and health; the training itself is the same either way."""

    rng_seed: int = 0
    """Origin of every random stream of the run."""


class Schedule(Protocol):
    """The part of a policy's settings that the trainer needs: when a seed is evaluated and how fast it is blended in."""

    @property
    def train_epochs(self) -> int:
        """Epochs in TRAINING after which a shadow validation is made at every epoch's end."""
        ...

    @property
    def graft_epochs(self) -> int:
        """Epochs over which alpha rises linearly, step by step, to 1."""
        ...

    @property
    def fine_tune_epochs(self) -> int:
        """Epochs in FINE_TUNING after which, as at the last epoch but one, a seed is evaluated before it is fossilized."""
        ...

    @property
    def alphas(self) -> tuple[float, ...]:
        """The blends that a shadow validation tries."""
        ...
