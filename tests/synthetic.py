"""A plausible run, written through the real emitter by the real gate and lifecycle, with made-up numbers and no torch.

Fourteen epochs over two sites: a refusal for low urgency and one by the cap, a germination and a race of three, a load that fails and is
tried again, a graft, a cancelled and a culled candidate, a fossilised seed, a kernel that does not compile, dropped samples, a step whose
loss is NaN, and the rollback that follows: it takes one life back altogether and blames the grafted seed. What is decided is scripted
(`SCRIPT`); whether it passes is the gate's. Readers, folds, checks and views are tested against it.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event as Signal
from typing import NamedTuple

from pydantic import JsonValue

from esper.events.envelope import EventId, RunId
from esper.events.fields import Event
from esper.events.kinds.control import (
    Adaptation,
    Command,
    CommandApplied,
    CommandFailed,
    CommandIssued,
    DecisionMade,
    DecisionRefused,
    FieldReported,
)
from esper.events.kinds.epoch import (
    EpochCompleted,
    FieldReportColumns,
    GateSettings,
    Measured,
    SeedColumns,
    SiteColumns,
    StateDigests,
    SystemState,
)
from esper.events.kinds.kernels import BlueprintSubmitted, KernelCharacterized, KernelCompiled, KernelCompileFailed
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import (
    BlamedSeed,
    CheckpointPruned,
    CheckpointSaved,
    Code,
    DataFingerprint,
    Determinism,
    Hardware,
    RunFinished,
    RunRolledBack,
    RunStarted,
    Site,
)
from esper.events.kinds.telemetry import HealthColumns, SeedHealthMeasured, StepColumns, StepsMeasured
from esper.folds.gate import Passed, Refused, after, judge, view_at
from esper.folds.lifecycle import IN_TASK_GRAPH, LIVE, next_stage
from esper.oona.directory import Directory, new_run_id
from esper.oona.emitter import Emitter, Telemetry

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RUN = new_run_id(BEGAN, bytes.fromhex("000000000000007c21ab"))
EPOCHS = 14
STEPS = 18
DROPPING_EPOCH, CAPACITY = 6, 14
FIRST, SECOND = "hidden.0", "hidden.2"
GATE = GateSettings(cooldown=3, embargo=2)
ROLLBACK_EPOCH, ROLLBACK_TO = 11, 8
SITES = (
    Site(name=FIRST, layer="Linear 64->6", inputs=64, outputs=6, slots=4, blueprints=("mlp:24", "lowrank:8", "signal:12")),
    Site(name=SECOND, layer="Linear 6->10", inputs=6, outputs=10, slots=2, blueprints=("mlp:24", "lowrank:8")),
)
Slot = tuple[str, int]


class Wish(NamedTuple):
    """A scripted decision."""

    adaptation: Adaptation
    site: str | None
    seed: int | None
    reason: str
    confidence: float = 1.0
    urgency: float = 1.0
    blueprint: str | None = None


def _germinate(site: str, seed: int, blueprint: str, urgency: float = 0.9) -> Wish:
    reason = "best of 5 improved 3.1 % < 15 %" if urgency > 0.6 else "best of 5 improved 13.5 % < 15 %"
    return Wish(Adaptation.GERMINATE, site, seed, reason, 0.99, urgency, blueprint)


def _advance(site: str, *seeds: int) -> list[Wish]:
    return [Wish(Adaptation.ADVANCE, site, seed, "the stage's work is done") for seed in seeds]


def _graft(site: str, seed: int) -> Wish:
    return Wish(Adaptation.GRAFT, site, seed, "0.2715 against 0.2733 (-0.7 %), n 350, z 4.1", 0.9999, 1.0)


def _fossilize(site: str, seed: int) -> Wish:
    return Wish(Adaptation.FOSSILIZE, site, seed, "0.2511 against 0.2733 (-8.1 %), n 350, z 9.0", 1.0, 1.0)


def _cancel(site: str, seed: int, reason: str) -> Wish:
    return Wish(Adaptation.CANCEL, site, seed, reason)


NOTHING = Wish(Adaptation.NONE, None, None, "nothing to do: 2 of the 6 validation losses that show a plateau", 0.0, 0.0)
NOT_FINITE = "a value that is not finite was made by the seed"
SCRIPT: dict[int, list[Wish]] = {
    1: [_germinate(SECOND, 0, "lowrank:8")],
    2: _advance(SECOND, 0, 0),
    3: [_germinate(FIRST, 0, "mlp:24", urgency=0.55)],
    4: [
        _graft(SECOND, 0),
        _germinate(FIRST, 0, "mlp:24"),
        _germinate(FIRST, 1, "lowrank:8"),
        _germinate(FIRST, 2, "signal:12"),
    ],
    5: _advance(FIRST, 0, 0, 1),
    6: [*_advance(SECOND, 0), *_advance(FIRST, 1, 1)],
    7: [*_advance(SECOND, 0), _germinate(FIRST, 2, "signal:12"), _germinate(FIRST, 3, "mlp:24")],
    8: [_graft(FIRST, 0), Wish(Adaptation.CULL, FIRST, 1, NOT_FINITE), *_advance(SECOND, 0), *_advance(FIRST, 3, 3)],
    9: [_cancel(FIRST, 2, "its kernel did not compile"), _cancel(FIRST, 3, "s0 helped more (-0.7 % against -0.3 %)")],
    10: [_fossilize(SECOND, 0), _germinate(SECOND, 1, "mlp:24"), *_advance(FIRST, 1, 2, 3)],
    12: [_fossilize(SECOND, 0), _cancel(FIRST, 2, "its kernel did not compile"), *_advance(FIRST, 1)],
    13: [_germinate(FIRST, 1, "mlp:24", urgency=math.nan)],
}
FAILING_LOAD = (5, FIRST, 1)
FAILING_KERNEL = (FIRST, 2)
EVALUATED: dict[int, tuple[Slot, ...]] = {
    4: ((SECOND, 0),),
    8: ((FIRST, 0), (SECOND, 0)),
    9: ((FIRST, 3),),
    10: ((SECOND, 0),),
    12: ((SECOND, 0),),
}


def blueprint_key(blueprint: str, site: str) -> str:
    """A made-up digest that stands for a compiled blueprint at a site."""
    return hashlib.sha256(f"{blueprint}@{site}".encode()).hexdigest()


def ticking(
    start: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC), tick: timedelta = timedelta(milliseconds=25)
) -> Callable[[], datetime]:
    """A clock that goes on by `tick` each time it is read."""
    now = start

    def read() -> datetime:
        nonlocal now
        now += tick
        return now

    return read


def write_run(
    directory: Directory,
    *,
    run: RunId = RUN,
    clock: Callable[[], datetime] | None = None,
    telemetry: bool = True,
    until_epoch: int = EPOCHS,
    finish: bool = True,
    planned: int = EPOCHS,
    task: str = "digits",
) -> RunId:
    """Writes the run (or its first `until_epoch` epochs) into `directory` and returns its id; `finish` ends and seals it.

    `planned` is how many epochs the run says it will have, `task` what it says it trains.
    """
    log = directory.create(run)
    emitter = Emitter(log, run, clock=clock or ticking(), capacity=CAPACITY)
    trainer = _Trainer(emitter, telemetry, planned)
    trainer.start(task)
    for epoch in range(1, until_epoch + 1):
        trainer.train(epoch)
    summary = trainer.finish() if finish else None
    emitter.close(seal=summary)
    log.close()
    return run


@dataclass
class _Trainer:
    emitter: Emitter
    telemetry: bool
    planned: int
    epoch: int = 0
    step: int = 0
    seeds: dict[Slot, SeedRow] = field(default_factory=dict)
    saved: dict[Slot, SeedRow] = field(default_factory=dict)
    evaluations: dict[Slot, tuple[EventId, int, SeedEvaluated]] = field(default_factory=dict)
    reports: list[FieldReported] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    kernels: set[Slot] = field(default_factory=set)
    germinated: list[int] = field(default_factory=list)
    tallies: Counter[tuple[str, str]] = field(default_factory=Counter)
    last_adaptation: int | None = None

    def say(self, event: Event, cause: EventId | None = None) -> EventId:
        identity = self.emitter.emit(event, epoch=self.epoch, step=self.step, cause=cause)
        assert identity is not None
        return identity

    def start(self, task: str) -> None:
        slots = [(site.name, seed) for site in SITES for seed in range(site.slots)]
        self.seeds = {slot: _row(slot, Stage.DORMANT, 0) for slot in slots}
        self.say(started(self.planned, task))
        self.save("start")

    def train(self, epoch: int) -> None:
        self.epoch = epoch
        self.steps()
        if epoch == ROLLBACK_EPOCH:
            self.roll_back()
            return
        for slot, row in self.seeds.items():
            if row.stage is Stage.GERMINATED and slot not in self.kernels:
                self.collect(slot, row)
        for slot in EVALUATED.get(epoch, ()):
            self.evaluate(slot)
        self.complete()

    def steps(self) -> None:
        first, self.step = self.step + 1, self.step + STEPS
        span = range(first, self.step + 1)
        poisoned = self.epoch == ROLLBACK_EPOCH
        if self.telemetry:
            if self.epoch == DROPPING_EPOCH:
                self.drop(first)
            else:
                self.emitter.emit(Telemetry(StepsMeasured, lambda: self.measured(span, poisoned)), epoch=self.epoch, step=self.step)
            health = self.health()
            self.emitter.emit(Telemetry(SeedHealthMeasured, lambda: health), epoch=self.epoch, step=self.step)

    def drop(self, first: int) -> None:
        """Measures step by step while the writer is held up, until its buffer is full: what comes then is dropped, by the real rule."""
        held, release = Signal(), Signal()

        def hold() -> StepsMeasured:
            held.set()
            release.wait()
            return self.measured(range(first, first + 1), False)

        self.emitter.commit()
        self.emitter.emit(Telemetry(StepsMeasured, hold), epoch=self.epoch, step=first)
        held.wait()
        for step in range(first + 1, first + STEPS):
            span = range(step, step + 1)
            self.emitter.emit(Telemetry(StepsMeasured, partial(self.measured, span, False)), epoch=self.epoch, step=step)
        release.set()
        self.emitter.commit()

    def measured(self, span: range, poisoned: bool) -> StepsMeasured:
        losses = [_loss(self.epoch) + 0.01 * math.sin(step) for step in span]
        losses[-1] = math.nan if poisoned else losses[-1]
        columns = StepColumns(
            step=tuple(span),
            loss=tuple(losses),
            gradient_norm=tuple(0.5 for _ in span),
            step_latency_ms=tuple(0.8 for _ in span),
            data_wait_ms=tuple(0.024 for _ in span),
        )
        return StepsMeasured(
            steps=columns,
            metrics={},
            learning_rates=(3e-3,),
            loss_scale=None,
            skipped_steps=0,
            live_seeds=sum(row.stage in LIVE for row in self.seeds.values()),
            last_adaptation_step=self.last_adaptation,
            samples_per_s=80000.0,
            memory_bytes=None,
        )

    def health(self) -> SeedHealthMeasured:
        rows: list[tuple[str, SeedRow | None]] = [(site.name, None) for site in SITES]
        rows += [(row.site, row) for row in self.seeds.values() if row.stage in LIVE]
        size = len(rows)
        columns = HealthColumns(
            site=tuple(site for site, _ in rows),
            seed=tuple(row.seed if row else None for _, row in rows),
            chunk=(0,) * size,
            stage=tuple(row.stage if row else None for _, row in rows),
            activation_variance=(0.5,) * size,
            gradient_variance=(0.25,) * size,
            dead_neuron_ratio=(0.0,) * size,
            avg_correlation=(0.125,) * size,
            latency_ms=(None,) * size,
            errors=(0,) * size,
            recovering=(False,) * size,
            alpha=tuple(self.alpha(row) if row else None for _, row in rows),
            ready=tuple(self.ready(row) if row else None for _, row in rows),
            health_score=tuple(0.75 if row else None for _, row in rows),
        )
        return SeedHealthMeasured(health=columns, last_adaptation_step=self.last_adaptation)

    def collect(self, slot: Slot, row: SeedRow) -> None:
        assert row.life is not None
        assert row.blueprint is not None
        site, seed = slot
        key = blueprint_key(row.blueprint, site)
        if slot == FAILING_KERNEL:
            self.say(KernelCompileFailed(key=key, site=site, seed=seed, life=row.life, error="two equal forwards differ"))
            self.tallies["failed", site] += 1
            return
        self.kernels.add(slot)
        compiled = KernelCompiled(key=key, kernel=key[:16], site=site, seed=seed, life=row.life, duration_ms=2.0, from_cache=False)
        self.say(
            KernelCharacterized(
                key=key, kernel=key[:16], parameters=570, flops=1140, latency_ms=0.05, memory_bytes=2280, checks=("zero delta at birth",)
            ),
            cause=self.say(compiled),
        )

    def evaluate(self, slot: Slot) -> None:
        row = self.seeds[slot]
        assert row.life is not None
        shadow = row.stage is Stage.TRAINING
        event = SeedEvaluated(
            site=row.site,
            seed=row.seed,
            life=row.life,
            purpose="shadow" if shadow else "evaluation",
            alpha=0.5 if shadow else 1.0,
            n=350,
            k=3 if shadow else 1,
            mean=0.0018 if shadow else 0.0222,
            standard_error=0.00044 if shadow else 0.00247,
            loss_without=0.2733,
            loss_with=0.2715 if shadow else 0.2511,
            metrics_without={"accuracy": 0.94},
            metrics_with={"accuracy": 0.9425 if shadow else 0.955},
        )
        self.evaluations[slot] = (self.say(event), self.epoch, event)

    def complete(self) -> None:
        loss = _loss(self.epoch)
        self.losses.append(loss)
        state = self.system(loss)
        event = EpochCompleted(
            train=Measured(loss=state.train_loss, metrics=state.train_metrics, samples=1097),
            validation=Measured(loss=loss, metrics=state.validation_metrics, samples=350),
            learning_rates=(3e-3,),
            optimizer_steps=STEPS,
            skipped_steps=0,
            digests=StateDigests(parameters=_digest("p", self.epoch), optimizer=_digest("o", self.epoch), random=_digest("r", self.epoch)),
            system=state,
            duration_s=0.02,
            samples_per_s=54850.0,
        )
        self.adapt(self.say(event), state)
        if self.epoch % 4 == 0:
            self.save("before_grafting" if any(wish.adaptation is Adaptation.GRAFT for wish in SCRIPT[self.epoch]) else "due")

    def adapt(self, completed: EventId, state: SystemState) -> None:
        earlier = [epoch for epoch in self.germinated if epoch < self.epoch]
        view = view_at(state, completed, max(earlier, default=None))
        orders: list[tuple[EventId, CommandIssued, Wish]] = []
        for wish in SCRIPT.get(self.epoch, [NOTHING]):
            decision = self.decision(wish, completed)
            made = self.say(decision, cause=completed)
            verdict = judge(decision, view, GATE)
            view = after(view, decision, verdict, GATE)
            if isinstance(verdict, Refused):
                self.say(DecisionRefused(rule=verdict.rule, reason=verdict.reason), cause=made)
                self.tallies["refused", wish.site or ""] += 1
            elif isinstance(verdict, Passed):
                issued = self.command(verdict.command, wish)
                orders.append((self.say(issued, cause=made), issued, wish))
        self.emitter.commit()
        for identity, issued, wish in orders:
            self.apply(identity, issued, wish)
        self.emitter.commit()

    def decision(self, wish: Wish, completed: EventId) -> DecisionMade:
        slot = (wish.site or "", wish.seed or 0)
        fresh = slot in self.evaluations and self.evaluations[slot][1] == self.epoch
        return DecisionMade(
            adaptation=wish.adaptation,
            site=wish.site,
            seed=wish.seed,
            blueprint=wish.blueprint or (self.seeds[slot].blueprint if wish.site else None),
            confidence=wish.confidence,
            urgency=wish.urgency,
            reason=wish.reason,
            evidence=(completed, self.evaluations[slot][0]) if fresh else (completed,),
        )

    def command(self, command: Command, wish: Wish) -> CommandIssued:
        assert wish.site is not None
        assert wish.seed is not None
        row = self.seeds[wish.site, wish.seed]
        blueprint = wish.blueprint or row.blueprint
        return CommandIssued(
            command=command,
            site=wish.site,
            seed=wish.seed,
            blueprint=blueprint,
            kernel=blueprint_key(blueprint, wish.site)[:16] if blueprint and (wish.site, wish.seed) in self.kernels else row.kernel,
            strategy="linear" if command is Command.GRAFT else None,
            expires_epoch=self.epoch,
        )

    def apply(self, identity: EventId, issued: CommandIssued, wish: Wish) -> None:
        slot = (issued.site, issued.seed)
        if issued.command is Command.LOAD and (self.epoch, *slot) == FAILING_LOAD:
            failed = CommandFailed(command=issued.command, site=issued.site, seed=issued.seed, error="the kernel's file is gone")
            self.say(failed, cause=identity)
            self.tallies["failed", issued.site] += 1
            return
        before = self.seeds[slot]
        self.seeds[slot] = row = self.moved(before, issued)
        applied = self.say(CommandApplied(command=issued.command, site=issued.site, seed=issued.seed), cause=identity)
        moved = self.say(_transition(before, row, wish.reason), cause=applied)
        self.last_adaptation = self.step
        if issued.command is Command.GERMINATE:
            self.submit(row, moved)
        if row.stage in (Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED):
            self.report(row, moved)

    def moved(self, row: SeedRow, issued: CommandIssued) -> SeedRow:
        stage = next_stage(row.stage, issued.command)
        slot = (row.site, row.seed)
        if issued.command is Command.GERMINATE:
            self.germinated.append(self.epoch)
            return replaced(_row(slot, stage, self.epoch), life=self.epoch, blueprint=issued.blueprint)
        if issued.command is Command.RESET:
            self.evaluations.pop(slot, None)
            self.kernels.discard(slot)
            return _row(slot, stage, self.epoch)
        embargo = self.epoch + GATE.embargo if stage is Stage.CULLED else None
        return replaced(row, stage=stage, since_epoch=self.epoch, kernel=issued.kernel or row.kernel, embargo_until=embargo)

    def submit(self, row: SeedRow, cause: EventId) -> None:
        assert row.blueprint is not None
        assert row.life is not None
        key = blueprint_key(row.blueprint, row.site)
        kind, _, hyper = row.blueprint.partition(":")
        spec = f'{{"hyper":{hyper},"kind":"{kind}"}}'
        self.say(BlueprintSubmitted(blueprint=row.blueprint, key=key, spec=spec, site=row.site, seed=row.seed, life=row.life), cause=cause)

    def report(self, row: SeedRow, cause: EventId) -> None:
        assert row.blueprint is not None
        report = FieldReported.model_validate(
            {
                "blueprint": row.blueprint,
                "kernel": row.kernel,
                "site": row.site,
                "seed": row.seed,
                "life": row.life,
                "metric_before": self.losses[row.life - 1] if row.life else None,
                "metric_after": self.losses[-1],
                "outcome": row.stage.value,
            }
        )
        self.reports.append(report)
        self.say(report, cause=cause)

    def save(self, reason: str) -> None:
        self.saved = dict(self.seeds)
        name = f"epoch-{self.epoch:06d}"
        self.say(
            CheckpointSaved.model_validate(
                {
                    "checkpoint": name,
                    "digest": _digest("checkpoint", self.epoch),
                    "size_bytes": 20480,
                    "reason": reason,
                    "duration_s": 0.009,
                }
            )
        )
        if self.epoch >= 8:
            self.say(CheckpointPruned(checkpoint=f"epoch-{self.epoch - 8:06d}", reason="the newest 2 are kept"))
        self.emitter.commit()

    def roll_back(self) -> None:
        blamed = (FIRST, 0)
        later = self.epoch - ROLLBACK_TO
        self.seeds = {slot: replaced(row, since_epoch=row.since_epoch + later) for slot, row in self.saved.items()} | {
            blamed: self.seeds[blamed]
        }
        self.kernels = {slot for slot, row in self.seeds.items() if row.kernel is not None}
        rolled_back = RunRolledBack(
            from_epoch=self.epoch,
            to_epoch=ROLLBACK_TO,
            checkpoint=f"epoch-{ROLLBACK_TO:06d}",
            reason="the loss is not finite: NaN",
            blamed=BlamedSeed(site=FIRST, seed=0),
            seeds=tuple(self.seeds.values()),
        )
        cause = self.say(rolled_back)
        before = self.seeds[blamed]
        self.seeds[blamed] = row = replaced(before, stage=Stage.ROLLED_BACK, since_epoch=self.epoch)
        self.report(row, self.say(_transition(before, row, "the loss was not finite after its graft"), cause=cause))
        self.emitter.commit()

    def finish(self) -> dict[str, JsonValue]:
        tails = self.emitter.tails(step=self.step, epoch=self.epoch)
        metrics = {"loss": self.losses[-1], "accuracy": _accuracy(self.epoch)}
        self.say(
            RunFinished(
                metrics=metrics, model_digest=_digest("p", self.epoch), parameters=self.parameters(), stopped_early=False, tails=tails
            )
        )
        self.emitter.commit()
        summary: dict[str, JsonValue] = {"validation_loss": self.losses[-1], "validation_accuracy": _accuracy(self.epoch)}
        return {"status": "finished", "task": "digits", "epochs": self.epoch, "parameters": self.parameters(), "metrics": summary}

    def parameters(self) -> int:
        return 460 + 570 * sum(row.stage in IN_TASK_GRAPH for row in self.seeds.values())

    def alpha(self, row: SeedRow) -> float | None:
        if row.stage is Stage.GRAFTING:
            return round((self.epoch - row.since_epoch) / 3, 4)
        return 1.0 if row.stage in IN_TASK_GRAPH else None

    def ready(self, row: SeedRow) -> bool | None:
        match row.stage:
            case Stage.DORMANT:
                return None
            case Stage.GERMINATED:
                return (row.site, row.seed) in self.kernels
            case Stage.CULLED:
                return row.embargo_until is None or self.epoch >= row.embargo_until
            case Stage.FOSSILIZED | Stage.ROLLED_BACK | Stage.FINE_TUNING:
                return False
            case Stage.TRAINING | Stage.GRAFTING:
                return self.epoch - row.since_epoch >= 2
            case _:
                return True

    def system(self, loss: float) -> SystemState:
        best = min(self.losses)
        germinations = len(set(self.germinated))
        return SystemState(
            epoch=self.epoch,
            epochs_planned=self.planned,
            train_loss=loss - 0.027,
            train_metrics={"accuracy": _accuracy(self.epoch) + 0.02},
            validation_loss=loss,
            validation_metrics={"accuracy": _accuracy(self.epoch)},
            validation_losses=tuple(self.losses),
            best_loss=best,
            best_epoch=self.epoch,
            epochs_since_improvement=0,
            parameters=self.parameters(),
            parameters_limit=4000,
            germinations=germinations,
            stages={stage: sum(row.stage is stage for row in self.seeds.values()) for stage in Stage},
            sites=self.sites(),
            seeds=self.columns(),
            field_reports=self.reported(),
            gate=GATE,
        )

    def sites(self) -> SiteColumns:
        size = len(SITES)
        return SiteColumns(
            site=tuple(site.name for site in SITES),
            activation_variance=(0.5,) * size,
            gradient_variance=(0.25,) * size,
            dead_neuron_ratio=(0.0,) * size,
            avg_correlation=(0.125,) * size,
            effective_rank=(5.25,) * (size - 1) + (None,),
            gradient_pressure=(0.48,) * (size - 1) + (None,),
            refused=tuple(self.tallies["refused", site.name] for site in SITES),
            failed=tuple(self.tallies["failed", site.name] for site in SITES),
            blueprints=tuple(site.blueprints for site in SITES),
        )

    def columns(self) -> SeedColumns:
        rows = list(self.seeds.values())
        found = [self.evaluations.get((row.site, row.seed)) for row in rows]
        live = [row.stage in LIVE for row in rows]
        return SeedColumns(
            site=tuple(row.site for row in rows),
            seed=tuple(row.seed for row in rows),
            stage=tuple(row.stage for row in rows),
            life=tuple(row.life for row in rows),
            epochs_in_stage=tuple(self.epoch - row.since_epoch for row in rows),
            blueprint=tuple(row.blueprint for row in rows),
            kernel=tuple(row.kernel for row in rows),
            embargo_until=tuple(row.embargo_until for row in rows),
            alpha=tuple(self.alpha(row) for row in rows),
            ready=tuple(self.ready(row) for row in rows),
            recovering=(False,) * len(rows),
            errors=(0,) * len(rows),
            activation_variance=tuple(0.5 if alive else None for alive in live),
            gradient_variance=tuple(0.25 if alive else None for alive in live),
            dead_neuron_ratio=tuple(0.0 if alive else None for alive in live),
            avg_correlation=tuple(0.125 if alive else None for alive in live),
            health_score=tuple(0.75 if alive else None for alive in live),
            loss_at_germination=tuple(_loss(row.life) if row.life else None for row in rows),
            loss_before_graft=tuple(_loss(row.since_epoch) if row.stage is Stage.GRAFTING else None for row in rows),
            evaluated=tuple(one[0] if one else None for one in found),
            evaluated_epoch=tuple(one[1] if one else None for one in found),
            evaluated_alpha=tuple(one[2].alpha if one else None for one in found),
            evaluated_n=tuple(one[2].n if one else None for one in found),
            evaluated_k=tuple(one[2].k if one else None for one in found),
            evaluated_mean=tuple(one[2].mean if one else None for one in found),
            evaluated_standard_error=tuple(one[2].standard_error if one else None for one in found),
            evaluated_loss_without=tuple(one[2].loss_without if one else None for one in found),
            evaluated_loss_with=tuple(one[2].loss_with if one else None for one in found),
        )

    def reported(self) -> FieldReportColumns:
        return FieldReportColumns(
            blueprint=tuple(report.blueprint for report in self.reports),
            site=tuple(report.site for report in self.reports),
            seed=tuple(report.seed for report in self.reports),
            life=tuple(report.life for report in self.reports),
            outcome=tuple(report.outcome for report in self.reports),
            metric_before=tuple(report.metric_before for report in self.reports),
            metric_after=tuple(report.metric_after for report in self.reports),
        )


def started(planned: int = EPOCHS, task: str = "digits") -> RunStarted:
    """The first event of the synthetic run."""
    return RunStarted(
        task=task,
        settings={"trainer.epochs": planned, "policy.train_epochs": 2, "policy.graft_epochs": 2, "policy.fine_tune_epochs": 2},
        code=Code(revision="0" * 40, dirty_digest=None, argv=("esper", "train", "digits")),
        packages={"torch": "2.15.0"},
        data=(DataFingerprint(name="train", length=1097, kind="tensors", digest=_digest("data", 0)),),
        rng_seed=0,
        determinism=Determinism(threads=1, deterministic_algorithms=True, mkl_cbwr="AVX2,STRICT", digest="full"),
        hardware=Hardware(
            machine="synthetic", processor="none", cores=2, memory_bytes=8_000_000_000, operating_system="none", device="cpu", gpus=()
        ),
        parent=None,
        sites=SITES,
        parameters=460,
        epochs=planned,
    )


def replaced(row: SeedRow, **changes: object) -> SeedRow:
    """`row` with some fields changed."""
    return row.model_copy(update=changes)


def _row(slot: Slot, stage: Stage, epoch: int) -> SeedRow:
    return SeedRow(site=slot[0], seed=slot[1], stage=stage, since_epoch=epoch, life=None, blueprint=None, kernel=None, embargo_until=None)


def _transition(before: SeedRow, row: SeedRow, reason: str) -> SeedTransitioned:
    return SeedTransitioned(
        site=row.site,
        seed=row.seed,
        from_stage=before.stage,
        to_stage=row.stage,
        reason=reason,
        life=row.life,
        blueprint=row.blueprint,
        kernel=row.kernel,
        embargo_until=row.embargo_until,
    )


def _loss(epoch: int) -> float:
    return round(0.2 + 1.6 * 0.75**epoch, 6)


def _accuracy(epoch: int) -> float:
    return round(0.95 - 0.6 * 0.75**epoch, 6)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
