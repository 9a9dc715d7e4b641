"""A toy run: seeds move as the gate lets them, what each is worth is given, and no network trains.

Stages last as agreed for the trainer: a kernel is ready one epoch after the germination, evaluations are made at the epoch's end where due.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.events.envelope import EventId
from esper.events.kinds.control import Command, DecisionMade
from esper.events.kinds.epoch import GateSettings, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.folds.gate import Refused, after, judge, view_at
from esper.folds.transitions import IN_TASK_GRAPH, next_stage
from esper.tamiyo.policy import decide
from esper.tamiyo.policy_input import PolicySettings
from tests.tamiyo.states import Report, evaluated, seed, sites, state

DUE = {Stage.TRAINING: 3, Stage.EVALUATING: 1}
ENDED = {Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED}


@dataclass
class World:
    """`gains`: the mean paired gain of each blueprint in shadow, in standard errors of 0.001; the host's loss stays where it is.

    `worth`: the gain after the graft, where it is another.
    """

    gains: Mapping[str, float]
    epochs: int
    settings: PolicySettings
    gate: GateSettings = field(default_factory=GateSettings)
    worth: dict[str, float] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=lambda: {slot: dict(seed("a", slot)) for slot in range(4)})
    reports: list[Report] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    history: list[tuple[int, str, int, str]] = field(default_factory=list)
    refusals: list[tuple[int, str]] = field(default_factory=list)

    def run(self) -> "World":
        """Every epoch of the run."""
        for epoch in range(1, self.epochs + 1):
            self._measure(epoch)
            self._adapt(epoch, self._state(epoch))
        return self

    def _measure(self, epoch: int) -> None:
        self.losses.append(0.5)
        for row in self.rows.values():
            row["epochs_in_stage"] += 1
            row["ready"] = row["stage"] is not Stage.CULLED or epoch >= row["embargo_until"]
            if row["epochs_in_stage"] >= DUE.get(row["stage"], 10**9):
                shadow, blueprint = row["stage"] is Stage.TRAINING, row["blueprint"]
                gain = self.gains[blueprint] if shadow else self.worth.get(blueprint, self.gains[blueprint])
                row.update(evaluated(0.001 * gain, 0.001, epoch=epoch, k=3 if shadow else 1, event=EventId(f"run/{epoch}.5")))

    def _state(self, epoch: int) -> SystemState:
        return state(
            *self.rows.values(),
            epoch=epoch,
            planned=self.epochs,
            losses=tuple(self.losses),
            site_rows=sites(a=1.0),
            reports=tuple(self.reports),
            gate=self.gate,
            germinations=len({epoch for epoch, stage, _, _ in self.history if stage == Stage.GERMINATED}),
        )

    def _adapt(self, epoch: int, system: SystemState) -> None:
        event = EventId(f"run/{epoch}")
        lives = [row["life"] for row in self.rows.values() if row.get("life") is not None] + [report.life for report in self.reports]
        view = view_at(system, event, max(lives, default=None))
        verdicts: list[tuple[DecisionMade, Command | Refused | None]] = []
        for decision in decide(system, event, self.settings):
            verdict = judge(decision, view, self.gate)
            view = after(view, decision, verdict, self.gate)
            verdicts.append((decision, verdict))
        for decision, verdict in verdicts:
            if isinstance(verdict, Refused):
                self.refusals.append((epoch, f"{decision.adaptation} {verdict.rule}"))
            elif verdict is not None:
                self._apply(epoch, decision, verdict)

    def _apply(self, epoch: int, decision: DecisionMade, command: Command) -> None:
        assert decision.seed is not None
        row = self.rows[decision.seed]
        stage = next_stage(row["stage"], command)
        self.history.append((epoch, stage.value, decision.seed, decision.blueprint or ""))
        if stage is Stage.GERMINATED:
            row.update(blueprint=decision.blueprint, life=epoch)
        if stage in ENDED:
            self.reports.append(Report(row["blueprint"], "a", stage.value, row["life"]))  # type: ignore[arg-type]
        if stage in {Stage.CULLED, Stage.GRAFTING}:
            self.losses.clear()
        if stage is Stage.DORMANT:
            row.clear()
            row.update(seed("a", decision.seed))
        row.update(
            stage=stage,
            epochs_in_stage=0,
            alpha=1.0 if stage in IN_TASK_GRAPH else 0.0,
            embargo_until=epoch + self.gate.embargo if stage is Stage.CULLED else None,
        )
