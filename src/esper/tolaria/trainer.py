"""The training loop. It reads top to bottom: data, forward, backward, clip, step, seeds, measure; at an epoch's end: validate, record,
decide, apply, checkpoint. Where the CPU waits for the device, the line says so.

Training that becomes unstable (a loss that is not finite, or explodes) goes back to the last checkpoint, with the reason in the log. Epochs
and steps count on, so no record stands twice in the log.
"""

import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import islice, takewhile
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from esper.errors import DataError, EsperError
from esper.events import codec
from esper.events.envelope import EventId
from esper.events.kinds.control import Command
from esper.events.kinds.epoch import EpochCompleted, Measured, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import BlamedSeed, RunStarted, SiteFrozen
from esper.events.kinds.telemetry import SeedHealthMeasured, StepsMeasured
from esper.events.kinds.training_description import TrainingDescribed
from esper.events.kinds.wiring_findings import WiringFound
from esper.folds.transitions import LIVE
from esper.kasmina.calls import plainly_named, unwrapped
from esper.tolaria.adaptation import adapt, collect_kernels, submit_waiting
from esper.tolaria.checkpoints import restore_checkpoint, roll_back, save_checkpoint
from esper.tolaria.determinism import seed_epoch, seed_own, total_norm
from esper.tolaria.objective import Batch, Batches, Objective, size_of, to_device
from esper.tolaria.requirements import optimizer_steps
from esper.tolaria.snapshots import fingerprint, model_digest, state_digests
from esper.tolaria.step_recorder import StepRecorder, StepResult, StepSpan, sample_of
from esper.tolaria.system_state import ready_seeds, system_state
from esper.tolaria.training import Training
from esper.tolaria.user_code import Noted
from esper.tolaria.validation import Evaluator, Losses, evaluate_seeds, is_seed_due
from esper.tolaria.wiring.findings import Finding, event_of, in_words
from esper.tolaria.wiring.judging import learns_nothing, unchanged_epoch
from esper.tolaria.wiring.later import WeightHistory
from esper.tolaria.wiring.watch import FirstEpoch, Harmless, ValidationSeen

_LEARNT = 0.01
"""The share of the first epoch's training loss at which nothing is left to learn."""
_LEARNING_BY = 4
"""The epoch at whose end a training should be better than guessing."""


class UnstableError(EsperError):
    """Training went back to a checkpoint more often than `max_rollbacks` allows, or has nothing to show for its epochs."""


class Interrupted(EsperError):  # noqa: N818 - no error: training was asked to stop.
    """Training was asked to stop; the step under way has ended and the run can be resumed."""


class TrainingResult(NamedTuple):
    """End of a training: the last validation, and the loss there of the best constant output (None: not known); the model's digest, and
    whether patience ended it early.
    """

    metrics: dict[str, float]
    guessing: float | None
    model_digest: str
    stopped_early: bool


class Trainer:
    """Training of one host, on the thread that calls `train`. Every dependency is passed in."""

    def __init__(self, training: Training, *, train: Batches, objective: Objective, evaluator: Evaluator, stop: Callable[[], bool]) -> None:
        self._training, self._settings, self._train, self._stop = training, training.settings, train, stop
        self._objective, self._evaluator = objective, evaluator
        self._watch: FirstEpoch | None = None
        self._seen = ValidationSeen(training, objective)
        self._guessing: float | None = None
        self._harmless = Harmless(training)
        self._first_rates: tuple[float, ...] = ()
        self._weights = self._weight_history()
        # A short epoch is measured at its last step, as far as its length is known before.
        self._measured_step = min(filter(None, (self._settings.measure_every, optimizer_steps(train, self._settings))))

    def start(self, started: RunStarted, described: TrainingDescribed | None = None) -> None:
        """Begin the run's history: RunStarted, TrainingDescribed unless the log has it, then a checkpoint of the untrained state.

        All of it is on disk when it returns.
        """
        self._training.emit(started)
        if described is not None:
            self._training.emit(described)
        save_checkpoint(self._training, "start")

    def resume(
        self,
        checkpoint: str,
        digest: str,
        evaluations: Mapping[tuple[str, int, int], EventId],
        last_adaptation: EventId | None = None,
    ) -> None:
        """Restore `checkpoint`, verified; training then catches up with the logged facts. Ids are those of the log."""
        restore_checkpoint(self._training, checkpoint, digest)
        self._training.progress = self._training.progress.model_copy(update={"last_adaptation": last_adaptation})
        self._training.evaluations |= evaluations
        submit_waiting(self._training)
        self._weights = self._weight_history()

    def train(self) -> TrainingResult:
        """Train all epochs that are left.

        Raises Interrupted when asked to stop, UnstableError after too many rollbacks or where no epoch came to its end.
        """
        training, settings = self._training, self._settings
        patience = math.inf if settings.patience is None else settings.patience
        # Out of patience already: the run was killed between its last epoch and its end.
        while training.counters.epoch < settings.epochs and training.progress.epochs_since_improvement < patience:
            trouble = self._run_epoch()
            if trouble is not None:
                self._roll_back(trouble)
        epoch, step = training.counters.epoch, training.counters.step
        if training.progress.last_train_loss is None:
            raise UnstableError(f"none of {epoch} epochs came to its end: each was rolled back")
        save_checkpoint(self._training, "end")
        seen = ValidationSeen(training, self._objective)
        losses = replace(self._evaluator, watched=seen.objective).losses()
        if not math.isfinite(losses.mean):
            raise UnstableError(f"epoch {epoch}, step {step}: the validation loss of the trained model is {losses.mean}")
        return TrainingResult(losses.named("validation"), seen.guessing, model_digest(training), stopped_early=epoch < settings.epochs)

    # One epoch

    def _run_epoch(self) -> str | None:
        """Train one epoch, its end included; return the cause of instability, or None."""
        training, settings, number = self._training, self._settings, self._training.counters.epoch + 1
        training.counters = training.counters.model_copy(update={"epoch": number})
        seed_epoch(settings.rng_seed, number)
        seed_own((self._train, self._objective), settings.rng_seed, number)
        # Alpha changes in GRAFTING alone; of several seeds, the one whose graft began last is blamed for what follows.
        grafting = [(seed.since_epoch, place) for place, seed in training.host.seeds.items() if seed.stage is Stage.GRAFTING]
        if grafting:
            site, slot = max(grafting)[1]
            training.progress = training.progress.model_copy(update={"blamed": BlamedSeed(site=site, seed=slot)})
        training.host.model.train()
        self._watch = FirstEpoch(training, self._objective) if number == 1 else None
        epoch, self._first_rates = StepRecorder(), self._learning_rates()
        self._epoch = epoch
        for batches, data_wait_s in self._batches():
            self._step(batches, data_wait_s)
            if len(epoch) >= settings.measure_every and (trouble := self._end_span()):
                return trouble
            if self._stop():
                training.sink.commit()
                raise Interrupted(f"stopped in epoch {number} after step {training.counters.step}")
        if len(epoch) and (trouble := self._end_span()):
            return trouble
        if epoch.optimizer_steps == 0:
            raise DataError("the training data is empty: expected at least one batch per epoch, got none")
        return self._end_epoch()

    def _batches(self) -> Iterator[tuple[list[Batch], float]]:
        """The epoch's batches, grouped by what one optimizer step takes, each with the seconds that the loader took for it."""
        limit = None if self._settings.epoch_steps is None else self._settings.epoch_steps * self._settings.accumulate
        with Noted("raised by the training data"):
            batches = islice(self._train, limit)
        while True:
            started = time.perf_counter()
            with Noted(f"raised by the training data at batch {self._first_batch} of the epoch"):
                group = list(islice(batches, self._settings.accumulate))
            if not group:
                return
            yield group, time.perf_counter() - started

    @property
    def _first_batch(self) -> int:
        """Number of the next optimizer step's first batch in the epoch, from 1."""
        return (self._epoch.optimizer_steps + len(self._epoch)) * self._settings.accumulate + 1

    def _step(self, batches: list[Batch], data_wait_s: float) -> None:
        """Optimizer step of the host, then the steps of its seeds."""
        started = time.perf_counter()
        training, host = self._training, self._training.host
        training.counters = training.counters.after_step()
        step = training.counters.step
        measure = bool(host.sites) and len(self._epoch) + 1 == self._measured_step
        host.begin_step(epoch=training.counters.epoch, step=step, measure=measure)
        # 1. forward and backward, micro-batch by micro-batch
        sizes = [size_of(batch) for batch in batches]
        parts = self._backward(batches, sizes)
        # 2. clip and step: the host's own parameters, and nobody else's
        norm = self._step_host()
        # 3. seeds: those beside the host learn alone, those in its graph take their own steps
        host.end_step(lr=float(training.optimizer.param_groups[0]["lr"]))
        for site, reason in host.take_frozen().items():
            training.emit(SiteFrozen(site=site, reason=reason))
            training.tell(f"nothing can grow at {site!r} from step {step} on: {reason}; training goes on")
        self._advance_schedule("step")
        # 4. keep the numbers where they are: no transfer here
        means = {name: _weighted(parts, name, sizes) for name in parts[0]} if len(parts) > 1 else parts[0]
        sample = sample_of(batches[0]) if self._settings.telemetry else None
        latency_s = time.perf_counter() - started
        self._epoch.add(
            StepResult(step, means.pop("loss"), norm.detach(), means, sum(sizes), latency_s, data_wait_s, self._first_batch, sample)
        )
        if measure and self._settings.telemetry:
            self._emit_health()

    def _backward(self, batches: list[Batch], sizes: list[int]) -> list[dict[str, Tensor]]:
        """The gradients of the step; each micro-batch's loss and metrics, on the device."""
        training, watch = self._training, self._watch
        objective = self._objective if watch is None else watch.train_objective
        training.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        samples = sum(sizes)
        with nullcontext() if watch is None else watch.begin_step():
            for number, (batch, size) in enumerate(zip(batches, sizes, strict=True), self._first_batch):
                with Noted(f"on batch {number} of the epoch's training data"):
                    losses, metrics = objective(training.host.model, to_device(batch, training.device))
                    loss = losses.mean()
                    (loss * (size / samples)).backward()
                parts.append({"loss": loss.detach(), **{name: value.detach().float().mean() for name, value in metrics.items()}})
        return parts

    def _step_host(self) -> Tensor:
        """The step of the host's own parameters; the norm of their gradient before it was clipped."""
        own, watch = self._training.host.host_parameters(), self._watch
        norm = total_norm(own) if self._settings.clip is None else torch.nn.utils.clip_grad_norm_(own, self._settings.clip)
        if watch is not None:
            watch.before_step()
        self._training.optimizer.step()
        if watch is not None:
            watch.after_step()
        return norm

    def _advance_schedule(self, after: Literal["epoch", "step"]) -> None:
        scheduler = self._training.scheduler
        if self._settings.scheduler_every == after and not isinstance(scheduler, ReduceLROnPlateau | None):
            scheduler.step()

    def _end_span(self) -> str | None:
        """Look at the losses of the span (the one place per span where the CPU waits for the device) and record them."""
        span, progress, factor = self._epoch.end_span(), self._training.progress, self._settings.explosion_factor
        if self._settings.telemetry:
            self._emit_steps(span)
        if self._watch is not None:
            self._find(self._watch.after_span(span.losses))
        first = span.steps[0].step
        for step, loss in enumerate(span.losses, start=first):
            if not math.isfinite(loss):
                return f"loss {loss} at step {step}"
        mean = sum(span.losses) / len(span.losses)
        limit = progress.explosion_above(factor)
        if mean > limit:
            last, before = progress.last_train_loss, progress.first_train_loss
            return (
                f"mean loss {mean:.4g} from step {first} on, above {limit:.4g} (the last good epoch's is {last:.4g}, the first epoch's "
                f"{before:.4g}, trainer.explosion_factor {factor:g})"
            )
        return None

    # The epoch's end

    def _end_epoch(self) -> str | None:
        """Validate, record, adapt, checkpoint: in this order, each written ahead. Return the cause of instability, or None."""
        training = self._training
        training.sink.doing("validating")
        collect_kernels(self._training)
        evaluator = self._evaluator
        if self._watch is not None:
            evaluator = self._watch.evaluator(evaluator)
        elif self._guessing is None and not self._seen.kept:  # It was resumed: guessing is not known to this process.
            evaluator = replace(evaluator, watched=self._seen.objective)
        losses, train = evaluator.losses(parts=is_seed_due(training)), self._epoch.measured
        stable = math.isfinite(losses.mean)
        training.progress = training.progress.after_validation(training.counters.epoch, losses.mean).after_training(
            train.loss, self._epoch.spread
        )
        if stable:
            evaluate_seeds(training, self._evaluator, losses)
        state, epoch_id = self._record_completed(train, losses)
        if not stable:
            return f"validation loss {losses.mean} after epoch {training.counters.epoch}"
        training.sink.doing("adapting")
        applied = adapt(self._training, state, epoch_id, ramp_steps=training.schedule.graft_epochs * self._epoch.optimizer_steps)
        rates = self._learning_rates()
        if isinstance(training.scheduler, ReduceLROnPlateau):
            training.scheduler.step(losses.mean)
        self._advance_schedule("epoch")
        self._find_wiring(rates)
        training.sink.doing("saving")
        if Command.GRAFT in applied:
            save_checkpoint(self._training, "before_grafting")
        elif training.counters.epoch % self._settings.checkpoint_every == 0 or not self._settings.deterministic:
            save_checkpoint(self._training, "due")
        training.sink.doing("step")
        return None

    def _record_completed(self, train: Measured, losses: Losses) -> tuple[SystemState, EventId]:
        training, epoch, validation = self._training, self._epoch, losses.measured
        state = system_state(training, train, validation)
        duration = time.perf_counter() - epoch.started
        completed = EpochCompleted(
            train=train,
            validation=validation,
            learning_rates=self._learning_rates(),
            optimizer_steps=epoch.optimizer_steps,
            digests=state_digests(training),
            system=state,
            duration_s=duration,
            samples_per_s=epoch.samples / duration,
        )
        epoch_id = training.emit(completed)
        return codec.as_stored(completed).system, epoch_id  # The policy decides from what the log has.

    def _learning_rates(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for group in self._training.optimizer.param_groups)

    # Wiring: for people; nothing here influences training

    def _weight_history(self) -> WeightHistory | None:
        host = self._training.host
        own = {id(one) for one in host.host_parameters()}
        named = [(name, one) for name, one in unwrapped(host.model).named_parameters() if id(one) in own]
        return self._harmless.ask(lambda: WeightHistory(named, self._training.optimizer), None)

    def _find_wiring(self, rates: tuple[float, ...]) -> None:
        """Record what the first epoch has shown, and what later ones show of the weights. `rates`: at the epoch's last step."""
        training, watch, history = self._training, self._watch, self._weights
        found, none = list[Finding](), list[Finding]()
        if watch is not None:
            found += [*watch.at_end(), *self._harmless.ask(lambda: none if history is None else list(history.equal()), none)]
            self._watch = None
        if self._guessing is None:
            self._guessing = self._seen.guessing if watch is None else watch.guessing
        counters, progress, now = training.counters, training.progress, fingerprint(training.host.host_parameters())
        weights = self._harmless.ask(lambda: none if history is None else history.after_epoch(rates), none)
        train, first = progress.last_train_loss or 0.0, progress.first_train_loss or 0.0
        if not 0.0 <= train <= _LEARNT * first:  # Where nothing is left to learn nothing needs to change.
            if now == progress.fingerprint and counters.epoch < training.settings.epochs:
                found += unchanged_epoch(rates, self._learning_rates())
            found += weights
        if counters.epoch >= _LEARNING_BY and progress.last_train_loss is not None and progress.best_loss is not None:
            rising = any(map(operator.lt, self._first_rates, self._learning_rates()))
            losses = (progress.best_loss, *progress.validation_losses)
            found += learns_nothing(train, losses, self._guessing, counters.step, rising=rising)
        self._find(found)
        training.progress = progress.model_copy(update={"fingerprint": now})

    def _find(self, findings: Iterable[Finding]) -> None:
        """Record each finding whose check has found nothing before in this run, and tell it in a line.

        A training that catches up records those that the log has: its process has not seen the epochs before its checkpoint.
        """
        training = self._training
        logged = training.sink.pending_facts
        events = [event_of(finding) for finding in findings]
        if logged:
            here = takewhile(lambda one: one.type == WiringFound.KIND and one.step == training.counters.step, logged)
            events = [codec.decode_as(one, WiringFound) for one in here]
        for event in events:
            if event.check in training.counters.wiring:
                continue
            training.counters = training.counters.model_copy(update={"wiring": (*training.counters.wiring, event.check)})
            training.emit(event)
            training.sink.commit()
            training.tell(f"wiring, {event.severity}: {in_words(event)}")

    # Telemetry: for people and detectors; nothing here influences training

    def _emit_health(self) -> None:
        training = self._training
        sample = training.host.measure_health()
        if sample is None:
            return
        progress, ready, groups = training.progress, ready_seeds(training), self._groups
        training.measure(
            SeedHealthMeasured,
            lambda: SeedHealthMeasured(
                health=sample.columns(ready),
                last_adaptation_step=progress.last_adaptation_step,
                last_adaptation=progress.last_adaptation,
                groups=groups,
            ),
        )

    @cached_property
    def _groups(self) -> dict[str, int]:
        """The optimizer's parameter group of each site's layer."""
        number_of = {id(one): number for number, group in enumerate(self._training.optimizer.param_groups) for one in group["params"]}
        layers = dict(plainly_named(self._training.host.model))
        found = {site.name: [number_of.get(id(one)) for one in layers[site.name].parameters()] for site in self._training.host.sites}
        return {site: known[0] for site, numbers in found.items() if (known := [one for one in numbers if one is not None])}

    def _emit_steps(self, span: StepSpan) -> None:
        rates, progress = self._learning_rates(), self._training.progress
        live = sum(seed.stage in LIVE for seed in self._training.host.seeds.values())
        self._training.measure(
            StepsMeasured,
            lambda: span.record(
                learning_rates=rates,
                live_seeds=live,
                last_adaptation_step=progress.last_adaptation_step,
                last_adaptation=progress.last_adaptation,
            ),
        )

    # Ends

    def _roll_back(self, trouble: str) -> None:
        counters = self._training.counters
        if counters.rollbacks >= self._settings.max_rollbacks:
            raise UnstableError(
                f"epoch {counters.epoch}, step {counters.step}: {trouble}; "
                f"expected at most {self._settings.max_rollbacks} rollbacks in a run"
            )
        roll_back(self._training, trouble)
        submit_waiting(self._training)


def _weighted(parts: list[dict[str, Tensor]], name: str, sizes: list[int]) -> Tensor:
    """The mean of a number over micro-batches, each weighted by its samples."""
    return torch.stack([part[name] * size for part, size in zip(parts, sizes, strict=True)]).sum() / sum(sizes)
