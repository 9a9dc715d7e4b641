"""A non-finite value that a seed makes stays in the seed; one that the host makes is not held against it."""

import pytest
import torch
from torch import Tensor

from esper.events.kinds.control import Command
from esper.kasmina.host import CommandError, Host
from tests.kasmina.training import LR, MODELS, Loop, batch, first_difference, host_of, into

NAN = float("nan")
SITE = {"linear": "4", "conv": "3"}  # In the middle: gradients flow through the body into the host.
LEARNING = (Command.GRAFT,)
FROZEN = (Command.GRAFT, Command.STABILIZE)


def broken(kind: str, tensor: str, value: float, *commands: Command) -> Host:
    host = host_of(MODELS[kind]())
    into(host, SITE[kind], 0, "lowrank:8", *commands)
    host.state()[0][f"{SITE[kind]}/0/{tensor}"].fill_(value)
    return host


def info(host: Host, kind: str) -> tuple[int, bool]:
    seed = host.seeds[SITE[kind], 0]
    return seed.errors, seed.recovering


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("commands", [LEARNING, FROZEN], ids=["learning", "frozen"])
@pytest.mark.parametrize("tensor", ["last.bias", "features.0.weight"])
def test_a_nan_of_a_seed_in_the_task_graph_never_reaches_the_host(kind: str, commands: tuple[Command, ...], tensor: str) -> None:
    host = broken(kind, tensor, NAN, *commands)
    alone = Loop(kind, MODELS[kind](), None).run(0, 10)
    assert first_difference(alone, Loop(kind, host.model, host).run(0, 10)) is None
    assert info(host, kind) == (1, True)


def test_an_infinite_gradient_of_a_seed_never_reaches_the_host() -> None:
    """Forward is finite here (the last layer is zero); backward through the body is not."""
    host = broken("linear", "features.0.weight", 1.0, *FROZEN)
    tensors, _ = host.state()
    tensors["4/0/last.weight"].fill_(1e38)
    tensors["4/0/features.0.weight"].fill_(0.0)
    tensors["4/0/features.0.weight"][0, 0] = 1e-30
    tensors["4/0/features.0.weight"][1, 1] = -1e-30
    x, _ = batch("linear", 0)
    host.begin_step(epoch=1, step=0)
    (host.model(x).sum() * 1e10).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in host.host_parameters() if parameter.grad is not None)
    host.end_step(lr=LR)
    assert info(host, "linear") == (1, True)


def test_an_infinite_gradient_of_the_host_is_not_the_seeds_fault() -> None:
    host = host_of(MODELS["linear"]())
    into(host, "4", 0, "lowrank:8", *FROZEN)
    host.begin_step(epoch=1, step=0)
    (host.model(batch("linear", 0)[0]).sum() * float("inf")).backward()
    host.end_step(lr=LR, stepped=False)
    assert info(host, "linear") == (0, False)


def test_an_infinite_gradient_of_the_host_skips_the_micro_batch_and_is_counted() -> None:
    host = host_of(MODELS["linear"]())
    into(host, "4", 0, "lowrank:8")
    host.begin_step(epoch=1, step=0)
    for factor in (float("inf"), 1.0):
        (host.model(batch("linear", 0)[0]).square().sum() * factor).backward()
    host.end_step(lr=LR, stepped=False)
    assert host.seeds["4", 0].skipped == 1
    assert info(host, "linear") == (0, False)
    assert bool(host.state()[0]["4/0/last.weight"].any())


def test_a_micro_batch_whose_input_was_changed_in_place_is_skipped() -> None:
    host = host_of(MODELS["linear"]())
    into(host, "0", 0, "mlp:24")
    host.begin_step(epoch=1, step=0)
    x, _ = batch("linear", 0)
    host.model(x).square().sum().backward()
    x.add_(1.0)
    host.end_step(lr=LR)
    assert host.seeds["0", 0].skipped == 1
    assert not host.state()[0]["0/0/last.weight"].any()


def test_a_nan_in_shadow_validation_counts_as_no_seed_and_disables_it() -> None:
    host = broken("linear", "last.bias", NAN)
    host.model.eval()
    x, _ = batch("linear", 0)
    with torch.no_grad():
        without = host.model(x)
        with host.override_alpha({("4", 0): 1.0}):
            assert torch.equal(host.model(x), without)
    assert info(host, "linear") == (1, True)


def test_a_nan_in_validation_is_known_at_the_epochs_end() -> None:
    host = broken("linear", "last.bias", NAN, *FROZEN)
    with torch.no_grad():
        assert bool(host.model.eval()(batch("linear", 0)[0]).isfinite().all())
    host.epoch_health()
    assert info(host, "linear") == (1, True)


def test_a_disabled_seed_learns_no_more_and_cannot_be_grafted() -> None:
    host = broken("linear", "last.bias", NAN)
    loop = Loop("linear", host.model, host)
    loop.run(0, 1)
    host.state()[0]["4/0/last.bias"].fill_(0.0)
    weight: Tensor = host.state()[0]["4/0/last.weight"].clone()
    loop.run(1, 4)
    assert torch.equal(host.state()[0]["4/0/last.weight"], weight)
    assert info(host, "linear") == (1, True)
    with pytest.raises(CommandError, match="cull it"):
        host.apply(Command.GRAFT, "4", 0, epoch=4, ramp_steps=3)
    host.apply(Command.CULL, "4", 0, epoch=4)
