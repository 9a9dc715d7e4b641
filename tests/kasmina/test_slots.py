"""What a seed learns: the local objective against a reference, its own clip, its own random stream."""

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.growth import GrowthSettings
from esper.kasmina.host import Host
from tests.kasmina.training import LR, batch, branch_of, into_training


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 12), nn.GELU(), nn.Linear(12, 4))


def host_with(blueprint: str, *, clip: float | None) -> Host:
    growth = GrowthSettings(blueprints=(blueprint,), sites="0", max_parameters=50.0, clip=clip)
    host = Host(model_of(), growth, seed_optimizer=torch.optim.SGD)
    into_training(host, "0", 0, blueprint)
    return host


def learn(host: Host, *, step: int = 1, parts: int = 1) -> Tensor:
    host.begin_step(epoch=1, step=step)
    for part in range(parts):
        x, t = batch("linear", part)
        (nn.functional.cross_entropy(host.model(x), t) / parts).backward()
    host.end_step(lr=LR)
    return host.state()[0]["0/0/last.weight"].clone()


def reference_gradient(parts: int) -> Tensor:
    """dL/dW of the last layer, in float64: mean over micro-batches of mean((body(x) + g std(y) / rms(g))^2)."""
    host = host_with("mlp:24", clip=None)
    branch, layer = branch_of(host.model.get_submodule("0"), 0).double(), host.model.double()
    gradients = []
    for part in range(parts):
        x, t = batch("linear", part)
        x = x.double()
        y = nn.Linear.forward(layer.get_submodule("0"), x).detach().requires_grad_()  # type: ignore[arg-type] # It is a Linear.
        loss = nn.functional.cross_entropy(layer.get_submodule("2")(nn.functional.gelu(y)), t) / parts
        g = torch.autograd.grad(loss, y)[0]
        target = -g / g.pow(2).mean().sqrt() * y.detach().std()
        hidden, delta = branch.body(x)
        gradients.append(2 * (delta - target).detach().T @ hidden.detach() / target.numel())
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_seed_regresses_the_descent_direction_at_the_outputs_size(parts: int) -> None:
    weight = learn(host_with("mlp:24", clip=None), parts=parts)
    torch.testing.assert_close(weight.double(), -LR * reference_gradient(parts), rtol=1e-4, atol=1e-9)


def test_a_seeds_gradient_is_clipped_by_its_own_norm() -> None:
    host = host_with("mlp:24", clip=1e-3)
    before = [parameter.detach().clone() for parameter in host.optimizers()["0/0"].param_groups[0]["params"]]
    learn(host)
    moved = [new.detach() - old for new, old in zip(host.optimizers()["0/0"].param_groups[0]["params"], before, strict=True)]
    assert float(torch.stack([part.square().sum() for part in moved]).sum().sqrt()) == pytest.approx(LR * 1e-3, rel=1e-2)


def test_every_step_draws_from_its_own_stream() -> None:
    first, again, second = (learn(host_with("mlp:24:dropout=0.5", clip=None), step=step) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_seed_of_a_larger_batch_learns_at_the_same_size() -> None:
    """The raw gradient of a mean loss shrinks with the batch; the target does not."""

    def step_size(copies: int) -> float:
        host = host_with("mlp:24", clip=None)
        x, t = batch("linear", 0)
        host.begin_step(epoch=1, step=1)
        nn.functional.cross_entropy(host.model(x.repeat(copies, 1)), t.repeat(copies)).backward()
        host.end_step(lr=LR)
        return float(host.state()[0]["0/0/last.weight"].norm())

    assert step_size(8) == pytest.approx(step_size(1), rel=0.01)
