"""What is decided about a seed that stands alone, stage by stage."""

import math
from typing import Any

import pytest

from esper.events.kinds.control import Adaptation
from esper.events.kinds.lifecycle import Stage
from tests.tamiyo.states import EPOCH_EVENT, EVALUATION, decisions, evaluated, only, seed, state, wanted

ADVANCE, CANCEL, CULL, FOSSILIZE, NONE = (
    Adaptation.ADVANCE,
    Adaptation.CANCEL,
    Adaptation.CULL,
    Adaptation.FOSSILIZE,
    Adaptation.NONE,
)
BODIES = [Stage.LOADING, Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING]


@pytest.mark.parametrize(
    ("stage", "epochs", "columns", "expected"),
    [
        (Stage.GERMINATED, 1, {"ready": True}, [ADVANCE, ADVANCE]),
        (Stage.GERMINATED, 3, {"ready": True}, [ADVANCE, ADVANCE]),
        (Stage.GERMINATED, 4, {"ready": True}, [CANCEL]),
        (Stage.GERMINATED, 0, {"ready": False}, [NONE]),
        (Stage.GERMINATED, 1, {"ready": False}, [CANCEL]),
        (Stage.LOADING, 0, {"ready": True}, [ADVANCE]),
        (Stage.LOADING, 0, {"ready": False}, [NONE]),
        (Stage.LOADING, 1, {"ready": False}, [CULL]),
        (Stage.TRAINING, 2, {}, [NONE]),
        (Stage.TRAINING, 8, {}, [NONE]),
        (Stage.TRAINING, 9, {}, [CULL]),
        (Stage.GRAFTING, 2, {"ready": True}, [NONE]),
        (Stage.GRAFTING, 3, {"ready": True}, [ADVANCE]),
        (Stage.GRAFTING, 3, {"ready": False}, [NONE]),
        (Stage.STABILIZATION, 0, {}, [NONE]),
        (Stage.STABILIZATION, 1, {}, [ADVANCE]),
        (Stage.EVALUATING, 0, {}, [NONE]),
        (Stage.EVALUATING, 1, {}, [NONE]),
        (Stage.EVALUATING, 3, {}, [CULL]),
        (Stage.EVALUATING, 1, evaluated(epoch=29), [NONE]),
        (Stage.EVALUATING, 1, evaluated(), [ADVANCE]),
        (Stage.FINE_TUNING, 9, evaluated(epoch=21), [NONE]),
        (Stage.FINE_TUNING, 10, evaluated(epoch=20), [FOSSILIZE]),
        (Stage.FOSSILIZED, 10, {}, [NONE]),
        (Stage.CULLED, 2, {"embargo_until": 31}, [NONE]),
        (Stage.CULLED, 3, {"embargo_until": 30}, [ADVANCE]),
        (Stage.CANCELLED, 1, {}, [ADVANCE]),
        (Stage.ROLLED_BACK, 5, {}, [NONE]),
    ],
)
def test_each_stage_waits_moves_or_ends(stage: Stage, epochs: int, columns: dict[str, Any], expected: list[Adaptation]) -> None:
    decided = decisions(state(seed("a", 0, stage, epochs=epochs, **columns)))

    assert [decision.adaptation for decision in decided] == expected


@pytest.mark.parametrize("stage", BODIES)
def test_a_seed_disabled_by_a_non_finite_value_is_culled_for_certain(stage: Stage) -> None:
    culled = only(state(seed("a", 0, stage, recovering=True, **evaluated())))

    assert (culled.adaptation, culled.confidence, culled.urgency) == (CULL, 1.0, 1.0)
    assert culled.reason == "a non-finite value of its own disabled it"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_seed_that_makes_the_validation_loss_non_finite_is_culled(loss: float) -> None:
    culled = only(state(seed("a", 0, Stage.TRAINING, **evaluated(math.nan, math.nan, with_seed=loss))))

    assert (culled.adaptation, culled.confidence, culled.urgency) == (CULL, 1.0, 1.0)
    assert culled.evidence == (EPOCH_EVENT, EVALUATION)


def test_a_host_that_is_not_finite_alone_is_not_blamed_on_the_seed() -> None:
    columns = evaluated(math.nan, math.nan, without=math.nan, with_seed=math.nan)

    assert wanted(state(seed("a", 0, Stage.EVALUATING, **columns))) == [(NONE, None, None)]


@pytest.mark.parametrize(
    ("z", "before", "expected"),
    [
        (-1.0, None, CULL),
        (-0.9, None, ADVANCE),
        (-0.5, 0.40, CULL),
        (1.59, 0.40, CULL),
        (1.61, 0.40, ADVANCE),
        (1.59, 0.48, ADVANCE),
        (20.0, 0.10, ADVANCE),
        (-math.inf, None, CULL),
        (math.inf, None, ADVANCE),
    ],
)
def test_a_grafted_seed_is_kept_by_with_against_without(z: float, before: float | None, expected: Adaptation) -> None:
    mean, standard_error = (math.copysign(0.001, z), 0.0) if math.isinf(z) else (0.001 * z, 0.001)
    row = seed("a", 0, Stage.EVALUATING, loss_before_graft=before, **evaluated(mean, standard_error, k=1))

    assert only(state(row)).adaptation is expected


def test_a_cull_because_without_is_better_has_the_confidence_of_the_comparison() -> None:
    culled = only(state(seed("a", 0, Stage.EVALUATING, **evaluated(-0.001, 0.001, k=1))))

    assert culled.confidence == pytest.approx(0.841**2, abs=1e-3)
    assert culled.reason == "without it is better: 0.501 against 0.5 (+0.2 %), n 350, z -1.0"


def test_a_cull_because_it_is_not_needed_says_both_numbers() -> None:
    row = seed("a", 0, Stage.EVALUATING, loss_before_graft=0.4, **evaluated(0.001, 0.001, k=1))

    culled = only(state(row))

    assert (culled.confidence, culled.urgency) == (1.0, 1.0)
    assert culled.reason.startswith("not needed, and 0.499 is more than 5 % above 0.4 before the graft: 0.499 against 0.5")


def test_too_few_pairs_judge_no_grafted_seed() -> None:
    row = evaluated(n=7)

    assert wanted(state(seed("a", 0, Stage.EVALUATING, epochs=2, **row))) == [(NONE, None, None)]
    assert "fewer than 8 pairs" in only(state(seed("a", 0, Stage.EVALUATING, epochs=3, **row))).reason


@pytest.mark.parametrize(("epoch", "epochs", "expected"), [(78, 5, NONE), (79, 1, FOSSILIZE), (79, 5, FOSSILIZE), (80, 1, FOSSILIZE)])
def test_a_kept_seed_is_fossilized_at_the_last_epoch_but_one(epoch: int, epochs: int, expected: Adaptation) -> None:
    decided = only(state(seed("a", 0, Stage.FINE_TUNING, epochs=epochs, **evaluated(epoch=epoch - epochs, k=1)), epoch=epoch))

    assert decided.adaptation is expected
    assert expected is NONE or (decided.confidence > 0.99 and decided.urgency == 1.0)


def test_a_seed_judged_at_the_last_epoch_is_fossilized_without_fine_tuning() -> None:
    assert only(state(seed("a", 0, Stage.EVALUATING, **evaluated(epoch=80)), epoch=80)).adaptation is FOSSILIZE


def test_a_stream_has_no_last_epoch() -> None:
    assert only(state(seed("a", 0, Stage.FINE_TUNING, epochs=9, **evaluated()), planned=None)).adaptation is NONE


@pytest.mark.parametrize(("epochs", "expected"), [(10, FOSSILIZE), (11, NONE), (19, NONE), (20, FOSSILIZE)])
def test_a_fossilization_that_will_be_refused_is_said_once_per_fine_tuning(epochs: int, expected: Adaptation) -> None:
    decided = only(state(seed("a", 0, Stage.FINE_TUNING, epochs=epochs, **evaluated(0.0001, 0.001, epoch=2))))

    assert decided.adaptation is expected
    assert expected is NONE or decided.confidence < 0.7


def test_a_fine_tuned_seed_that_harms_now_is_culled() -> None:
    decided = only(state(seed("a", 0, Stage.FINE_TUNING, epochs=10, **evaluated(-0.01, 0.001))))

    assert (decided.adaptation, decided.urgency) == (CULL, 1.0)


def test_load_and_train_follow_each_other() -> None:
    first, second = decisions(state(seed("a", 2, Stage.GERMINATED)))

    assert first.reason == "its kernel is ready: load it"
    assert second.reason == "loaded: train in isolation for 3 epochs"


def test_a_kernel_that_failed_is_called_so() -> None:
    cancelled = only(state(seed("a", 0, Stage.GERMINATED, ready=False, recovering=True)))

    assert (cancelled.adaptation, cancelled.reason) == (CANCEL, "its kernel failed")
