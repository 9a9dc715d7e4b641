"""A loss that is worse for good is found whatever its sign and size; what goes by, and what a schedule brings, is not."""

from collections.abc import Callable

import numpy as np
import pytest

from esper.folds.monitoring.detectors.progress import Progress, step_progress
from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.measurements import FloatArray
from tests.folds.monitoring.made_up import SETTINGS

STEPS = 640
TIME = np.arange(STEPS)
Random = np.random.Generator


def judged(loss: FloatArray, rates: FloatArray | None = None, factor: float = 1.0) -> list[Anomaly]:
    """What is found in a loss, one value a step from step 1 on."""
    rates = np.full(len(loss), 0.1) if rates is None else rates
    values = zip(range(1, len(loss) + 1), loss.tolist(), rates.tolist(), [factor] * len(loss), strict=True)
    _, found = step_progress(Progress(), "loss", values, SETTINGS)
    return found


def named(loss: FloatArray, rates: FloatArray | None = None, factor: float = 1.0) -> list[str]:
    """The detectors that find something."""
    return [one.detector for one in judged(loss, rates, factor)]


def learnt(random: Random, spread: float = 0.1) -> FloatArray:
    """A loss that falls from 1.3 to 0.4, with the noise of batches."""
    made: FloatArray = (0.4 + 0.9 * np.exp(-TIME / 80)) * np.exp(spread * random.normal(size=STEPS))
    return made


def wandering(random: Random) -> FloatArray:
    steps = np.zeros(STEPS)
    for step in range(1, STEPS):
        steps[step] = 0.95 * steps[step - 1] + 0.3 * random.normal()
    return learnt(random) * np.exp(0.1 * steps)


RESTARTS = 0.1 * (1 + np.cos(np.pi * (TIME % 160) / 160)) / 2 + 1e-4
CLEAN: dict[str, Callable[[Random], tuple[FloatArray, FloatArray | None]]] = {
    "little noise": lambda r: (learnt(r, 0.01), None),
    "batches of two": lambda r: (learnt(r, 0.8), None),
    "no noise": lambda _: (np.exp(-TIME / 200), None),
    "heavy tails": lambda r: (learnt(r) + 0.05 * np.abs(r.standard_cauchy(STEPS)), None),
    "every third batch is hard": lambda r: (learnt(r) + np.where(TIME % 3 == 2, 4.0, 0.0), None),
    "one batch in 17 is hard": lambda r: (learnt(r) + np.where(TIME % 17 == 11, 6.0, 0.0), None),
    "sorted by class": lambda r: (learnt(r) * (1 + 0.3 * np.sign(np.sin(2 * np.pi * TIME / 40))), None),
    "epochs of one step": lambda r: (1.4 * np.exp(-TIME / 300) * (1 + 0.001 * r.normal(size=STEPS)), None),
    "by many decades": lambda r: (np.exp(-TIME / 15) * np.exp(0.5 * r.normal(size=STEPS)), None),
    "zero at last": lambda r: (np.maximum(0.0, 1.0 - TIME / 200 + 0.05 * r.normal(size=STEPS)), None),
    "far below zero": lambda r: (-40 + 35 * np.exp(-TIME / 60) + 4 * r.normal(size=STEPS), None),
    "through zero": lambda r: (0.5 - 2 * (1 - np.exp(-TIME / 90)) + 0.3 * r.normal(size=STEPS), None),
    "around zero": lambda r: (0.01 * r.normal(size=STEPS), None),
    "nothing to learn": lambda r: (1.386 + 0.02 * r.normal(size=STEPS), None),
    "learnt before it began": lambda r: (0.3 + 0.05 * r.normal(size=STEPS), None),
    "wanders": lambda r: (wandering(r), None),
    "rises at every restart": lambda r: (learnt(r) + 4 * RESTARTS, RESTARTS),
    "warms up": lambda r: (learnt(r) + np.exp(-(((TIME - 60) / 20) ** 2)), np.minimum(1.0, (TIME + 1) / 80)),
    "a few bad batches": lambda r: (learnt(r) * np.where((TIME > 400) & (TIME < 410), 3.0, 1.0), None),
    "harder by a little": lambda r: (learnt(r) + np.where(TIME > 400, 0.15, 0.0), None),
}
"""Losses of clean trainings with their learning rates. None of them was drawn from a training that limits were set on."""


@pytest.mark.parametrize("kind", CLEAN)
def test_no_clean_loss_is_a_setback(kind: str) -> None:
    found = {seed: names for seed in range(30) if (names := named(*CLEAN[kind](np.random.default_rng(seed))))}
    assert found == {}


def lost(share: float, last: int = STEPS) -> FloatArray:
    """A loss that was learnt, and of which this share of what was learnt is lost from step 401 on."""
    loss = learnt(np.random.default_rng(3))
    return loss + np.where((TIME >= 400) & (last > TIME), 0.9 * share, 0.0)


def test_half_of_what_was_learnt_lost_is_a_setback_and_nearly_all_a_relapse() -> None:
    assert named(lost(0.3)) == []
    assert named(lost(0.65)) == ["setback"]
    assert named(lost(1.2)) == ["relapse"]


def test_all_that_was_learnt_lost_for_sixteen_steps_is_a_setback_though_it_came_back() -> None:
    assert named(lost(1.3, last=425)) == ["setback"]
    assert named(lost(1.3, last=408)) == []


def test_a_rate_that_is_hardly_any_for_longer_than_it_was_more_is_halted_and_a_decay_to_the_end_is_not() -> None:
    loss = learnt(np.random.default_rng(3))
    assert named(loss, np.where(TIME < 100, 0.1, 1e-5)) == ["halted"]
    assert named(loss, 0.1 * (1 + np.cos(np.pi * TIME / STEPS)) / 2) == []


def test_a_setback_that_grows_becomes_a_relapse() -> None:
    loss = learnt(np.random.default_rng(3)) + np.clip((TIME - 300) / 200, 0.0, 1.2)
    assert named(loss) == ["setback", "relapse"]


def test_a_relapse_says_since_when_and_what_it_was_before() -> None:
    (one,) = judged(lost(1.2))
    assert one.since is not None
    assert 385 <= one.since <= 416
    assert one.expected == pytest.approx(0.4, abs=0.05)
    assert one.value == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize(("size", "shift"), [(1e-9, 0.0), (1e-3, 0.0), (1e5, 0.0), (1.0, -0.9), (1.0, -1.3)])
def test_the_sign_and_the_size_of_a_loss_make_no_difference(size: float, shift: float) -> None:
    assert named(size * (lost(1.2) + shift)) == ["relapse"]
    assert named(size * (learnt(np.random.default_rng(5)) + shift)) == []


def test_a_rate_that_was_as_high_before_explains_a_rise_and_a_new_height_does_not() -> None:
    rises = np.where(TIME >= 400, 0.6, 0.0)
    loss = learnt(np.random.default_rng(3)) + rises
    again = np.where((TIME < 60) | (TIME >= 400), 0.1, 0.001)
    assert named(loss, again) == []
    assert named(loss + 2 * rises, np.where(TIME >= 400, 10.0, 0.1)) == ["relapse"]


def test_what_was_recovered_from_is_usual() -> None:
    loss = learnt(np.random.default_rng(3)) - TIME / 4000
    once = loss + np.where((TIME >= 200) & (TIME < 280), 0.4, 0.0)
    assert named(once + np.where(TIME >= 400, 0.6, 0.0)) == []
    assert named(loss + np.where(TIME >= 400, 0.6, 0.0)) == ["setback"]


def test_limits_are_raised_after_an_adaptation() -> None:
    assert named(lost(0.65), factor=2.0) == []
    assert named(lost(2.5), factor=2.0) == ["relapse"]


def test_a_level_that_came_back_ends_it_and_a_new_one_begins_anew() -> None:
    loss = lost(1.2, last=480)
    assert named(np.concatenate([loss, loss[320:]])) == ["relapse", "relapse"]


def test_a_level_that_lasts_is_normal_at_last() -> None:
    loss = np.concatenate([lost(1.2), lost(1.2)[400:], lost(1.2)[400:], lost(1.2)[400:]])
    assert named(np.concatenate([loss, loss[-200:] + 0.1])) == ["relapse"]


def test_what_had_learnt_nothing_has_nothing_to_lose_but_may_explode() -> None:
    flat = 1.386 + 0.02 * np.random.default_rng(1).normal(size=STEPS)
    assert named(flat + np.clip((TIME - 200) / 100, 0.0, 1.0)) == []
    assert named(flat + np.clip((TIME - 200) / 10, 0.0, 10.0)) == ["setback", "relapse"]


def test_a_rate_of_next_to_nothing_is_halted_once_it_has_lasted() -> None:
    loss = learnt(np.random.default_rng(3))
    assert named(loss, np.where(TIME >= 600, 0.0, 0.1)) == []
    assert named(loss, np.where(TIME >= 500, 0.0, 0.1)) == ["halted"]
    assert named(loss, np.zeros(STEPS)) == ["halted"]


def test_values_that_are_not_finite_are_passed_over() -> None:
    loss = learnt(np.random.default_rng(3))
    loss[300:330] = np.nan
    loss[400] = np.inf
    assert named(loss) == []
