"""A rule for each stage of a single seed; `race` compares the candidates of a site.

In every stage in which a seed has a body: one that was disabled after a non-finite value is culled, with confidence and urgency 1. A
rule gives no decision where its seed has to wait; the numbers are in PolicySettings.
"""

from collections.abc import Callable, Mapping

from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.tamiyo.evidence import confidence, describe, epochs, is_harmful, number, usable_z
from esper.tamiyo.policy_input import PolicyInput

Decisions = tuple[DecisionMade, ...]

_HAS_BODY = frozenset({Stage.LOADING, Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING})


def decide_alone(view: PolicyInput, seed: SeedRow) -> Decisions:
    """Decisions about `seed` at this epoch's end, independent of other seeds; empty: wait."""
    broken = cull_broken(view, seed)
    if broken:
        return broken
    rule = _RULES.get(seed.stage)
    return rule(view, seed) if rule else ()


def cull_broken(view: PolicyInput, seed: SeedRow) -> Decisions:
    """A cull where the seed made a non-finite value, was disabled by one, or makes the validation loss non-finite."""
    if seed.stage not in _HAS_BODY:
        return ()
    if seed.recovering:
        return (view.decision(Adaptation.CULL, seed, "a non-finite value of its own disabled it"),)
    fresh = view.fresh(seed)
    if fresh is not None and is_harmful(fresh):
        reason = f"loss {number(fresh.loss_with)} with it, {number(fresh.loss_without)} without"
        return (view.decision(Adaptation.CULL, seed, reason, rests_on=seed),)
    return ()


def _germinated(view: PolicyInput, seed: SeedRow) -> Decisions:
    """Load and train at once when the kernel is ready; a kernel that is not ready after an epoch never will be."""
    if seed.ready and view.epochs_in(seed) <= view.settings.patience:
        return (
            view.decision(Adaptation.ADVANCE, seed, "its kernel is ready: load it"),
            view.decision(Adaptation.ADVANCE, seed, f"loaded: train in isolation for {epochs(view.settings.train_epochs)}"),
        )
    if seed.ready:
        return (view.decision(Adaptation.CANCEL, seed, f"its kernel was ready and not loaded in {epochs(view.epochs_in(seed))}"),)
    if view.epochs_in(seed) >= 1:
        reason = "its kernel failed" if seed.recovering else f"its kernel was not ready after {epochs(view.epochs_in(seed))}"
        return (view.decision(Adaptation.CANCEL, seed, reason),)
    return ()


def _loading(view: PolicyInput, seed: SeedRow) -> Decisions:
    if seed.ready and view.epochs_in(seed) <= view.settings.patience:
        return (view.decision(Adaptation.ADVANCE, seed, f"loaded: train in isolation for {epochs(view.settings.train_epochs)}"),)
    if view.epochs_in(seed) >= 1:
        return (view.decision(Adaptation.CULL, seed, f"failed to load: still LOADING after {epochs(view.epochs_in(seed))}"),)
    return ()


def _grafting(view: PolicyInput, seed: SeedRow) -> Decisions:
    if view.epochs_in(seed) < view.settings.graft_epochs or seed.ready is False:
        return ()
    alpha = "" if seed.alpha is None else f", alpha {seed.alpha:g}"
    return (view.decision(Adaptation.ADVANCE, seed, f"blended in over {epochs(view.epochs_in(seed))}{alpha}: let the host settle"),)


def _stabilization(view: PolicyInput, seed: SeedRow) -> Decisions:
    if view.epochs_in(seed) < view.settings.stabilize_epochs or seed.ready is False:
        return ()
    return (
        view.decision(Adaptation.ADVANCE, seed, f"the host has settled for {epochs(view.epochs_in(seed))}: measure what the seed is worth"),
    )


def _evaluating(view: PolicyInput, seed: SeedRow) -> Decisions:
    """Keep or cull, by the loss with against without the seed.

    The loss before the graft counts only where the seed is not shown to be needed: the host has co-adapted, and a good seed looks worse
    than before (measured: judging by it culled seeds worth 25 points).
    """
    settings = view.settings
    planned = view.planned(settings.evaluate_epochs)
    if view.epochs_in(seed) < planned:
        return ()
    fresh = view.fresh(seed)
    z = usable_z(fresh, settings.least_pairs)
    if fresh is None or z is None:
        return _unjudged(view, seed, fresh, planned)
    words = describe(fresh, settings.least_pairs)
    urgency = min(1.0, view.epochs_in(seed) / planned)
    useless = view.decision(
        Adaptation.CULL,
        seed,
        f"without it is better: {words}",
        confidence=confidence(-z, fresh.k),
        urgency=urgency,
        rests_on=seed,
    )
    if view.gate_passes(useless):
        return (useless,)
    worse = _worse_than_before(view, seed, fresh)
    if z < settings.needed_z and worse:
        return (view.decision(Adaptation.CULL, seed, f"not needed, and {worse}: {words}", urgency=urgency, rests_on=seed),)
    kept = confidence(z, fresh.k)
    if view.epochs_left == 0:
        return (view.decision(Adaptation.FOSSILIZE, seed, f"the last epoch: {words}", confidence=kept, urgency=urgency, rests_on=seed),)
    return (view.decision(Adaptation.ADVANCE, seed, f"kept, train it with the host: {words}", confidence=kept, rests_on=seed),)


def _unjudged(view: PolicyInput, seed: SeedRow, fresh: Evaluation | None, planned: int) -> Decisions:
    if view.epochs_in(seed) < view.settings.patience * planned:
        return ()
    words = "no evaluation" if fresh is None else describe(fresh, view.settings.least_pairs)
    reason = f"not shown to help in {epochs(view.epochs_in(seed))}, {view.settings.patience} x the {planned} planned: {words}"
    return (view.decision(Adaptation.CULL, seed, reason, rests_on=seed if fresh else None),)


def _worse_than_before(view: PolicyInput, seed: SeedRow, fresh: Evaluation) -> str:
    """In words by how much the loss is above that before the graft; empty where it is not, or not by enough, or not known."""
    before, now = seed.loss_before_graft, fresh.loss_with
    if before is None or not now - before > view.settings.worse * abs(before):
        return ""
    return f"{number(now)} is more than {100.0 * view.settings.worse:g} % above {number(before)} before the graft"


def _fine_tuning(view: PolicyInput, seed: SeedRow) -> Decisions:
    """Fossilize when it has trained long enough, or at the last epoch but one; cull where an evaluation made now says that it harms.

    What the gate will refuse is said every `fine_tune_epochs` and at the end, not after each epoch.
    """
    planned = view.planned(view.settings.fine_tune_epochs)
    evidence = seed.evaluation
    z = usable_z(evidence, view.settings.least_pairs)
    words = "never evaluated" if evidence is None else describe(evidence, view.settings.least_pairs)
    urgency = min(1.0, view.epochs_in(seed) / planned)
    k = 1 if evidence is None else evidence.k
    harm = confidence(None if z is None else -z, k)
    useless = view.decision(Adaptation.CULL, seed, f"without it is better: {words}", confidence=harm, urgency=urgency, rests_on=seed)
    if view.fresh(seed) is not None and view.gate_passes(useless):
        return (useless,)
    left = view.epochs_left
    at_the_end = left is not None and left <= 1
    if view.epochs_in(seed) < view.settings.fine_tune_epochs and not at_the_end:
        return ()
    final = view.decision(
        Adaptation.FOSSILIZE,
        seed,
        f"trained with the host for {epochs(view.epochs_in(seed))}: {words}",
        confidence=confidence(z, k),
        urgency=urgency,
        rests_on=seed,
    )
    said = at_the_end or view.epochs_in(seed) % view.settings.fine_tune_epochs == 0
    return (final,) if said or view.gate_passes(final) else ()


def _culled(view: PolicyInput, seed: SeedRow) -> Decisions:
    until = seed.embargo_until
    if until is not None and view.state.epoch < until:
        return ()
    return (view.decision(Adaptation.ADVANCE, seed, "its embargo is over: the slot is free again"),)


def _cancelled(view: PolicyInput, seed: SeedRow) -> Decisions:
    return (view.decision(Adaptation.ADVANCE, seed, "cancelled: the slot is free again"),)


_RULES: Mapping[Stage, Callable[[PolicyInput, SeedRow], Decisions]] = {
    Stage.GERMINATED: _germinated,
    Stage.LOADING: _loading,
    Stage.GRAFTING: _grafting,
    Stage.STABILIZATION: _stabilization,
    Stage.EVALUATING: _evaluating,
    Stage.FINE_TUNING: _fine_tuning,
    Stage.CULLED: _culled,
    Stage.CANCELLED: _cancelled,
}
