"""The trainer's state between epochs, in two parts: a rollback restores `Rewindable`; `Counters` only grows.

Both are frozen values, part of every checkpoint, and made new rather than changed.
"""

import math

from pydantic import Field

from esper.events.envelope import EventId
from esper.events.fields import CheckpointName, Count, Float, Part
from esper.events.kinds.control import FieldReported
from esper.events.kinds.epoch import KEPT_LOSSES
from esper.events.kinds.lifecycle import Evaluation
from esper.events.kinds.run import BlamedSeed
from esper.events.kinds.wiring_findings import WiringCheck


class SeedNotes(Part):
    """Notes about one seed besides its stage; `kernel` is the digest of its compiled kernel."""

    site: str
    seed: Count
    loss_at_germination: Float | None = None
    loss_before_graft: Float | None = None
    kernel: str | None = None
    kernel_failed: bool = False
    evaluation: Evaluation | None = None


class Rewindable(Part):
    """State of the training that a rollback restores with the weights.

    `last_train_spread` is the standard deviation of the last epoch's losses, step by step.
    `fingerprint` is of the host's parameters at the last epoch's end, buffers apart: see `snapshots.fingerprint`.
    `validation_losses` are the newest since the last graft or cull, oldest first, and `earlier_loss` the lowest of those before them.
    `blamed` is the seed whose alpha changed last since the checkpoint.
    `last_adaptation` is found again in the log: a checkpoint names no run.
    """

    validation_loss: Float | None = None
    best_loss: Float | None = None
    best_epoch: Count | None = None
    epochs_since_improvement: Count = 0
    validation_losses: tuple[Float, ...] = ()
    earlier_loss: Float | None = None
    first_train_loss: Float | None = None
    last_train_loss: Float | None = None
    last_train_spread: Float = 0.0
    last_adaptation_step: Count | None = None
    fingerprint: str | None = None
    last_adaptation: EventId | None = Field(default=None, exclude=True)
    blamed: BlamedSeed | None = None
    notes: tuple[SeedNotes, ...] = ()

    def note(self, site: str, seed: int) -> SeedNotes:
        """Notes about the seed in this slot; empty notes where there are none."""
        return next((note for note in self.notes if (note.site, note.seed) == (site, seed)), SeedNotes(site=site, seed=seed))

    def noted(self, site: str, seed: int, **changes: object) -> "Rewindable":
        """The same with fields of the slot's note changed."""
        note = self.note(site, seed).model_copy(update=changes)
        return self.model_copy(update={"notes": (*self.without_note(site, seed).notes, note)})

    def without_note(self, site: str, seed: int) -> "Rewindable":
        """The same with the slot forgotten."""
        return self.model_copy(update={"notes": tuple(old for old in self.notes if (old.site, old.seed) != (site, seed))})

    def with_new_cycle(self) -> "Rewindable":
        """The same with no validation losses behind it: a graft cycle begins anew."""
        return self.model_copy(update={"validation_losses": (), "earlier_loss": None})

    def after_validation(self, epoch: int, loss: float) -> "Rewindable":
        """The same after one more validation loss; a NaN loss improves nothing."""
        losses, better = (*self.validation_losses, loss), loss < (math.inf if self.best_loss is None else self.best_loss)
        changed: dict[str, object] = {
            "validation_loss": loss,
            "validation_losses": losses[-KEPT_LOSSES:],
            "earlier_loss": _lowest(*losses[:-KEPT_LOSSES], self.earlier_loss),
            "epochs_since_improvement": 0 if better else self.epochs_since_improvement + 1,
        }
        return self.model_copy(update=changed | ({"best_loss": loss, "best_epoch": epoch} if better else {}))

    def after_training(self, loss: float, spread: float) -> "Rewindable":
        """The same after an epoch whose mean training loss is `loss`, and whose steps' losses have the standard deviation `spread`."""
        first = loss if self.first_train_loss is None else self.first_train_loss
        return self.model_copy(update={"first_train_loss": first, "last_train_loss": loss, "last_train_spread": spread})

    def explosion_above(self, factor: float) -> float:
        """The mean training loss above which training has exploded: never below the first epoch's; inf while nothing is known of it.

        It is `factor` - 1 loss scales above the last epoch's. The loss scale has a meaning for every sign: the largest of the last loss's
        own size, the spread of its steps, and its rise above the first. So it is `factor` times a loss that stays above 0, and a
        log-likelihood that hovers around -1 or crosses 0 is given room. A loss that was 0 from the first step on has no scale.
        """
        first, last = self.first_train_loss, self.last_train_loss
        if first is None or last is None:
            return math.inf
        scale = max(abs(last), self.last_train_spread, last - first)
        return max(first, last + (factor - 1.0) * scale) if scale > 0.0 or first > last else math.inf


def _lowest(*losses: float | None) -> float | None:
    return min((loss for loss in losses if loss is not None and math.isfinite(loss)), default=None)


class KeptCheckpoint(Part):
    """A checkpoint that has not been pruned; `loss` is the validation loss of its epoch, None for the untrained model."""

    name: CheckpointName
    digest: str
    epoch: Count
    loss: Float | None


class Counters(Part):
    """State that a rollback keeps: clocks, counts, reports, the kept checkpoints, and the wiring checks that found something."""

    epoch: Count = 0
    step: Count = 0
    optimizer_steps: Count = 0
    germinations: Count = 0
    germination_epochs: tuple[Count, ...] = ()
    rollbacks: Count = 0
    reports: tuple[FieldReported, ...] = ()
    refused: dict[str, Count] = Field(default_factory=dict)
    failed: dict[str, Count] = Field(default_factory=dict)
    checkpoints: tuple[KeptCheckpoint, ...] = ()
    wiring: tuple[WiringCheck, ...] = ()

    def after_step(self) -> "Counters":
        """The same after one more optimizer step."""
        return self.model_copy(update={"step": self.step + 1, "optimizer_steps": self.optimizer_steps + 1})

    def germinated(self, epoch: int) -> "Counters":
        """The same after one more germination at the end of `epoch`; candidates of one race count as one."""
        if epoch in self.germination_epochs:
            return self
        return self.model_copy(update={"germinations": self.germinations + 1, "germination_epochs": (*self.germination_epochs, epoch)})

    def counted(self, what: str, site: str) -> "Counters":
        """The same after one more `refused` or `failed` at `site`."""
        counts: dict[str, int] = getattr(self, what)
        return self.model_copy(update={what: {**counts, site: counts.get(site, 0) + 1}})
