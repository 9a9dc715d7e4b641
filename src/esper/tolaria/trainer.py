"""The training loop. It reads top to bottom: data, forward, backward, clip, step, seeds, measure; and at an epoch's end: validate, say
so, decide, apply, checkpoint. Where the CPU waits for the device, the line says so.

Training that becomes unstable (a loss that is not finite, or explodes) goes back to the last checkpoint, and the log says why. Epochs
and steps count on, so nothing stands twice in the log.
"""

import math
import time
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from esper.errors import DataError, EsperError
from esper.events import codec
from esper.events.envelope import EventId
from esper.events.kinds.control import Command
from esper.events.kinds.epoch import EpochCompleted, GateSettings, Measured, StateDigests, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import BlamedSeed, RunStarted
from esper.events.kinds.telemetry import SeedHealthMeasured, StepsMeasured
from esper.folds.lifecycle import LIVE
from esper.kasmina.host import Host
from esper.tolaria.adaptation import Adapter, Now
from esper.tolaria.determinism import digest_of_tensors, random_state_digest, seed_epoch, seed_own, total_norm
from esper.tolaria.evaluation import Evaluator, Losses
from esper.tolaria.journal import Journal
from esper.tolaria.keeper import Keeper
from esper.tolaria.objective import Batch, Batches, Objective, size_of, to_device
from esper.tolaria.progress import Evaluations, Memory, Progress, Tally
from esper.tolaria.settings import Schedule, TrainerSettings
from esper.tolaria.shadow import Examiner
from esper.tolaria.snapshots import Scheduler, digests
from esper.tolaria.system import system_state
from esper.tolaria.telemetry import Read, Span, Step


class UnstableError(EsperError):
    """Training went back to a checkpoint more often than `max_rollbacks` allows, or has nothing to show for its epochs."""


class Interrupted(EsperError):  # noqa: N818 - not an error of anybody's: someone asked training to stop.
    """Training was asked to stop; the step under way has ended and the run can be resumed."""


class Outcome(NamedTuple):
    """How a training ended: the last validation, the model's digest, and whether patience ran out before the epochs did."""

    metrics: dict[str, float]
    model_digest: str
    stopped_early: bool


@dataclass
class _Epoch:
    """What one epoch has added up so far."""

    started: float
    loss_sum: float = 0.0
    metric_sums: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    optimizer_steps: int = 0

    def add(self, read: Read, samples: list[int]) -> None:
        """Adds a span's numbers, each weighted by its samples."""
        self.samples += sum(samples)
        self.loss_sum += sum(loss * count for loss, count in zip(read.losses, samples, strict=True))
        for name, values in read.metrics.items():
            total = sum(value * count for value, count in zip(values, samples, strict=True))
            self.metric_sums[name] = self.metric_sums.get(name, 0.0) + total

    @property
    def measured(self) -> Measured:
        """The sample-weighted means of the epoch's own steps."""
        metrics = {name: total / self.samples for name, total in self.metric_sums.items()}
        return Measured(loss=self.loss_sum / self.samples, metrics=metrics, samples=self.samples)


class Trainer:
    """One training of one host. Everything it needs of the outside is handed in; it runs on the thread that calls `train`."""

    def __init__(
        self,
        *,
        host: Host,
        optimizer: Optimizer,
        scheduler: Scheduler | None,
        train: Batches,
        objective: Objective,
        evaluator: Evaluator,
        journal: Journal,
        adapter: Adapter,
        keeper: Keeper,
        examiner: Examiner,
        memory: Memory,
        settings: TrainerSettings,
        schedule: Schedule,
        gate: GateSettings,
        device: torch.device,
        stop: Callable[[], bool],
    ) -> None:
        self._host, self._optimizer, self._scheduler = host, optimizer, scheduler
        self._train, self._objective, self._evaluator = train, objective, evaluator
        self._journal, self._memory = journal, memory
        self._adapter, self._examiner, self._keeper = adapter, examiner, keeper
        self._settings, self._schedule, self._gate, self._device, self._stop = settings, schedule, gate, device, stop
        self._span = Span()
        self._steps_per_epoch = settings.epoch_steps
        self._measured_step = min(settings.measure_every, self._known_steps() or settings.measure_every)

    def start(self, started: RunStarted) -> None:
        """Begins the run's history: RunStarted, then a checkpoint of the untrained state, both on disk when it returns."""
        self._journal.emit(started, epoch=0, step=0)
        self._keeper.save("start")

    def resume(self, checkpoint: str, digest: str, evaluations: Evaluations) -> None:
        """Goes back to `checkpoint`, verified; training then catches up with what the journal already has.

        `evaluations` are those that the journal has.
        """
        self._keeper.restore(checkpoint, digest)
        self._memory.evaluations |= evaluations
        self._adapter.submit_waiting()

    def train(self) -> Outcome:
        """Trains all epochs that are left.

        Raises Interrupted when asked to stop, UnstableError after too many rollbacks or where no epoch came to its end.
        """
        # Out of patience already: the run was killed between its last epoch and its end.
        while self._memory.tally.epoch < self._settings.epochs and not self._out_of_patience():
            trouble = self._run_epoch()
            if trouble is not None:
                self._roll_back(trouble)
        if self._memory.progress.last_train_loss is None:
            raise UnstableError(f"none of {self._memory.tally.epoch} epochs came to its end: each was rolled back")
        self._keeper.save("end")
        return self._outcome()

    # One epoch

    def _run_epoch(self) -> str | None:
        """One epoch, its end included. Returns what made it unstable, or None."""
        tally = self._memory.tally
        self._memory.tally = tally.model_copy(update={"epoch": tally.epoch + 1})
        seed_epoch(self._settings.rng_seed, tally.epoch + 1)
        seed_own(self._train, self._settings.rng_seed, tally.epoch + 1)
        self._remember_blame()
        self._host.model.train()
        epoch = _Epoch(time.perf_counter())
        self._span = Span()
        for batches, data_wait_s in self._batches():
            self._step(batches, data_wait_s, epoch)
            if len(self._span) >= self._settings.measure_every and (trouble := self._end_span(epoch)):
                return trouble
            if self._stop():
                self._journal.commit()
                raise Interrupted(f"stopped in epoch {self._memory.tally.epoch} after step {self._memory.tally.step}")
        if epoch.samples == 0 and len(self._span) == 0:
            raise DataError("the training data is empty: expected at least one batch per epoch, got none")
        if len(self._span) and (trouble := self._end_span(epoch)):
            return trouble
        self._steps_per_epoch = epoch.optimizer_steps
        return self._end_epoch(epoch)

    def _batches(self) -> Iterator[tuple[list[Batch], float]]:
        """The epoch's batches, grouped by what one optimizer step takes, each with the seconds that the loader took for it."""
        limit = None if self._settings.epoch_steps is None else self._settings.epoch_steps * self._settings.accumulate
        batches = islice(self._train, limit)
        while True:
            started = time.perf_counter()
            group = list(islice(batches, self._settings.accumulate))
            if not group:
                return
            yield group, time.perf_counter() - started

    def _known_steps(self) -> int | None:
        """How many steps an epoch takes, as far as it can be known before: a short one is to be measured at its last step."""
        steps = self._settings.epoch_steps
        try:
            batches = len(self._train) if isinstance(self._train, Sized) else None
        except TypeError:  # A DataLoader over a stream.
            batches = None
        if batches is None:
            return steps
        passed = math.ceil(batches / self._settings.accumulate)
        return passed if steps is None else min(passed, steps)

    def _step(self, batches: list[Batch], data_wait_s: float, epoch: _Epoch) -> None:
        """One optimizer step of the host, then what its seeds do."""
        started = time.perf_counter()
        step = self._next_step()
        measure = bool(self._host.sites) and len(self._span) + 1 == self._measured_step
        self._host.begin_step(epoch=self._memory.tally.epoch, step=step, measure=measure)
        # 1. forward and backward, micro-batch by micro-batch
        self._optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        for batch in batches:
            losses, metrics = self._objective.measure(self._host.model, to_device(batch, self._device))
            loss = losses.mean()
            (loss / len(batches)).backward()
            parts.append({"loss": loss.detach(), **{name: value.detach().float().mean() for name, value in metrics.items()}})
        # 2. clip and step: the host's own parameters, and nobody else's
        own = self._host.host_parameters()
        norm = total_norm(own) if self._settings.clip is None else torch.nn.utils.clip_grad_norm_(own, self._settings.clip)
        self._optimizer.step()
        # 3. seeds: those beside the host learn alone, those in its graph take their own steps
        self._host.end_step(lr=float(self._optimizer.param_groups[0]["lr"]))
        # 4. keep the numbers where they are: no transfer here
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]} if len(parts) > 1 else parts[0]
        samples = sum(size_of(batch) for batch in batches)
        latency_s = time.perf_counter() - started
        self._span.add(Step(step, means.pop("loss"), norm.detach(), means, samples, latency_s, data_wait_s))
        epoch.optimizer_steps += 1
        if measure and self._settings.telemetry:
            self._emit_health(step)

    def _next_step(self) -> int:
        tally = self._memory.tally
        self._memory.tally = tally.model_copy(update={"step": tally.step + 1, "optimizer_steps": tally.optimizer_steps + 1})
        return tally.step + 1

    def _end_span(self, epoch: _Epoch) -> str | None:
        """Looks at the losses of the span (the one place per span where the CPU waits for the device) and records them."""
        span, self._span = self._span, Span()
        read = span.read()
        if self._settings.telemetry:
            self._emit_steps(span, read)
        epoch.add(read, span.samples)
        return self._trouble(read.losses, span.first_step)

    def _trouble(self, losses: list[float], first_step: int) -> str | None:
        for step, loss in enumerate(losses, start=first_step):
            if not math.isfinite(loss):
                return f"loss {loss} at step {step}"
        mean = sum(losses) / len(losses)
        progress, factor = self._memory.progress, self._settings.explosion_factor
        if progress.last_train_loss is None or progress.first_train_loss is None:
            return None
        limit = max(factor * progress.last_train_loss, progress.first_train_loss)
        if mean > limit:
            return f"mean loss {mean:.4g} from step {first_step} on, above {limit:.4g} ({factor:g} times the last good epoch's)"
        return None

    # The epoch's end

    def _end_epoch(self, epoch: _Epoch) -> str | None:
        """Validates, says so, adapts, checkpoints: in this order, and written ahead. Returns what makes the epoch unstable, or None."""
        self._journal.doing("validating")
        now = self._now(None)
        self._adapter.collect_kernels(now)
        losses = self._evaluator.losses()
        train = epoch.measured
        stable = math.isfinite(losses.mean)
        self._remember_losses(train.loss, losses.mean)
        if stable:
            self._examiner.examine(losses, now)
        state, epoch_id = self._say_completed(epoch, train, losses)
        if not stable:
            return f"validation loss {losses.mean} after epoch {now.epoch}"
        self._journal.doing("adapting")
        applied = self._adapter.adapt(state, epoch_id, self._now(losses.mean))
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(losses.mean)
        elif self._scheduler is not None:
            self._scheduler.step()
        self._journal.doing("saving")
        if Command.GRAFT in applied:
            self._keeper.save("before_grafting")
        elif now.epoch % self._settings.checkpoint_every == 0:
            self._keeper.save("due")
        self._journal.doing("step")
        return None

    def _now(self, validation_loss: float | None) -> Now:
        tally = self._memory.tally
        ramp = self._schedule.graft_epochs * max(1, self._steps_per_epoch or 1)
        left = self._settings.epochs - tally.epoch
        return Now(epoch=tally.epoch, step=tally.step, epochs_left=left, validation_loss=validation_loss, ramp_steps=ramp)

    def _remember_blame(self) -> None:
        """Alpha changes in GRAFTING alone; of several seeds, the one whose graft began last is blamed for what follows."""
        grafting = [(seed.since_epoch, place) for place, seed in self._host.seeds.items() if seed.stage is Stage.GRAFTING]
        if grafting:
            site, slot = max(grafting)[1]
            self._memory.progress = self._memory.progress.model_copy(update={"blamed": BlamedSeed(site=site, seed=slot)})

    def _remember_losses(self, train_loss: float, validation_loss: float) -> None:
        progress = self._memory.progress.after_validation(self._memory.tally.epoch, validation_loss)
        first = train_loss if progress.first_train_loss is None else progress.first_train_loss
        self._memory.progress = progress.model_copy(update={"first_train_loss": first, "last_train_loss": train_loss})

    def _say_completed(self, epoch: _Epoch, train: Measured, losses: Losses) -> tuple[SystemState, EventId]:
        validation = Measured(loss=losses.mean, metrics=dict(losses.metrics), samples=losses.samples)
        tally = self._memory.tally
        state = system_state(
            self._host,
            self._memory.progress,
            tally,
            epoch=tally.epoch,
            epochs_planned=self._settings.epochs,
            train=train,
            validation=validation,
            ready=self._adapter.ready(tally.epoch),
            evaluations=self._memory.evaluations,
            gate=self._gate,
        )
        duration = time.perf_counter() - epoch.started
        completed = EpochCompleted(
            train=train,
            validation=validation,
            learning_rates=tuple(float(group["lr"]) for group in self._optimizer.param_groups),
            optimizer_steps=epoch.optimizer_steps,
            digests=self._digests(),
            system=state,
            duration_s=duration,
            samples_per_s=epoch.samples / duration,
        )
        epoch_id = self._journal.emit(completed, epoch=tally.epoch, step=tally.step)
        # The policy sees what the log has, bytes and all, so that a decision can be made again from the log alone.
        stored = codec.decode_payload(completed.KIND, codec.encode(completed))
        assert isinstance(stored, EpochCompleted)
        return stored.system, epoch_id

    def _digests(self) -> StateDigests:
        if self._settings.digest == "off":
            return StateDigests(parameters=None, optimizer=None, random=None)
        tensors, optimizers, plain = digests(self._host, self._optimizer)
        parameters = digest_of_tensors(tensors)
        if self._settings.digest == "parameters":
            return StateDigests(parameters=parameters, optimizer=None, random=None)
        return StateDigests(
            parameters=parameters,
            optimizer=digest_of_tensors(optimizers, plain),
            random=random_state_digest(self._device),
        )

    # Telemetry: for people and detectors; nothing here influences training

    def _emit_health(self, step: int) -> None:
        sample = self._host.measure_health()
        if sample is None:
            return
        last = self._memory.progress.last_adaptation_step
        done = self._adapter.ready(self._memory.tally.epoch)
        ready = {place: place in done for place in self._host.seeds}
        self._journal.measure(
            SeedHealthMeasured,
            lambda: SeedHealthMeasured(health=sample.columns(ready), last_adaptation_step=last),
            epoch=self._memory.tally.epoch,
            step=step,
        )

    def _emit_steps(self, span: Span, read: Read) -> None:
        learning_rates = tuple(float(group["lr"]) for group in self._optimizer.param_groups)
        live = sum(1 for seed in self._host.seeds.values() if seed.stage in LIVE)
        last = self._memory.progress.last_adaptation_step
        self._journal.measure(
            StepsMeasured,
            lambda: span.record(read, learning_rates=learning_rates, live_seeds=live, last_adaptation_step=last),
            epoch=self._memory.tally.epoch,
            step=self._memory.tally.step,
        )

    # Ends

    def _roll_back(self, trouble: str) -> None:
        tally = self._memory.tally
        if tally.rollbacks >= self._settings.max_rollbacks:
            raise UnstableError(
                f"epoch {tally.epoch}, step {tally.step}: {trouble}; expected at most {self._settings.max_rollbacks} rollbacks in a run"
            )
        self._keeper.roll_back(trouble)
        self._adapter.submit_waiting()

    def _out_of_patience(self) -> bool:
        patience = self._settings.patience
        return patience is not None and self._memory.progress.epochs_since_improvement >= patience

    def _outcome(self) -> Outcome:
        losses, tally = self._evaluator.losses(), self._memory.tally
        if not math.isfinite(losses.mean):
            raise UnstableError(f"epoch {tally.epoch}, step {tally.step}: the validation loss of the trained model is {losses.mean}")
        tensors, _, _ = digests(self._host, self._optimizer)
        metrics = {"validation_loss": losses.mean, **{f"validation_{name}": value for name, value in losses.metrics.items()}}
        return Outcome(metrics, digest_of_tensors(tensors), stopped_early=tally.epoch < self._settings.epochs)


def fresh_memory() -> Memory:
    """What a trainer remembers before the first epoch: nothing."""
    return Memory(Progress(), Tally(), {})
