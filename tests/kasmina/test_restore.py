"""A state put back goes on bit for bit, whatever the host holds when it is put back."""

import json

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.kinds.control import Command
from esper.events.kinds.lifecycle import Stage
from esper.kasmina.host import Host
from tests.kasmina.training import LR, MODELS, Loop, batch, branch_of, host_of, into, into_training, site_of, table_of

NAMES = ("mlp:6:dropout=0.3", "lowrank:3", "conv:4:dropout=0.3")
KINDS = pytest.mark.parametrize("kind", ["linear", "conv"])
SITES = {"linear": ("0", "4"), "conv": ("0", "3")}
TO_FOSSIL = (Command.GRAFT, Command.STABILIZE, Command.EVALUATE, Command.FOSSILIZE)


class Saved:
    """Everything a checkpoint holds, as Tolaria takes it."""

    def __init__(self, loop: Loop) -> None:
        assert loop.host is not None
        tensors, state = loop.host.state()
        self.seeds = {name: tensor.clone() for name, tensor in tensors.items()}
        self.state: JsonValue = json.loads(json.dumps(state))
        self.model = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
        self.optimizers = {name: frozen(optimizer) for name, optimizer in {"": loop.optimizer, **loop.host.optimizers()}.items()}
        self.random = torch.get_rng_state()

    def put_back(self, loop: Loop) -> None:
        assert loop.host is not None
        loop.host.restore(self.seeds, self.state)
        loop.model.load_state_dict(self.model)
        for name, optimizer in {"": loop.optimizer, **loop.host.optimizers()}.items():
            optimizer.load_state_dict(self.optimizers[name])
        torch.set_rng_state(self.random)


def frozen(optimizer: Optimizer) -> dict[str, object]:
    state = optimizer.state_dict()
    copied = {index: {name: value.clone() for name, value in values.items()} for index, values in state["state"].items()}
    return {"state": copied, "param_groups": [dict(group) for group in state["param_groups"]]}


def busy(kind: str) -> Loop:
    """A host with seeds in TRAINING, GRAFTING, FOSSILIZED and CULLED, some steps in."""
    loop = Loop(kind, MODELS[kind](), None)
    loop.host = host = host_of(loop.model, blueprints=NAMES)
    first, second = SITES[kind]
    dropping = "conv:4:dropout=0.3" if kind == "conv" else "mlp:6:dropout=0.3"
    loop.run(0, 2)
    into(host, first, 0, dropping, *TO_FOSSIL)
    into(host, first, 1, "lowrank:3")
    into(host, second, 0, "lowrank:3", Command.GRAFT, ramp_steps=12)
    into(host, second, 1, dropping, Command.CULL)
    loop.run(2, 5)
    return loop


def after(loop: Loop) -> tuple[list[str], dict[str, list[float]], object]:
    """What five more steps lead to: the host's path, the bodies, the seed table."""
    digests = loop.run(5, 10)
    assert loop.host is not None
    bodies = {name: tensor.flatten().tolist() for name, tensor in loop.host.state()[0].items()}
    return digests, bodies, table_of(loop.host)


def change_nothing(_host: Host) -> None: ...


def train_on(host: Host) -> None:
    site = host.sites[1].name
    host.apply(Command.STABILIZE, site, 0, epoch=5)
    host.apply(Command.CANCEL, host.sites[0].name, 1, epoch=5)


def grow_more(host: Host) -> None:
    site = host.sites[1].name
    into(host, site, 2, "lowrank:3", *TO_FOSSIL)
    into(host, host.sites[0].name, 2, "lowrank:3")
    host.apply(Command.CULL, site, 0, epoch=5)
    host.apply(Command.RESET, site, 1, epoch=5)


@pytest.mark.whole
@KINDS
@pytest.mark.parametrize("between", [change_nothing, train_on, grow_more], ids=lambda between: between.__name__)
def test_restoring_in_place_goes_on_bit_for_bit(kind: str, between: object) -> None:
    loop = busy(kind)
    assert loop.host is not None
    saved = Saved(loop)
    keys = list(loop.model.state_dict())
    expected = after(loop)
    assert callable(between)
    between(loop.host)
    loop.run(20, 23)
    saved.put_back(loop)
    assert list(loop.model.state_dict()) == keys
    assert after(loop) == expected


@KINDS
def test_restoring_into_a_fresh_host_goes_on_bit_for_bit(kind: str) -> None:
    loop = busy(kind)
    saved = Saved(loop)
    expected = after(loop)
    fresh = Loop(kind, MODELS[kind](), None)
    fresh.host = host_of(fresh.model, blueprints=NAMES)
    fresh.run(0, 1)
    saved.put_back(fresh)
    assert after(fresh) == expected


@pytest.mark.whole
def test_saving_and_restoring_between_steps_leaves_no_trace() -> None:
    expected = after(busy("linear"))
    saving = busy("linear")
    Saved(saving).put_back(saving)
    assert after(saving) == expected


def test_a_restored_body_is_in_its_layers_mode_and_frozen_where_its_stage_says() -> None:
    loop = busy("linear")
    assert loop.host is not None
    loop.host.apply(Command.STABILIZE, "4", 0, epoch=5)
    saved = Saved(loop)
    loop.model.eval()
    saved.put_back(loop)
    branch = branch_of(loop.model.get_submodule("4"), 0)
    assert not branch.training
    assert not branch.last.weight.requires_grad


def test_a_state_of_another_host_is_refused_and_changes_nothing() -> None:
    loop, other = busy("linear"), busy("conv")
    assert loop.host is not None
    saved, before = Saved(other), table_of(loop.host)
    with pytest.raises(DataError, match="expected the state of a host with slots"):
        loop.host.restore(saved.seeds, saved.state)
    assert table_of(loop.host) == before


@pytest.mark.parametrize("spoil", ["missing", "shape"])
def test_tensors_that_do_not_fit_are_refused_and_change_nothing(spoil: str) -> None:
    loop = busy("linear")
    assert loop.host is not None
    saved, before = Saved(loop), Loop.digest(loop)
    if spoil == "missing":
        del saved.seeds["4/0/last.bias"]
    else:
        saved.seeds["4/0/last.bias"] = torch.zeros(99)
    with pytest.raises(DataError, match="expected the tensors of 4/0"):
        loop.host.restore(saved.seeds, saved.state)
    assert loop.digest() == before
    assert loop.host.seeds["4", 0].stage is Stage.GRAFTING


def test_a_body_without_tensors_is_refused() -> None:
    loop = busy("linear")
    assert loop.host is not None
    saved = Saved(loop)
    kept = {name: tensor for name, tensor in saved.seeds.items() if not name.startswith("4/0/")}
    with pytest.raises(DataError, match="expected the tensors of 4/0"):
        loop.host.restore(kept, saved.state)


@pytest.mark.parametrize("state", [None, [], {"format": 2, "lr": None, "slots": []}, {"format": 1, "lr": None, "slots": [{"site": "0"}]}])
def test_a_malformed_table_is_refused(state: JsonValue) -> None:
    with pytest.raises(DataError, match="a seed table of format 1"):
        host_of(MODELS["linear"]()).restore({}, state)


def test_waiting_seeds_survive_a_restore() -> None:
    loop = Loop("linear", MODELS["linear"](), None)
    loop.host = host_of(loop.model)
    order = loop.host.germinate("0", 0, life=3, blueprint="mlp:24", lr=LR)
    saved = Saved(loop)
    loop.host.apply(Command.CANCEL, "0", 0, epoch=4)
    saved.put_back(loop)
    assert loop.host.seeds["0", 0].stage is Stage.GERMINATED
    assert loop.host.seeds["0", 0].request == order
    tensors: dict[str, Tensor] = loop.host.state()[0]
    assert tensors == {}


def test_health_measured_before_a_restore_is_forgotten() -> None:
    loop = Loop("linear", MODELS["linear"](), None)
    loop.host = host_of(loop.model)
    into_training(loop.host, "0", 0, "mlp:24")
    saved = Saved(loop)
    loop.host.begin_step(epoch=1, step=0, measure=True)
    loop.model(batch("linear", 0)[0]).sum().backward()
    saved.put_back(loop)
    assert loop.host.measure_health() is None
    loop.host.begin_step(epoch=1, step=1)
    loop.host.end_step(lr=LR)
    assert loop.host.measure_health() is None
    assert not site_of(loop.model.get_submodule("0")).active
    assert all(not module._forward_hooks for module in loop.model.modules())
