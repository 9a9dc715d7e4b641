"""Losses on validation data: weighted by samples, in eval mode, without a trace; and paired differences with their standard error."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from esper.errors import DataError
from esper.tolaria.determinism import random_state_digest
from esper.tolaria.objective import Batch, Supervised, WholeStep
from esper.tolaria.validation import Evaluator, Losses, paired_difference
from tests.tolaria.worlds import CPU, batches, loss_of, perceptron, samples


def correct(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) == target).float()


def mean_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def expected() -> tuple[float, float]:
    """(loss, accuracy) over all samples at once."""
    inputs, targets = samples()
    with torch.no_grad():
        output = perceptron()(inputs)
    return float(loss_of(output, targets).double().mean()), float(correct(output, targets).double().mean())


@pytest.mark.parametrize("loss", [loss_of, mean_loss])
def test_loss_and_metrics_are_means_over_samples_also_where_the_last_batch_is_smaller(loss: object) -> None:
    assert callable(loss)
    losses = Evaluator(perceptron(), batches(8), Supervised(loss, {"right": correct}), CPU).losses()
    assert losses.samples == 20
    assert losses.mean == pytest.approx(expected()[0], rel=1e-6)
    assert losses.metrics["right"] == pytest.approx(expected()[1])


def test_a_loss_a_sample_gives_as_many_values_as_samples_in_their_order() -> None:
    losses = Evaluator(perceptron(), batches(8), Supervised(loss_of), CPU).losses()
    inputs, targets = samples()
    with torch.no_grad():
        assert losses.values.tolist() == pytest.approx(loss_of(perceptron()(inputs), targets).tolist())


def test_a_loss_a_batch_gives_one_value_a_batch_weighted_by_its_samples() -> None:
    losses = Evaluator(perceptron(), batches(8), Supervised(mean_loss), CPU).losses()
    assert (len(losses.values), losses.weights.tolist()) == (3, [8.0, 8.0, 4.0])


def test_a_metric_that_is_one_number_a_batch_is_weighted_too() -> None:
    metric = {"right": lambda output, target: correct(output, target).mean()}
    losses = Evaluator(perceptron(), batches(8), Supervised(loss_of, metric), CPU).losses()
    assert losses.metrics["right"] == pytest.approx(expected()[1])


def test_each_pass_takes_the_data_in_the_same_order_though_a_generator_of_their_own_shuffles_them() -> None:
    loader = DataLoader(TensorDataset(*samples()), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(3))
    evaluator = Evaluator(perceptron(), loader, Supervised(loss_of), CPU)
    assert evaluator.losses().values.tolist() == evaluator.losses().values.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_random_state_and_buffers_as_they_were(training: bool) -> None:
    model = perceptron(3, nn.BatchNorm1d(3), nn.Dropout(0.5)).train(training)
    before = random_state_digest(CPU), {name: value.clone() for name, value in model.state_dict().items()}
    Evaluator(model, batches(8), Supervised(loss_of), CPU).losses()
    assert random_state_digest(CPU) == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [training] * 6


def test_evaluation_is_in_eval_mode_and_without_gradients() -> None:
    seen: list[tuple[bool, bool]] = []

    def step(model: nn.Module, batch: Batch) -> Tensor:
        seen.append((model.training, torch.is_grad_enabled()))
        assert isinstance(batch, tuple)
        return loss_of(model(batch[0]), batch[1])

    Evaluator(perceptron(), batches(10), WholeStep(step), CPU).losses()
    assert seen == [(False, False), (False, False)]


def test_mode_and_random_state_are_restored_when_the_loss_raises() -> None:
    model = perceptron().train()
    before = random_state_digest(CPU)

    def burst(_model: nn.Module, _batch: Batch) -> Tensor:
        torch.rand(1)
        raise ValueError("no loss today")

    with pytest.raises(ValueError, match="no loss today"):
        Evaluator(model, batches(10), WholeStep(burst), CPU).losses()
    assert model.training
    assert random_state_digest(CPU) == before


def test_data_that_draws_random_numbers_gives_the_same_losses_in_one_epoch() -> None:
    class Noisy:
        def __iter__(self) -> object:
            inputs, targets = samples()
            yield inputs + torch.randn_like(inputs), targets

    evaluator = Evaluator(perceptron(), Noisy(), Supervised(loss_of), CPU)  # type: ignore[arg-type] # An iterable is what it is.
    assert evaluator.losses().values.tolist() == evaluator.losses().values.tolist()


def test_no_validation_data_is_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="validation data is empty: expected at least one batch"):
        Evaluator(perceptron(), [], Supervised(loss_of), CPU).losses()


def losses(*values: float) -> Losses:
    return Losses(np.array(values), np.ones(len(values)), {})


def test_a_comparison_is_paired() -> None:
    pair = paired_difference(losses(1.0, 5.0, 3.0), losses(0.5, 4.0, 3.0))
    assert pair.n == 3
    assert pair.mean == pytest.approx(0.5)
    assert pair.standard_error == pytest.approx(0.5 / math.sqrt(3))  # sd of 0.5, 1, 0 is 0.5
    assert (pair.without.mean, pair.with_seed.mean) == (3.0, 2.5)


def test_one_pair_has_no_standard_error() -> None:
    assert math.isnan(paired_difference(losses(1.0), losses(0.5)).standard_error)


def test_one_value_that_is_not_a_number_makes_the_mean_none() -> None:
    assert math.isnan(losses(1.0, math.nan).mean)
    assert math.isnan(paired_difference(losses(1.0, math.nan), losses(0.5, 1.0)).mean)
