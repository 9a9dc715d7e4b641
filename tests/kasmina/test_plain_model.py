"""A grown host as plain modules: the same output, and nothing of Esper in it."""

import io
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from esper.events.kinds.control import Command
from esper.kasmina.host import Host
from tests.kasmina.training import MODELS, Loop, batch, host_of, into

WHOLE = (Command.GRAFT, Command.STABILIZE, Command.EVALUATE, Command.FINE_TUNE)
BODIES = {
    "linear": (("0", "mlp:24"), ("0", "signal:12"), ("4", "lowrank:8")),
    "conv": (("0", "conv:8"), ("0", "lowrank:8"), ("3", "conv:8")),
}


def grown(kind: str) -> Host:
    model = MODELS[kind]()
    host = host_of(model)
    for seed, (site, blueprint) in enumerate(BODIES[kind]):
        into(host, site, seed, blueprint, *(WHOLE if seed else (*WHOLE, Command.FOSSILIZE)))
    into(host, BODIES[kind][2][0], 0, "lowrank:8")
    Loop(kind, model, host).run(0, 3)
    return host


class Grown(NamedTuple):
    """A host that tests only export."""

    kind: str
    host: Host


@pytest.fixture(scope="module", params=BODIES)
def one(request: pytest.FixtureRequest) -> Grown:
    """Every kind of host, grown once."""
    return Grown(request.param, grown(request.param))


def outputs(model: nn.Module, kind: str) -> Tensor:
    training = model.training
    model.eval()
    with torch.no_grad():
        y = model(batch(kind, 0)[0])
    model.train(training)
    assert isinstance(y, Tensor)
    return y


def test_the_output_is_the_hosts_bit_for_bit(one: Grown) -> None:
    kind, host = one
    assert torch.equal(outputs(host.export_plain(), kind), outputs(host.model, kind))


def test_gradients_are_the_hosts_bit_for_bit(one: Grown) -> None:
    kind, host = one
    plain = host.export_plain()
    gradients = []
    for model in (host.model, plain):
        torch.manual_seed(0)
        model.zero_grad()
        model(batch(kind, 0)[0]).square().sum().backward()
        gradients.append([p.grad for name, p in model.named_parameters() if "seeds" not in name])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None and b is not None)


def test_nothing_of_esper_is_in_it(one: Grown) -> None:
    plain = one.host.export_plain()
    assert not [type(module) for module in plain.modules() if "esper" in type(module).__module__]
    assert not [name for module in plain.modules() for name in vars(module) if "esper" in name]


def test_it_is_saved_and_loaded_by_torch_alone(one: Grown) -> None:
    kind, host = one
    file = io.BytesIO()
    torch.save(host.export_plain(), file)
    file.seek(0)
    assert torch.equal(outputs(torch.load(file, weights_only=False), kind), outputs(host.model, kind))


def test_it_is_a_copy() -> None:
    host = grown("linear")
    plain, before = host.export_plain(), outputs(host.model, "linear")
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert torch.equal(outputs(host.model, "linear"), before)
    assert host.export_plain().training == host.model.training
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_a_host_that_did_not_grow_is_exported_as_it_was() -> None:
    model = MODELS["linear"]()
    host_of(model)
    plain = host_of(MODELS["linear"](), sites="0").export_plain()
    assert [type(module) for module in plain.modules()] == [type(module) for module in MODELS["linear"]().modules()]
    assert list(plain.state_dict()) == list(model.state_dict())


def test_a_layer_that_is_the_whole_model_is_exported() -> None:
    torch.manual_seed(0)
    host = host_of(nn.Linear(20, 12), sites="")
    into(host, "", 0, "mlp:24", *WHOLE)
    host.state()[0]["/0/last.bias"].fill_(1.0)
    assert torch.equal(outputs(host.export_plain(), "linear"), outputs(host.model, "linear"))


def test_a_shared_layer_is_exported_as_one() -> None:
    shared = nn.Linear(12, 12)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    host = host_of(model, sites="a.0")
    into(host, "a.0", 0, "lowrank:8", *WHOLE)
    plain = host.export_plain()
    assert plain.get_submodule("a.0") is plain.get_submodule("b.0")


def test_a_disabled_seed_is_left_out() -> None:
    model = MODELS["linear"]()
    host = host_of(model)
    into(host, "0", 0, "mlp:24", *WHOLE)
    host.state()[0]["0/0/last.bias"].fill_(float("nan"))
    Loop("linear", model, host).run(0, 1)
    assert list(host.export_plain().state_dict()) == list(model.state_dict())
