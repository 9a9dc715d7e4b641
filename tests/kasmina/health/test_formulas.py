"""Health against slow references in float64, written from the formulas' sources and not from the code."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.health import formulas

Array = npt.NDArray[np.float64]


def outputs(rows: int, units: int, *, seed: int = 0, mixed: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, 1, generator=generator)
    return 3.0 + (1 - mixed) * torch.randn(rows, units, generator=generator) + mixed * shared


def as_rows(tensor: Tensor) -> Array:
    """Every row of an output, units last, in float64."""
    moved = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
    return moved.reshape(-1, moved.shape[-1]).double().numpy()


def slow_variance(S: Array) -> float:
    each = []
    for column in S.T.tolist():
        mean = sum(column) / len(column)
        each.append(sum((v - mean) ** 2 for v in column) / len(column))
    return math.fsum(each) / len(each)


def slow_dead_ratio(A: Array) -> float:
    scores = [sum(abs(v) for v in column) / len(column) for column in A.T.tolist()]
    layer = sum(scores) / len(scores)
    return len([score for score in scores if score <= 0.025 * layer]) / len(scores)


def slow_correlation(S: Array) -> float:
    varying = [column for column in S.T if np.ptp(column) > 0]
    pairs = [abs(np.corrcoef(a, b)[0, 1]) for i, a in enumerate(varying) for b in varying[i + 1 :]]
    floor = math.sqrt(2 / (math.pi * len(S)))
    return float((np.mean(pairs) - floor) / (1 - floor))


def slow_effective_rank(S: Array) -> float:
    values = np.linalg.svd(S - S.mean(axis=0), compute_uv=False)
    p = values / values.sum()
    return float(np.exp(-sum(share * math.log(share) for share in p if share > 0)))


def slow_pressure(G: Tensor) -> float:
    return float(np.mean([math.sqrt(sum(v * v for v in one.double().flatten().tolist())) for one in G]))


SAMPLES = [outputs(256, 64), outputs(64, 6), outputs(40, 12, mixed=0.6), torch.relu(outputs(100, 9) - 4.5)]


@pytest.mark.parametrize("S", SAMPLES, ids=["large", "narrow", "mixed", "rectified"])
def test_each_statistic_is_its_formula(S: Tensor) -> None:
    exact = S.double().numpy()
    assert float(formulas.variance(S)) == pytest.approx(slow_variance(exact), rel=1e-4)
    assert float(formulas.dead_ratio(S)) == pytest.approx(slow_dead_ratio(exact))
    assert float(formulas.correlation(S)) == pytest.approx(slow_correlation(exact), rel=1e-3, abs=1e-5)
    assert float(formulas.effective_rank(S)) == pytest.approx(slow_effective_rank(exact), rel=1e-4)


def test_independent_units_have_no_correlation_however_few_the_rows() -> None:
    for rows in (32, 64, 256):
        assert abs(float(formulas.correlation(outputs(rows, 64, seed=rows)))) < 0.02


def test_equal_units_correlate_fully() -> None:
    column = torch.randn(256, 1, generator=torch.Generator().manual_seed(0))
    assert float(formulas.correlation(column * torch.tensor([1.0, -2.0, 0.5]))) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(20))
def test_units_that_all_say_the_same_are_never_correlated_by_more_than_one(seed: int) -> None:
    same = outputs(64, 1, seed=seed) @ outputs(1, 64, seed=seed + 100)
    correlated = float(formulas.correlation(same))
    assert correlated <= 1.0
    assert formulas.health_score(1.0, 0.0, correlated, False) == pytest.approx(0.0, abs=1e-3)


def test_units_that_do_not_vary_are_in_no_pair() -> None:
    S = outputs(256, 4)
    assert float(formulas.correlation(torch.cat([S, torch.ones(256, 3)], dim=1))) == pytest.approx(float(formulas.correlation(S)), rel=1e-5)
    assert math.isnan(float(formulas.correlation(torch.ones(256, 3))))


@pytest.mark.parametrize("dead", [0, 3, 8])
def test_units_that_stay_silent_are_counted_as_dormant(dead: int) -> None:
    A = torch.relu(outputs(64, 8))
    A[:, :dead] = 0.0
    assert float(formulas.dead_ratio(A)) == dead / 8


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_effective_rank_of_equal_directions_is_their_number(rank: int) -> None:
    basis = torch.linalg.qr(outputs(64, 8) - 3.0)[0][:, :rank]
    centred = basis - basis.mean(0)
    assert float(formulas.effective_rank(torch.linalg.qr(centred)[0] @ torch.eye(rank, 8))) == pytest.approx(rank, rel=1e-4)


def test_effective_rank_of_nothing_is_not_a_number() -> None:
    assert math.isnan(float(formulas.effective_rank(torch.ones(16, 4))))


@pytest.mark.parametrize("shape", [(64, 6), (3, 5, 7), (8, 4, 6, 5)], ids=["linear", "sequence", "image"])
def test_pressure_is_the_mean_norm_over_whole_samples(shape: tuple[int, ...]) -> None:
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert float(formulas.pressure(G)) == pytest.approx(slow_pressure(G), rel=1e-5)


def test_pressure_of_large_outputs_is_taken_from_some_samples() -> None:
    G = torch.randn(64, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(formulas.pressure(G)) == pytest.approx(slow_pressure(G[::8]), rel=1e-5)


@pytest.mark.parametrize("shape", [(64, 6), (6,), (1000, 128), (5, 70, 16), (4, 3, 2, 2), (16, 96, 32, 32), (2, 3, 17, 30)])
def test_a_sample_is_taken_from_the_output_and_stays_small(shape: tuple[int, ...]) -> None:
    y = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    S = formulas.sample(y)
    assert S.shape[0] <= formulas.ROWS
    assert S.shape[1] <= formulas.UNITS
    known = {tuple(row) for row in as_rows(y)[:, :: math.ceil(as_rows(y).shape[1] / formulas.UNITS)].tolist()}
    assert {tuple(row) for row in S.tolist()} <= known
    assert len({tuple(row) for row in S.tolist()}) == S.shape[0]


def test_a_small_output_is_sampled_whole() -> None:
    y = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(np.sort(formulas.sample(y).double().numpy(), axis=0), np.sort(as_rows(y), axis=0))


def test_a_sample_of_images_sees_every_column_and_every_sample() -> None:
    """With a stride that divides the image one column would stand for all."""
    column = torch.arange(32.0).expand(64, 1, 32, 32)
    sample_of = torch.arange(64.0).reshape(64, 1, 1, 1).expand(64, 1, 32, 32)
    S = formulas.sample(torch.cat([column, sample_of], dim=1))
    assert len(set(S[:, 0].tolist())) == 32
    assert len(set(S[:, 1].tolist())) == 64


def test_a_sample_is_a_copy_in_float32() -> None:
    y = torch.ones(8, 4, dtype=torch.float64)
    S = formulas.sample(y)
    y.zero_()
    assert S.dtype is torch.float32
    assert bool(S.all())


def test_a_sampled_statistic_is_close_to_the_whole() -> None:
    torch.manual_seed(0)
    y = nn.Conv2d(3, 32, 3, padding=1)(torch.randn(32, 3, 16, 16)).detach()
    whole = as_rows(y)
    assert float(formulas.variance(formulas.sample(y))) == pytest.approx(slow_variance(whole), rel=0.1)
    assert float(formulas.effective_rank(formulas.sample(y))) == pytest.approx(slow_effective_rank(whole), rel=0.1)


@pytest.mark.parametrize(
    ("variance", "dead", "correlated", "recovering", "score"),
    [
        (1.0, 0.0, 0.0, False, 1.0),
        (1.0, 0.75, 0.0, False, 0.5),
        (1.0, 0.5, 0.5, False, 0.5),
        (1.0, None, -0.2, False, 1.0),
        (1.0, None, None, False, 1.0),
        (0.0, 0.0, 0.0, False, 0.0),
        (math.nan, 0.0, 0.0, False, 0.0),
        (1.0, math.nan, 0.0, False, 0.0),
        (math.inf, 0.0, 0.0, False, 0.0),
        (1.0, 0.0, 0.0, True, 0.0),
        (None, None, None, True, 0.0),
        (None, None, None, False, None),
    ],
)
def test_health_score(variance: float | None, dead: float | None, correlated: float | None, recovering: bool, score: float | None) -> None:
    assert formulas.health_score(variance, dead, correlated, recovering) == score
