"""The candidates of one site, from germination to the graft: the best that passes is grafted, the others are cancelled.

Only evaluations made at this epoch's end are compared. k counts every alternative tried at the site (all candidates, all alphas), since
the best of all of them is what is grafted; that a race is looked at after each epoch is paid for in the confidence (`evidence`). A graft
that the gate's cap or frequency would refuse is still wished for, but then no seed is cancelled or culled for it. A candidate without
enough evidence trains on, at most `patience` times the planned epochs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.tamiyo.evidence import confidence, evidence_in_words, gain_in_words
from esper.tamiyo.policy_input import PolicyInput, full_name, short_name
from esper.tamiyo.stages import cull_broken, decide_alone
from esper.words import plural

RACING = frozenset({Stage.GERMINATED, Stage.LOADING, Stage.TRAINING})
_Decisions = list[DecisionMade]


class _Candidate(NamedTuple):
    seed: SeedRow
    evidence: Evaluation
    gain: float


class _RaceResult(NamedTuple):
    """Decisions about the candidates of one site.

    `culls` are made in any case. `graft`: of the best, where it is wished for; it passes the gate's confidence and urgency where
    `convincing`, and then `cancels` of the others are made with it. `otherwise`: the decisions where the graft is not made.
    """

    culls: _Decisions
    otherwise: _Decisions
    graft: DecisionMade | None = None
    convincing: bool = False
    cancels: Sequence[DecisionMade] = ()


def run_race(view: PolicyInput, seeds: list[SeedRow]) -> _RaceResult:
    """Decisions about the candidates `seeds`, all of one site, at this epoch's end."""
    culls = [cull for seed in seeds for cull in cull_broken(view, seed)]
    culled = {cull.seed for cull in culls}
    sound = [seed for seed in seeds if seed.seed not in culled]
    left, needed = view.epochs_left, view.settings.settling
    if left is not None and left <= needed:
        reason = f"too late for a graft: {plural(left, 'epoch')} left, {needed} and one to train on are needed"
        return _RaceResult(culls, [view.decision(Adaptation.CANCEL, seed, reason) for seed in sound])
    candidates = _candidates(view, sound)
    going_on = [decision for seed in sound for decision in decide_alone(view, seed)]
    if not candidates:
        return _RaceResult(culls, going_on + _overdue(view, sound, candidates))
    best, graft = candidates[0], _graft(view, candidates)
    if view.gate_passes(graft):
        return _RaceResult(culls, going_on, graft, True, _cancels(view, sound, candidates))
    overdue = _overdue(view, sound, candidates)
    wished = best.gain > 0.0 and best.seed.seed not in {cull.seed for cull in overdue}
    return _RaceResult(culls, going_on + overdue, graft if wished else None)


def shadow(view: PolicyInput) -> str:
    """The best comparison made at this epoch's end, in words; empty where there is none."""
    candidates = _candidates(view, view.seeds)
    if not candidates:
        return ""
    best = candidates[0]
    return f"shadow of {full_name(best.seed)}: {evidence_in_words(best.evidence, view.settings.least_pairs, _tried(candidates))}"


def _candidates(view: PolicyInput, seeds: Sequence[SeedRow]) -> list[_Candidate]:
    """Those with the planned epochs behind them and a comparison made now, the best first.

    Best is the largest mean gain among those that can be told from chance with the gate's confidence, then among the others.
    """
    planned, limit = view.planned(view.settings.train_epochs), view.state.gate.confidence_above
    found = []
    for seed in seeds:
        evidence = view.fresh(seed)
        if seed.stage is Stage.TRAINING and view.epochs_in(seed) >= planned and evidence is not None:
            gain = evidence.mean if math.isfinite(evidence.mean) else -math.inf
            found.append(_Candidate(seed, evidence, gain))
    tried, least = _tried(found), view.settings.least_pairs
    return sorted(found, key=lambda one: (confidence(one.evidence, least, tried=tried) > limit, one.gain), reverse=True)


def _tried(candidates: list[_Candidate]) -> int:
    return sum(max(1, candidate.evidence.k) for candidate in candidates)


def _graft(view: PolicyInput, candidates: list[_Candidate]) -> DecisionMade:
    best, tried = candidates[0], _tried(candidates)
    reason = f"shadow {evidence_in_words(best.evidence, view.settings.least_pairs, tried)}, alpha {best.evidence.alpha:.4g}"
    if len(candidates) > 1:
        reason += f"; next {short_name(candidates[1].seed)} {gain_in_words(candidates[1].evidence)}"
    urgency = min(1.0, view.epochs_in(best.seed) / view.planned(view.settings.train_epochs))
    sure = confidence(best.evidence, view.settings.least_pairs, tried=tried)
    return view.decision(Adaptation.GRAFT, best.seed, reason, confidence=sure, urgency=urgency, rests_on=best.seed)


def _cancels(view: PolicyInput, seeds: list[SeedRow], candidates: list[_Candidate]) -> _Decisions:
    """Cancellations of all but the best candidate, which is grafted."""
    best, name, gain = candidates[0].seed, short_name(candidates[0].seed), gain_in_words(candidates[0].evidence)
    reasons = {one.seed.seed: f"{name} helped more ({gain} against {gain_in_words(one.evidence)})" for one in candidates}
    unmeasured = f"{name} is grafted, this one was not measured"
    return [
        view.decision(Adaptation.CANCEL, seed, reasons.get(seed.seed, unmeasured), rests_on=seed if seed.seed in reasons else best)
        for seed in seeds
        if seed is not best
    ]


def _overdue(view: PolicyInput, seeds: list[SeedRow], candidates: list[_Candidate]) -> _Decisions:
    """Culls of those that have trained `patience` times the planned epochs and are not convincing yet."""
    patience, planned, tried = view.settings.patience, view.planned(view.settings.train_epochs), _tried(candidates)
    measured = {candidate.seed.seed: candidate.evidence for candidate in candidates}
    culls = []
    for seed in seeds:
        lasted, own = view.epochs_in(seed), measured.get(seed.seed)
        if seed.stage is Stage.TRAINING and lasted >= patience * planned:
            words = "no usable comparison" if own is None else f"shadow {evidence_in_words(own, view.settings.least_pairs, tried)}"
            reason = f"no graft in {plural(lasted, 'epoch')}, {patience} x the {planned} planned: {words}"
            culls.append(view.decision(Adaptation.CULL, seed, reason, rests_on=seed if own else None))
    return culls
