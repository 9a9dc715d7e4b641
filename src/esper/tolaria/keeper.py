"""The checkpoints of a run: when each is saved, which are kept, going back to one, and what the log says of all that."""

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
from esper.tolaria.checkpoint import load_checkpoint, name_of, prune_checkpoint, save_checkpoint
from esper.tolaria.journal import Journal
from esper.tolaria.progress import KeptCheckpoint, Memory, Place, Progress, Tally
from esper.tolaria.snapshots import Scheduler, put_back, take

Reason = Literal["start", "due", "before_grafting", "end"]


class Keeper:
    """Saves, prunes and restores checkpoints in one folder; a checkpoint is always the start of an epoch."""

    def __init__(
        self,
        folder: Path,
        *,
        host: Host,
        optimizer: Optimizer,
        scheduler: Scheduler | None,
        journal: Journal,
        memory: Memory,
        keep: int,
        device: torch.device,
    ) -> None:
        self._folder, self._host, self._optimizer, self._scheduler = folder, host, optimizer, scheduler
        self._journal, self._memory, self._keep, self._device = journal, memory, keep, device

    def save(self, reason: Reason) -> None:
        """Saves the state as it is, says so, then prunes what is no longer kept. On disk, and in the log, when it returns."""
        tally = self._memory.tally
        name = name_of(tally.epoch)
        if tally.checkpoints and tally.checkpoints[-1].name == name:
            return
        self._memory.progress = self._memory.progress.model_copy(update={"blamed": None})
        started = time.perf_counter()
        saved = save_checkpoint(self._folder, name, take(self._host, self._optimizer, self._scheduler, self._memory))
        event = CheckpointSaved(
            checkpoint=name,
            digest=saved.digest,
            size_bytes=saved.size_bytes,
            reason=reason,
            duration_s=time.perf_counter() - started,
        )
        self._journal.emit(event, epoch=tally.epoch, step=tally.step)
        self._journal.commit()
        self._kept(name, saved.digest)

    def restore(self, name: str, digest: str) -> None:
        """Puts everything back as it was when `name` was saved, what is remembered included. Raises DataError where it is not whole."""
        self._memory.progress, self._memory.tally = self._load(name, digest)
        self._kept(name, digest)

    def roll_back(self, reason: str) -> None:
        """Goes back to the newest checkpoint and says so, with the seed that is blamed and the whole seed table now in force."""
        blamed = self._memory.progress.blamed
        place = None if blamed is None else (blamed.site, blamed.seed)
        before = None if place is None else self._host.seeds[place].row
        if before is not None and before.life is None:  # It was removed, and its slot is free again: nobody is left to blame.
            blamed = place = before = None
        tally = self._memory.tally
        target = tally.checkpoints[-1]
        progress, _ = self._load(target.name, target.digest)
        self._host.shift_epochs(tally.epoch - target.epoch)
        self._memory.progress = progress.model_copy(update={"last_adaptation_step": tally.step})
        self._memory.tally = tally.model_copy(update={"rollbacks": tally.rollbacks + 1})
        event = RunRolledBack(
            from_epoch=tally.epoch,
            to_epoch=target.epoch,
            checkpoint=target.name,
            reason=reason,
            blamed=blamed,
            seeds=tuple(before if before is not None and one == place else self._host.seeds[one].row for one in sorted(self._host.seeds)),
        )
        cause = self._journal.emit(event, epoch=tally.epoch, step=tally.step)
        if place is not None and before is not None:
            self._lock(place, before, reason, cause)
        self._journal.commit()

    def _lock(self, place: Place, before: SeedRow, reason: str, cause: EventId) -> None:
        tally = self._memory.tally
        self._host.roll_back(*place, epoch=tally.epoch)
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
        moved = self._journal.emit(transition, epoch=tally.epoch, step=tally.step, cause=cause)
        note = self._memory.progress.note(*place)
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
        self._journal.emit(report, epoch=tally.epoch, step=tally.step, cause=moved)
        self._memory.progress = self._memory.progress.without_note(*place)
        self._memory.tally = self._memory.tally.model_copy(update={"reports": (*self._memory.tally.reports, report)})

    def _load(self, name: str, digest: str) -> tuple[Progress, Tally]:
        snapshot = load_checkpoint(self._folder, name, digest, self._device)
        try:
            return put_back(snapshot, self._host, self._optimizer, self._scheduler)
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"checkpoint {self._folder / name} does not fit this host: {error}") from error

    def _kept(self, name: str, digest: str) -> None:
        tally = self._memory.tally
        mine = KeptCheckpoint(name=name, digest=digest, epoch=tally.epoch, loss=self._memory.progress.validation_loss)
        checkpoints = [*tally.checkpoints, mine]
        best = min(checkpoints, key=lambda one: math.inf if one.loss is None else one.loss)
        dropped = [one for one in checkpoints[: -self._keep] if one is not best]
        self._memory.tally = tally.model_copy(update={"checkpoints": tuple(one for one in checkpoints if one not in dropped)})
        for one in dropped:
            pruned = CheckpointPruned(checkpoint=one.name, reason=f"the newest {self._keep} and the best of those saved are kept")
            self._journal.emit(pruned, epoch=tally.epoch, step=tally.step)
        if dropped:
            self._journal.commit()
        for one in dropped:
            prune_checkpoint(self._folder, one.name)
