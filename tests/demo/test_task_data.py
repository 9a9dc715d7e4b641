"""The data of the tasks: splits of known sizes that vary with the rng seed and with nothing else. They need scikit-learn and scipy."""

import pytest
import torch

from esper.demo.tasks import TASKS, Split

pytestmark = pytest.mark.whole

SIZES = {"digits": (1097, 350, 350), "mnist1d": (3200, 800, 1000)}
WIDTHS = {"digits": 64, "mnist1d": 40}


def split_of(name: str, rng_seed: int = 0) -> Split:
    split = TASKS[name].data(rng_seed)
    assert isinstance(split, Split)
    return split


@pytest.mark.parametrize("name", TASKS)
def test_a_split_has_the_sizes_that_the_figures_were_measured_with(name: str) -> None:
    parts = split_of(name)
    assert tuple(len(part.inputs) for part in parts) == tuple(len(part.targets) for part in parts) == SIZES[name]
    assert {(part.inputs.dtype, part.inputs.shape[1], part.targets.dtype) for part in parts} == {(torch.float32, WIDTHS[name], torch.int64)}
    assert {int(target) for part in parts for target in part.targets} == set(range(10))


@pytest.mark.parametrize("name", TASKS)
def test_a_split_is_the_same_for_the_same_rng_seed_and_another_for_another(name: str) -> None:
    one, again, other = (split_of(name, rng_seed).train.inputs for rng_seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_no_sample_is_in_two_parts_of_a_split() -> None:
    rows = [tuple(row) for part in split_of("mnist1d") for row in part.inputs.tolist()]
    assert len(set(rows)) == len(rows) == 5000


def test_digits_are_between_zero_and_one() -> None:
    inputs = split_of("digits").train.inputs
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)


def test_mnist1d_is_standardised_over_all_samples_and_balanced() -> None:
    parts = split_of("mnist1d")
    inputs, targets = torch.cat([part.inputs for part in parts]).double(), torch.cat([part.targets for part in parts])
    assert float(inputs.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(inputs.std(correction=0)) == pytest.approx(1.0, abs=1e-6)
    assert torch.bincount(targets).tolist() == [500] * 10


def test_mnist1d_is_a_shape_somewhere_in_noise_that_a_linear_reader_cannot_find() -> None:
    """Its recipe shifts the template: class means tell little, so that least squares on the raw signal stays far from 1."""
    train, _, test = split_of("mnist1d")
    design = torch.cat([train.inputs, torch.ones(len(train.inputs), 1)], dim=1).double()
    weights = torch.linalg.lstsq(design, torch.nn.functional.one_hot(train.targets).double()).solution
    guesses = (torch.cat([test.inputs, torch.ones(len(test.inputs), 1)], dim=1).double() @ weights).argmax(dim=1)
    share = float((guesses == test.targets).double().mean())
    assert 0.2 < share < 0.5
