"""How much of a seed is in the host's output, and when."""

import pytest
import torch
from torch import Tensor

from esper.events.kinds.control import Command
from esper.kasmina.growth import GrowthSettings
from esper.kasmina.host import Host
from tests.kasmina.training import LR, MODELS, Loop, batch, branch_of, host_of, into, linear_model, site_of

SEED = {"linear": "mlp:24", "conv": "conv:8"}


def output(host: Host, kind: str = "linear") -> Tensor:
    host.model.eval()
    with torch.no_grad():
        y = host.model(batch(kind, 0)[0])
    host.model.train()
    assert isinstance(y, Tensor)
    return y


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def grafting(kind: str, *, ramp_steps: int) -> Host:
    """A host with a seed in GRAFTING whose body has a large effect."""
    host = host_of(MODELS[kind]())
    into(host, "0", 0, SEED[kind], Command.GRAFT, ramp_steps=ramp_steps)
    host.state()[0]["0/0/last.bias"].fill_(3.0)
    return host


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_at_alpha_0_the_output_is_the_hosts_bit_for_bit(kind: str) -> None:
    host = grafting(kind, ramp_steps=4)
    host.state()[0]["0/0/last.bias"].fill_(float("nan"))
    plain = host_of(MODELS[kind]())
    assert torch.equal(output(host, kind), output(plain, kind))


def test_a_seed_without_influence_passes_no_gradient_to_the_host() -> None:
    host, plain = grafting("linear", ramp_steps=4), host_of(linear_model())
    x, _ = batch("linear", 0)
    for one in (host, plain):
        torch.manual_seed(0)
        one.model(x).square().sum().backward()
    assert [gradient_of(p).tolist() for p in host.host_parameters()] == [gradient_of(p).tolist() for p in plain.host_parameters()]


def test_a_dormant_site_asks_nothing_but_whether_it_is_active() -> None:
    model = linear_model()
    host_of(model)
    growth = site_of(model[0])
    growth.__dict__ = {"active": False}
    assert model(batch("linear", 0)[0]).shape == (16, 4)


def test_alpha_rises_linearly_per_step_to_1() -> None:
    host = grafting("linear", ramp_steps=4)
    loop = Loop("linear", host.model, host)
    alphas = []
    for step in range(6):
        loop.step(step)
        alphas.append(host.seeds["0", 0].alpha)
    assert alphas == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_stabilizing_early_sets_alpha_to_1() -> None:
    host = grafting("linear", ramp_steps=4)
    host.apply(Command.STABILIZE, "0", 0, epoch=4)
    assert host.seeds["0", 0].alpha == 1.0


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_output_is_the_layers_plus_alpha_times_the_body(kind: str) -> None:
    host = grafting(kind, ramp_steps=2)
    layer = host.model.get_submodule("0")
    branch = branch_of(layer, 0)
    x, _ = batch(kind, 0)
    branch.set_alpha(0.0)
    host.begin_step(epoch=1, step=1)
    y = layer(x)
    branch.set_alpha(0.0)
    site_of(layer).rewire()
    delta = branch.body(x)[1]
    torch.testing.assert_close(y, layer(x) + 0.5 * delta)


def test_a_linear_with_leading_dimensions_grows_like_a_flat_one() -> None:
    host = host_of(linear_model())
    into(host, "0", 0, "signal:12", Command.GRAFT, Command.STABILIZE)
    host.state()[0]["0/0/last.weight"].normal_(generator=torch.Generator().manual_seed(0))
    layer, x = host.model.get_submodule("0"), torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x).reshape(6, -1), layer(x.reshape(6, 20)))
    torch.testing.assert_close(layer(x[0, 0]), layer(x)[0, 0])


def test_an_override_acts_within_and_ends_with_the_block() -> None:
    host = host_of(linear_model())
    into(host, "0", 0, "mlp:24")
    host.state()[0]["0/0/last.bias"].fill_(3.0)
    without = output(host)
    with host.override_alpha({("0", 0): 0.25}):
        assert not torch.equal(output(host), without)
    with pytest.raises(ZeroDivisionError), host.override_alpha({("0", 0): 0.25}):
        output(host).mul_(1 / 0)
    assert torch.equal(output(host), without)
    assert host.seeds["0", 0].alpha == 0.0


def test_an_override_to_0_is_the_host_without_that_seed() -> None:
    host = host_of(linear_model())
    without = output(host)
    into(host, "0", 0, "mlp:24", Command.GRAFT, Command.STABILIZE)
    into(host, "4", 1, "lowrank:8", Command.GRAFT, Command.STABILIZE)
    tensors, _ = host.state()
    for name in ("0/0/last.bias", "4/1/last.bias"):
        tensors[name].fill_(3.0)
    with host.override_alpha({("0", 0): 0.0}):
        one = output(host)
        with host.override_alpha({("4", 1): 0.0}):
            assert torch.equal(output(host), without)
        assert torch.equal(output(host), one)
    assert host.seeds["0", 0].alpha == host.seeds["4", 1].alpha == 1.0


@pytest.mark.parametrize(
    ("commands", "learns"),
    [
        ((Command.GRAFT,), True),
        ((Command.GRAFT, Command.STABILIZE), False),
        ((Command.GRAFT, Command.STABILIZE, Command.EVALUATE), False),
        ((Command.GRAFT, Command.STABILIZE, Command.EVALUATE, Command.FINE_TUNE), True),
        ((Command.GRAFT, Command.STABILIZE, Command.EVALUATE, Command.FOSSILIZE), True),
    ],
    ids=["grafting", "stabilization", "evaluating", "fine-tuning", "fossilized"],
)
def test_a_seed_in_the_task_graph_learns_but_while_it_is_frozen(commands: tuple[Command, ...], learns: bool) -> None:
    host = host_of(linear_model())
    into(host, "0", 0, "mlp:24", *commands)
    before = host.state()[0]["0/0/last.weight"].clone()
    Loop("linear", host.model, host).run(0, 2)
    assert torch.equal(host.state()[0]["0/0/last.weight"], before) != learns


def test_a_skipped_step_skips_seeds_in_the_task_graph_too() -> None:
    host = host_of(linear_model())
    into(host, "0", 0, "mlp:24", Command.GRAFT)
    host.begin_step(epoch=1, step=1)
    host.model(batch("linear", 0)[0]).sum().backward()
    host.end_step(lr=LR, stepped=False)
    assert not host.state()[0]["0/0/last.weight"].any()
    assert host.seeds["0", 0].errors == 0


def test_the_loss_scale_is_taken_out_before_clipping() -> None:
    def weight_after(scale: float) -> Tensor:
        host = Host(linear_model(), GrowthSettings(max_parameters=50.0), seed_optimizer=torch.optim.SGD)
        into(host, "0", 0, "mlp:24", Command.GRAFT)
        torch.manual_seed(0)
        for step in range(3):
            host.begin_step(epoch=1, step=step)
            (host.model(batch("linear", step)[0]).square().mean() * scale).backward()
            host.end_step(lr=LR, scale=scale)
        return host.state()[0]["0/0/last.weight"]

    plain = weight_after(1.0)
    assert bool(plain.any())
    torch.testing.assert_close(plain, weight_after(1024.0))


def test_growing_lowers_the_loss() -> None:
    host = host_of(linear_model())
    loop = Loop("linear", host.model, host)
    x, t = batch("linear", 0, 64)

    def loss() -> float:
        host.model.eval()
        with torch.no_grad():
            value = float(torch.nn.functional.cross_entropy(host.model(x), t))
        host.model.train()
        return value

    into(host, "0", 0, "mlp:24")
    for step in range(20):
        host.begin_step(epoch=1, step=step)
        loop.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(host.model(x), t).backward()
        loop.optimizer.step()
        host.end_step(lr=LR)
    without = loss()
    with host.override_alpha({("0", 0): 0.5}):
        assert loss() < without
