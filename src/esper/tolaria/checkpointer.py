"""The checkpoints of a run: saving, pruning, restoring and rolling back, each recorded in the log."""

import math
import time
from pathlib import Path
from typing import Literal

from esper.errors import DataError
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, RunRolledBack
from esper.tolaria.checkpoint_files import load_checkpoint, name_of, prune_checkpoint, save_checkpoint
from esper.tolaria.snapshots import put_back, take
from esper.tolaria.trainer_state import Counters, KeptCheckpoint, Rewindable
from esper.tolaria.training import Training


class Checkpointer:
    """Saves, prunes and restores checkpoints in one folder; a checkpoint is always the start of an epoch."""

    def __init__(self, training: Training, folder: Path) -> None:
        self._training, self._folder = training, folder

    def save(self, reason: Literal["start", "due", "before_grafting", "end"]) -> None:
        """Save the state, record it, then prune older checkpoints. Durable, in the log too, when it returns."""
        training, counters = self._training, self._training.counters
        name = name_of(counters.epoch)
        if counters.checkpoints and counters.checkpoints[-1].name == name:
            return
        training.progress = training.progress.model_copy(update={"blamed": None})
        started = time.perf_counter()
        saved = save_checkpoint(self._folder, name, take(training))
        event = CheckpointSaved(
            checkpoint=name,
            digest=saved.digest,
            size_bytes=saved.size_bytes,
            reason=reason,
            duration_s=time.perf_counter() - started,
        )
        training.emit(event)
        training.sink.commit()
        self._kept(name, saved.digest)

    def restore(self, name: str, digest: str) -> None:
        """Restore everything as it was when `name` was saved, the counters too. Raises DataError where it is not whole."""
        self._training.progress, self._training.counters = self._load(name, digest)
        self._kept(name, digest)

    def roll_back(self, reason: str) -> None:
        """Restore the newest checkpoint and record it, with the blamed seed and the whole seed table now in force.

        The blamed seed stands there as it was just before; then its slot is locked.
        """
        training, counters, host = self._training, self._training.counters, self._training.host
        blamed = training.progress.blamed
        before = None if blamed is None else host.seeds[blamed.site, blamed.seed].row
        if before is not None and before.life is None:  # It was removed, and its slot is free again.
            blamed = before = None
        target = counters.checkpoints[-1]
        progress, _ = self._load(target.name, target.digest)
        host.shift_epochs(counters.epoch - target.epoch)
        training.progress = progress.model_copy(update={"last_adaptation_step": counters.step})
        training.counters = counters.model_copy(update={"rollbacks": counters.rollbacks + 1})
        rows = {place: slot.row for place, slot in sorted(host.seeds.items())}
        if before is not None:
            rows[before.site, before.seed] = before
        event = RunRolledBack(
            from_epoch=counters.epoch,
            to_epoch=target.epoch,
            checkpoint=target.name,
            reason=reason,
            blamed=blamed,
            seeds=tuple(rows.values()),
        )
        cause = training.emit(event)
        if before is not None:
            place, locked = (before.site, before.seed), before.model_copy(update={"embargo_until": None})
            host.roll_back(*place, epoch=counters.epoch)
            moved = training.emit_transition(locked, before.stage, Stage.ROLLED_BACK, reason, cause=cause)
            training.emit_report(before, Stage.ROLLED_BACK, None, cause=moved)
            training.progress = training.progress.without_note(*place)
        training.sink.commit()

    def _load(self, name: str, digest: str) -> tuple[Rewindable, Counters]:
        snapshot = load_checkpoint(self._folder, name, digest, self._training.device)
        try:
            return put_back(snapshot, self._training)
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"checkpoint {self._folder / name} does not fit this host: {error}") from error

    def _kept(self, name: str, digest: str) -> None:
        training, counters, keep = self._training, self._training.counters, self._training.settings.keep_checkpoints
        mine = KeptCheckpoint(name=name, digest=digest, epoch=counters.epoch, loss=training.progress.validation_loss)
        checkpoints = [*counters.checkpoints, mine]
        best = min(checkpoints, key=lambda one: math.inf if one.loss is None else one.loss)
        dropped = [one for one in checkpoints[:-keep] if one is not best]
        training.counters = counters.model_copy(update={"checkpoints": tuple(one for one in checkpoints if one not in dropped)})
        for one in dropped:
            training.emit(CheckpointPruned(checkpoint=one.name, reason=f"the newest {keep} and the best of those saved are kept"))
        if dropped:
            training.sink.commit()
        for one in dropped:
            prune_checkpoint(self._folder, one.name)
