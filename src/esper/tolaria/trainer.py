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
from esper.folds.transitions import LIVE
from esper.kasmina.host import Host
from esper.tolaria.adaptation import AdaptationStep, EpochEnd
from esper.tolaria.checkpointer import Checkpointer
from esper.tolaria.determinism import digest_of_tensors, random_state_digest, seed_epoch, seed_own, total_norm
from esper.tolaria.event_sink import EventSink
from esper.tolaria.objective import Batch, Batches, Objective, size_of, to_device
from esper.tolaria.seed_evaluator import SeedEvaluator
from esper.tolaria.settings import Schedule, TrainerSettings
from esper.tolaria.snapshots import Scheduler, digests
from esper.tolaria.step_recorder import StepNumbers, StepRecorder, StepResult
from esper.tolaria.system_state import system_state
from esper.tolaria.trainer_state import Counters, Evaluations, Rewindable, TrainerState
from esper.tolaria.validation import Evaluator, Losses


class UnstableError(EsperError):
    """Training went back to a checkpoint more often than `max_rollbacks` allows, or has nothing to show for its epochs."""


class Interrupted(EsperError):  # noqa: N818 - not an error of anybody's: someone asked training to stop.
    """Training was asked to stop; the step under way has ended and the run can be resumed."""


class TrainingResult(NamedTuple):
    """End of a training: the last validation, the model's digest, and whether patience ended it early."""

    metrics: dict[str, float]
    model_digest: str
    stopped_early: bool


@dataclass
class _Epoch:
    """Sums over one epoch so far."""

    started: float
    loss_sum: float = 0.0
    metric_sums: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    optimizer_steps: int = 0

    def add(self, read: StepNumbers, samples: list[int]) -> None:
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
    """Training of one host, on the thread that calls `train`. Every dependency is passed in."""

    def __init__(
        self,
        *,
        host: Host,
        optimizer: Optimizer,
        scheduler: Scheduler | None,
        train: Batches,
        objective: Objective,
        evaluator: Evaluator,
        sink: EventSink,
        adaptation: AdaptationStep,
        checkpointer: Checkpointer,
        seed_evaluator: SeedEvaluator,
        trainer_state: TrainerState,
        settings: TrainerSettings,
        schedule: Schedule,
        gate: GateSettings,
        device: torch.device,
        stop: Callable[[], bool],
    ) -> None:
        self._host, self._optimizer, self._scheduler = host, optimizer, scheduler
        self._train, self._objective, self._evaluator = train, objective, evaluator
        self._sink, self._trainer_state = sink, trainer_state
        self._adaptation, self._seed_evaluator, self._checkpointer = adaptation, seed_evaluator, checkpointer
        self._settings, self._schedule, self._gate, self._device, self._stop = settings, schedule, gate, device, stop
        self._span = StepRecorder()
        self._steps_per_epoch = settings.epoch_steps
        self._measured_step = min(settings.measure_every, self._known_steps() or settings.measure_every)

    def start(self, started: RunStarted) -> None:
        """Begins the run's history: RunStarted, then a checkpoint of the untrained state, both on disk when it returns."""
        self._sink.emit(started, epoch=0, step=0)
        self._checkpointer.save("start")

    def resume(self, checkpoint: str, digest: str, evaluations: Evaluations) -> None:
        """Goes back to `checkpoint`, verified; training then catches up with the logged facts.

        `evaluations` are the logged ones.
        """
        self._checkpointer.restore(checkpoint, digest)
        self._trainer_state.evaluations |= evaluations
        self._adaptation.submit_waiting()

    def train(self) -> TrainingResult:
        """Trains all epochs that are left.

        Raises Interrupted when asked to stop, UnstableError after too many rollbacks or where no epoch came to its end.
        """
        # Out of patience already: the run was killed between its last epoch and its end.
        while self._trainer_state.counters.epoch < self._settings.epochs and not self._out_of_patience():
            trouble = self._run_epoch()
            if trouble is not None:
                self._roll_back(trouble)
        if self._trainer_state.progress.last_train_loss is None:
            raise UnstableError(f"none of {self._trainer_state.counters.epoch} epochs came to its end: each was rolled back")
        self._checkpointer.save("end")
        return self._outcome()

    # One epoch

    def _run_epoch(self) -> str | None:
        """Train one epoch, its end included; return the cause of instability, or None."""
        counters = self._trainer_state.counters
        self._trainer_state.counters = counters.model_copy(update={"epoch": counters.epoch + 1})
        seed_epoch(self._settings.rng_seed, counters.epoch + 1)
        seed_own(self._train, self._settings.rng_seed, counters.epoch + 1)
        self._remember_blame()
        self._host.model.train()
        epoch = _Epoch(time.perf_counter())
        self._span = StepRecorder()
        for batches, data_wait_s in self._batches():
            self._step(batches, data_wait_s, epoch)
            if len(self._span) >= self._settings.measure_every and (trouble := self._end_span(epoch)):
                return trouble
            if self._stop():
                self._sink.commit()
                raise Interrupted(f"stopped in epoch {self._trainer_state.counters.epoch} after step {self._trainer_state.counters.step}")
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
        """Steps of an epoch, where the data tells before; a short epoch is measured at its last step."""
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
        """Optimizer step of the host, then the steps of its seeds."""
        started = time.perf_counter()
        step = self._next_step()
        measure = bool(self._host.sites) and len(self._span) + 1 == self._measured_step
        self._host.begin_step(epoch=self._trainer_state.counters.epoch, step=step, measure=measure)
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
        self._span.add(StepResult(step, means.pop("loss"), norm.detach(), means, samples, latency_s, data_wait_s))
        epoch.optimizer_steps += 1
        if measure and self._settings.telemetry:
            self._emit_health(step)

    def _next_step(self) -> int:
        counters = self._trainer_state.counters
        self._trainer_state.counters = counters.model_copy(
            update={"step": counters.step + 1, "optimizer_steps": counters.optimizer_steps + 1}
        )
        return counters.step + 1

    def _end_span(self, epoch: _Epoch) -> str | None:
        """Looks at the losses of the span (the one place per span where the CPU waits for the device) and records them."""
        span, self._span = self._span, StepRecorder()
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
        progress, factor = self._trainer_state.progress, self._settings.explosion_factor
        if progress.last_train_loss is None or progress.first_train_loss is None:
            return None
        limit = max(factor * progress.last_train_loss, progress.first_train_loss)
        if mean > limit:
            return f"mean loss {mean:.4g} from step {first_step} on, above {limit:.4g} ({factor:g} times the last good epoch's)"
        return None

    # The epoch's end

    def _end_epoch(self, epoch: _Epoch) -> str | None:
        """Validate, record, adapt, checkpoint: in this order, each written ahead. Return the cause of instability, or None."""
        self._sink.doing("validating")
        end = self._now(None)
        self._adaptation.collect_kernels(end)
        losses = self._evaluator.losses()
        train = epoch.measured
        stable = math.isfinite(losses.mean)
        self._remember_losses(train.loss, losses.mean)
        if stable:
            self._seed_evaluator.evaluate_due(losses, end)
        state, epoch_id = self._say_completed(epoch, train, losses)
        if not stable:
            return f"validation loss {losses.mean} after epoch {end.epoch}"
        self._sink.doing("adapting")
        applied = self._adaptation.adapt(state, epoch_id, self._now(losses.mean))
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(losses.mean)
        elif self._scheduler is not None:
            self._scheduler.step()
        self._sink.doing("saving")
        if Command.GRAFT in applied:
            self._checkpointer.save("before_grafting")
        elif end.epoch % self._settings.checkpoint_every == 0:
            self._checkpointer.save("due")
        self._sink.doing("step")
        return None

    def _now(self, validation_loss: float | None) -> EpochEnd:
        counters = self._trainer_state.counters
        ramp = self._schedule.graft_epochs * max(1, self._steps_per_epoch or 1)
        left = self._settings.epochs - counters.epoch
        return EpochEnd(epoch=counters.epoch, step=counters.step, epochs_left=left, validation_loss=validation_loss, ramp_steps=ramp)

    def _remember_blame(self) -> None:
        """Alpha changes in GRAFTING alone; of several seeds, the one whose graft began last is blamed for what follows."""
        grafting = [(seed.since_epoch, place) for place, seed in self._host.seeds.items() if seed.stage is Stage.GRAFTING]
        if grafting:
            site, slot = max(grafting)[1]
            self._trainer_state.progress = self._trainer_state.progress.model_copy(update={"blamed": BlamedSeed(site=site, seed=slot)})

    def _remember_losses(self, train_loss: float, validation_loss: float) -> None:
        progress = self._trainer_state.progress.after_validation(self._trainer_state.counters.epoch, validation_loss)
        first = train_loss if progress.first_train_loss is None else progress.first_train_loss
        self._trainer_state.progress = progress.model_copy(update={"first_train_loss": first, "last_train_loss": train_loss})

    def _say_completed(self, epoch: _Epoch, train: Measured, losses: Losses) -> tuple[SystemState, EventId]:
        validation = Measured(loss=losses.mean, metrics=dict(losses.metrics), samples=losses.samples)
        counters = self._trainer_state.counters
        state = system_state(
            self._host,
            self._trainer_state.progress,
            counters,
            epoch=counters.epoch,
            epochs_planned=self._settings.epochs,
            train=train,
            validation=validation,
            ready=self._adaptation.ready(counters.epoch),
            evaluations=self._trainer_state.evaluations,
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
        epoch_id = self._sink.emit(completed, epoch=counters.epoch, step=counters.step)
        stored = codec.as_stored(completed)  # The policy decides from what the log has.
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
        last = self._trainer_state.progress.last_adaptation_step
        done = self._adaptation.ready(self._trainer_state.counters.epoch)
        ready = {place: place in done for place in self._host.seeds}
        self._sink.measure(
            SeedHealthMeasured,
            lambda: SeedHealthMeasured(health=sample.columns(ready), last_adaptation_step=last),
            epoch=self._trainer_state.counters.epoch,
            step=step,
        )

    def _emit_steps(self, span: StepRecorder, read: StepNumbers) -> None:
        learning_rates = tuple(float(group["lr"]) for group in self._optimizer.param_groups)
        live = sum(1 for seed in self._host.seeds.values() if seed.stage in LIVE)
        last = self._trainer_state.progress.last_adaptation_step
        self._sink.measure(
            StepsMeasured,
            lambda: span.record(read, learning_rates=learning_rates, live_seeds=live, last_adaptation_step=last),
            epoch=self._trainer_state.counters.epoch,
            step=self._trainer_state.counters.step,
        )

    # Ends

    def _roll_back(self, trouble: str) -> None:
        counters = self._trainer_state.counters
        if counters.rollbacks >= self._settings.max_rollbacks:
            raise UnstableError(
                f"epoch {counters.epoch}, step {counters.step}: {trouble}; "
                f"expected at most {self._settings.max_rollbacks} rollbacks in a run"
            )
        self._checkpointer.roll_back(trouble)
        self._adaptation.submit_waiting()

    def _out_of_patience(self) -> bool:
        patience = self._settings.patience
        return patience is not None and self._trainer_state.progress.epochs_since_improvement >= patience

    def _outcome(self) -> TrainingResult:
        losses, counters = self._evaluator.losses(), self._trainer_state.counters
        if not math.isfinite(losses.mean):
            raise UnstableError(f"epoch {counters.epoch}, step {counters.step}: the validation loss of the trained model is {losses.mean}")
        tensors, _, _ = digests(self._host, self._optimizer)
        metrics = {"validation_loss": losses.mean, **{f"validation_{name}": value for name, value in losses.metrics.items()}}
        return TrainingResult(metrics, digest_of_tensors(tensors), stopped_early=counters.epoch < self._settings.epochs)


def fresh_trainer_state() -> TrainerState:
    """The empty state before the first epoch."""
    return TrainerState(Rewindable(), Counters(), {})
