"""The whole training state is taken and put back; the digests of an epoch's end notice every part of it."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR

from esper.errors import DataError
from esper.events.kinds.lifecycle import Stage
from esper.tolaria.checkpoints import _read, _write
from esper.tolaria.snapshots import (
    Snapshot,
    _flatten_optimizer,
    _plain_from_json,
    _plain_to_json,
    _restore_optimizer,
    model_digest,
    put_back,
    state_digests,
    take,
)
from esper.tolaria.training import Policy
from tests.tolaria.worlds import ADVANCE, CPU, GERMINATE, GRAFTED, SITE, TRAINING, Script, World, decided, perceptron

SCRIPTS: dict[str, tuple[Script, int]] = {
    "dormant": ({}, 1),
    "waiting": ({1: [GERMINATE]}, 1),
    "training": (TRAINING, 3),
    "grafting": (GRAFTED, 4),
    "evaluating": ({**GRAFTED, 6: [ADVANCE], 7: [ADVANCE]}, 8),
}


def normed() -> nn.Module:
    return perceptron(3, nn.BatchNorm1d(3), nn.Dropout(0.2))


def lived(folder: Path, script: Script, until: int) -> World:
    """A host that took a step in every epoch."""
    made = World(folder, script=script, model=normed(), scheduler=lambda optimizer: ExponentialLR(optimizer, 0.5))
    torch.manual_seed(1)
    for epoch in range(1, until + 1):
        made.step(epoch, epoch)
        made.end(epoch)
        assert isinstance(made.scheduler, ExponentialLR)
        made.scheduler.step()
    return made


def digested(made: World) -> tuple[str, str]:
    found = state_digests(made.training)
    assert found.parameters == model_digest(made.training)
    assert found.parameters is not None
    assert found.optimizer is not None
    return found.parameters, found.optimizer


def copied(made: World) -> "World":
    """Another process's world, with what was taken of this one put back."""
    snapshot = take(made.training)
    held = snapshot._replace(tensors={name: tensor.clone() for name, tensor in snapshot.tensors.items()})
    again = lived(made.checkpoints.parent / "again", {}, 1)
    again.training.progress, again.training.counters = put_back(held, again.training)
    return again


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_world_with_a_snapshot_put_back_is_the_one_it_was_taken_of(tmp_path: Path, name: str) -> None:
    made = lived(tmp_path, *SCRIPTS[name])
    again = copied(made)
    assert digested(again) == digested(made)
    assert again.host.state()[1] == made.host.state()[1]
    assert again.training.progress.model_dump() == made.training.progress.model_dump()
    assert again.training.counters == made.training.counters
    assert [group["lr"] for group in again.optimizer.param_groups] == [group["lr"] for group in made.optimizer.param_groups]


@pytest.mark.parametrize("name", SCRIPTS)
def test_both_go_on_with_the_same_bits(tmp_path: Path, name: str) -> None:
    made = lived(tmp_path, *SCRIPTS[name])
    again = copied(made)
    for world in (made, again):
        torch.manual_seed(2)
        for step in (50, 51, 52):
            world.step(9, step)
        assert isinstance(world.scheduler, ExponentialLR)
        world.scheduler.step()
        world.step(10, 53)
    assert digested(again) == digested(made)


class Named(nn.Module):
    """Two layers whose names begin like those of other things in a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("host", nn.Linear(4, 3))
        self.add_module("host/0", nn.Linear(3, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.get_submodule("host/0")(nn.functional.gelu(self.get_submodule("host")(inputs)))
        return output


def grows_at(site: str) -> Policy:
    """As TRAINING, at another site."""
    return lambda state, evidence: tuple(
        decided(step, evidence).model_copy(update={"site": site}) for step in TRAINING.get(state.epoch, ())
    )


@pytest.mark.parametrize("site", ["host", "host/0"])
def test_a_layer_may_be_called_as_other_things_in_a_checkpoint_are(tmp_path: Path, site: str) -> None:
    def world(folder: Path) -> World:
        torch.manual_seed(3)
        return World(folder, script=grows_at(site), model=Named(), sites="*")

    made, again = world(tmp_path), world(tmp_path / "again")
    for epoch in range(1, 4):
        made.step(epoch, epoch)
        made.end(epoch)
    assert made.host.seeds[site, 0].stage is Stage.TRAINING
    put_back(take(made.training), again.training)
    assert digested(again) == digested(made)


CHANGES: dict[str, Callable[[World], object]] = {
    "a parameter": lambda made: made.model.get_parameter("0.weight").data.view(-1)[0].mul_(1.0001),
    "a buffer": lambda made: made.model.get_buffer("2.running_mean").mul_(1.0001),
    "a seed's weights": lambda made: made.host.state()[0][f"{SITE}/0/features.0.weight"].mul_(1.0001),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_of_parameters_notices(tmp_path: Path, what: str) -> None:
    made = lived(tmp_path, TRAINING, 3)
    before = digested(made)
    CHANGES[what](made)
    assert digested(made)[0] != before[0]
    assert digested(made)[1] == before[1]


def test_the_digest_of_the_optimizers_notices_moments_of_host_and_seeds_and_the_learning_rate(tmp_path: Path) -> None:
    made = lived(tmp_path, TRAINING, 3)
    found = [digested(made)]
    made.optimizer.state[made.model.get_parameter("0.weight")]["exp_avg"].mul_(1.0001)
    found.append(digested(made))
    (own,) = made.host.optimizers().values()
    own.state[own.param_groups[0]["params"][0]]["exp_avg_sq"].add_(1e-3)
    found.append(digested(made))
    made.optimizer.param_groups[0]["lr"] *= 1.0001
    found.append(digested(made))
    assert len({optimizers for _, optimizers in found}) == 4
    assert len({parameters for parameters, _ in found}) == 1


# Optimizers

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
OPTIMIZERS: list[Make] = [
    lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    lambda parameters: SGD(parameters, lr=0.1),
    lambda parameters: Adam(parameters, lr=0.1, betas=(0.8, 0.9), amsgrad=True),
    lambda parameters: AdamW(parameters, lr=0.1),
    lambda parameters: RMSprop(parameters, lr=0.1, momentum=0.5, centered=True),
    lambda parameters: Adagrad(parameters, lr=0.1),
]


def descend(weight: nn.Parameter, optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (weight - 3.0).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_it_had_never_been_saved(tmp_path: Path, make: Make) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make([weight])
    descend(weight, optimizer, 3)
    tensors, rest = _flatten_optimizer("host", optimizer)
    digest, _ = _write(tmp_path, "epoch-000005", Snapshot({**tensors, "weight": weight.detach()}, {"optimizer": rest}))
    descend(weight, optimizer, 3)
    back = _read(tmp_path, "epoch-000005", digest, CPU)
    again = nn.Parameter(back.tensors["weight"].clone())
    restored = make([again])
    _restore_optimizer("host", restored, back.tensors, back.body["optimizer"])
    assert restored.param_groups[0].get("betas") == optimizer.param_groups[0].get("betas")
    descend(again, restored, 3)
    assert again.tolist() == weight.tolist()


def test_an_optimizer_of_another_class_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(2))
    tensors, rest = _flatten_optimizer("host", Adam([weight]))
    with pytest.raises(ValueError, match="expected optimizer host of class Adam, got SGD"):
        _restore_optimizer("host", SGD([weight]), tensors, rest)


def test_an_optimizer_whose_state_is_neither_tensors_nor_plain_is_refused_by_name() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SGD([weight], lr=0.1)
    optimizer.param_groups[0]["schedule"] = lambda: 0.1
    with pytest.raises(DataError, match="the state of optimizer host holds a function"):
        _flatten_optimizer("host", optimizer)


# Plain values

VALUES: list[object] = [
    None,
    True,
    3,
    0.1,
    -math.inf,
    "text",
    [1, [2.5, None]],
    (0.9, 0.999),
    {"lr": 0.1, "betas": (0.9, 0.999)},
    {30: 1, 60: 2},
    {"map": 1, "tuple": [2]},
    Counter({30: 1, 45: 2}),
    [{"params": [0, 1]}],
    {},
    (),
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_with_its_type(value: object) -> None:
    back = _plain_from_json(json.loads(json.dumps(_plain_to_json(value, "it"), allow_nan=False)))
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back() -> None:
    back = _plain_from_json(_plain_to_json([math.nan], "it"))
    assert isinstance(back, list)
    assert math.isnan(back[0])


@pytest.mark.parametrize("value", [torch.zeros(1), lambda: None, {"inner": (1, {2})}])
def test_what_is_not_plain_is_refused_by_name(value: object) -> None:
    with pytest.raises(DataError, match=r"the scheduler's state holds a (Tensor|function|set)"):
        _plain_to_json(value, "the scheduler's state")
