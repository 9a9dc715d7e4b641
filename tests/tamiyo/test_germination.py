"""When a race starts, where, and with what; and when nothing is even wished for."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.events.kinds.control import Adaptation
from esper.events.kinds.epoch import GateSettings
from esper.events.kinds.lifecycle import Stage
from esper.tamiyo.germination import plateau
from esper.tamiyo.policy_input import PolicySettings
from tests.tamiyo.states import FALLING, FLAT, SITE_DEFAULTS, Report, decisions, dormant, only, seed, sites, state, wanted

GERMINATE, NONE = Adaptation.GERMINATE, Adaptation.NONE
LOW_URGENCY = (1.0, *(0.88,) * 5)


def tried(system: Any, **settings: Any) -> list[tuple[str | None, int | None, str | None]]:
    """Site, slot and blueprint of every candidate."""
    return [(decision.site, decision.seed, decision.blueprint) for decision in decisions(system, **settings)]


def test_a_plateau_starts_a_race_of_three_blueprints_in_the_lowest_free_slots() -> None:
    system = state(seed("a", 0, Stage.FOSSILIZED), seed("a", 3), seed("a", 1), seed("a", 2), losses=FLAT)

    assert tried(system) == [("a", 1, "mlp:24"), ("a", 2, "lowrank:8"), ("a", 3, "signal:12")]


def test_the_reason_gives_the_numbers() -> None:
    first, *_ = decisions(state(*dormant(), losses=FLAT))

    assert first.reason == "best of 5 improved 0.0 % < 15 %; gradient pressure 1, the largest"
    assert (first.confidence, first.urgency) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "slots", "expected"),
    [({"race": 2}, 4, 2), ({"race": 3}, 2, 2), ({"race": 1}, 4, 1), ({"race": 9}, 4, 3)],
)
def test_a_race_is_as_large_as_settings_slots_and_blueprints_allow(settings: dict[str, Any], slots: int, expected: int) -> None:
    assert len(decisions(state(*dormant(slots=slots), losses=FLAT), **settings)) == expected


def test_a_race_leaves_room_for_the_gate_cap() -> None:
    assert len(decisions(state(*dormant(), losses=FLAT, gate=GateSettings(adaptations_per_epoch=2)))) == 2


@pytest.mark.parametrize(
    ("pressure", "expected"),
    [
        ({"a": 0.1, "b": 0.3, "c": 0.2}, "b"),
        ({"a": None, "b": None, "c": None}, "a"),
        ({"a": None, "b": 0.0, "c": None}, "b"),
        ({"a": math.nan, "b": 0.1, "c": math.inf}, "b"),
        ({"a": 0.1, "b": 0.1, "c": 0.1}, "a"),
        ({"a": 0.1, "b": 0.2, "full": 0.3}, "b"),
    ],
)
def test_growth_goes_where_the_gradient_presses_most(pressure: dict[str, float | None], expected: str) -> None:
    free = (*dormant("a"), *dormant("b"), *dormant("c"), seed("full", 0, Stage.FOSSILIZED), seed("full", 1, Stage.ROLLED_BACK))

    assert {site for site, _, _ in tried(state(*free, losses=FLAT, site_rows=sites(**pressure)))} == {expected}


BARE = ({**SITE_DEFAULTS, "site": "a", "gradient_pressure": 9.0, "blueprints": ()},)


def test_a_site_without_blueprints_is_passed_over() -> None:
    bare = {**BARE[0], "site": "bare"}

    system = state(*dormant("bare"), *dormant("a"), losses=FLAT, site_rows=(bare, *sites(a=0.1)))

    assert {site for site, _, _ in tried(system)} == {"a"}


def test_blueprints_that_failed_at_the_site_are_tried_later() -> None:
    reports = (
        Report("mlp:24", "a", "CULLED"),
        Report("mlp:24", "a", "ROLLED_BACK"),
        Report("lowrank:8", "a", "CULLED"),
        Report("signal:12", "b", "CULLED"),
        Report("signal:12", "a", "CANCELLED"),
    )

    system = state(*dormant(), losses=FLAT, reports=reports)

    assert [blueprint for _, _, blueprint in tried(system)] == ["signal:12", "lowrank:8", "mlp:24"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"losses": FALLING}, "best of 5 improved 67.2 % >= 15 %"),
        ({"losses": FLAT[:5]}, "5 of the 6 validation losses that show a plateau"),
        ({"validation_loss": None}, "no validation at this epoch's end; "),
        ({"planned": 45}, "15 epochs left, two seed cycles take 16; "),
        ({"site_rows": sites()}, "no site has a free slot; "),
        ({"site_rows": BARE}, "no blueprint is small enough: 460 parameters of at most 920; "),
    ],
)
def test_nothing_is_wished_for_and_the_reason_says_why(fields: dict[str, Any], expected: str) -> None:
    decided = only(state(*dormant(), **{"losses": FLAT, **fields}))

    assert decided.adaptation is NONE
    assert decided.reason.startswith(expected)


@pytest.mark.parametrize("fields", [{"planned": 46}, {"planned": None}])
def test_at_the_limit_a_race_still_starts(fields: dict[str, Any]) -> None:
    assert len(decisions(state(*dormant(), losses=FLAT, **fields))) == 3


@pytest.mark.parametrize(
    "stage",
    [Stage.GERMINATED, Stage.LOADING, Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING],
)
def test_no_race_starts_while_a_seed_is_on_its_way(stage: Stage) -> None:
    system = state(seed("b", 0, stage, epochs=0, ready=False), *dormant("a"), losses=FLAT, site_rows=sites(a=1, b=1))

    decided = only(system)

    assert decided.adaptation is NONE
    assert decided.reason.startswith(f"waiting for s0 mlp:24 at b ({stage}, 0 epochs); best of 5 improved 0.0 % < 15 %")


@pytest.mark.parametrize("stage", [Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK])
def test_a_seed_that_has_ended_is_in_nobody_s_way(stage: Stage) -> None:
    system = state(seed("a", 0, stage, embargo_until=99), *dormant("a")[1:], losses=FLAT)

    assert [what for what in wanted(system) if what[0] is GERMINATE] == [(GERMINATE, "a", 1), (GERMINATE, "a", 2), (GERMINATE, "a", 3)]


def test_a_race_waits_for_slots_under_embargo_rather_than_start_smaller() -> None:
    culled = tuple(seed("a", slot, Stage.CULLED, embargo_until=33) for slot in range(3))

    assert only(state(*culled, seed("a", 3), losses=FLAT)).reason.startswith("a race of 3 at a waits for 3 slots to come free; ")
    assert tried(state(*culled, seed("a", 3), losses=FLAT), race=1) == [("a", 3, "mlp:24")]


def test_the_most_races_are_kept() -> None:
    system = state(*dormant(), losses=FLAT, germinations=2)

    assert len(decisions(system, max_germinations=3)) == 3
    assert only(system, max_germinations=2).reason.startswith("2 races of at most 2 were started; ")


def test_a_run_may_be_told_to_start_no_race() -> None:
    assert only(state(*dormant(), losses=FLAT), max_germinations=0).adaptation is NONE


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"losses": LOW_URGENCY}, "urgency"),
        ({"gate": GateSettings(adaptation_every=7)}, "frequency"),
        ({"reports": (Report("mlp:24", "a", "CULLED", 26),)}, "cooldown"),
        ({"gate": GateSettings(adaptations_per_epoch=0)}, "cap"),
    ],
)
def test_a_germination_that_the_gate_will_refuse_is_wished_for_once(fields: dict[str, Any], what: str) -> None:
    wish = only(state(*dormant(), **{"losses": FLAT, **fields}))

    assert wish.adaptation is GERMINATE, what
    assert wish.seed == 0


def test_after_the_cooldown_the_race_starts() -> None:
    assert len(decisions(state(*dormant(), losses=FLAT, reports=(Report("mlp:24", "a", "CANCELLED", 25),)))) == 3


@pytest.mark.parametrize(("last", "expected"), [(0.849, NONE), (0.851, GERMINATE)])
def test_a_plateau_that_is_less_than_half_likely_is_no_wish(last: float, expected: Adaptation) -> None:
    assert only(state(*dormant(), losses=(1.0, *(last,) * 5))).adaptation is expected


# The plateau

SETTINGS = PolicySettings()


def second_opinion(losses: list[float], window: int, tolerance: float) -> tuple[float, float]:
    """The formula of the design once more, with numpy.polyfit and math.erfc."""
    last, before = np.array(losses[-window:]), np.array(losses[:-window])
    r = 1 - last.min() / before.min()
    time = np.arange(window)
    residual = np.log(last) - np.polyval(np.polyfit(time, np.log(last), 1), time)
    sigma = max(0.005, math.sqrt(float((residual**2).sum()) / (window - 2)))
    return 0.5 * math.erfc(-(tolerance - r) / sigma / math.sqrt(2)), float(np.clip(1 - r / (2 * tolerance), 0, 1))


@given(
    losses=st.lists(st.floats(1e-3, 1e3), min_size=12, max_size=40),
    window=st.integers(3, 11),
    tolerance=st.floats(0.01, 0.9),
)
def test_a_second_implementation_agrees(losses: list[float], window: int, tolerance: float) -> None:
    found = plateau(tuple(losses), PolicySettings(window=window, tolerance=tolerance))

    assert (found.confidence, found.urgency) == pytest.approx(second_opinion(losses, window, tolerance), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("losses", "confidence", "urgency"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0, 1.0), 1.0, 1.0),
        ((1.0, 0.85, 0.85, 0.85, 0.85, 0.85), 0.5, 0.5),
        ((1.0, 0.7, 0.7, 0.7, 0.7, 0.7), 0.0, 0.0),
        ((1.0, 2.0, 2.0, 2.0, 2.0, 2.0), 1.0, 1.0),
        ((1.0, 0.865, 0.865, 0.865, 0.865, 0.865), 0.99865, 0.55),
    ],
)
def test_the_less_it_improved_the_surer_and_more_urgent(losses: tuple[float, ...], confidence: float, urgency: float) -> None:
    found = plateau(losses, SETTINGS)

    assert (found.confidence, found.urgency) == pytest.approx((confidence, urgency), abs=1e-5)


def test_noise_around_the_line_makes_it_less_sure() -> None:
    steady = plateau((1.0, 0.87, 0.87, 0.87, 0.87, 0.87), SETTINGS)
    noisy = plateau((1.0, 0.87, 0.95, 0.88, 0.97, 0.89), SETTINGS)

    assert 0.5 < noisy.confidence < steady.confidence


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_shows_no_plateau_and_none_that_is_old_hides_one(bad: float) -> None:
    assert plateau((1.0,) * 6 + (bad,), SETTINGS) == (0.0, 0.0, "a validation loss that is not finite shows no plateau")
    assert plateau((bad,) + (1.0,) * 5, SETTINGS) == (0.0, 0.0, "5 of the 6 validation losses that show a plateau")
    assert plateau((bad,) + (1.0,) * 6, SETTINGS) == plateau((1.0,) * 6, SETTINGS)


def test_a_loss_that_has_come_down_to_0_is_no_plateau() -> None:
    assert plateau((1.0,) + (0.0,) * 6, SETTINGS) == (0.0, 0.0, "the lowest validation loss is 0")


STILL = (0.01, -0.02, 0.015, -0.01, 0.0, 0.02, -0.015, 0.005, -0.01, 0.01)


@pytest.mark.parametrize("level", [-1000.0, -1.0, -0.1, 0.0, 0.1, 1.0])
def test_a_loss_that_has_stopped_falling_is_a_plateau_at_every_level(level: float) -> None:
    found = plateau(tuple(level + 0.1 * noise for noise in (0.5, 0.2, *STILL)), SETTINGS)

    assert found.confidence > 0.7
    assert found.urgency > 0.6


@pytest.mark.parametrize("level", [-3.0, -1.0, -0.1, 0.0, 0.1])
def test_a_loss_that_still_falls_is_none_at_any_level(level: float) -> None:
    found = plateau(tuple(level - 0.3 * epoch + noise for epoch, noise in enumerate(STILL)), SETTINGS)

    assert found.confidence < 0.3


def test_a_first_loss_far_above_all_others_hides_no_descent() -> None:
    assert plateau((60.0, -0.2, -0.4, -0.6, -0.8, -1.0, -1.2, -1.4), SETTINGS).confidence < 0.3


def test_below_0_the_reason_says_of_what_it_is_a_share() -> None:
    assert plateau((-1.0, *(-1.1,) * 5), SETTINGS).reason == "best of 5 improved 9.1 % of 1.1 < 15 %"
    assert plateau((-1.1, *(-1.0,) * 5), SETTINGS).reason == "best of 5 is 9.1 % of 1.1 worse than before"


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_window_and_one_loss_before_it_are_needed(length: int) -> None:
    assert plateau((1.0,) * length, SETTINGS).confidence == 0.0


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (0.865, "best of 5 improved 13.5 % < 15 %"),
        (0.7, "best of 5 improved 30.0 % >= 15 %"),
        (1.053, "best of 5 is 5.3 % worse than before"),
    ],
)
def test_the_reason_says_by_how_much(last: float, reason: str) -> None:
    assert plateau((1.0, *(last,) * 5), SETTINGS).reason == reason
