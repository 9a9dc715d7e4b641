"""The candidates of one site, from germination to the graft: the best that passes is grafted, the others are cancelled.

Only evaluations made at this epoch's end are compared. k counts every alternative tried at the site (all candidates, all alphas), since
the best of all of them is what is grafted. A graft that the gate's cap or frequency would refuse is still wished for, but then nobody is
cancelled or culled for it. A candidate without enough evidence trains on, at most `patience` times the planned epochs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.tamiyo.evidence import confidence, describe, epochs, gain_in_words, number, usable_z
from esper.tamiyo.policy_input import PolicyInput, full_name, short_name
from esper.tamiyo.stages import Decisions, cull_broken, decide_alone

RACING = frozenset({Stage.GERMINATED, Stage.LOADING, Stage.TRAINING})


class _Candidate(NamedTuple):
    seed: SeedRow
    evidence: Evaluation
    gain: float
    z: float | None


class _RaceResult(NamedTuple):
    """Decisions about the candidates of one site.

    `culls` come in any case. `graft`: of the best, where it is wished for; it passes the gate's confidence and urgency where `convincing`,
    and then `losers` are to be cancelled with it (see `cancel`). `otherwise`: what is needed when the graft is not made.
    """

    culls: Decisions
    otherwise: Decisions
    graft: DecisionMade | None = None
    convincing: bool = False
    losers: tuple[SeedRow, ...] = ()
    candidates: tuple[_Candidate, ...] = ()


def run_race(view: PolicyInput, seeds: tuple[SeedRow, ...]) -> _RaceResult:
    """Decisions about the candidates `seeds`, all of one site, at this epoch's end."""
    culls = tuple(cull for seed in seeds for cull in cull_broken(view, seed))
    culled = {cull.seed for cull in culls}
    sound = tuple(seed for seed in seeds if seed.seed not in culled)
    left = view.epochs_left
    if left is not None and left <= view.settings.settling:
        return _RaceResult(culls, tuple(_too_late(view, seed, left) for seed in sound))
    candidates = _candidates(view, sound)
    going_on = tuple(decision for seed in sound for decision in decide_alone(view, seed))
    if not candidates:
        return _RaceResult(culls, going_on + _overdue(view, sound, candidates))
    best = candidates[0]
    graft = _graft(view, candidates)
    if view.gate_passes(graft):
        losers = tuple(seed for seed in sound if seed is not best.seed)
        return _RaceResult(culls, going_on, graft, True, losers, candidates)
    overdue = _overdue(view, sound, candidates)
    wished = best.gain > 0.0 and best.seed.seed not in {cull.seed for cull in overdue}
    return _RaceResult(culls, going_on + overdue, graft if wished else None)


def cancel(view: PolicyInput, result: _RaceResult) -> Decisions:
    """The cancellations of the losers of a race whose graft is made."""
    best = result.candidates[0]
    measured = {candidate.seed.seed: candidate.evidence for candidate in result.candidates}
    cancelled = []
    for seed in result.losers:
        own = measured.get(seed.seed)
        reason = f"{short_name(best.seed)} is grafted, this one was not measured"
        if own is not None:
            reason = f"{short_name(best.seed)} helped more ({gain_in_words(best.evidence)} against {gain_in_words(own)})"
        cancelled.append(view.decision(Adaptation.CANCEL, seed, reason, rests_on=seed if own else best.seed))
    return tuple(cancelled)


def shadow(view: PolicyInput, seeds: tuple[SeedRow, ...]) -> str:
    """The best comparison made at this epoch's end among `seeds`, in words; empty where there is none."""
    candidates = _candidates(view, seeds)
    if not candidates:
        return ""
    best = candidates[0]
    return f"shadow of {full_name(best.seed)}: {describe(best.evidence, view.settings.least_pairs, _tried(candidates))}"


def _candidates(view: PolicyInput, seeds: tuple[SeedRow, ...]) -> tuple[_Candidate, ...]:
    """Those with the planned epochs behind them and a comparison made now, the best first.

    Best is the largest mean gain among those that can be told from chance with the gate's confidence, then among the others.
    """
    planned = view.planned(view.settings.train_epochs)
    found = []
    for seed in seeds:
        evidence = view.fresh(seed)
        if seed.stage is Stage.TRAINING and view.epochs_in(seed) >= planned and evidence is not None:
            z = usable_z(evidence, view.settings.least_pairs)
            gain = evidence.mean if math.isfinite(evidence.mean) else -math.inf
            found.append(_Candidate(seed, evidence, gain, z))
    tried = _tried(found)
    limit = view.state.gate.confidence_above
    return tuple(sorted(found, key=lambda found: (confidence(found.z, tried) > limit, found.gain), reverse=True))


def _tried(candidates: Sequence[_Candidate]) -> int:
    return sum(max(1, candidate.evidence.k) for candidate in candidates)


def _graft(view: PolicyInput, candidates: tuple[_Candidate, ...]) -> DecisionMade:
    best, tried = candidates[0], _tried(candidates)
    reason = f"shadow {describe(best.evidence, view.settings.least_pairs, tried)}, alpha {number(best.evidence.alpha)}"
    if len(candidates) > 1:
        second = candidates[1]
        reason += f"; next {short_name(second.seed)} {gain_in_words(second.evidence)}"
    return view.decision(
        Adaptation.GRAFT,
        best.seed,
        reason,
        confidence=confidence(best.z, tried),
        urgency=min(1.0, view.epochs_in(best.seed) / view.planned(view.settings.train_epochs)),
        rests_on=best.seed,
    )


def _too_late(view: PolicyInput, seed: SeedRow, left: int) -> DecisionMade:
    needed = view.settings.settling
    return view.decision(Adaptation.CANCEL, seed, f"too late for a graft: {epochs(left)} left, {needed} and one to train on are needed")


def _overdue(view: PolicyInput, seeds: tuple[SeedRow, ...], candidates: tuple[_Candidate, ...]) -> Decisions:
    """Culls of those that have trained `patience` times the planned epochs and are not convincing yet."""
    planned = view.planned(view.settings.train_epochs)
    tried = _tried(candidates)
    measured = {candidate.seed.seed: candidate.evidence for candidate in candidates}
    culls = []
    for seed in seeds:
        if seed.stage is Stage.TRAINING and view.epochs_in(seed) >= view.settings.patience * planned:
            own = measured.get(seed.seed)
            words = "no usable comparison" if own is None else f"shadow {describe(own, view.settings.least_pairs, tried)}"
            reason = f"no graft in {epochs(view.epochs_in(seed))}, {view.settings.patience} x the {planned} planned: {words}"
            culls.append(view.decision(Adaptation.CULL, seed, reason, rests_on=seed if own else None))
    return tuple(culls)
