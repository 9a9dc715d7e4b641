"""The checkpoints of a run: saving, pruning, restoring and rolling back, each recorded in the log."""

import math
import time
from pathlib import Path
from typing import Literal

import torch
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.envelope import EventId
from esper.events.kinds.control import FieldReported
from esper.events.kinds.lifecycle import SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, RunRolledBack
from esper.kasmina.host import Host
from esper.tolaria.checkpoint_files import load_checkpoint, name_of, prune_checkpoint, save_checkpoint
from esper.tolaria.event_sink import EventSink
from esper.tolaria.snapshots import Scheduler, put_back, take
from esper.tolaria.trainer_state import Counters, KeptCheckpoint, Place, Rewindable, TrainerState

_Reason = Literal["start", "due", "before_grafting", "end"]


class Checkpointer:
    """Saves, prunes and restores checkpoints in one folder; a checkpoint is always the start of an epoch."""

    def __init__(
        self,
        folder: Path,
        *,
        host: Host,
        optimizer: Optimizer,
        scheduler: Scheduler | None,
        sink: EventSink,
        trainer_state: TrainerState,
        keep: int,
        device: torch.device,
    ) -> None:
        self._folder, self._host, self._optimizer, self._scheduler = folder, host, optimizer, scheduler
        self._sink, self._trainer_state, self._keep, self._device = sink, trainer_state, keep, device

    def save(self, reason: _Reason) -> None:
        """Save the state, record it, then prune older checkpoints. Durable, in the log too, when it returns."""
        counters = self._trainer_state.counters
        name = name_of(counters.epoch)
        if counters.checkpoints and counters.checkpoints[-1].name == name:
            return
        self._trainer_state.progress = self._trainer_state.progress.model_copy(update={"blamed": None})
        started = time.perf_counter()
        saved = save_checkpoint(self._folder, name, take(self._host, self._optimizer, self._scheduler, self._trainer_state))
        event = CheckpointSaved(
            checkpoint=name,
            digest=saved.digest,
            size_bytes=saved.size_bytes,
            reason=reason,
            duration_s=time.perf_counter() - started,
        )
        self._sink.emit(event, epoch=counters.epoch, step=counters.step)
        self._sink.commit()
        self._kept(name, saved.digest)

    def restore(self, name: str, digest: str) -> None:
        """Restore everything as it was when `name` was saved, TrainerState included. Raises DataError where it is not whole."""
        self._trainer_state.progress, self._trainer_state.counters = self._load(name, digest)
        self._kept(name, digest)

    def roll_back(self, reason: str) -> None:
        """Restore the newest checkpoint and record it, with the blamed seed and the whole seed table now in force."""
        blamed = self._trainer_state.progress.blamed
        place = None if blamed is None else (blamed.site, blamed.seed)
        before = None if place is None else self._host.seeds[place].row
        if before is not None and before.life is None:  # It was removed, and its slot is free again: nobody is left to blame.
            blamed = place = before = None
        counters = self._trainer_state.counters
        target = counters.checkpoints[-1]
        progress, _ = self._load(target.name, target.digest)
        self._host.shift_epochs(counters.epoch - target.epoch)
        self._trainer_state.progress = progress.model_copy(update={"last_adaptation_step": counters.step})
        self._trainer_state.counters = counters.model_copy(update={"rollbacks": counters.rollbacks + 1})
        event = RunRolledBack(
            from_epoch=counters.epoch,
            to_epoch=target.epoch,
            checkpoint=target.name,
            reason=reason,
            blamed=blamed,
            seeds=tuple(before if before is not None and one == place else self._host.seeds[one].row for one in sorted(self._host.seeds)),
        )
        cause = self._sink.emit(event, epoch=counters.epoch, step=counters.step)
        if place is not None and before is not None:
            self._lock(place, before, reason, cause)
        self._sink.commit()

    def _lock(self, place: Place, before: SeedRow, reason: str, cause: EventId) -> None:
        counters = self._trainer_state.counters
        self._host.roll_back(*place, epoch=counters.epoch)
        assert before.blueprint is not None
        assert before.life is not None
        transition = SeedTransitioned(
            site=before.site,
            seed=before.seed,
            from_stage=before.stage,
            to_stage=Stage.ROLLED_BACK,
            reason=reason,
            life=before.life,
            blueprint=before.blueprint,
            kernel=before.kernel,
            embargo_until=None,
        )
        moved = self._sink.emit(transition, epoch=counters.epoch, step=counters.step, cause=cause)
        note = self._trainer_state.progress.note(*place)
        report = FieldReported(
            blueprint=before.blueprint,
            kernel=before.kernel,
            site=before.site,
            seed=before.seed,
            life=before.life,
            metric_before=note.loss_before_graft,
            metric_after=None,
            outcome="ROLLED_BACK",
        )
        self._sink.emit(report, epoch=counters.epoch, step=counters.step, cause=moved)
        self._trainer_state.progress = self._trainer_state.progress.without_note(*place)
        self._trainer_state.counters = self._trainer_state.counters.model_copy(
            update={"reports": (*self._trainer_state.counters.reports, report)}
        )

    def _load(self, name: str, digest: str) -> tuple[Rewindable, Counters]:
        snapshot = load_checkpoint(self._folder, name, digest, self._device)
        try:
            return put_back(snapshot, self._host, self._optimizer, self._scheduler)
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"checkpoint {self._folder / name} does not fit this host: {error}") from error

    def _kept(self, name: str, digest: str) -> None:
        counters = self._trainer_state.counters
        mine = KeptCheckpoint(name=name, digest=digest, epoch=counters.epoch, loss=self._trainer_state.progress.validation_loss)
        checkpoints = [*counters.checkpoints, mine]
        best = min(checkpoints, key=lambda one: math.inf if one.loss is None else one.loss)
        dropped = [one for one in checkpoints[: -self._keep] if one is not best]
        self._trainer_state.counters = counters.model_copy(update={"checkpoints": tuple(one for one in checkpoints if one not in dropped)})
        for one in dropped:
            pruned = CheckpointPruned(checkpoint=one.name, reason=f"the newest {self._keep} and the best of those saved are kept")
            self._sink.emit(pruned, epoch=counters.epoch, step=counters.step)
        if dropped:
            self._sink.commit()
        for one in dropped:
            prune_checkpoint(self._folder, one.name)
