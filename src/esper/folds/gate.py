"""The gate: which decisions become commands. Rules are asked in the order of `RULES`; a refusal names the first that is broken.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, Command, DecisionMade, GateRule
from esper.events.kinds.epoch import GateSettings, SystemState
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.folds.seeds import SeedKey
from esper.folds.transitions import command_for, next_stage

ADAPTATIONS = frozenset({Adaptation.GERMINATE, Adaptation.GRAFT, Adaptation.FOSSILIZE, Adaptation.CULL})
_TIMED = ADAPTATIONS - {Adaptation.CULL}
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
class Passed:
    """The decision becomes `command`."""

    command: Command


@dataclass(frozen=True, slots=True)
class Refused:
    """The decision broke `rule`, the first in order; `reason` gives the numbers."""

    rule: GateRule
    reason: str


@dataclass(frozen=True, slots=True)
class Bypassed:
    """The decision is `none`: it is recorded, and nothing follows from it."""


Verdict = Passed | Refused | Bypassed


def view_at(system: SystemState, epoch_event: EventId, last_germination: int | None) -> GateView:
    """The view before the first decision that follows from `system`, which stands in `epoch_event`."""
    return GateView(system.epoch, epoch_event, {(row.site, row.seed): row for row in system.seeds}, last_germination=last_germination)


def after(view: GateView, decision: DecisionMade, verdict: Verdict, settings: GateSettings) -> GateView:
    """The view before the next decision: as if the command that `decision` became had been applied already."""
    if not isinstance(verdict, Passed):
        return view
    key = _key(decision)
    stage = next_stage(view.seeds[key].stage, verdict.command)
    embargo_until = view.epoch + settings.embargo if stage is Stage.CULLED else None
    # A seed that was just loaded has its kernel and may train; every other stage that is entered now has its work before it.
    seed = view.seeds[key].model_copy(update={"stage": stage, "embargo_until": embargo_until, "ready": stage is Stage.LOADING})
    applied = view.applied + (decision.adaptation in ADAPTATIONS)
    return replace(view, seeds={**view.seeds, key: seed}, applied=applied)


def judge(decision: DecisionMade, view: GateView, settings: GateSettings) -> Verdict:
    """The verdict on `decision`: a command, a refusal that names the first rule broken, or nothing for `none`."""
    if decision.adaptation is Adaptation.NONE:
        return Bypassed()
    for rule, reason_against in RULES:
        reason = reason_against(decision, view, settings)
        if reason is not None:
            return Refused(rule, reason)
    command = command_for(decision.adaptation, view.seeds[_key(decision)].stage)
    assert command is not None, "the rule `legal` holds"
    return Passed(command)


def _key(decision: DecisionMade) -> SeedKey:
    assert decision.site is not None, "the rule `legal` holds"
    assert decision.seed is not None, "the rule `legal` holds"
    return decision.site, decision.seed


def _finite(decision: DecisionMade, _view: GateView, _settings: GateSettings) -> str | None:
    for name, value in (("confidence", decision.confidence), ("urgency", decision.urgency)):
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            return f"expected a {name} in 0..1, got {value!r}"
    return None


def _legal(decision: DecisionMade, view: GateView, _settings: GateSettings) -> str | None:
    if decision.site is None or decision.seed is None:
        return f"expected {decision.adaptation} to name a site and a seed, got {decision.site!r} and {decision.seed!r}"
    seed = view.seeds.get((decision.site, decision.seed))
    if seed is None:
        return f"expected a seed of this run, got seed {decision.seed} of site {decision.site!r}"
    if command_for(decision.adaptation, seed.stage) is None:
        return f"{decision.adaptation} is not legal for a seed in {seed.stage}"
    return None


def _embargo(decision: DecisionMade, view: GateView, _settings: GateSettings) -> str | None:
    until = view.seeds[_key(decision)].embargo_until
    if until is not None and view.epoch < until:
        return f"the slot is under embargo until epoch {until}, and this is epoch {view.epoch}"
    return None


def _stale(decision: DecisionMade, view: GateView, _settings: GateSettings) -> str | None:
    if view.epoch_event in decision.evidence:
        return None
    return f"expected evidence {view.epoch_event}, the last EpochCompleted; got {', '.join(decision.evidence) or 'none'}"


def _ready(decision: DecisionMade, view: GateView, _settings: GateSettings) -> str | None:
    seed = view.seeds[_key(decision)]
    if decision.adaptation is Adaptation.ADVANCE and not seed.ready and seed.stage not in _DONE:
        return f"the seed has not finished what {seed.stage} is for"
    return None


def _confidence(decision: DecisionMade, _view: GateView, settings: GateSettings) -> str | None:
    if decision.adaptation in ADAPTATIONS and not decision.confidence > settings.confidence_above:
        return f"expected a confidence above {settings.confidence_above!r}, got {decision.confidence!r}"
    return None


def _urgency(decision: DecisionMade, _view: GateView, settings: GateSettings) -> str | None:
    if decision.adaptation in ADAPTATIONS and not decision.urgency > settings.urgency_above:
        return f"expected an urgency above {settings.urgency_above!r}, got {decision.urgency!r}"
    return None


def _cap(decision: DecisionMade, view: GateView, settings: GateSettings) -> str | None:
    if decision.adaptation in ADAPTATIONS and not view.applied < settings.adaptations_per_epoch:
        return f"expected at most {settings.adaptations_per_epoch} adaptations after one epoch, {view.applied} have passed"
    return None


def _frequency(decision: DecisionMade, view: GateView, settings: GateSettings) -> str | None:
    if decision.adaptation in _TIMED and view.epoch % settings.adaptation_every:
        return f"expected an epoch divisible by {settings.adaptation_every}, this is epoch {view.epoch}"
    return None


def _cooldown(decision: DecisionMade, view: GateView, settings: GateSettings) -> str | None:
    last = view.last_germination
    if decision.adaptation is not Adaptation.GERMINATE or last is None or last >= view.epoch:
        return None
    if view.epoch - last >= settings.cooldown:
        return None
    return f"expected {settings.cooldown} epochs since the germination after epoch {last}, this is epoch {view.epoch}"


_Rule = Callable[[DecisionMade, GateView, GateSettings], str | None]
RULES: tuple[tuple[GateRule, _Rule], ...] = (
    ("finite", _finite),
    ("legal", _legal),
    ("embargo", _embargo),
    ("stale", _stale),
    ("ready", _ready),
    ("confidence", _confidence),
    ("urgency", _urgency),
    ("cap", _cap),
    ("frequency", _frequency),
    ("cooldown", _cooldown),
)
