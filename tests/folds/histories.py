"""Histories for tests: a writer that numbers and chains records as the trainer's does, and a small training run as a script over it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from esper.events import topics
from esper.events.codec import encode
from esper.events.digests import chain, derived_id
from esper.events.envelope import EventId, Moment, Record, RunId, record_id
from esper.events.fields import Event
from esper.events.kinds.control import Adaptation, Command, CommandApplied, CommandIssued, DecisionMade, DecisionRefused
from esper.events.kinds.epoch import (
    EpochCompleted,
    GateSettings,
    Measured,
    StateDigests,
    SystemState,
)
from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import RunStarted, Site
from esper.events.kinds.telemetry import StepColumns, StepsMeasured
from esper.folds.run_state import RunState, step
from esper.folds.transitions import _EDGES
from tests.beginnings import run_started

RUN = RunId("0192f0c4-7d3a-7c11-8e21-5b1f0c9d2a77")
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Writer:
    """Writes a run: every record gets its moment, sequence, fact and chain, and the cause it is told."""

    run: RunId = RUN
    epoch: int = 0
    step: int = 0
    incarnation: int = 1
    records: list[Record] = field(default_factory=list)
    chains: dict[str, bytes] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    facts: int = 0

    def write(self, event: Event, cause: EventId | None = None, topic: str | None = None) -> EventId:
        """The id of the record that now holds `event`."""
        where = topic or event.TOPIC
        moment = Moment(len(self.records) + 1)
        fact = None
        if where in topics.FACTS:
            self.facts += 1
            fact = self.facts
        self.sequences[where] = self.sequences.get(where, 0) + 1
        record = Record(
            id=record_id(self.run, moment),
            run=self.run,
            topic=where,
            writer="trainer",
            sequence=self.sequences[where],
            fact=fact,
            moment=moment,
            generation=0,
            incarnation=self.incarnation,
            type=event.KIND,
            time=START + timedelta(seconds=moment),
            epoch=self.epoch,
            step=self.step,
            cause=cause,
            trace=None,
            chain=None,
            data=encode(event),
        )
        record = record._replace(chain=chain(record, self.chains.get(where, b"")))
        self.chains[where] = record.chain or b""
        self.records.append(record)
        return record.id


def derived(cause: Record, event: Event, index: int = 0) -> Record:
    """A record that an observer derived from `cause`."""
    return Record(
        id=derived_id(cause.id, "rule", 1, "0" * 8, index),
        run=cause.run,
        topic=event.TOPIC,
        writer="observer",
        sequence=None,
        fact=None,
        moment=cause.moment,
        generation=cause.generation + 1,
        incarnation=cause.incarnation,
        type=event.KIND,
        time=cause.time,
        epoch=cause.epoch,
        step=cause.step,
        cause=cause.id,
        trace=None,
        chain=None,
        data=encode(event),
    )


def started(*slots: int) -> RunStarted:
    """A run with one site for each number of slots: `layer0`, `layer1` ..."""
    sites = tuple(
        Site(name=f"layer{at}", layer="Linear 4->4", inputs=4, outputs=4, slots=count, blueprints=("mlp:8",))
        for at, count in enumerate(slots)
    )
    return run_started(task="digits", sites=sites, epochs=10)


def seed_row(site: str, seed: int, stage: Stage, life: int | None = None, **fields: Any) -> SeedRow:
    """A row of the seed table; `fields` are SeedRow's own (pydantic checks them)."""
    return SeedRow(site=site, seed=seed, stage=stage, life=life, **fields)


def system(epoch: int, rows: Sequence[SeedRow], alphas: Sequence[float | None] | None = None) -> SystemState:
    """A system state with `rows` as its seed table; what is not about seeds is as small as it may be."""
    given = (None,) * len(rows) if alphas is None else alphas
    return SystemState(
        epoch=epoch,
        epochs_planned=None,
        train_loss=1.0,
        train_metrics={},
        validation_loss=1.0,
        validation_metrics={},
        validation_losses=(1.0,),
        earlier_loss=None,
        best_loss=1.0,
        best_epoch=1,
        epochs_since_improvement=0,
        parameters=100,
        parameters_limit=200,
        germinations=0,
        stages={},
        sites=(),
        seeds=tuple(row.model_copy(update={"alpha": alpha}) for row, alpha in zip(rows, given, strict=True)),
        field_reports=(),
        gate=GateSettings(),
    )


def completed(epoch: int, rows: Sequence[SeedRow] = (), alphas: Sequence[float | None] | None = None, loss: float = 1.0) -> EpochCompleted:
    """The end of an epoch with `rows` as the seed table."""
    return EpochCompleted(
        train=Measured(loss=loss, metrics={"accuracy": 0.5}, samples=10),
        validation=Measured(loss=loss, metrics={}, samples=10),
        learning_rates=(0.1,),
        optimizer_steps=10,
        digests=StateDigests(parameters="ab" * 32, optimizer=None, random=None),
        system=system(epoch, rows, alphas),
        duration_s=1.0,
        samples_per_s=10.0,
    )


def decision(
    adaptation: Adaptation,
    evidence: EventId,
    site: str | None = "layer0",
    seed: int | None = 0,
    *,
    confidence: float = 0.9,
    urgency: float = 0.9,
) -> DecisionMade:
    """A decision that passes every limit unless it is told otherwise."""
    return DecisionMade(
        adaptation=adaptation, site=site, seed=seed, confidence=confidence, urgency=urgency, reason="a plateau", evidence=(evidence,)
    )


def transition(start: Stage, end: Stage, site: str = "layer0", seed: int = 0, life: int | None = None) -> SeedTransitioned:
    """A seed's way from `start` to `end`."""
    return SeedTransitioned(
        site=site, seed=seed, from_stage=start, to_stage=end, reason="told to", life=life, blueprint=None, kernel=None, embargo_until=None
    )


def evaluation(site: str = "layer0", seed: int = 0, life: int = 1, mean: float = 0.1) -> SeedEvaluated:
    """A shadow validation of a seed."""
    return SeedEvaluated(
        site=site,
        seed=seed,
        life=life,
        purpose="shadow",
        evaluation=Evaluation(epoch=1, alpha=0.5, n=16, k=3, look=1, mean=mean, standard_error=0.01, loss_without=1.0, loss_with=0.9),
        metrics_without={},
        metrics_with={},
    )


def steps(*numbers: int) -> StepsMeasured:
    """Telemetry of some optimizer steps."""
    return StepsMeasured(
        steps=StepColumns(
            step=numbers,
            loss=(1.0,) * len(numbers),
            gradient_norm=(None,) * len(numbers),
            step_latency_ms=(None,) * len(numbers),
            data_wait_ms=(None,) * len(numbers),
        ),
        metrics={},
        learning_rates=(0.1,),
        live_seeds=0,
        last_adaptation_step=None,
        samples_per_s=None,
        memory_bytes=None,
    )


def issued(command: Command, site: str = "layer0", seed: int = 0, epoch: int = 1) -> CommandIssued:
    """A command that is valid until the end of `epoch`."""
    return CommandIssued(command=command, site=site, seed=seed, blueprint=None, kernel=None, expires_epoch=epoch)


def training(choices: Sequence[int], slots: int = 2) -> list[Record]:
    """A run of as many epochs as `choices`: telemetry, and after each epoch one decision that is refused or becomes a legal command."""
    writer = Writer()
    begun = writer.write(started(slots, 1))
    table = {("layer0", seed): Stage.DORMANT for seed in range(slots)} | {("layer1", 0): Stage.DORMANT}
    lives: dict[tuple[str, int], int | None] = dict.fromkeys(table)
    for epoch, choice in enumerate(choices, start=1):
        writer.epoch, writer.step = epoch, epoch * 10
        writer.write(steps(epoch * 10 - 1, epoch * 10), begun)
        rows = tuple(seed_row(*key, stage, life=lives[key]) for key, stage in table.items())
        evidence = writer.write(completed(epoch, rows), begun)
        site, seed = sorted(table)[choice % len(table)]
        stage = table[site, seed]
        legal = [(command, end) for (start, command), end in _EDGES.items() if start is stage]
        if not legal or choice % 7 == 6:
            refused = writer.write(decision(Adaptation.CULL, evidence, site, seed, confidence=float("nan")), evidence)
            writer.write(DecisionRefused(rule="finite", reason="expected a confidence"), refused)
            continue
        command, end = legal[choice % len(legal)]
        made = writer.write(decision(Adaptation.ADVANCE, evidence, site, seed), evidence)
        told = writer.write(issued(command, site, seed, epoch), made)
        lives[site, seed] = epoch if end is Stage.GERMINATED else None if end is Stage.DORMANT else lives[site, seed]
        applied = writer.write(CommandApplied(command=command, site=site, seed=seed), told)
        writer.write(transition(stage, end, site, seed, lives[site, seed]), applied)
        table[site, seed] = end
    return writer.records


def fold(records: Iterable[Record], state: RunState | None = None) -> RunState:
    """The state after `records` in the order of their moments, from `state` or from before the first of them."""
    for record in records:
        state = step(RunState(record.run) if state is None else state, record)
    assert state is not None, "no record and no state: no run is known"
    return state
