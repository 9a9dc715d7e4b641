"""Losses over batches of any shape: which are taken, what is a batch's size, and what is refused with advice."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from esper.errors import DataError
from esper.tolaria.objective import Batch, Supervised, WithoutMetrics, size_of, to_device
from tests.tolaria.worlds import loss_of, perceptron, samples

X = torch.zeros(5, 2)
SIZED: list[tuple[Batch, int]] = [
    (X, 5),
    ((X, torch.zeros(5)), 5),
    ([X], 5),
    ({"ids": X, "name": "a"}, 5),
    ({"inner": ["text", (torch.zeros(3),)]}, 3),
]


@pytest.mark.parametrize(("batch", "size"), SIZED)
def test_the_size_of_a_batch_is_the_first_dimension_of_its_first_tensor(batch: Batch, size: int) -> None:
    assert size_of(batch) == size


@pytest.mark.parametrize("batch", ["text", {"a": 1}, (), torch.tensor(1.0), None])
def test_a_batch_without_samples_is_refused(batch: Batch) -> None:
    with pytest.raises(DataError, match="expected a batch with a tensor whose first dimension are the samples, got a "):
        size_of(batch)


def test_every_tensor_of_a_batch_is_moved_and_the_rest_is_kept() -> None:
    moved = to_device({"x": X, "pair": (X, 1), "list": [X], "name": "a"}, torch.device("meta"))
    assert isinstance(moved, dict)
    assert moved["x"].device.type == moved["pair"][0].device.type == moved["list"][0].device.type == "meta"
    assert (moved["pair"][1], moved["name"]) == (1, "a")
    assert (type(moved["pair"]), type(moved["list"])) == (tuple, list)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def test_a_named_tuple_keeps_its_names_and_is_a_pair() -> None:
    moved = to_device(Pair(X, torch.zeros(5)), torch.device("meta"))
    assert isinstance(moved, Pair)
    assert moved.x.device.type == moved.y.device.type == "meta"
    losses, _ = Supervised(loss_of)(perceptron(), Pair(*samples()))
    assert losses.shape == (20,)


def test_supervised_measures_loss_and_metrics_of_one_output() -> None:
    passes: list[int] = []
    model = perceptron()
    model.register_forward_hook(lambda *_: passes.append(1))
    inputs, targets = samples()
    objective = Supervised(loss_of, {"right": lambda output, target: (output.argmax(1) == target).float()})
    losses, metrics = objective(model, (inputs, targets))
    assert passes == [1]
    output = model(inputs)
    assert torch.equal(losses, loss_of(output, targets))
    assert torch.equal(metrics["right"], (output.argmax(1) == targets).float())


WRONG: list[tuple[Batch, str]] = [
    ((X,), "tuple of 1"),
    ((X, X, X), "tuple of 3"),
    ({"x": X, "y": X}, "dict of 2"),
    (X, r"Tensor of shape \(5, 2\)"),
]


@pytest.mark.parametrize(("batch", "found"), WRONG)
def test_supervised_refuses_other_batches_and_says_what_to_use(batch: Batch, found: str) -> None:
    with pytest.raises(DataError, match=rf"expected batches of \(inputs, targets\) with loss=, got a {found}: use objective="):
        Supervised(loss_of)(perceptron(), batch)


def test_a_whole_step_is_what_the_function_gives() -> None:
    def step(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(batch, dict)
        output: Tensor = model(batch["x"])
        return output.square().mean(dim=1)

    model, batch = perceptron(), {"x": samples()[0]}
    objective = WithoutMetrics(step)
    losses, metrics = objective(model, batch)
    assert torch.equal(losses, step(model, batch))
    assert (losses.shape, metrics) == ((20,), {})
