"""The SystemState as the rules look at it: the seeds in use, and the free slots of each site. Nothing is decided here."""

from dataclasses import dataclass

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import SystemState
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.tamiyo.settings import PolicySettings

_IDLE = frozenset({Stage.DORMANT, Stage.FOSSILIZED, Stage.ROLLED_BACK})


def short_name(seed: SeedRow) -> str:
    """The seed as reasons name it where its site is known."""
    return f"s{seed.seed} {seed.blueprint}" if seed.blueprint else f"s{seed.seed}"


def full_name(seed: SeedRow) -> str:
    """The seed as reasons name it where any site may be meant."""
    return f"{short_name(seed)} at {seed.site}"


@dataclass(frozen=True)
class PolicyInput:
    """Input of the rules: the state, the event that holds it, the settings, and the seeds' rows.

    `seeds` leaves out what needs no decision: DORMANT, FOSSILIZED and ROLLED_BACK. `epochs_left` is None for a stream.
    """

    state: SystemState
    event: EventId
    settings: PolicySettings
    seeds: tuple[SeedRow, ...]

    @property
    def epochs_left(self) -> int | None:
        """Epochs that come after this one."""
        planned = self.state.epochs_planned
        return None if planned is None else max(0, planned - self.state.epoch)

    def planned(self, epochs: int) -> int:
        """`epochs`, cut to those left, at least 1."""
        left = self.epochs_left
        return epochs if left is None else max(1, min(epochs, left))

    def epochs_in(self, seed: SeedRow) -> int:
        """The epochs since the seed entered its stage."""
        return self.state.epoch - seed.since_epoch

    def fresh(self, seed: SeedRow) -> Evaluation | None:
        """The seed's evaluation, where it was made at this epoch's end."""
        found = seed.evaluation
        return found if found is not None and found.epoch == self.state.epoch else None

    def gate_passes(self, decision: DecisionMade) -> bool:
        """True where confidence and urgency pass the limits in force; NaN passes none."""
        gate = self.state.gate
        return decision.confidence > gate.confidence_above and decision.urgency > gate.urgency_above

    def decision(
        self,
        adaptation: Adaptation,
        seed: SeedRow,
        reason: str,
        *,
        confidence: float = 1.0,
        urgency: float = 1.0,
        rests_on: SeedRow | None = None,
    ) -> DecisionMade:
        """The decision about `seed`, with this epoch's event and the last evaluation of the seed that it rests on as evidence."""
        evaluated = None if rests_on is None else rests_on.evaluated
        return DecisionMade(
            adaptation=adaptation,
            site=seed.site,
            seed=seed.seed,
            blueprint=seed.blueprint,
            confidence=confidence,
            urgency=urgency,
            reason=reason,
            evidence=(self.event,) if evaluated is None else (self.event, evaluated),
        )


def policy_input(state: SystemState, event: EventId, settings: PolicySettings) -> PolicyInput:
    """The view of `state`; seeds in the order of the table."""
    return PolicyInput(state, event, settings, tuple(seed for seed in state.seeds if seed.stage not in _IDLE))


def free_slots(state: SystemState) -> dict[str, list[int]]:
    """The DORMANT slots of each site that has one, lowest first."""
    free: dict[str, list[int]] = {}
    for seed in state.seeds:
        if seed.stage is Stage.DORMANT:
            free.setdefault(seed.site, []).append(seed.seed)
    return {site: sorted(slots) for site, slots in free.items()}
