"""z and confidence, also where they are at an edge."""

import math

import pytest

from esper.events.kinds.lifecycle import Evaluation
from esper.tamiyo.evidence import _z_score, confidence, evidence_in_words, phi, usable_z


def evidence(mean: float = 0.0018, standard_error: float = 0.0004, n: int = 350, k: int = 3) -> Evaluation:
    return Evaluation(epoch=3, alpha=0.5, n=n, k=k, mean=mean, standard_error=standard_error, loss_without=0.2733, loss_with=0.2715)


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


def test_eight_pairs_are_needed() -> None:
    assert usable_z(evidence(n=7), 8) is None
    assert usable_z(evidence(n=8), 8) == pytest.approx(4.5)
    assert usable_z(None, 8) is None


@pytest.mark.parametrize(
    ("z", "k", "expected"), [(1.0, 1, 0.841345), (1.0, 3, 0.595555), (None, 1, 0.0), (math.inf, 9, 1.0), (-math.inf, 9, 0.0), (0.0, 0, 0.5)]
)
def test_confidence_pays_for_every_alternative_tried(z: float | None, k: int, expected: float) -> None:
    assert confidence(z, k) == pytest.approx(expected, abs=1e-6)


def test_a_comparison_reads_as_a_sentence() -> None:
    assert evidence_in_words(evidence(), 8) == "0.2715 against 0.2733 (-0.7 %), n 350, z 4.5, best of 3 tried"
    assert evidence_in_words(evidence(n=5), 8).endswith("n 5: fewer than 8 pairs give no confidence")
    assert evidence_in_words(evidence(mean=math.nan), 8) == "0.2715 against 0.2733 (difference unknown), n 350, z unknown, best of 3 tried"
