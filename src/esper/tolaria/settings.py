"""How a run is trained: length, batches, checkpoints, what counts as unstable, what is measured."""

import math
from dataclasses import dataclass, field
from typing import Literal

from esper.errors import SettingsError
from esper.events.kinds.epoch import GateSettings


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of the training loop; every one is recorded in RunStarted.

    epochs: how many epochs are trained, rolled-back ones included.
    epoch_steps: optimizer steps per epoch for a stream; None takes the loader once.
    accumulate: micro-batches per optimizer step.
    clip: largest gradient norm of the host's parameters; None clips nothing.
    checkpoint_every: epochs between checkpoints; one is also saved before every graft and at the start.
    keep_checkpoints: how many of the newest are kept, beside the one of those saved that has the best validation loss.
    measure_every: steps between health measurements and between looks at the losses (one transfer from the device each).
    explosion_factor: a span's mean loss above this many times the last good epoch's, and above the first epoch's, is unstable.
    max_rollbacks: one more rollback than this ends the run.
    patience: epochs without improvement of the validation loss after which training stops; None never.
    digest: which digests EpochCompleted carries; `parameters` leaves out optimizer and random state.
    threads: torch's threads while training; bits are the same only for the same number.
    telemetry: whether steps and health are recorded; the training itself is the same either way.
    """

    epochs: int = 80
    epoch_steps: int | None = None
    accumulate: int = 1
    clip: float | None = 1.0
    checkpoint_every: int = 5
    keep_checkpoints: int = 3
    measure_every: int = 10
    explosion_factor: float = 10.0
    max_rollbacks: int = 3
    patience: int | None = None
    digest: Literal["full", "parameters", "off"] = "full"
    threads: int = 1
    telemetry: bool = True
    rng_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "checkpoint_every", "keep_checkpoints", "measure_every", "threads"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "a whole number of at least 1")
        for name in ("epoch_steps", "patience"):
            value = getattr(self, name)
            _require(name, value, value is None or value >= 1, "a whole number of at least 1, or nothing")
        # Written so that NaN fails: every comparison with it is false.
        _require("clip", self.clip, self.clip is None or 0 < self.clip < math.inf, "a finite number above 0, or nothing")
        _require("explosion_factor", self.explosion_factor, 1 < self.explosion_factor < math.inf, "a finite number above 1")
        _require("max_rollbacks", self.max_rollbacks, self.max_rollbacks >= 0, "a whole number of at least 0")
        _require("digest", self.digest, self.digest in ("full", "parameters", "off"), "one of full, parameters, off")


@dataclass(frozen=True)
class GrowthSchedule:
    """When a seed is evaluated and how fast it is blended in; the policy that decides about it is told the same numbers.

    train_epochs: epochs in TRAINING after which a shadow validation is made at every epoch's end.
    graft_epochs: epochs over which alpha rises linearly, step by step, to 1.
    fine_tune_epochs: epochs in FINE_TUNING after which, as at the last epoch but one, a seed is evaluated before it is fossilized.
    alphas: the blends that a shadow validation tries.
    compile_wait_s: how long an epoch's end waits for a kernel before it counts as failed.
    """

    train_epochs: int = 3
    graft_epochs: int = 3
    fine_tune_epochs: int = 10
    alphas: tuple[float, ...] = (0.25, 0.5, 1.0)
    compile_wait_s: float = 60.0
    gate: GateSettings = field(default_factory=GateSettings)

    def __post_init__(self) -> None:
        _require("train_epochs", self.train_epochs, self.train_epochs >= 1, "a whole number of at least 1")
        _require("fine_tune_epochs", self.fine_tune_epochs, self.fine_tune_epochs >= 1, "a whole number of at least 1")
        _require("graft_epochs", self.graft_epochs, self.graft_epochs >= 1, "a whole number of at least 1")
        _require("alphas", self.alphas, bool(self.alphas) and all(0 < alpha <= 1 for alpha in self.alphas), "numbers in (0, 1]")
        _require("compile_wait_s", self.compile_wait_s, 0 < self.compile_wait_s < math.inf, "a finite number above 0")


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise SettingsError(f"setting {name}: expected {expected}, got {value!r}")
