"""Laws of the whole policy over made-up states: order, evidence, numbers, the gate, and a second computation of the confidences."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, Command, DecisionMade
from esper.events.kinds.epoch import GateSettings, SystemState
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.folds.gate import Refused, after, judge, view_at
from esper.tamiyo.policy import decide
from esper.tamiyo.policy_input import PolicySettings
from tests.tamiyo.states import EPOCH_EVENT, FALLING, FLAT, Row, dormant, evaluated, only, seed, sites, state
from tests.tamiyo.test_germination import second_opinion

ORDER = ["advance", "cull cancel", "fossilize", "graft", "germinate"]
numbers = st.floats(-0.01, 0.01) | st.sampled_from([0.0, math.nan, math.inf, -math.inf])
errors = st.floats(0.0, 0.01) | st.sampled_from([0.0, math.nan, math.inf])
losses = st.floats(0.01, 2.0) | st.sampled_from([math.nan, math.inf])


@st.composite
def slots(draw: st.DrawFn, site: str, slot: int, epoch: int) -> Row:
    stage = draw(st.sampled_from(Stage) | st.sampled_from([Stage.TRAINING, Stage.EVALUATING, Stage.FINE_TUNING]))
    measured: dict[str, Any] = {}
    if draw(st.booleans()) or stage in {Stage.TRAINING, Stage.EVALUATING}:
        measured = evaluated(
            draw(numbers),
            draw(errors),
            epoch=draw(st.sampled_from([epoch, epoch, max(0, epoch - 1)])),
            n=draw(st.sampled_from([7, 8, 350])),
            k=draw(st.integers(1, 4)),
            without=draw(losses),
            with_seed=draw(losses),
            event=EventId(f"run/{site}{slot}"),
        )
    return seed(
        site,
        slot,
        stage,
        epochs=draw(st.integers(0, 12)),
        recovering=draw(st.integers(0, 9)) == 0,
        ready=draw(st.sampled_from([True, True, False, None])),
        embargo_until=draw(st.sampled_from([epoch - 1, epoch, epoch + 1])) if stage is Stage.CULLED else None,
        loss_before_graft=draw(losses | st.none()),
        **measured,
    )


@st.composite
def states(draw: st.DrawFn) -> SystemState:
    epoch = draw(st.integers(1, 40))
    rows = [draw(slots(site, slot, epoch)) for site in ("a", "b") for slot in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        rows += dormant("c")
    return state(
        *rows,
        epoch=epoch,
        planned=draw(st.none() | st.integers(epoch, 60)),
        losses=draw(st.sampled_from([FLAT, FALLING, FLAT[:3]]) | st.lists(losses, max_size=9).map(tuple)),
        site_rows=sites(a=draw(st.none() | st.floats(0, 1)), b=draw(st.none() | st.floats(0, 1)), c=draw(st.none() | st.floats(0, 1))),
        gate=GateSettings(adaptations_per_epoch=draw(st.integers(0, 4)), adaptation_every=draw(st.sampled_from([1, 1, 2]))),
    )


@given(states())
def test_decisions_stand_in_the_fixed_order_and_never_beside_none(system: SystemState) -> None:
    names = [decision.adaptation.value for decision in decide(system, EPOCH_EVENT, PolicySettings())]

    ranks = [next(rank for rank, group in enumerate(ORDER) if name in group) for name in names if name != "none"]
    assert ranks == sorted(ranks)
    assert names == ["none"] or "none" not in names
    assert names


@given(states())
def test_every_decision_names_what_it_rests_on(system: SystemState) -> None:
    own = {(seed.site, seed.seed): seed.evaluated for seed in system.seeds}

    for decision in decide(system, EPOCH_EVENT, PolicySettings()):
        assert decision.evidence[0] == EPOCH_EVENT
        if decision.adaptation in {Adaptation.GRAFT, Adaptation.FOSSILIZE} and decision.confidence > 0.0:
            assert decision.site is not None
            assert decision.seed is not None
            assert own[decision.site, decision.seed] in decision.evidence


@given(states())
def test_the_gate_finds_every_decision_finite_legal_fresh_and_out_of_embargo(system: SystemState) -> None:
    assert {refusal.rule for _, refusal in judged(system) if isinstance(refusal, Refused)} <= {
        "ready",
        "confidence",
        "urgency",
        "cap",
        "frequency",
        "cooldown",
    }


@given(states())
def test_whoever_is_cancelled_for_a_better_one_sees_it_grafted(system: SystemState) -> None:
    verdicts = judged(system)
    grafted = {decision.site for decision, verdict in verdicts if decision.adaptation is Adaptation.GRAFT and isinstance(verdict, Command)}
    lost = {decision.site for decision, _ in verdicts if "helped more" in decision.reason or "is grafted" in decision.reason}

    assert lost <= grafted


@given(states())
def test_a_seed_gets_one_decision_or_load_and_train(system: SystemState) -> None:
    decided = [decision for decision in decide(system, EPOCH_EVENT, PolicySettings()) if decision.site is not None]
    stages = {(seed.site, seed.seed): seed.stage for seed in system.seeds}
    keys = [(decision.site, decision.seed) for decision in decided if decision.adaptation is not Adaptation.ADVANCE]

    assert len(keys) == len(set(keys))
    for decision in decided:
        assert decision.site is not None
        assert decision.seed is not None
        alike = sum((other.site, other.seed) == (decision.site, decision.seed) for other in decided)
        assert alike == (2 if stages[decision.site, decision.seed] is Stage.GERMINATED and decision.adaptation is Adaptation.ADVANCE else 1)


@given(states())
def test_the_same_bytes_give_the_same_decisions(system: SystemState) -> None:
    decoded = SystemState.model_validate_json(system.model_dump_json())

    assert decide(decoded, EPOCH_EVENT, PolicySettings()) == decide(system, EPOCH_EVENT, PolicySettings())


@given(states())
def test_a_second_computation_gives_the_same_confidence_and_urgency(system: SystemState) -> None:
    for decision in decide(system, EPOCH_EVENT, PolicySettings()):
        expected = computed_again(system, decision)
        if expected is not None:
            assert (decision.confidence, decision.urgency) == pytest.approx(expected, rel=1e-9, abs=1e-12), decision.reason


def judged(system: SystemState) -> list[tuple[DecisionMade, object]]:
    """Every decision with the gate's verdict, one after another."""
    lives = [seed.life for seed in system.seeds if seed.life is not None and seed.life < system.epoch]
    view = view_at(system, EPOCH_EVENT, max(lives, default=None))
    verdicts: list[tuple[DecisionMade, object]] = []
    for decision in decide(system, EPOCH_EVENT, PolicySettings()):
        verdict = judge(decision, view, system.gate)
        view = after(view, decision, verdict, system.gate)
        verdicts.append((decision, verdict))
    return verdicts


def computed_again(system: SystemState, decision: DecisionMade) -> tuple[float, float] | None:
    """Confidence and urgency from the columns, by numpy, as docs/training.md has them; None for housekeeping and cancellations."""
    if decision.adaptation in {Adaptation.GERMINATE, Adaptation.NONE}:
        values = np.array(system.validation_losses)
        found = [*values[:-5][np.isfinite(values[:-5])], *values[-5:]]
        usable = len(found) > 5 and np.isfinite(found).all() and min(found) > 0.0
        return second_opinion(found, 5, 0.15) if usable else (0.0, 0.0)
    columns = {name: np.array([getattr(seed, name) for seed in system.seeds]) for name in SeedRow.model_fields if name != "evaluation"}
    columns |= {
        f"evaluated_{name}": np.array([getattr(seed.evaluation, name, None) for seed in system.seeds]) for name in Evaluation.model_fields
    }
    columns["epochs_in_stage"] = system.epoch - columns["since_epoch"]
    row = int(np.flatnonzero((columns["site"] == decision.site) & (columns["seed"] == decision.seed))[0])
    left = math.inf if system.epochs_planned is None else system.epochs_planned - system.epoch
    epochs, tried = int(columns["epochs_in_stage"][row]), int(columns["evaluated_k"][row] or 1)
    if decision.adaptation is Adaptation.GRAFT:
        fresh = (columns["site"] == decision.site) & (columns["stage"] == Stage.TRAINING) & (columns["evaluated_epoch"] == system.epoch)
        due = fresh & (columns["epochs_in_stage"] >= 3) & ~columns["recovering"] & ~harmful(columns)
        return student_of(columns, row, 1.0) ** int(columns["evaluated_k"][due].sum()), min(1.0, epochs / max(1, min(3, left)))
    if decision.adaptation is Adaptation.FOSSILIZE:
        planned = 10 if columns["stage"][row] == Stage.FINE_TUNING else 1
        return student_of(columns, row, 1.0) ** tried, min(1.0, epochs / max(1, min(planned, left)))
    if decision.adaptation is Adaptation.CULL:
        planned = 10 if columns["stage"][row] == Stage.FINE_TUNING else 1
        judged_by_evidence = decision.reason.startswith("without it is better")
        return (
            (student_of(columns, row, -1.0) ** tried, min(1.0, epochs / max(1, min(planned, left)))) if judged_by_evidence else (1.0, 1.0)
        )
    return None


def harmful(columns: dict[str, Any]) -> Any:
    """Rows whose loss is finite without the seed and not with it."""
    without, with_seed = columns["evaluated_loss_without"].astype(float), columns["evaluated_loss_with"].astype(float)
    return np.isfinite(without) & ~np.isfinite(with_seed) & (columns["evaluated"] != np.array(None))


def student_of(columns: dict[str, Any], row: int, sign: float) -> float:
    """Student's distribution function at sign * mean / standard error, for one look; 0 where it cannot be used."""
    n, mean, error = columns["evaluated_n"][row], columns["evaluated_mean"][row], columns["evaluated_standard_error"][row]
    if n is None or n < 8 or not np.isfinite(mean) or np.isnan(error):
        return 0.0
    with np.errstate(divide="ignore", over="ignore"):
        z = sign * np.float64(mean) / np.float64(error) if mean else 0.0
    look = max(1, columns["evaluated_look"][row])
    below = float(student.cdf(z, n - 1))
    return math.pow(below, look * (look + 1))


def test_doing_nothing_carries_the_numbers_of_the_plateau() -> None:
    nothing = only(state(*dormant(), losses=(1.0, 0.86, 0.86, 0.86, 0.86, 0.86), germinations=1), max_germinations=1)

    assert (nothing.adaptation, nothing.site, nothing.seed, nothing.evidence) == (Adaptation.NONE, None, None, (EPOCH_EVENT,))
    assert (nothing.confidence, nothing.urgency) == pytest.approx((0.97725, 0.53333), abs=1e-5)


def test_a_run_without_sites_does_nothing() -> None:
    assert only(state(site_rows=sites())).adaptation is Adaptation.NONE


def test_ten_thousand_seeds_are_decided_at_once() -> None:
    trained = [seed(f"s{slot // 4:04}", slot % 4, Stage.TRAINING, epochs=3, **evaluated(0.01 + 1e-6 * slot)) for slot in range(10_000)]
    system = state(*trained, site_rows=sites(**{f"s{site:04}": 1.0 for site in range(2500)}))

    decided = decide(system, EPOCH_EVENT, PolicySettings())

    assert [decision.adaptation for decision in decided].count(Adaptation.GRAFT) == 2500
    assert [decision.adaptation for decision in decided].count(Adaptation.CANCEL) == 9
