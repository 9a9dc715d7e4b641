"""A run of many health signals for `audit.py`, written through the real emitter: what is measured is made up, what is decided is legal.

16 sites of 3 slots. A SeedHealthMeasured has an entry for each site and each slot, live or not: 64 signals. 100 of them make an epoch,
which ends with an EpochCompleted of the whole seed table, and with what is decided: a life begins every 5 epochs and goes, by one command
at a time, from germination through a graft to its cull and the reset of its slot, with its kernel, its evaluations and its field report.
"""

import hashlib
import json
from functools import partial
from typing import NamedTuple

import numpy as np

from esper.events.envelope import EventId
from esper.events.fields import Event
from esper.events.kinds.control import Adaptation, Command, CommandApplied, CommandIssued, DecisionMade, FieldReported
from esper.events.kinds.epoch import KEPT_LOSSES, EpochCompleted, GateSettings, Measured, SiteRow, StateDigests, SystemState
from esper.events.kinds.kernels import BlueprintSubmitted, KernelCharacterized, KernelCompiled
from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import RunFinished, RunStarted, Site
from esper.events.kinds.telemetry import HealthColumns, SeedHealthMeasured
from esper.folds.transitions import IN_TASK_GRAPH, LIVE, command_for, next_stage
from esper.oona.emitter import Emitter

SITES, SLOTS = 16, 3
SIGNALS = SITES * (SLOTS + 1)
RECORDS, STEPS = 100, 10
"""Health records of an epoch, and optimizer steps from one to the next."""
_EVERY = 5
_PLAN = {
    0: Adaptation.GERMINATE,
    1: Adaptation.ADVANCE,
    2: Adaptation.ADVANCE,
    4: Adaptation.GRAFT,
    6: Adaptation.ADVANCE,
    7: Adaptation.ADVANCE,
    8: Adaptation.CULL,
    11: Adaptation.ADVANCE,
}
"""What is decided about a life, by its age in epochs."""
_MEASURED = {
    "activation_variance": 0.5,
    "gradient_variance": 0.25,
    "dead_neuron_ratio": 0.0,
    "avg_correlation": 0.125,
    "health_score": 0.75,
}
_BLUEPRINT, _SPEC = "mlp:24", '{"hyper":24,"kind":"mlp"}'
_GATE = GateSettings()
Slot = tuple[str, int]
_NAMES = tuple(f"blocks.{number}.fc" for number in range(SITES))
_ENTRIES: tuple[tuple[str, int | None], ...] = tuple((name, seed) for name in _NAMES for seed in (None, *range(SLOTS)))


class _Life(NamedTuple):
    """A life that is due at an epoch's end: its slot, the epoch of its germination, and what is decided about it."""

    slot: Slot
    began: int
    adaptation: Adaptation


class GrowingRun:
    """Trains nothing, epoch by epoch, into the log of `emitter`."""

    def __init__(self, emitter: Emitter, epochs: int) -> None:
        self._emitter, self._epochs = emitter, epochs
        self.epoch = self.step = self.records = 0
        self._seeds = {(site, seed): SeedRow(site=site, seed=seed) for site in _NAMES for seed in range(SLOTS)}
        self._losses: list[float] = []
        self._reports: list[FieldReported] = []
        self._evaluated: dict[Slot, EventId] = {}
        self._random = np.random.default_rng(0)
        # As the log has them: float32, written shortest. Of many values, so that no column is made of a few.
        pools = (self._random.lognormal(-1, 1, 1 << 16), self._random.uniform(0, 1, 1 << 16), self._random.uniform(-1, 1, 1 << 16))
        self._positive, self._share, self._signed = (np.array([float(str(value)) for value in pool.astype(np.float32)]) for pool in pools)

    def start(self, like: RunStarted) -> None:
        """Says how the run begins: as `like`, with sites and limits of its own."""
        site = partial(Site, layer="Linear 256->256", inputs=256, outputs=256, slots=SLOTS, blueprints=(_BLUEPRINT,))
        limits = {f"gate.{name}": value for name, value in _GATE.model_dump().items()}
        own = {
            "sites": tuple(site(name=name) for name in _NAMES),
            "epochs": self._epochs,
            "settings": {"trainer.epochs": self._epochs} | limits,
        }
        self._say(like.model_copy(update=own))

    def train(self, records: int = RECORDS) -> None:
        """An epoch of `records` measurements, with what is decided at its end, durable."""
        self.epoch += 1
        self.measure(records)
        for life in self._due(1, 4, 8):
            self._prepare(life)
        self._losses.append(0.2 + 1.6 / self.epoch)
        completed = self._say(self._completed())
        issued = [(*self._decide(life, completed), life) for life in self._due(*_PLAN)]
        self._emitter.commit()
        for identity, command, life in issued:
            self._apply(identity, command, life)
        self._emitter.commit()

    def measure(self, records: int) -> None:
        """Measures so many times, durably."""
        for _ in range(records):
            self.step += STEPS
            self.records += 1
            self._emitter.measure(SeedHealthMeasured, partial(self._health, dict(self._seeds)), epoch=self.epoch, step=self.step)
        self._emitter.commit()

    def finish(self) -> None:
        """Says that the run has ended, durably."""
        tails = self._emitter.tails(epoch=self.epoch, step=self.step)
        metrics = {"validation_loss": self._losses[-1]}
        self._say(RunFinished(metrics=metrics, model_digest=_digest("model"), parameters=100_000, stopped_early=False, tails=tails))
        self._emitter.commit()

    def _say(self, event: Event, cause: EventId | None = None) -> EventId:
        return self._emitter.emit(event, epoch=self.epoch, step=self.step, cause=cause)

    def _health(self, seeds: dict[Slot, SeedRow]) -> SeedHealthMeasured:
        rows = [None if seed is None else seeds[site, seed] for site, seed in _ENTRIES]
        drawn = self._random.integers(0, 1 << 16, (6, SIGNALS))
        positive, more, latency = (tuple(self._positive[at].tolist()) for at in drawn[:3])
        dead, score = (tuple(self._share[at].tolist()) for at in drawn[3:5])
        columns = HealthColumns(
            site=tuple(site for site, _ in _ENTRIES),
            seed=tuple(seed for _, seed in _ENTRIES),
            stage=tuple(row and row.stage for row in rows),
            activation_variance=positive,
            gradient_variance=more,
            dead_neuron_ratio=dead,
            units=(64,) * SIGNALS,
            avg_correlation=tuple(self._signed[drawn[5]].tolist()),
            latency_ms=latency,
            errors=(0,) * SIGNALS,
            recovering=(False,) * SIGNALS,
            alpha=tuple(row and row.alpha for row in rows),
            ready=tuple(row and row.ready for row in rows),
            health_score=score,
        )
        return SeedHealthMeasured(health=columns, last_adaptation_step=None)

    def _due(self, *ages: int) -> list[_Life]:
        """The lives that have one of these ages now, the oldest first."""
        due = []
        for age in sorted(ages, reverse=True):
            began = self.epoch - age
            if began >= 1 and (began - 1) % _EVERY == 0:
                number = (began - 1) // _EVERY % (SITES * SLOTS)
                due.append(_Life((_NAMES[number % SITES], number // SITES), began, _PLAN[age]))
        return due

    def _prepare(self, life: _Life) -> None:
        """Says what becomes of a life before its epoch is over: its kernel, or its evaluation."""
        (site, seed), stage = life.slot, self._seeds[life.slot].stage
        key = _digest(site, seed, life.began)
        if stage is Stage.GERMINATED:
            compiled = KernelCompiled(key=key, kernel=key, site=site, seed=seed, life=life.began, duration_ms=2.0, from_cache=False)
            costs = {"parameters": 12_312, "flops": 24_624, "latency_ms": 0.05, "memory_bytes": 49_248}
            self._say(KernelCharacterized(key=key, kernel=key, checks=("zero delta at birth",), **costs), cause=self._say(compiled))
            return
        evaluation = Evaluation(
            epoch=self.epoch,
            alpha=0.5,
            n=350,
            k=3,
            look=1,
            mean=0.0018,
            standard_error=0.0004,
            loss_without=self._losses[-1],
            loss_with=0.2,
        )
        purpose = "shadow" if stage is Stage.TRAINING else "evaluation"
        event = SeedEvaluated.model_validate(
            {
                "site": site,
                "seed": seed,
                "life": life.began,
                "purpose": purpose,
                "evaluation": evaluation,
                "metrics_without": {},
                "metrics_with": {},
            }
        )
        self._evaluated[life.slot] = self._say(event)
        self._change(life.slot, evaluation=evaluation, evaluated=self._evaluated[life.slot])

    def _decide(self, life: _Life, completed: EventId) -> tuple[EventId, CommandIssued]:
        site, seed = life.slot
        command = command_for(life.adaptation, self._seeds[life.slot].stage)
        assert command is not None, f"{life.adaptation} of {life.slot} at epoch {self.epoch} is not legal"
        evidence = (completed,) if life.slot not in self._evaluated else (completed, self._evaluated[life.slot])
        decision = DecisionMade(
            adaptation=life.adaptation,
            site=site,
            seed=seed,
            blueprint=_BLUEPRINT,
            confidence=0.99,
            urgency=0.9,
            reason="best of 5 improved 3.1 % < 15 %",
            evidence=evidence,
        )
        made = self._say(decision, cause=completed)
        kernel = _digest(site, seed, life.began) if command is Command.LOAD else None
        issued = CommandIssued(command=command, site=site, seed=seed, blueprint=_BLUEPRINT, kernel=kernel, expires_epoch=self.epoch)
        return self._say(issued, cause=made), issued

    def _apply(self, identity: EventId, issued: CommandIssued, life: _Life) -> None:
        site, seed = life.slot
        before = self._seeds[life.slot]
        row = self._seeds[life.slot] = self._moved(before, issued, life)
        applied = self._say(CommandApplied(command=issued.command, site=site, seed=seed), cause=identity)
        told = self._say(
            SeedTransitioned(
                site=site,
                seed=seed,
                from_stage=before.stage,
                to_stage=row.stage,
                reason="the stage's work is done",
                life=row.life,
                blueprint=row.blueprint,
                kernel=row.kernel,
                embargo_until=row.embargo_until,
            ),
            cause=applied,
        )
        if issued.command is Command.GERMINATE:
            key = _digest(site, seed, life.began)
            self._say(BlueprintSubmitted(blueprint=_BLUEPRINT, key=key, spec=_SPEC, site=site, seed=seed, life=life.began), cause=told)
        if row.stage is Stage.CULLED:
            ends = {"kernel": row.kernel, "metric_before": self._losses[life.began - 1], "metric_after": self._losses[-1]}
            report = FieldReported(site=site, seed=seed, life=life.began, blueprint=_BLUEPRINT, outcome="CULLED", **ends)
            self._reports.append(report)
            self._say(report, cause=told)

    def _moved(self, row: SeedRow, issued: CommandIssued, life: _Life) -> SeedRow:
        """`row` after the command."""
        stage = next_stage(row.stage, issued.command)
        if issued.command in (Command.GERMINATE, Command.RESET):
            self._evaluated.pop(life.slot, None)
            lives = {"life": life.began, "blueprint": _BLUEPRINT} if issued.command is Command.GERMINATE else {}
            return SeedRow(site=row.site, seed=row.seed, stage=stage, since_epoch=self.epoch, **lives)
        return row.model_copy(
            update={
                "stage": stage,
                "since_epoch": self.epoch,
                "kernel": issued.kernel or row.kernel,
                "embargo_until": self.epoch + _GATE.embargo if stage is Stage.CULLED else None,
                "alpha": 1.0 if stage in IN_TASK_GRAPH else None,
            }
        )

    def _change(self, slot: Slot, **fields: object) -> None:
        self._seeds[slot] = self._seeds[slot].model_copy(update=fields)

    def _completed(self) -> EpochCompleted:
        loss = self._losses[-1]
        for slot, row in self._seeds.items():
            live = row.stage in LIVE
            self._change(slot, ready=True if live else None, **(_MEASURED if live else dict.fromkeys(_MEASURED)))
        measured = Measured(loss=loss, metrics={"accuracy": 0.9}, samples=1000)
        state = SystemState(
            epoch=self.epoch,
            epochs_planned=self._epochs,
            train_loss=loss,
            train_metrics={"accuracy": 0.9},
            validation_loss=loss,
            validation_metrics={"accuracy": 0.9},
            validation_losses=tuple(self._losses[-KEPT_LOSSES:]),
            earlier_loss=min(self._losses[:-KEPT_LOSSES], default=None),
            best_loss=loss,
            best_epoch=self.epoch,
            epochs_since_improvement=0,
            parameters=100_000,
            parameters_limit=200_000,
            germinations=(self.epoch - 2) // _EVERY + 1,
            stages={stage: sum(row.stage is stage for row in self._seeds.values()) for stage in Stage},
            sites=tuple(SiteRow(site=name, effective_rank=5.25, gradient_pressure=0.48, blueprints=(_BLUEPRINT,)) for name in _NAMES),
            seeds=tuple(self._seeds.values()),
            field_reports=tuple(self._reports),
            gate=_GATE,
        )
        return EpochCompleted(
            train=measured,
            validation=measured,
            learning_rates=(1e-3,),
            optimizer_steps=RECORDS * STEPS,
            digests=StateDigests(parameters=_digest("p", self.epoch), optimizer=_digest("o", self.epoch), random=_digest("r", self.epoch)),
            system=state,
            duration_s=1.5,
            samples_per_s=1000.0,
        )


def _digest(*parts: object) -> str:
    """Stands for the digest of whatever `parts` name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
