"""The plateau's confidence and urgency, against numpy's own line fit and by cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tamiyo.plateau import plateau
from esper.tamiyo.settings import PolicySettings

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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("place", [0, 6])
def test_losses_without_a_ratio_give_no_confidence(bad: float, place: int) -> None:
    losses = [1.0] * 7
    losses[place] = bad

    assert plateau(tuple(losses), SETTINGS) == (0.0, 0.0, "a plateau needs validation losses that are finite and above 0")


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
