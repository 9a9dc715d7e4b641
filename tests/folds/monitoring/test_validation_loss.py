"""Validation is watched epoch by epoch: broken from one epoch on, apart from the start, overfitted, stuck; a clean one is not."""

from collections.abc import Callable

import numpy as np
import pytest

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.detectors.validation_loss import Epochs, step_epochs
from esper.folds.monitoring.measurements import FloatArray, Measurements
from tests.folds.monitoring.made_up import SETTINGS

EPOCHS = 24
TIME = np.arange(EPOCHS)
FALLING = 0.4 + 0.9 * np.exp(-TIME / 4)


def judged(validation: FloatArray, training: FloatArray = FALLING) -> list[tuple[int, Anomaly]]:
    """What is found, each with its epoch, from 1 on."""
    epochs, found = Epochs(), list[tuple[int, Anomaly]]()
    for number, (valid, train) in enumerate(zip(validation, training, strict=True), start=1):
        columns = {"validation.loss": np.array([valid]), "train.loss": np.array([train])}
        read = Measurements(None, columns, {name: np.array([True]) for name in columns}, None, None, None)
        epochs, begun = step_epochs(epochs, read, SETTINGS)
        found += [(number, one) for one in begun]
    return found


def named(validation: FloatArray, training: FloatArray = FALLING) -> list[str]:
    """The detectors that find something."""
    return [one.detector for _, one in judged(validation, training)]


def noisy(seed: int, spread: float = 0.05) -> FloatArray:
    """A validation loss that follows training."""
    made: FloatArray = FALLING * (1.1 + spread * np.random.default_rng(seed).normal(size=EPOCHS))
    return made


CLEAN: dict[str, Callable[[int], tuple[FloatArray, FloatArray]]] = {
    "follows": lambda seed: (noisy(seed), FALLING),
    "much noise": lambda seed: (noisy(seed, 0.3), FALLING),
    "below zero": lambda seed: (noisy(seed) - 3.0, FALLING - 3.0),
    "through zero": lambda seed: (noisy(seed) - 0.7, FALLING - 0.7),
    "better than training, by dropout": lambda seed: (0.7 * noisy(seed), FALLING),
    "nothing to learn": lambda seed: (1.386 + 0.02 * np.random.default_rng(seed).normal(size=EPOCHS), np.full(EPOCHS, 1.386)),
    "gets worse with training": lambda seed: (noisy(seed) + np.where(TIME > 12, 1.5, 0.0), np.where(TIME > 12, 2.0, FALLING)),
    "one bad epoch": lambda seed: (np.where(TIME == 12, 3.0, noisy(seed)), FALLING),
}


@pytest.mark.parametrize("kind", CLEAN)
def test_a_clean_validation_is_no_alarm(kind: str) -> None:
    alarms = {"relapse", "apart", "stuck", "perfect"}
    assert {seed: found for seed in range(50) if (found := alarms.intersection(named(*CLEAN[kind](seed))))} == {}


@pytest.mark.parametrize(("size", "shift"), [(1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, -3.0), (1.0, -0.6)])
def test_validation_that_breaks_is_a_relapse_in_its_second_epoch(size: float, shift: float) -> None:
    broken = size * (np.where(TIME >= 10, 3.5, noisy(1)) + shift)
    (epoch, one), *_ = judged(broken, size * (FALLING + shift))
    assert (epoch, one.detector, one.metric) == (12, "relapse", "validation.loss")


def test_a_relapse_lasts_until_validation_has_come_back_and_is_announced_once_each_time() -> None:
    broken = np.where((TIME >= 8) & (TIME < 12) | (TIME >= 18), 3.0, noisy(1))
    assert [epoch for epoch, one in judged(broken) if one.detector == "relapse"] == [10, 20]


def test_validation_that_never_was_better_than_training_in_its_first_epoch_is_apart() -> None:
    (epoch, one), *_ = judged(1.5 + TIME / 20)
    assert (epoch, one.detector) == (5, "apart")
    assert "apart" not in named(np.minimum(1.2, noisy(1)) + TIME / 20)


def test_validation_that_rises_while_training_falls_is_overfitting() -> None:
    overfitted = noisy(1, 0.0) + np.maximum(0.0, TIME - 8) * 0.05
    assert named(overfitted) == ["overfitting"]
    assert named(overfitted, np.where(TIME > 8, 2.0, FALLING)) == []


def test_the_same_validation_loss_again_and_again_is_stuck_unless_all_is_learnt() -> None:
    still = np.where(TIME > 10, 0.7, noisy(1))
    assert named(still) == ["stuck"]
    assert named(still, np.where(TIME > 10, 0.0, FALLING)) == []
    assert named(np.where(TIME > 10, 0.0, noisy(1))) == []
    assert "stuck" not in named(np.maximum(1e-6, np.exp(-TIME)))


def test_no_better_validation_loss_for_twenty_epochs_is_a_plateau() -> None:
    training = np.full(40, 0.5)
    assert named(np.concatenate([[0.6], 0.7 + 0.01 * np.sin(np.arange(39))]), training) == ["flat", "plateau"]


def test_validation_that_is_half_worse_than_it_began_while_training_falls_is_lost() -> None:
    rising = np.where(TIME < 3, FALLING, 0.1 * TIME)
    assert named(rising) == ["overfitting", "lost", "plateau"]
    assert named(np.where(TIME < 3, FALLING, 0.8 + 0.03 * TIME)) == ["overfitting", "plateau"]


def test_losses_that_are_no_better_than_in_the_first_epoch_are_flat() -> None:
    assert named(np.full(10, 1.38) + 0.001 * np.sin(np.arange(10)), np.full(10, 1.37)) == ["flat"]
    assert named(noisy(1)) == []


def test_what_leaves_hardly_anything_of_the_first_loss_is_perfect() -> None:
    assert named(np.exp(-TIME / 4), np.exp(-TIME / 4)) == ["perfect"]


def test_an_epoch_without_validation_or_with_a_loss_that_is_not_finite_is_passed_over() -> None:
    columns = {"validation.loss": np.array([np.nan]), "train.loss": np.array([1.0])}
    unmeasured = Measurements(None, columns, {"validation.loss": np.array([False]), "train.loss": np.array([True])}, None, None, None)
    assert step_epochs(Epochs(), unmeasured, SETTINGS) == (Epochs(), [])
    measured = Measurements(None, columns, {name: np.array([True]) for name in columns}, None, None, None)
    assert step_epochs(Epochs(), measured, SETTINGS) == (Epochs(), [])
