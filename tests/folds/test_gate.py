"""Every rule of the gate, in its order: what breaks it, what just passes it, and that the first broken one is named."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, Command, DecisionMade
from esper.events.kinds.epoch import GateSettings
from esper.events.kinds.lifecycle import Stage
from esper.folds.gate import GateView, Refused, _broken_rules, after, judge, view_at
from tests.folds.histories import decision, seed_row, system

EPOCH_EVENT = EventId("run/100")
KEY = ("layer0", 0)
SETTINGS = GateSettings()


def view(stage: Stage, *, embargo_until: int | None = None, ready: bool | None = True, epoch: int = 10) -> GateView:
    return GateView(epoch=epoch, epoch_event=EPOCH_EVENT, seeds={KEY: seed_row(*KEY, stage, embargo_until=embargo_until, ready=ready)})


def rule_against(made: DecisionMade, seen: GateView, settings: GateSettings = SETTINGS) -> str | None:
    verdict = judge(made, seen, settings)
    return verdict.rule if isinstance(verdict, Refused) else None


GERMINATE = decision(Adaptation.GERMINATE, EPOCH_EVENT)
GRAFT = decision(Adaptation.GRAFT, EPOCH_EVENT)
CULL = decision(Adaptation.CULL, EPOCH_EVENT)
FOSSILIZE = decision(Adaptation.FOSSILIZE, EPOCH_EVENT)
ADVANCE = decision(Adaptation.ADVANCE, EPOCH_EVENT, confidence=0.0, urgency=0.0)
CANCEL = decision(Adaptation.CANCEL, EPOCH_EVENT, confidence=0.0, urgency=0.0)
DORMANT = view(Stage.DORMANT)
TRAINING = view(Stage.TRAINING)


@pytest.mark.parametrize(
    ("made", "seen", "command"),
    [
        (GERMINATE, DORMANT, Command.GERMINATE),
        (GRAFT, TRAINING, Command.GRAFT),
        (CULL, view(Stage.FINE_TUNING), Command.CULL),
        (FOSSILIZE, view(Stage.FINE_TUNING), Command.FOSSILIZE),
        (CANCEL, TRAINING, Command.CANCEL),
        (ADVANCE, view(Stage.GERMINATED), Command.LOAD),
        (ADVANCE, view(Stage.LOADING), Command.TRAIN),
        (ADVANCE, view(Stage.GRAFTING), Command.STABILIZE),
        (ADVANCE, view(Stage.STABILIZATION), Command.EVALUATE),
        (ADVANCE, view(Stage.EVALUATING), Command.FINE_TUNE),
        (ADVANCE, view(Stage.CULLED, embargo_until=10), Command.RESET),
        (ADVANCE, view(Stage.CANCELLED), Command.RESET),
    ],
)
def test_a_decision_that_breaks_no_rule_becomes_its_command(made: DecisionMade, seen: GateView, command: Command) -> None:
    assert judge(made, seen, SETTINGS) == command


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 1.5])
@pytest.mark.parametrize("field", ["confidence", "urgency"])
@pytest.mark.parametrize(("made", "seen"), [(GERMINATE, DORMANT), (ADVANCE, view(Stage.GRAFTING)), (CANCEL, TRAINING)])
def test_a_number_that_is_not_in_zero_to_one_is_not_finite(made: DecisionMade, seen: GateView, field: str, value: float) -> None:
    assert rule_against(made.model_copy(update={field: value}), seen) == "finite"


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        (GERMINATE, TRAINING),
        (GRAFT, DORMANT),
        (CULL, view(Stage.FOSSILIZED)),
        (CANCEL, view(Stage.GRAFTING)),
        (ADVANCE, TRAINING),
        (ADVANCE, view(Stage.ROLLED_BACK)),
        (decision(Adaptation.CULL, EPOCH_EVENT, site="layer9"), TRAINING),
        (decision(Adaptation.CULL, EPOCH_EVENT, seed=7), TRAINING),
        (decision(Adaptation.CULL, EPOCH_EVENT, site=None), TRAINING),
        (decision(Adaptation.CULL, EPOCH_EVENT, seed=None), TRAINING),
    ],
)
def test_what_the_table_does_not_know_is_not_legal(made: DecisionMade, seen: GateView) -> None:
    assert rule_against(made, seen) == "legal"


@pytest.mark.parametrize(("until", "rule"), [(9, None), (10, None), (11, "embargo")])
def test_a_culled_slot_is_reset_from_the_epoch_at_which_its_embargo_ends(until: int, rule: str | None) -> None:
    assert rule_against(ADVANCE, view(Stage.CULLED, embargo_until=until)) == rule


def test_a_slot_under_embargo_does_not_germinate() -> None:
    assert rule_against(GERMINATE, view(Stage.DORMANT, embargo_until=11)) == "embargo"


@pytest.mark.parametrize("evidence", [(), (EventId("run/90"),)])
def test_a_decision_without_the_last_epoch_as_evidence_is_stale(evidence: tuple[EventId, ...]) -> None:
    assert rule_against(GERMINATE.model_copy(update={"evidence": evidence}), DORMANT) == "stale"


def test_the_last_epoch_among_other_evidence_is_enough() -> None:
    assert rule_against(GERMINATE.model_copy(update={"evidence": (EventId("run/90"), EPOCH_EVENT)}), DORMANT) is None


@pytest.mark.parametrize("ready", [False, None])
def test_housekeeping_waits_for_a_ready_seed(ready: bool | None) -> None:
    assert rule_against(ADVANCE, view(Stage.GRAFTING, ready=ready)) == "ready"


@pytest.mark.parametrize("made", [GRAFT, CULL, CANCEL])
def test_nothing_but_housekeeping_waits_for_a_ready_seed(made: DecisionMade) -> None:
    assert rule_against(made, view(Stage.TRAINING, ready=False)) is None


@pytest.mark.parametrize(("made", "seen"), [(GERMINATE, DORMANT), (GRAFT, TRAINING), (CULL, TRAINING), (FOSSILIZE, view(Stage.EVALUATING))])
@pytest.mark.parametrize(("field", "limit"), [("confidence", 0.7), ("urgency", 0.6)])
def test_an_adaptation_must_be_above_the_limits(made: DecisionMade, seen: GateView, field: str, limit: float) -> None:
    assert rule_against(made.model_copy(update={field: limit}), seen) == field
    assert rule_against(made.model_copy(update={field: math.nextafter(limit, 1.0)}), seen) is None


@pytest.mark.parametrize("field", ["confidence_above", "urgency_above"])
def test_no_value_is_above_a_limit_that_is_not_a_number(field: str) -> None:
    assert rule_against(GERMINATE, DORMANT, SETTINGS.model_copy(update={field: math.nan})) == field.removesuffix("_above")


@pytest.mark.parametrize(("applied", "rule"), [(0, None), (2, None), (3, "cap"), (4, "cap")])
def test_at_most_three_adaptations_pass_after_one_epoch(applied: int, rule: str | None) -> None:
    assert rule_against(CULL, replace(TRAINING, applied=applied)) == rule


@pytest.mark.parametrize("made", [ADVANCE, CANCEL])
def test_the_cap_counts_adaptations_alone(made: DecisionMade) -> None:
    assert rule_against(made, replace(view(Stage.GERMINATED), applied=3)) is None


@pytest.mark.parametrize(("made", "seen"), [(GERMINATE, DORMANT), (GRAFT, TRAINING), (FOSSILIZE, view(Stage.EVALUATING))])
def test_growth_happens_only_after_epochs_of_the_set_frequency(made: DecisionMade, seen: GateView) -> None:
    settings = GateSettings(adaptation_every=4)
    assert rule_against(made, replace(seen, epoch=10), settings) == "frequency"
    assert rule_against(made, replace(seen, epoch=12), settings) is None


@pytest.mark.parametrize(("made", "seen"), [(CULL, TRAINING), (CANCEL, TRAINING), (ADVANCE, view(Stage.GRAFTING))])
def test_removal_and_housekeeping_ask_for_no_frequency(made: DecisionMade, seen: GateView) -> None:
    assert rule_against(made, seen, GateSettings(adaptation_every=4)) is None


@pytest.mark.parametrize(("last", "rule"), [(None, None), (1, None), (5, None), (6, "cooldown"), (9, "cooldown"), (10, None)])
def test_a_germination_waits_for_the_cooldown(last: int | None, rule: str | None) -> None:
    assert rule_against(GERMINATE, replace(DORMANT, last_germination=last)) == rule


def test_the_cooldown_concerns_germination_alone() -> None:
    assert rule_against(GRAFT, replace(TRAINING, last_germination=9)) is None


BROKEN: dict[str, DecisionMade] = {
    "finite": GERMINATE.model_copy(update={"confidence": math.nan, "urgency": 0.0, "evidence": (), "seed": 9}),
    "legal": GERMINATE.model_copy(update={"confidence": 0.0, "urgency": 0.0, "evidence": (), "seed": 9}),
    "embargo": GERMINATE.model_copy(update={"confidence": 0.0, "urgency": 0.0, "evidence": (), "seed": 1}),
    "stale": GERMINATE.model_copy(update={"confidence": 0.0, "urgency": 0.0, "evidence": ()}),
    "confidence": GERMINATE.model_copy(update={"confidence": 0.0, "urgency": 0.0}),
    "urgency": GERMINATE.model_copy(update={"urgency": 0.0}),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_of_many_broken_rules_the_first_is_named(rule: str) -> None:
    seeds = {KEY: seed_row(*KEY, Stage.DORMANT), ("layer0", 1): seed_row("layer0", 1, Stage.DORMANT, embargo_until=11)}
    seen = GateView(epoch=10, epoch_event=EPOCH_EVENT, seeds=seeds, applied=3, last_germination=9)
    assert rule_against(BROKEN[rule], seen, GateSettings(adaptation_every=4)) == rule


def test_after_urgency_come_cap_frequency_and_cooldown() -> None:
    seen = replace(DORMANT, applied=3, last_germination=9)
    assert rule_against(GERMINATE, seen, GateSettings(adaptation_every=4)) == "cap"
    assert rule_against(GERMINATE, replace(seen, applied=0), GateSettings(adaptation_every=4)) == "frequency"
    assert rule_against(GERMINATE, replace(seen, applied=0)) == "cooldown"


def test_a_seed_that_is_not_ready_is_refused_after_staleness() -> None:
    stale = ADVANCE.model_copy(update={"evidence": ()})
    assert rule_against(stale, view(Stage.GRAFTING, ready=False)) == "stale"


def test_rules_are_asked_in_the_order_in_which_a_refusal_may_name_them() -> None:
    nowhere = decision(Adaptation.ADVANCE, EPOCH_EVENT, seed=9, confidence=math.nan)
    late = decision(Adaptation.ADVANCE, EventId("run/1"))
    wrong = decision(Adaptation.GERMINATE, EventId("run/1"), confidence=0.1, urgency=0.1)
    seen = replace(view(Stage.DORMANT, embargo_until=20, epoch=11), applied=9, last_germination=10)
    rules = [
        [refused.rule for refused in _broken_rules(made, at, GateSettings(adaptation_every=2, cooldown=5))]
        for made, at in ((nowhere, DORMANT), (late, view(Stage.GRAFTING, ready=False)), (wrong, seen))
    ]
    assert rules == [["finite", "legal"], ["stale", "ready"], ["embargo", "stale", "confidence", "urgency", "cap", "frequency", "cooldown"]]


@pytest.mark.parametrize("stage", [Stage.CULLED, Stage.CANCELLED])
def test_a_reset_has_nothing_to_be_ready_with(stage: Stage) -> None:
    assert judge(ADVANCE, view(stage, ready=None), SETTINGS) == Command.RESET


def test_a_refusal_gives_its_numbers() -> None:
    verdict = judge(GERMINATE.model_copy(update={"confidence": 0.53}), DORMANT, SETTINGS)
    assert verdict == Refused("confidence", "expected a confidence above 0.7, got 0.53")


def test_none_bypasses_the_gate() -> None:
    nothing = decision(Adaptation.NONE, EventId("run/1"), site=None, seed=None, confidence=math.nan)
    assert judge(nothing, DORMANT, SETTINGS) is None


def three_dormant() -> GateView:
    return replace(DORMANT, seeds={("layer0", seed): seed_row("layer0", seed, Stage.DORMANT) for seed in range(4)})


def test_three_candidates_of_a_race_pass_after_the_same_epoch_and_a_fourth_does_not() -> None:
    seen = three_dormant()
    rules = []
    for seed in range(4):
        made = decision(Adaptation.GERMINATE, EPOCH_EVENT, seed=seed)
        verdict = judge(made, seen, SETTINGS)
        seen = after(seen, made, verdict, SETTINGS)
        rules.append(verdict.rule if isinstance(verdict, Refused) else None)
    assert rules == [None, None, None, "cap"]


def test_a_slot_germinates_once_after_an_epoch() -> None:
    seen = after(DORMANT, GERMINATE, judge(GERMINATE, DORMANT, SETTINGS), SETTINGS)
    assert rule_against(GERMINATE, seen) == "legal"


def test_a_kernel_that_is_ready_is_loaded_and_trained_after_the_same_epoch() -> None:
    seen = view(Stage.GERMINATED)
    seen = after(seen, ADVANCE, judge(ADVANCE, seen, SETTINGS), SETTINGS)
    assert judge(ADVANCE, seen, SETTINGS) == Command.TRAIN


def test_a_stage_that_was_just_entered_is_not_left_by_housekeeping_after_the_same_epoch() -> None:
    seen = view(Stage.GRAFTING)
    seen = after(seen, ADVANCE, judge(ADVANCE, seen, SETTINGS), SETTINGS)
    assert rule_against(ADVANCE, seen) == "ready"


def test_housekeeping_leaves_the_room_for_adaptations() -> None:
    seen = view(Stage.GERMINATED)
    assert after(seen, ADVANCE, judge(ADVANCE, seen, SETTINGS), SETTINGS).applied == 0


def test_a_slot_culled_after_this_epoch_is_under_embargo() -> None:
    seen = after(TRAINING, CULL, judge(CULL, TRAINING, SETTINGS), SETTINGS)
    assert seen.seeds[KEY].embargo_until == 13
    assert rule_against(ADVANCE, seen) == "embargo"


def test_a_refused_decision_changes_nothing_for_the_next() -> None:
    assert after(TRAINING, GERMINATE, judge(GERMINATE, TRAINING, SETTINGS), SETTINGS) == TRAINING


def test_the_view_of_an_epoch_is_its_seed_table() -> None:
    row = seed_row("layer0", 0, Stage.CULLED, life=2, embargo_until=11)
    seen = view_at(system(10, (row,)), EPOCH_EVENT, last_germination=2)
    assert seen == GateView(epoch=10, epoch_event=EPOCH_EVENT, seeds={KEY: row}, applied=0, last_germination=2)


NUMBERS = st.one_of(st.floats(0.0, 1.0), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_exactly_what_is_above_both_limits_passes(confidence: float, urgency: float, confidence_above: float, urgency_above: float) -> None:
    made = decision(Adaptation.CULL, EPOCH_EVENT, confidence=confidence, urgency=urgency)
    settings = GateSettings(confidence_above=confidence_above, urgency_above=urgency_above)
    above = 1.0 >= confidence > confidence_above and 1.0 >= urgency > urgency_above
    assert (judge(made, TRAINING, settings) == Command.CULL) is above
