"""Which candidate of a site is grafted, and what becomes of the others."""

import math
from typing import Any

import pytest

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation
from esper.events.kinds.epoch import GateSettings
from esper.events.kinds.lifecycle import Stage
from tests.tamiyo.states import EPOCH_EVENT, Row, decisions, evaluated, only, seed, sites, state, wanted

CANCEL, CULL, GRAFT, NONE = Adaptation.CANCEL, Adaptation.CULL, Adaptation.GRAFT, Adaptation.NONE
FIRST, SECOND = EventId("run/901"), EventId("run/902")


def trained(slot: int, mean: float, standard_error: float = 0.001, *, epochs: int = 3, site: str = "a", **evaluation: Any) -> Row:
    """A candidate that has trained and was shadow-validated now."""
    return seed(site, slot, Stage.TRAINING, epochs=epochs, **evaluated(mean, standard_error, **evaluation))


def test_the_largest_gain_is_grafted_and_the_others_are_cancelled() -> None:
    system = state(trained(0, 0.0013), trained(1, 0.0100), trained(2, -0.002), seed("a", 3, Stage.FOSSILIZED))

    assert wanted(system) == [(CANCEL, "a", 0), (CANCEL, "a", 2), (GRAFT, "a", 1)]


def test_a_graft_and_a_cancellation_say_what_was_compared() -> None:
    cancel, graft = decisions(state(trained(0, 0.0015, event=FIRST), trained(1, 0.004, event=SECOND)))

    assert cancel.reason == "s1 mlp:24 helped more (-0.8 % against -0.3 %)"
    assert graft.reason == "shadow 0.496 against 0.5 (-0.8 %), n 350, z 4.0, best of 6 tried, alpha 0.5; next s0 mlp:24 -0.3 %"
    assert cancel.evidence == (EPOCH_EVENT, FIRST)
    assert graft.evidence == (EPOCH_EVENT, SECOND)


def test_a_larger_gain_that_may_be_chance_loses_to_a_smaller_one_that_is_not() -> None:
    system = state(trained(0, 0.05, 0.05), trained(1, 0.01, 0.001))

    assert wanted(system) == [(CANCEL, "a", 0), (GRAFT, "a", 1)]


@pytest.mark.parametrize(("z", "candidates", "expected"), [(1.6, 1, 1), (1.6, 2, 0), (1.9, 2, 1), (1.9, 3, 0), (2.1, 3, 1)])
def test_confidence_falls_with_every_alternative_tried(z: float, candidates: int, expected: int) -> None:
    system = state(*(trained(slot, 0.001 * z - 1e-6 * slot) for slot in range(candidates)))

    (graft,) = [decision for decision in decisions(system) if decision.adaptation is GRAFT]

    assert (graft.confidence > 0.7) == expected


@pytest.mark.parametrize(
    ("z", "look", "expected"), [(1.6, 1, 1), (1.6, 2, 0), (2.1, 2, 1), (2.1, 3, 0), (2.4, 3, 1), (2.7, 7, 0), (2.9, 7, 1)]
)
def test_confidence_falls_with_every_look_at_the_race(z: float, look: int, expected: int) -> None:
    (graft,) = [one for one in decisions(state(trained(0, 0.001 * z, epochs=2 + look, look=look))) if one.adaptation in (GRAFT, CULL)]

    assert (graft.adaptation is GRAFT and graft.confidence > 0.7) == expected


def test_a_graft_that_is_not_convincing_is_wished_for_and_nobody_is_cancelled() -> None:
    wish = only(state(trained(0, 0.0005), trained(1, 0.0001)))

    assert (wish.adaptation, wish.seed, wish.urgency) == (GRAFT, 0, 1.0)
    assert wish.confidence < 0.7


def test_a_seed_that_does_not_help_trains_on_and_the_reason_says_so() -> None:
    decided = only(state(trained(0, -0.001)))

    assert decided.adaptation is NONE
    assert decided.reason.startswith(
        "waiting for s0 mlp:24 at a (TRAINING, 3 epochs); "
        "shadow of s0 mlp:24 at a: 0.501 against 0.5 (+0.2 %), n 350, z -1.0, best of 3 tried; "
    )


def test_an_evaluation_of_an_earlier_epoch_does_not_count() -> None:
    assert wanted(state(trained(0, 0.02, epoch=29))) == [(NONE, None, None)]


def test_nobody_is_grafted_before_the_planned_epochs() -> None:
    assert wanted(state(trained(0, 0.02, epochs=2))) == [(NONE, None, None)]


def test_too_few_pairs_give_a_wish_without_confidence() -> None:
    wish = only(state(trained(0, 0.02, n=7)))

    assert (wish.adaptation, wish.confidence) == (GRAFT, 0.0)
    assert wish.reason.startswith("shadow 0.48 against 0.5 (-4.0 %), n 7: fewer than 8 pairs give no confidence")


def test_a_gain_that_is_the_same_in_every_pair_is_certain() -> None:
    assert only(state(trained(0, 0.01, 0.0))).confidence == 1.0


def test_a_disabled_candidate_is_culled_and_cannot_win() -> None:
    broken = seed("a", 0, Stage.TRAINING, epochs=3, recovering=True, **evaluated(0.5))

    assert wanted(state(broken, trained(1, 0.01))) == [(CULL, "a", 0), (GRAFT, "a", 1)]


def test_candidates_that_never_convince_are_culled_at_three_times_the_planned_epochs() -> None:
    culled = decisions(state(trained(0, 0.0005, epochs=9), trained(1, -0.1, epochs=9)))

    assert [(cull.adaptation, cull.seed, cull.confidence, cull.urgency) for cull in culled] == [(CULL, 0, 1.0, 1.0), (CULL, 1, 1.0, 1.0)]
    assert culled[0].reason.startswith("no graft in 9 epochs, 3 x the 3 planned: shadow 0.4995 against 0.5 (-0.1 %)")


def test_a_candidate_that_convinces_at_last_is_grafted() -> None:
    assert wanted(state(trained(0, 0.02, epochs=9))) == [(GRAFT, "a", 0)]


@pytest.mark.parametrize("epochs_left", [0, 1, 5])
def test_too_late_for_a_graft_cancels_all_candidates(epochs_left: int) -> None:
    system = state(trained(0, 0.02), seed("a", 1, Stage.GERMINATED), planned=30 + epochs_left)

    assert wanted(system) == [(CANCEL, "a", 0), (CANCEL, "a", 1)]


def test_six_epochs_are_enough_for_a_graft() -> None:
    assert wanted(state(trained(0, 0.02), planned=36)) == [(GRAFT, "a", 0)]


def test_a_candidate_that_comes_late_is_cancelled_with_the_others() -> None:
    decided = decisions(state(trained(0, 0.02), seed("a", 1, Stage.GERMINATED), seed("a", 2, Stage.LOADING)))

    assert [(decision.adaptation, decision.seed) for decision in decided] == [(CANCEL, 1), (CANCEL, 2), (GRAFT, 0)]
    assert decided[0].reason == "s0 mlp:24 is grafted, this one was not measured"


@pytest.mark.parametrize("gate", [GateSettings(adaptations_per_epoch=1), GateSettings(adaptation_every=7)])
def test_nobody_is_cancelled_for_a_graft_that_finds_no_room(gate: GateSettings) -> None:
    system = state(seed("b", 0, Stage.TRAINING, recovering=True), trained(0, 0.02), trained(1, 0.01), gate=gate)

    assert wanted(system) == [(CULL, "b", 0), (GRAFT, "a", 0)]


def test_each_site_has_its_own_race() -> None:
    system = state(trained(0, 0.02), trained(1, 0.01), trained(0, 0.01, site="b"), trained(1, 0.02, site="b"), site_rows=sites(a=1, b=1))

    assert wanted(system) == [(CANCEL, "a", 1), (CANCEL, "b", 0), (GRAFT, "a", 0), (GRAFT, "b", 1)]


def test_an_unknown_gain_loses_to_any_other() -> None:
    unknown = trained(0, math.nan, without=math.nan, with_seed=math.nan)

    assert wanted(state(unknown, trained(1, 0.01))) == [(CANCEL, "a", 0), (GRAFT, "a", 1)]
