"""The plateau policy: the SystemState of an epoch's end in, decisions out. Pure; the same state gives the same decisions.

Order of the decisions: advance (housekeeping), cull and cancel, fossilize, graft, germinate; within each the seeds that stand alone, as
the state lists them, before the races by site. Where nothing is wanted, one `none` gives the reason, with the plateau's numbers. A
decision that the gate will refuse is recorded all the same where it carries information: a graft that is not convincing yet (once per
site), a germination whose urgency is too low (once).
"""

from itertools import groupby

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import SystemState
from esper.events.kinds.lifecycle import Stage
from esper.tamiyo.germination import Plateau, germinate, hindrance, plateau
from esper.tamiyo.policy_input import PolicyInput, PolicySettings, full_name
from esper.tamiyo.race import RACING, run_race, shadow
from esper.tamiyo.stages import decide_alone
from esper.words import plural

_ORDER = {
    Adaptation.ADVANCE: 0,
    Adaptation.CULL: 1,
    Adaptation.CANCEL: 1,
    Adaptation.FOSSILIZE: 2,
    Adaptation.GRAFT: 3,
    Adaptation.GERMINATE: 4,
}
_COUNTED = frozenset({Adaptation.CULL, Adaptation.FOSSILIZE, Adaptation.GRAFT})


def decide(state: SystemState, evidence: EventId, settings: PolicySettings) -> tuple[DecisionMade, ...]:
    """Decisions at the end of `state.epoch`, in the order in which the gate judges them; never empty.

    `evidence` is the id of the EpochCompleted that holds `state`: every decision names it, and the SeedEvaluated that it rests on.
    """
    view = PolicyInput(state, evidence, settings)
    # One loss stands for all that are older than those: of them the plateau needs the lowest alone.
    earlier = () if state.earlier_loss is None else (state.earlier_loss,)
    stalled = plateau((*earlier, *state.validation_losses), settings)
    decisions = [decision for seed in view.seeds if seed.stage not in RACING for decision in decide_alone(view, seed)]
    decisions += _races(view, decisions)
    decisions += germinate(view, stalled)
    return tuple(sorted(decisions, key=lambda decision: _ORDER[decision.adaptation])) or (_nothing(view, stalled),)


def _races(view: PolicyInput, before: list[DecisionMade]) -> list[DecisionMade]:
    """The decisions of all races. The losers of a site are cancelled only where its graft finds room under the gate's cap."""
    racing = sorted((seed for seed in view.seeds if seed.stage in RACING), key=lambda seed: seed.site)
    results = [run_race(view, list(group)) for _, group in groupby(racing, key=lambda seed: seed.site)]
    decisions = [cull for result in results for cull in result.culls]
    decisions += [decision for result in results if not result.convincing for decision in result.otherwise]
    gate = view.state.gate
    passing = sum(decision.adaptation in _COUNTED and view.gate_passes(decision) for decision in before + decisions)
    # The grafts that can pass after those: by the cap, and none in an epoch that the frequency skips.
    room = 0 if view.state.epoch % gate.adaptation_every else gate.adaptations_per_epoch - passing
    for result in results:
        if result.convincing:
            decisions += result.cancels if room > 0 else result.otherwise
            room -= 1
        if result.graft is not None:
            decisions.append(result.graft)
    return decisions


def _nothing(view: PolicyInput, stalled: Plateau) -> DecisionMade:
    """`none`, with the plateau's confidence and urgency, and in words what is awaited."""
    live = [seed for seed in view.seeds if seed.stage not in (Stage.CULLED, Stage.CANCELLED)]
    awaited = hindrance(view)
    if live:
        more = f" and {len(live) - 1} more" if len(live) > 1 else ""
        awaited = f"waiting for {full_name(live[0])} ({live[0].stage}, {plural(view.epochs_in(live[0]), 'epoch')}){more}"
    return DecisionMade(
        adaptation=Adaptation.NONE,
        site=None,
        seed=None,
        confidence=stalled.confidence,
        urgency=stalled.urgency,
        reason="; ".join(filter(None, (awaited, shadow(view), stalled.reason))),
        evidence=(view.event,),
    )
