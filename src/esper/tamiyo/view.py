"""The SystemState as rows: one per slot that is in use, and the free slots of each site. Nothing is decided here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import SeedColumns, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.tamiyo.evidence import Evidence
from esper.tamiyo.settings import PolicySettings

IDLE = frozenset({Stage.DORMANT, Stage.FOSSILIZED, Stage.ROLLED_BACK})


class Seed(NamedTuple):
    """One slot in use, as of this epoch's end."""

    site: str
    seed: int
    stage: Stage
    epochs: int
    blueprint: str | None
    embargo_until: int | None
    ready: bool | None
    recovering: bool
    alpha: float | None
    loss_before_graft: float | None
    evidence: Evidence | None

    @property
    def name(self) -> str:
        """What reasons call the seed where its site is known."""
        return f"s{self.seed} {self.blueprint}" if self.blueprint else f"s{self.seed}"

    @property
    def full_name(self) -> str:
        """What reasons call the seed where any site may be meant."""
        return f"{self.name} at {self.site}"


@dataclass(frozen=True)
class View:
    """What the rules of a stage look at: the state, the event that holds it, the settings, and the rows made from them.

    `seeds` leaves out what needs no decision: DORMANT, FOSSILIZED and ROLLED_BACK. `epochs_left` is None for a stream.
    """

    state: SystemState
    event: EventId
    settings: PolicySettings
    seeds: tuple[Seed, ...]

    @property
    def epochs_left(self) -> int | None:
        """Epochs that come after this one."""
        planned = self.state.epochs_planned
        return None if planned is None else max(0, planned - self.state.epoch)

    def planned(self, epochs: int) -> int:
        """`epochs`, cut to those left, at least 1."""
        left = self.epochs_left
        return epochs if left is None else max(1, min(epochs, left))

    def fresh(self, seed: Seed) -> Evidence | None:
        """The seed's evaluation, where it was made at this epoch's end."""
        evidence = seed.evidence
        return evidence if evidence is not None and evidence.epoch == self.state.epoch else None

    def gate_passes(self, decision: DecisionMade) -> bool:
        """Whether confidence and urgency pass the limits in force; NaN passes none."""
        gate = self.state.gate
        return decision.confidence > gate.confidence_above and decision.urgency > gate.urgency_above

    def decision(
        self,
        adaptation: Adaptation,
        seed: Seed,
        reason: str,
        *,
        confidence: float = 1.0,
        urgency: float = 1.0,
        rests_on: Evidence | None = None,
    ) -> DecisionMade:
        """The decision about `seed`, with this epoch's event and what else it rests on as evidence."""
        return DecisionMade(
            adaptation=adaptation,
            site=seed.site,
            seed=seed.seed,
            blueprint=seed.blueprint,
            confidence=confidence,
            urgency=urgency,
            reason=reason,
            evidence=(self.event,) if rests_on is None else (self.event, rests_on.event),
        )


def view_of(state: SystemState, event: EventId, settings: PolicySettings) -> View:
    """The view of `state`; seeds in the order of the columns."""
    return View(state, event, settings, tuple(_occupied(state.seeds)))


def free_slots(state: SystemState) -> dict[str, list[int]]:
    """The DORMANT slots of each site that has one, lowest first."""
    free: dict[str, list[int]] = {}
    for site, seed, stage in zip(state.seeds.site, state.seeds.seed, state.seeds.stage, strict=True):
        if stage is Stage.DORMANT:
            free.setdefault(site, []).append(seed)
    return {site: sorted(slots) for site, slots in free.items()}


def _occupied(columns: SeedColumns) -> Iterator[Seed]:
    for row, stage in enumerate(columns.stage):
        if stage not in IDLE:
            yield Seed(
                site=columns.site[row],
                seed=columns.seed[row],
                stage=stage,
                epochs=columns.epochs_in_stage[row],
                blueprint=columns.blueprint[row],
                embargo_until=columns.embargo_until[row],
                ready=columns.ready[row],
                recovering=columns.recovering[row],
                alpha=columns.alpha[row],
                loss_before_graft=columns.loss_before_graft[row],
                evidence=_evidence(columns, row),
            )


def _evidence(columns: SeedColumns, row: int) -> Evidence | None:
    event = columns.evaluated[row]
    if event is None:
        return None
    return Evidence(
        event=event,
        epoch=columns.evaluated_epoch[row],
        alpha=columns.evaluated_alpha[row],
        n=columns.evaluated_n[row] or 0,
        k=columns.evaluated_k[row] or 1,
        mean=columns.evaluated_mean[row],
        standard_error=columns.evaluated_standard_error[row],
        loss_without=columns.evaluated_loss_without[row],
        loss_with=columns.evaluated_loss_with[row],
    )
