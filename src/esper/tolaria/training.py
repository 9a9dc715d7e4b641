"""One training as its parts share it: what trains, the limits in force, where events go, and the state between epochs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from esper.events.envelope import EventId
from esper.events.fields import Event
from esper.events.kinds.control import FieldReported
from esper.events.kinds.epoch import GateSettings
from esper.events.kinds.lifecycle import SeedRow, SeedTransitioned, Stage
from esper.kasmina.host import Host
from esper.tolaria.event_sink import EventSink
from esper.tolaria.settings import Schedule, TrainerSettings
from esper.tolaria.trainer_state import Counters, Rewindable


class _EpochScheduler(Protocol):
    """A learning rate scheduler that is stepped at every epoch's end; all of torch's but ReduceLROnPlateau, which needs the loss."""

    def step(self) -> None:
        """Advance the schedule by one epoch."""

    def state_dict(self) -> dict[str, object]:
        """Its state, of plain values."""

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restore a state."""


Scheduler = _EpochScheduler | ReduceLROnPlateau


@dataclass
class Training:
    """Parts and state of one training; `progress`, `counters` and `evaluations` change.

    `evaluations` are the ids of SeedEvaluated by site, slot and epoch, those of the whole run: a rollback withdraws no record.
    """

    host: Host
    optimizer: Optimizer
    scheduler: Scheduler | None
    sink: EventSink
    settings: TrainerSettings
    schedule: Schedule
    gate: GateSettings
    device: torch.device
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

    def count(self, what: Literal["refused", "failed"], site: str) -> None:
        """Count one more refusal or failure at `site`."""
        self.counters = self.counters.counted(what, site)
