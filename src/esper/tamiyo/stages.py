"""A rule for each stage of a single seed; `race` compares the candidates of a site.

In every stage in which a seed has a body, one that was disabled after a non-finite value is culled, with confidence and urgency 1. A rule
gives no decision where its seed has to wait; the numbers are in PolicySettings.
"""

import math
from collections.abc import Callable, Iterator, Mapping

from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.folds.transitions import ISOLATED
from esper.tamiyo.evidence import confidence, evidence_in_words, usable_z
from esper.tamiyo.policy_input import PolicyInput
from esper.words import plural

_HAS_BODY = frozenset({Stage.LOADING, Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING})


def decide_alone(view: PolicyInput, seed: SeedRow) -> tuple[DecisionMade, ...]:
    """Decisions about `seed` at this epoch's end, independent of other seeds; empty: wait."""
    rule = _RULES.get(seed.stage)
    return cull_broken(view, seed) or (tuple(rule(view, seed)) if rule else ())


def cull_broken(view: PolicyInput, seed: SeedRow) -> tuple[DecisionMade, ...]:
    """A cull where the seed made a non-finite value or was disabled by one, makes the validation loss non-finite, or cannot learn here."""
    if seed.stage not in _HAS_BODY:
        return ()
    if seed.recovering:
        return (view.decision(Adaptation.CULL, seed, "a non-finite value of its own disabled it"),)
    frozen = next((row.frozen for row in view.state.sites if row.site == seed.site), None)
    if frozen is not None and seed.stage in ISOLATED | {Stage.LOADING}:
        return (view.decision(Adaptation.CULL, seed, f"it cannot learn here: {frozen}"),)
    fresh = view.fresh(seed)
    if fresh is not None and math.isfinite(fresh.loss_without) and not math.isfinite(fresh.loss_with):
        reason = f"loss {fresh.loss_with:.4g} with it, {fresh.loss_without:.4g} without"
        return (view.decision(Adaptation.CULL, seed, reason, rests_on=seed),)
    return ()


def _germinated(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    """Load and train at once when the kernel is ready; a kernel that is not ready after an epoch never will be."""
    lasted = view.epochs_in(seed)
    if seed.ready and lasted <= view.settings.patience:
        yield view.decision(Adaptation.ADVANCE, seed, "its kernel is ready: load it")
        yield _train(view, seed)
    elif seed.ready:
        yield view.decision(Adaptation.CANCEL, seed, f"its kernel was ready and not loaded in {plural(lasted, 'epoch')}")
    elif lasted >= 1:
        reason = "its kernel failed" if seed.recovering else f"its kernel was not ready after {plural(lasted, 'epoch')}"
        yield view.decision(Adaptation.CANCEL, seed, reason)


def _loading(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    lasted = view.epochs_in(seed)
    if seed.ready and lasted <= view.settings.patience:
        yield _train(view, seed)
    elif lasted >= 1:
        yield view.decision(Adaptation.CULL, seed, f"failed to load: still LOADING after {plural(lasted, 'epoch')}")


def _train(view: PolicyInput, seed: SeedRow) -> DecisionMade:
    return view.decision(Adaptation.ADVANCE, seed, f"loaded: train in isolation for {plural(view.settings.train_epochs, 'epoch')}")


def _grafting(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    if (lasted := view.epochs_in(seed)) >= view.settings.graft_epochs and seed.ready is not False:
        alpha = "" if seed.alpha is None else f", alpha {seed.alpha:g}"
        yield view.decision(Adaptation.ADVANCE, seed, f"blended in over {plural(lasted, 'epoch')}{alpha}: let the host settle")


def _stabilization(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    if (lasted := view.epochs_in(seed)) >= view.settings.stabilize_epochs and seed.ready is not False:
        yield view.decision(Adaptation.ADVANCE, seed, f"the host has settled for {plural(lasted, 'epoch')}: measure what the seed is worth")


def _evaluating(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    """Keep or cull, by the loss with against without the seed.

    The loss before the graft counts only where the seed is not shown to be needed: the host has co-adapted, and a good seed looks worse
    than before (measured: judging by it culled seeds worth 25 points).
    """
    settings, fresh, lasted = view.settings, view.fresh(seed), view.epochs_in(seed)
    planned = view.planned(settings.evaluate_epochs)
    z = usable_z(fresh, settings.least_pairs)
    if lasted < planned:
        return
    if fresh is None or z is None:
        if lasted >= settings.patience * planned:
            words = "no evaluation" if fresh is None else evidence_in_words(fresh, settings.least_pairs)
            reason = f"not shown to help in {plural(lasted, 'epoch')}, {settings.patience} x the {planned} planned: {words}"
            yield view.decision(Adaptation.CULL, seed, reason, rests_on=seed if fresh else None)
        return
    least = settings.least_pairs
    words, urgency, kept = evidence_in_words(fresh, least), min(1.0, lasted / planned), confidence(fresh, least)
    useless = _useless(view, seed, words, confidence(fresh, least, harm=True), urgency)
    if view.gate_passes(useless):
        yield useless
    elif z < settings.needed_z and (worse := _worse_than_before(view, seed, fresh)):
        yield view.decision(Adaptation.CULL, seed, f"not needed, and {worse}: {words}", urgency=urgency, rests_on=seed)
    elif view.epochs_left == 0:
        yield view.decision(Adaptation.FOSSILIZE, seed, f"the last epoch: {words}", confidence=kept, urgency=urgency, rests_on=seed)
    else:
        yield view.decision(Adaptation.ADVANCE, seed, f"kept, train it with the host: {words}", confidence=kept, rests_on=seed)


def _useless(view: PolicyInput, seed: SeedRow, words: str, harm: float, urgency: float) -> DecisionMade:
    return view.decision(Adaptation.CULL, seed, f"without it is better: {words}", confidence=harm, urgency=urgency, rests_on=seed)


def _worse_than_before(view: PolicyInput, seed: SeedRow, fresh: Evaluation) -> str:
    """In words by how much the loss is above that before the graft; empty where it is not, or not by enough, or unknown."""
    before, now = seed.loss_before_graft, fresh.loss_with
    if before is None or not now - before > view.settings.worse * abs(before):
        return ""
    return f"{now:.4g} is more than {100.0 * view.settings.worse:g} % above {before:.4g} before the graft"


def _fine_tuning(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    """Fossilize when it has trained long enough, or at the last epoch but one; cull where an evaluation made now shows that it harms.

    A decision that the gate will refuse is made every `fine_tune_epochs` and at the end, not after each epoch.
    """
    settings, evidence, lasted, left = view.settings, seed.evaluation, view.epochs_in(seed), view.epochs_left
    least = settings.least_pairs
    words = "never evaluated" if evidence is None else evidence_in_words(evidence, least)
    urgency = min(1.0, lasted / view.planned(settings.fine_tune_epochs))
    useless = _useless(view, seed, words, confidence(evidence, least, harm=True), urgency)
    at_the_end = left is not None and left <= 1
    if view.fresh(seed) is not None and view.gate_passes(useless):
        yield useless
    elif lasted >= settings.fine_tune_epochs or at_the_end:
        reason = f"trained with the host for {plural(lasted, 'epoch')}: {words}"
        sure = confidence(evidence, least)
        final = view.decision(Adaptation.FOSSILIZE, seed, reason, confidence=sure, urgency=urgency, rests_on=seed)
        if at_the_end or lasted % settings.fine_tune_epochs == 0 or view.gate_passes(final):
            yield final


def _culled(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    if seed.embargo_until is None or view.state.epoch >= seed.embargo_until:
        yield view.decision(Adaptation.ADVANCE, seed, "its embargo is over: the slot is free again")


def _cancelled(view: PolicyInput, seed: SeedRow) -> Iterator[DecisionMade]:
    yield view.decision(Adaptation.ADVANCE, seed, "cancelled: the slot is free again")


_RULES: Mapping[Stage, Callable[[PolicyInput, SeedRow], Iterator[DecisionMade]]] = {
    Stage.GERMINATED: _germinated,
    Stage.LOADING: _loading,
    Stage.GRAFTING: _grafting,
    Stage.STABILIZATION: _stabilization,
    Stage.EVALUATING: _evaluating,
    Stage.FINE_TUNING: _fine_tuning,
    Stage.CULLED: _culled,
    Stage.CANCELLED: _cancelled,
}
