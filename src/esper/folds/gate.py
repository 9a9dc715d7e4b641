"""The gate: which decisions become commands. Rules are asked in this order; a refusal names the first that is broken.

1. finite: confidence and urgency are numbers in 0..1. legal: the seed exists and the lifecycle table knows the edge. embargo: the
   slot's embargo is over. stale: the evidence contains the last EpochCompleted. ready: housekeeping waits until the stage's work is done,
   a reset, which has none, for the embargo alone; a command that ends a seed (cancel, cull) does not wait for it.
2. confidence, urgency, cap: for adaptations (germinate, graft, fossilize, cull).
3. frequency: for germinate, graft and fossilize, only after epochs divisible by `adaptation_every`.
4. cooldown: for germinate, counted from the last germination of an *earlier* epoch, so that the candidates of a race pass together.

`none` is recorded and bypasses the gate. Every limit is asked as "is the value above it", which is false for NaN: NaN passes no limit.
Decisions of one epoch are judged one after another, each against `after(...)` of the one before.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, Command, DecisionMade, GateRule
from esper.events.kinds.epoch import GateSettings, SystemState
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.folds.seeds import SeedKey
from esper.folds.transitions import command_for, next_stage

_ADAPTATIONS = frozenset({Adaptation.GERMINATE, Adaptation.GRAFT, Adaptation.FOSSILIZE, Adaptation.CULL})
_TIMED = _ADAPTATIONS - {Adaptation.CULL}
# Nothing is left to do there: a reset waits for the embargo alone.
_DONE = frozenset({Stage.CULLED, Stage.CANCELLED})


@dataclass(frozen=True, slots=True)
class GateView:
    """Input of the gate when a decision is judged.

    `epoch` is the epoch just completed and `epoch_event` its EpochCompleted. `applied` counts the adaptations that have passed after this
    epoch. `last_germination` is the epoch of the last germination of an earlier epoch.
    """

    epoch: int
    epoch_event: EventId
    seeds: Mapping[SeedKey, SeedRow]
    applied: int = 0
    last_germination: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The decision broke `rule`, the first in order; `reason` gives the numbers."""

    rule: GateRule
    reason: str


def view_at(system: SystemState, epoch_event: EventId, last_germination: int | None) -> GateView:
    """The view before the first decision that follows from `system`, which stands in `epoch_event`."""
    return GateView(system.epoch, epoch_event, {(row.site, row.seed): row for row in system.seeds}, last_germination=last_germination)


def after(view: GateView, decision: DecisionMade, verdict: Command | Refused | None, settings: GateSettings) -> GateView:
    """The view before the next decision: as if the command that `decision` became had been applied already."""
    if not isinstance(verdict, Command):
        return view
    key = _key(decision)
    stage = next_stage(view.seeds[key].stage, verdict)
    embargo_until = view.epoch + settings.embargo if stage is Stage.CULLED else None
    # A seed that was just loaded has its kernel and may train; every other stage that is entered now has its work before it.
    seed = view.seeds[key].model_copy(update={"stage": stage, "embargo_until": embargo_until, "ready": stage is Stage.LOADING})
    applied = view.applied + (decision.adaptation in _ADAPTATIONS)
    return replace(view, seeds={**view.seeds, key: seed}, applied=applied)


def judge(decision: DecisionMade, view: GateView, settings: GateSettings) -> Command | Refused | None:
    """The command that `decision` becomes, or its refusal, or None for `none`, which is recorded and has no other consequence."""
    if decision.adaptation is Adaptation.NONE:
        return None
    broken = next(_broken_rules(decision, view, settings), None)
    if broken is not None:
        return broken
    command = command_for(decision.adaptation, view.seeds[_key(decision)].stage)
    assert command is not None, "the rule `legal` holds"
    return command


def _key(decision: DecisionMade) -> SeedKey:
    assert decision.site is not None, "the rule `legal` holds"
    assert decision.seed is not None, "the rule `legal` holds"
    return decision.site, decision.seed


def _broken_rules(decision: DecisionMade, view: GateView, settings: GateSettings) -> Iterator[Refused]:
    """A refusal for each rule that `decision` breaks, in order; none after `legal`, without which the others mean nothing."""
    for name, value in (("confidence", decision.confidence), ("urgency", decision.urgency)):
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            yield Refused("finite", f"expected a {name} in 0..1, got {value!r}")
    illegal = _illegal(decision, view)
    if illegal is not None:
        yield Refused("legal", illegal)
        return
    seed = view.seeds[_key(decision)]
    if seed.embargo_until is not None and view.epoch < seed.embargo_until:
        yield Refused("embargo", f"the slot is under embargo until epoch {seed.embargo_until}, and this is epoch {view.epoch}")
    if view.epoch_event not in decision.evidence:
        found = ", ".join(decision.evidence) or "none"
        yield Refused("stale", f"expected evidence {view.epoch_event}, the last EpochCompleted; got {found}")
    if decision.adaptation is Adaptation.ADVANCE and not seed.ready and seed.stage not in _DONE:
        yield Refused("ready", f"the seed has not finished what {seed.stage} is for")
    yield from _broken_limits(decision, view, settings)


def _illegal(decision: DecisionMade, view: GateView) -> str | None:
    if decision.site is None or decision.seed is None:
        return f"expected {decision.adaptation} to name a site and a seed, got {decision.site!r} and {decision.seed!r}"
    seed = view.seeds.get((decision.site, decision.seed))
    if seed is None:
        return f"expected a seed of this run, got seed {decision.seed} of site {decision.site!r}"
    if command_for(decision.adaptation, seed.stage) is None:
        return f"{decision.adaptation} is not legal for a seed in {seed.stage}"
    return None


def _broken_limits(decision: DecisionMade, view: GateView, settings: GateSettings) -> Iterator[Refused]:
    adapts, last = decision.adaptation in _ADAPTATIONS, view.last_germination
    most, every = settings.adaptations_per_epoch, settings.adaptation_every
    if adapts and not decision.confidence > settings.confidence_above:
        yield Refused("confidence", f"expected a confidence above {settings.confidence_above!r}, got {decision.confidence!r}")
    if adapts and not decision.urgency > settings.urgency_above:
        yield Refused("urgency", f"expected an urgency above {settings.urgency_above!r}, got {decision.urgency!r}")
    if adapts and not view.applied < most:
        yield Refused("cap", f"expected at most {most} adaptations after one epoch, {view.applied} have passed")
    if decision.adaptation in _TIMED and view.epoch % every:
        yield Refused("frequency", f"expected an epoch divisible by {every}, this is epoch {view.epoch}")
    if decision.adaptation is Adaptation.GERMINATE and last is not None and last < view.epoch < last + settings.cooldown:
        needed = f"expected {settings.cooldown} epochs since the germination after epoch {last}"
        yield Refused("cooldown", f"{needed}, this is epoch {view.epoch}")
