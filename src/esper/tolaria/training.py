"""The training that all its parts share: model and optimizers, settings and schedule, the sink of events, the state between epochs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from esper.events.envelope import EventId, Record
from esper.events.fields import Count, Event, Finite, Part, Positive
from esper.events.kinds.control import DecisionMade, FieldReported
from esper.events.kinds.epoch import GateSettings, SystemState
from esper.events.kinds.lifecycle import SeedRow, SeedTransitioned, Stage
from esper.events.kinds.telemetry import Doing
from esper.kasmina.compiler import KernelCompiler
from esper.kasmina.host import Host
from esper.tolaria.trainer_state import Counters, Rewindable


class TrainerSettings(Part):
    """Settings of the training loop; every one is recorded in RunStarted."""

    epochs: Positive = 80
    """Epochs to train, rolled-back ones included."""

    epoch_steps: Positive | None = None
    """Optimizer steps per epoch for a stream; None takes the loader once."""

    accumulate: Positive = 1
    """Micro-batches per optimizer step."""

    clip: Annotated[Finite, Field(gt=0)] | None = 1.0
    """Largest gradient norm of the host's parameters; None clips nothing."""

    scheduler_every: Literal["epoch", "step"] = "epoch"
    """When the learning rate scheduler is stepped: at every epoch's end, or after every optimizer step."""

    checkpoint_every: Positive = 5
    """Epochs between checkpoints; one is also saved before every graft and at the start."""

    keep_checkpoints: Positive = 3
    """Number of the newest checkpoints that are kept, beside the one of those saved that has the best validation loss."""

    measure_every: Positive = 10
    """Steps between health measurements and between looks at the losses (one transfer from the device each)."""

    explosion_factor: Annotated[Finite, Field(gt=1)] = 10.0
    """A span's mean loss is unstable above the first epoch's and above this many times the last good epoch's; for what takes the place of
    that below 0 see `Rewindable.explosion_above`."""

    max_rollbacks: Count = 3
    """Rollbacks allowed; the next one ends the run."""

    patience: Positive | None = None
    """Epochs without improvement of the validation loss after which training stops; None never."""

    digest: Literal["full", "parameters", "off"] = "full"
    """Which digests EpochCompleted carries; `parameters` leaves out optimizer and random state."""

    threads: Positive = 1
    """Torch's threads while training; bits are the same only for the same number."""

    deterministic: bool = True
    """False: torch may use algorithms that give other bits each time, where it has no others or they are faster. Every epoch has a
    checkpoint then: an epoch that is trained again does not come out the same, so none may have to be."""

    telemetry: bool = True
    """Record steps and health; the training itself is the same either way."""

    rng_seed: int = 0
    """Origin of every random stream of the run."""


class _Schedule(Protocol):
    """The part of a policy's settings that the trainer needs: when a seed is evaluated and how fast it is blended in."""

    @property
    def train_epochs(self) -> int:
        """Epochs in TRAINING after which a shadow validation is made at every epoch's end."""

    @property
    def graft_epochs(self) -> int:
        """Epochs over which alpha rises linearly, step by step, to 1."""

    @property
    def evaluate_epochs(self) -> int:
        """Epochs in EVALUATING before a decision; the seed is evaluated at the end of each."""

    @property
    def fine_tune_epochs(self) -> int:
        """Epochs in FINE_TUNING after which, as at the last epoch but one, a seed is evaluated before it is fossilized."""

    @property
    def alphas(self) -> tuple[float, ...]:
        """The blends that a shadow validation tries."""


class EventSink(Protocol):
    """Events of one run, emitted by the thread that trains: the part of a log that the trainer needs.

    While a resumed run catches up, a fact that the log already has is compared, not written; `emit` returns the logged id.
    """

    def emit(self, event: Event, *, epoch: int, step: int, cause: EventId | None = None, trace: str | None = None) -> EventId:
        """The id of `event`, which now has its place; never waits for a disk. Raises LogError once the log has failed."""

    def measure(self, kind: type[Event], build: Callable[[], Event], *, epoch: int, step: int) -> None:
        """Take telemetry of `kind`, or count it as dropped; never waits. `build` runs later, on another thread."""

    def commit(self) -> None:
        """Return when everything emitted so far is on disk."""

    def doing(self, what: Doing) -> None:
        """Set the activity that heartbeats report."""

    @property
    def pending_facts(self) -> tuple[Record, ...]:
        """While catching up: the logged facts that were not emitted again yet, in order; else empty."""


class _PlainScheduler(Protocol):
    """A learning rate scheduler that is stepped without arguments; all of torch's but ReduceLROnPlateau, which needs the loss."""

    def step(self) -> None:
        """Advance the schedule by one epoch or optimizer step."""

    def state_dict(self) -> dict[str, object]:
        """Its state, of plain values."""

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restore a state."""


Scheduler = _PlainScheduler | ReduceLROnPlateau
Policy = Callable[[SystemState, EventId], tuple[DecisionMade, ...]]


@dataclass
class Training:
    """Parts and state of one training; `progress`, `counters` and `evaluations` change.

    `checkpoints` is their folder, `tell` takes what a person should see at once, in a line. `evaluations` are the ids of SeedEvaluated by
    site, slot and epoch, of the whole run: a rollback withdraws no record.
    """

    host: Host
    optimizer: Optimizer
    scheduler: Scheduler | None
    sink: EventSink
    settings: TrainerSettings
    schedule: _Schedule
    gate: GateSettings
    device: torch.device
    policy: Policy
    compiler: KernelCompiler
    checkpoints: Path
    tell: Callable[[str], None] = lambda _line: None
    progress: Rewindable = field(default_factory=Rewindable)
    counters: Counters = field(default_factory=Counters)
    evaluations: dict[tuple[str, int, int], EventId] = field(default_factory=dict)

    def emit(self, event: Event, *, cause: EventId | None = None, trace: str | None = None) -> EventId:
        """The id of `event`, emitted at the present epoch and step."""
        return self.sink.emit(event, epoch=self.counters.epoch, step=self.counters.step, cause=cause, trace=trace)

    def measure(self, kind: type[Event], build: Callable[[], Event]) -> None:
        """Take telemetry at the present epoch and step; see `EventSink.measure`."""
        self.sink.measure(kind, build, epoch=self.counters.epoch, step=self.counters.step)

    def emit_transition(
        self, seed: SeedRow, from_stage: Stage, to_stage: Stage, reason: str, *, cause: EventId, trace: str | None = None
    ) -> EventId:
        """The id of the SeedTransitioned about the life in `seed`."""
        life = seed.model_dump(include={"site", "seed", "life", "blueprint", "kernel", "embargo_until"})
        transition = SeedTransitioned(from_stage=from_stage, to_stage=to_stage, reason=reason, **life)
        return self.emit(transition, cause=cause, trace=trace)

    def emit_report(self, seed: SeedRow, outcome: Stage, loss: float | None, *, cause: EventId, trace: str | None = None) -> None:
        """Emit the FieldReported of the life in `seed`, which ended; the next SystemStates repeat it.

        The loss before is that before the graft, or at germination where there was no graft; `loss` is the present one.
        """
        note = self.progress.note(seed.site, seed.seed)
        life = seed.model_dump(include={"site", "seed", "life", "blueprint", "kernel"})
        before = note.loss_at_germination if note.loss_before_graft is None else note.loss_before_graft
        report = FieldReported.model_validate({**life, "metric_before": before, "metric_after": loss, "outcome": outcome.value})
        self.emit(report, cause=cause, trace=trace)
        self.counters = self.counters.model_copy(update={"reports": (*self.counters.reports, report)})
