"""z and confidence, also where they are at an edge."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import skew

from esper.events.kinds.lifecycle import Evaluation
from esper.tamiyo.evidence import _z_score, confidence, evidence_in_words, phi, usable_z


def evidence(
    mean: float = 0.0018, standard_error: float = 0.0004, n: int = 350, k: int = 3, look: int = 1, *, skewness: float = 0.0
) -> Evaluation:
    return Evaluation(
        epoch=3,
        alpha=0.5,
        n=n,
        k=k,
        look=look,
        mean=mean,
        standard_error=standard_error,
        skewness=skewness,
        loss_without=0.2733,
        loss_with=0.2715,
    )


@pytest.mark.parametrize(
    ("z", "expected"), [(0.0, 0.5), (1.0, 0.8413447460685429), (-1.0, 0.15865525393145707), (math.inf, 1.0), (-math.inf, 0.0)]
)
def test_phi_is_the_normal_distribution_function(z: float, expected: float) -> None:
    assert phi(z) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("mean", "standard_error", "expected"),
    [
        (0.3, 0.1, 3.0),
        (-0.3, 0.1, -3.0),
        (0.3, 0.0, math.inf),
        (-0.3, 0.0, -math.inf),
        (0.0, 0.0, 0.0),
        (-0.0, 0.0, 0.0),
        (0.3, math.inf, 0.0),
        (math.nan, 0.1, None),
        (math.inf, 0.1, None),
        (0.3, math.nan, None),
    ],
)
def test_z_counts_standard_errors(mean: float, standard_error: float, expected: float | None) -> None:
    assert _z_score(mean, standard_error) == (pytest.approx(3.0 * math.copysign(1, expected)) if expected in {3.0, -3.0} else expected)


@pytest.mark.parametrize(
    ("z", "skewness", "expected"),
    [
        (3.0, -0.2, 2.4067),  # 3 - 0.6 + 0.04 - 0.0333
        (-3.0, 0.2, -2.4067),
        (3.0, 0.2, 3.0),
        (-3.0, -0.2, -3.0),
        (0.05, -0.5, 0.0),
        (0.0, -0.5, 0.0),
        (3.0, math.nan, 3.0),
        (1e200, -0.2, 1e200),
    ],
)
def test_a_z_of_few_large_losses_is_taken_nearer_to_0_and_never_away_from_it(z: float, skewness: float, expected: float) -> None:
    assert _z_score(z, 1.0, skewness) == pytest.approx(expected, abs=1e-4)


def test_of_seeds_that_do_nothing_no_more_pass_than_promised_also_where_large_losses_are_rare() -> None:
    """Races of nine that do nothing, looked at seven times, each look for itself: three in ten may pass a limit of 0.7."""
    random, races = np.random.default_rng(5), 500
    found = [_best(1.0 - random.standard_exponential((9, 350)), look) for _ in range(races) for look in range(1, 8)]
    passed = [confidence(one, 8) > 0.7 for one in found]
    plain = [confidence(one.model_copy(update={"skewness": 0.0}), 8) > 0.7 for one in found]
    assert _races(passed) < 0.3 * races < 0.4 * races < _races(plain)


def _races(passed: list[bool]) -> int:
    return sum(any(passed[first : first + 7]) for first in range(0, len(passed), 7))


def _best(gains: npt.NDArray[np.float64], look: int) -> Evaluation:
    best = gains[gains.mean(axis=1).argmax()]
    root = math.sqrt(len(best))
    return evidence(float(best.mean()), float(best.std(ddof=1)) / root, n=len(best), k=9, look=look, skewness=float(skew(best)) / root)


def test_eight_pairs_are_needed() -> None:
    assert usable_z(evidence(n=7), 8) is None
    assert usable_z(evidence(n=8), 8) == pytest.approx(4.5)
    assert usable_z(None, 8) is None


# T(z)^(k l (l + 1)); T at z 1 for 349 and for 7 degrees of freedom, from tables.
T_349, T_7 = 0.8410, 0.8247


@pytest.mark.parametrize(
    ("z", "n", "k", "look", "expected"),
    [
        (1.0, 350, 1, 1, T_349**2),
        (1.0, 350, 3, 1, T_349**6),
        (1.0, 350, 1, 2, T_349**6),
        (1.0, 350, 2, 7, T_349**112),
        (1.0, 8, 1, 1, T_7**2),
        (1.0, 7, 1, 1, 0.0),
        (math.nan, 350, 1, 1, 0.0),
        (math.inf, 350, 9, 7, 1.0),
        (-math.inf, 350, 9, 7, 0.0),
        (0.0, 350, 0, 0, 0.25),
    ],
)
def test_confidence_pays_for_every_alternative_and_every_look(z: float, n: int, k: int, look: int, expected: float) -> None:
    found = evidence(math.copysign(1.0, z) if math.isinf(z) else z, 0.0 if math.isinf(z) else 1.0, n, k, look)
    assert confidence(found, 8) == pytest.approx(expected, abs=2e-4)


def test_confidence_that_a_seed_harms_is_that_of_the_other_sign() -> None:
    assert confidence(evidence(0.3, 0.1), 8, harm=True) == confidence(evidence(-0.3, 0.1), 8)


def test_more_alternatives_may_have_been_tried_than_the_evidence_knows_of() -> None:
    assert confidence(evidence(k=3), 8, tried=9) == confidence(evidence(k=9), 8)


def test_without_evidence_there_is_no_confidence() -> None:
    assert confidence(None, 8) == 0.0


def test_all_looks_together_spend_the_promise_and_no_more() -> None:
    """Seeds that stay below each look's limit by chance alone do so with the promised share, however many looks there are."""
    assert math.prod(0.7 ** (1 / (look * (look + 1))) for look in range(1, 2000)) == pytest.approx(0.7, abs=1e-3)


def test_a_comparison_reads_as_a_sentence() -> None:
    assert evidence_in_words(evidence(), 8) == "0.2715 against 0.2733 (-0.7 %), n 350, z 4.5, best of 3 tried"
    assert evidence_in_words(evidence(look=3), 8).endswith("best of 3 tried, look 3")
    assert "z 3.3 (4.5 but for few large losses)" in evidence_in_words(evidence(skewness=-0.2), 8)
    assert "z -3.3 (-4.5 but for few large gains)" in evidence_in_words(evidence(-0.0018, skewness=0.2), 8)
    assert evidence_in_words(evidence(n=5), 8).endswith("n 5: fewer than 8 pairs give no confidence")
    assert evidence_in_words(evidence(mean=math.nan), 8) == "0.2715 against 0.2733 (difference unknown), n 350, z unknown, best of 3 tried"
