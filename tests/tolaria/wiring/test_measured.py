"""What the checks are given, and what they make of it: parts of the wiring by themselves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.overrides import TorchFunctionMode

from esper.tolaria.wiring.judging import learns_nothing, output_faults
from esper.tolaria.wiring.later import WeightHistory
from esper.tolaria.wiring.outputs import Kept, output_seen
from esper.tolaria.wiring.parameters import PLACES, ParameterProbe, places_of
from tests.tolaria.wiring.trainings import mlp, values

# Parameters


def test_places_of_a_large_parameter_are_within_it() -> None:
    size = 2**24 + 4  # The last place is no number that float32 has.
    places = places_of(torch.zeros(1).expand(size)).tolist()
    assert (len(places), places[0], places[-1]) == (PLACES, 0, size - 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_parameter_group_may_be_on_two_devices() -> None:
    model = nn.ModuleList((nn.Linear(8, 8), nn.Linear(8, 8).cuda()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    probe = ParameterProbe(model, model.parameters(), optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    probe.before_step()
    optimizer.step()
    probe.after_step()
    probe.settle()
    assert [group for group, _ in probe.decay_ratios] == [0]


# Outputs


def kept() -> Kept:
    inputs, targets = values(64)
    return Kept(inputs, inputs[:, :1], targets)


def rounded(by: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that a shift does not change but by rounding, which falls by this much."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        first, second = ((one - one.mean()) / one.std() for one in (output.double(), targets.double()))
        return F.mse_loss(first, second) - by * (output - targets).abs().mean()

    return loss


def test_a_loss_that_differs_by_rounding_is_not_upside_down() -> None:
    judged = [output_seen(kept(), rounded(by)) for by in (1e-7, 0.1)]
    assert [seen is not None and seen.upside_down for seen in judged] == [False, True]


def test_the_targets_that_a_hinge_ignores_are_counted_for_outputs_of_any_shape() -> None:
    def hinge(output: Tensor, targets: Tensor) -> Tensor:
        return F.relu(1 - output * targets).mean()

    targets = torch.tensor([1.0, -1.0]).repeat(8)
    output = targets * torch.tensor([2.0, 2.0, 2.0, 0.5]).repeat(4)
    for shape in ((16,), (16, 1)):
        seen = output_seen(Kept(None, output.reshape(shape), targets.reshape(shape)), hinge)
        assert seen is not None
        assert seen.ignored == 0.75


def test_outputs_that_are_all_zero_are_neither_clipped_nor_saturated() -> None:
    inputs, targets = values(64)
    seen = output_seen(Kept(inputs, torch.zeros(64, 1), targets), F.mse_loss)
    assert seen is not None
    assert list(output_faults(seen)) == []


def test_a_training_whose_learning_rate_rises_may_still_guess() -> None:
    assert [len(list(learns_nothing(1.0, (1.0, 1.0, 1.0), 1.0, 100, rising=rising))) for rising in (True, False)] == [0, 1]


# Weights from epoch to epoch


def learn(model: nn.Module, *names: str) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.mul_(1.01)


def test_parameters_whose_own_learning_rate_is_zero_lose_no_updates() -> None:
    model = mlp(8, 16, 16, 3)
    first, *others = (model.get_submodule(name).parameters() for name in ("0", "2", "4"))
    optimizer = torch.optim.SGD([{"params": first}, *({"params": one} for one in others)], lr=0.1)
    history = WeightHistory(model.named_parameters(), optimizer)
    learn(model, *dict(model.named_parameters()))
    assert history.after_epoch((0.1, 0.1, 0.1)) == []
    learn(model, "4.weight", "4.bias")
    assert history.after_epoch((0.0, 0.0, 0.1)) == []
    learn(model, "4.weight")
    assert [finding.check for finding in history.after_epoch((0.1, 0.1, 0.1))] == ["updates-lost"]


def test_a_parameter_of_another_size_is_left_out() -> None:
    model = mlp(8, 16, 16, 3)
    history = WeightHistory(model.named_parameters(), SGD(model.parameters()))
    learn(model, *dict(model.named_parameters()))
    model.get_parameter("2.weight").data = torch.zeros(2, 2)
    assert history.after_epoch((0.1,)) == []
    learn(model, "4.bias")
    assert [finding.check for finding in history.after_epoch((0.1,))] == ["updates-lost"]


def test_weights_are_read_from_the_device_at_once() -> None:
    class Transfers(TorchFunctionMode):
        count = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # Any: any call of torch.
            self.count += function is Tensor.cpu
            return function(*args, **kwargs or {})

    model = mlp(8, 16, 16, 3)
    history = WeightHistory(model.named_parameters(), SGD(model.parameters()))
    with Transfers() as transfers:
        history.after_epoch((0.1,))
    assert transfers.count == 1


def test_a_filled_model_of_one_output_has_equal_weights() -> None:
    model = mlp(8, 16, 1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    assert [finding.check for finding in WeightHistory(model.named_parameters(), SGD(model.parameters())).equal()] == ["weights-equal"]
