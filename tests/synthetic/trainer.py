"""The made-up trainer: goes through the script, and asks the real gate and the real lifecycle what becomes of it."""

import hashlib
from collections.abc import Callable
from functools import partial
from threading import Event as Signal

from esper.events.digests import checkpoint_digest
from esper.events.envelope import EventId
from esper.events.fields import Event
from esper.events.kinds.control import Adaptation, Command, CommandApplied, CommandFailed, CommandIssued, DecisionRefused, FieldReported
from esper.events.kinds.epoch import EpochCompleted, Measured, StateDigests, SystemState
from esper.events.kinds.kernels import BlueprintSubmitted, KernelCharacterized, KernelCompiled, KernelCompileFailed
from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, SeedRow, Stage
from esper.events.kinds.run import BlamedSeed, CheckpointPruned, CheckpointSaved, RunFinished, RunRolledBack
from esper.events.kinds.telemetry import SeedHealthMeasured, StepsMeasured
from esper.folds.gate import Refused, after, judge, view_at
from esper.oona.emitter import Emitter
from tests.synthetic.columns import system
from tests.synthetic.memory import Memory
from tests.synthetic.numbers import accuracy, blueprint_key, checkpoint_files, digest, loss
from tests.synthetic.script import (
    DROPPING_EPOCH,
    EVALUATED,
    FAILING_KERNEL,
    FAILING_LOAD,
    FIRST,
    GATE,
    NOTHING,
    ROLLBACK_EPOCH,
    ROLLBACK_TO,
    SCRIPT,
    SITES,
    STEPS,
    Slot,
    Wish,
    started,
)
from tests.synthetic.seeds import decision, empty, moved, order, replaced, transition
from tests.synthetic.telemetry import health_measured, steps_measured


class Trainer:
    """Trains epoch by epoch into the log of `emitter`."""

    def __init__(self, emitter: Emitter, *, telemetry: bool, planned: int) -> None:
        self.emitter, self.telemetry = emitter, telemetry
        self.memory = Memory(planned)

    def _say(self, event: Event, cause: EventId | None = None) -> EventId:
        return self.emitter.emit(event, epoch=self.memory.epoch, step=self.memory.step, cause=cause)

    def start(self, task: str) -> None:
        """Says how the run begins, and saves a checkpoint."""
        slots = [(site.name, seed) for site in SITES for seed in range(site.slots)]
        self.memory.seeds = {slot: empty(slot, Stage.DORMANT, 0) for slot in slots}
        self._say(started(self.memory.planned, task))
        self._save("start")

    def train(self, epoch: int) -> None:
        """One epoch, with what is decided at its end; or a rollback."""
        self.memory.epoch = epoch
        self._steps()
        if epoch == ROLLBACK_EPOCH:
            self._roll_back()
            return
        for slot, row in self.memory.seeds.items():
            if row.stage is Stage.GERMINATED and slot not in self.memory.kernels:
                self._collect(slot, row)
        for slot in EVALUATED.get(epoch, ()):
            self._evaluate(slot)
        self._complete()

    def _steps(self) -> None:
        first, self.memory.step = self.memory.step + 1, self.memory.step + STEPS
        span = range(first, self.memory.step + 1)
        poisoned = self.memory.epoch == ROLLBACK_EPOCH
        if self.telemetry:
            if self.memory.epoch == DROPPING_EPOCH:
                self._drop(first)
            else:
                self._measure(StepsMeasured, partial(steps_measured, self.memory, span, poisoned=poisoned), self.memory.step)
            health = health_measured(self.memory)
            self._measure(SeedHealthMeasured, lambda: health, self.memory.step)

    def _measure(self, kind: type[Event], build: Callable[[], Event], step: int) -> None:
        self.emitter.measure(kind, build, epoch=self.memory.epoch, step=step)

    def _drop(self, first: int) -> None:
        """Measures step by step while the writer is held up, until its buffer is full: what comes then is dropped, by the real rule."""
        held, release = Signal(), Signal()

        def hold() -> StepsMeasured:
            held.set()
            release.wait()
            return steps_measured(self.memory, range(first, first + 1))

        self.emitter.commit()
        self._measure(StepsMeasured, hold, first)
        held.wait()
        for step in range(first + 1, first + STEPS):
            span = range(step, step + 1)
            self._measure(StepsMeasured, partial(steps_measured, self.memory, span), step)
        release.set()
        self.emitter.commit()

    def _collect(self, slot: Slot, row: SeedRow) -> None:
        assert row.life is not None
        assert row.blueprint is not None
        site, seed = slot
        key = blueprint_key(row.blueprint, site)
        if slot == FAILING_KERNEL:
            self._say(KernelCompileFailed(key=key, site=site, seed=seed, life=row.life, error="two equal forwards differ"))
            self.memory.tallies["failed", site] += 1
            return
        self.memory.kernels.add(slot)
        compiled = KernelCompiled(key=key, kernel=key[:16], site=site, seed=seed, life=row.life, duration_ms=2.0, from_cache=False)
        self._say(
            KernelCharacterized(
                key=key, kernel=key[:16], parameters=570, flops=1140, latency_ms=0.05, memory_bytes=2280, checks=("zero delta at birth",)
            ),
            cause=self._say(compiled),
        )

    def _evaluate(self, slot: Slot) -> None:
        row = self.memory.seeds[slot]
        assert row.life is not None
        shadow = row.stage is Stage.TRAINING
        evaluation = Evaluation(
            epoch=self.memory.epoch,
            alpha=0.5 if shadow else 1.0,
            n=350,
            k=3 if shadow else 1,
            look=1,
            mean=0.0018 if shadow else 0.0222,
            standard_error=0.00044 if shadow else 0.00247,
            loss_without=0.2733,
            loss_with=0.2715 if shadow else 0.2511,
        )
        event = SeedEvaluated(
            site=row.site,
            seed=row.seed,
            life=row.life,
            purpose="shadow" if shadow else "evaluation",
            evaluation=evaluation,
            metrics_without={"accuracy": 0.94},
            metrics_with={"accuracy": 0.9425 if shadow else 0.955},
        )
        self.memory.evaluations[slot] = (self._say(event), evaluation)

    def _complete(self) -> None:
        self.memory.losses.append(loss(self.memory.epoch))
        state = system(self.memory)
        event = EpochCompleted(
            train=Measured(loss=state.train_loss, metrics=state.train_metrics, samples=1097),
            validation=Measured(loss=state.validation_loss, metrics=state.validation_metrics, samples=350),
            learning_rates=(3e-3,),
            optimizer_steps=STEPS,
            digests=StateDigests(
                parameters=digest("p", self.memory.epoch), optimizer=digest("o", self.memory.epoch), random=digest("r", self.memory.epoch)
            ),
            system=state,
            duration_s=0.02,
            samples_per_s=54850.0,
        )
        self._adapt(self._say(event), state)
        if self.memory.epoch % 4 == 0:
            self._save("before_grafting" if any(wish.adaptation is Adaptation.GRAFT for wish in SCRIPT[self.memory.epoch]) else "due")

    def _adapt(self, completed: EventId, state: SystemState) -> None:
        earlier = [epoch for epoch in self.memory.germinated if epoch < self.memory.epoch]
        view = view_at(state, completed, max(earlier, default=None))
        orders: list[tuple[EventId, CommandIssued, Wish]] = []
        for wish in SCRIPT.get(self.memory.epoch, [NOTHING]):
            decided = decision(self.memory, wish, completed)
            made = self._say(decided, cause=completed)
            verdict = judge(decided, view, GATE)
            view = after(view, decided, verdict, GATE)
            if isinstance(verdict, Refused):
                self._say(DecisionRefused(rule=verdict.rule, reason=verdict.reason), cause=made)
                self.memory.tallies["refused", wish.site or ""] += 1
            elif verdict is not None:
                issued = order(self.memory, verdict, wish)
                orders.append((self._say(issued, cause=made), issued, wish))
        self.emitter.commit()
        for identity, issued, wish in orders:
            self._apply(identity, issued, wish)
        self.emitter.commit()

    def _apply(self, identity: EventId, issued: CommandIssued, wish: Wish) -> None:
        slot = (issued.site, issued.seed)
        if issued.command is Command.LOAD and (self.memory.epoch, *slot) == FAILING_LOAD:
            failed = CommandFailed(command=issued.command, site=issued.site, seed=issued.seed, error="the kernel's file is gone")
            self._say(failed, cause=identity)
            self.memory.tallies["failed", issued.site] += 1
            return
        before = self.memory.seeds[slot]
        self.memory.seeds[slot] = row = moved(self.memory, before, issued)
        applied = self._say(CommandApplied(command=issued.command, site=issued.site, seed=issued.seed), cause=identity)
        told = self._say(transition(before, row, wish.reason), cause=applied)
        self.memory.last_adaptation = self.memory.step
        if issued.command is Command.GERMINATE:
            self._submit(row, told)
        if row.stage in (Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED):
            self._report(row, told)

    def _submit(self, row: SeedRow, cause: EventId) -> None:
        assert row.blueprint is not None
        assert row.life is not None
        key = blueprint_key(row.blueprint, row.site)
        kind, _, hyper = row.blueprint.partition(":")
        spec = f'{{"hyper":{hyper},"kind":"{kind}"}}'
        self._say(BlueprintSubmitted(blueprint=row.blueprint, key=key, spec=spec, site=row.site, seed=row.seed, life=row.life), cause=cause)

    def _report(self, row: SeedRow, cause: EventId) -> None:
        assert row.blueprint is not None
        report = FieldReported.model_validate(
            {
                "blueprint": row.blueprint,
                "kernel": row.kernel,
                "site": row.site,
                "seed": row.seed,
                "life": row.life,
                "metric_before": self.memory.losses[row.life - 1] if row.life else None,
                "metric_after": self.memory.losses[-1],
                "outcome": row.stage.value,
            }
        )
        self.memory.reports.append(report)
        self._say(report, cause=cause)

    def _save(self, reason: str) -> None:
        self.memory.saved = dict(self.memory.seeds)
        name, files = f"epoch-{self.memory.epoch:06d}", checkpoint_files(self.memory.epoch)
        tensors_sha256 = hashlib.sha256(files["tensors.safetensors"]).hexdigest()
        self._say(
            CheckpointSaved.model_validate(
                {
                    "checkpoint": name,
                    "digest": checkpoint_digest(files["manifest.json"], tensors_sha256),
                    "size_bytes": 20480,
                    "reason": reason,
                    "duration_s": 0.009,
                }
            )
        )
        if self.memory.epoch >= 8:
            self._say(CheckpointPruned(checkpoint=f"epoch-{self.memory.epoch - 8:06d}", reason="the newest 2 are kept"))
        self.emitter.commit()

    def _roll_back(self) -> None:
        blamed = (FIRST, 0)
        later = self.memory.epoch - ROLLBACK_TO
        self.memory.seeds = {slot: replaced(row, since_epoch=row.since_epoch + later) for slot, row in self.memory.saved.items()} | {
            blamed: self.memory.seeds[blamed]
        }
        self.memory.kernels = {slot for slot, row in self.memory.seeds.items() if row.kernel is not None}
        rolled_back = RunRolledBack(
            from_epoch=self.memory.epoch,
            to_epoch=ROLLBACK_TO,
            checkpoint=f"epoch-{ROLLBACK_TO:06d}",
            reason="the loss is not finite: NaN",
            blamed=BlamedSeed(site=FIRST, seed=0),
            seeds=tuple(self.memory.seeds.values()),
        )
        cause = self._say(rolled_back)
        before = self.memory.seeds[blamed]
        self.memory.seeds[blamed] = row = replaced(before, stage=Stage.ROLLED_BACK, since_epoch=self.memory.epoch)
        self._report(row, self._say(transition(before, row, "the loss was not finite after its graft"), cause=cause))
        self.emitter.commit()

    def finish(self) -> None:
        """Says that the run has ended."""
        tails = self.emitter.tails(step=self.memory.step, epoch=self.memory.epoch)
        metrics = {"validation_loss": self.memory.losses[-1], "validation_accuracy": accuracy(self.memory.epoch)}
        self._say(
            RunFinished(
                metrics=metrics,
                model_digest=digest("p", self.memory.epoch),
                parameters=self.memory.parameters(),
                stopped_early=False,
                tails=tails,
            )
        )
