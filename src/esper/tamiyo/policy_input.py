"""The policy's settings, and the SystemState as the rules look at it. Nothing is decided here.

The settings are checked when they are made, and recorded in RunStarted. The limits of the gate are not among them: `SystemState.gate`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from esper.events.envelope import EventId
from esper.events.fields import Count, Finite, Part, Positive
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import KEPT_LOSSES, SystemState
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage

_IDLE = frozenset({Stage.DORMANT, Stage.FOSSILIZED, Stage.ROLLED_BACK})
_Share = Annotated[Finite, Field(gt=0, le=1)]


class PolicySettings(Part):
    """Settings of the plateau policy; the defaults were measured on digits and mnist1d."""

    window: Annotated[int, Field(ge=3, le=KEPT_LOSSES)] = 5
    """The last validation losses that are compared with all before them, 3 to 32: a line is fitted through them."""

    tolerance: Annotated[Finite, Field(gt=0, lt=1)] = 0.15
    """A plateau: the best loss of the window is less than this share better than the best before it. Between 0 and 1, both excluded."""

    noise: _Share = 0.005
    """The least standard deviation that a loss is believed to have around its trend, as a share of it."""

    wish: Annotated[Finite, Field(ge=0, le=1)] = 0.5
    """A germination is decided from this confidence on, also where the gate will refuse it. 0 to 1."""

    train_epochs: Positive = 3
    """Epochs that a seed learns in isolation before it may be grafted."""

    graft_epochs: Positive = 3
    """Epochs over which alpha goes from 0 to 1."""

    stabilize_epochs: Positive = 1
    """Epochs that the host settles with the seed frozen."""

    evaluate_epochs: Positive = 1
    """Epochs before a grafted seed is kept or culled."""

    fine_tune_epochs: Positive = 10
    """Epochs that a kept seed trains with the host before it is part of it for good."""

    patience: Positive = 3
    """A stage that has lasted this many times its planned epochs ends: the seed is removed."""

    race: Positive = 3
    """Blueprints that are tried at once at one site."""

    max_germinations: Count | None = None
    """Races a run may start; None: as many as the limits allow."""

    alphas: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.25, 0.5, 1.0)
    """The alphas of a shadow validation, each above 0 and at most 1. The trainer reads them; the policy sees the best one's evaluation."""

    least_pairs: Annotated[int, Field(ge=2)] = 8
    """With fewer pairs of losses than this there is no confidence in a difference."""

    needed_z: Annotated[Finite, Field(ge=0, le=100)] = 1.6
    """A grafted seed whose gain is below this many standard errors is not shown to be needed (one-sided 5 %)."""

    worse: Annotated[Finite, Field(ge=0)] = 0.05
    """A seed that is not shown to be needed goes when the loss is more than this share above that before its graft."""

    @property
    def cycle(self) -> int:
        """Epochs from the first of isolated training to the end of the evaluation."""
        return self.train_epochs + self.settling

    @property
    def settling(self) -> int:
        """Epochs from a graft to the end of the evaluation."""
        return self.graft_epochs + self.stabilize_epochs + self.evaluate_epochs


def short_name(seed: SeedRow) -> str:
    """The seed as reasons name it where its site is known."""
    return f"s{seed.seed} {seed.blueprint}" if seed.blueprint else f"s{seed.seed}"


def full_name(seed: SeedRow) -> str:
    """The seed as reasons name it where any site may be meant."""
    return f"{short_name(seed)} at {seed.site}"


@dataclass(frozen=True)
class PolicyInput:
    """Input of the rules: the state, the id of the event that holds it, the settings."""

    state: SystemState
    event: EventId
    settings: PolicySettings

    @cached_property
    def seeds(self) -> tuple[SeedRow, ...]:
        """The seeds that may need a decision, in the order of the table: none that is DORMANT, FOSSILIZED or ROLLED_BACK."""
        return tuple(seed for seed in self.state.seeds if seed.stage not in _IDLE)

    @property
    def epochs_left(self) -> int | None:
        """Epochs after this one; None for a stream."""
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
