"""Commands: what they do to the seed table, and what is refused and changes nothing."""

from typing import NoReturn

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from esper.errors import RuleError
from esper.events.kinds.control import Command
from esper.events.kinds.lifecycle import Stage
from esper.kasmina.growth import GrowthSettings
from esper.kasmina.host import CommandError, Host
from tests.kasmina.training import LR, Loop, adam, conv_model, host_of, into, into_training, kernel_of, linear_model, table_of

WHOLE_LIFE = (Command.GRAFT, Command.STABILIZE, Command.EVALUATE, Command.FINE_TUNE, Command.FOSSILIZE)


def test_sites_say_what_they_are_and_what_may_be_tried() -> None:
    first, second = host_of(conv_model()).sites
    assert (first.name, first.layer, first.inputs, first.outputs, first.slots) == ("0", "Conv2d 3→6 3x3", 3, 6, 3)
    assert second.blueprints == ("lowrank:8", "conv:8")
    assert host_of(linear_model()).sites[0].layer == "Linear 20→12"


def test_a_host_without_sites_records_and_never_grows() -> None:
    host = Host(linear_model(), GrowthSettings(enabled=False), seed_optimizer=adam)
    assert host.sites == ()
    assert Loop("linear", host.model, host).run(0, 3) == Loop("linear", linear_model(), None).run(0, 3)


def test_a_life_goes_through_its_stages() -> None:
    host = host_of(linear_model())
    order = host.germinate("0", 1, life=4, blueprint="mlp:24", lr=LR)
    assert host.seeds["0", 1].stage is Stage.GERMINATED
    kernel = kernel_of(order)
    host.load("0", 1, kernel, epoch=5)
    seed = host.seeds["0", 1]
    assert (seed.stage, seed.life, seed.since_epoch, seed.kernel, seed.lr, seed.alpha) == (Stage.LOADING, 4, 5, kernel.digest, LR, 0.0)
    stages = []
    for command in (Command.TRAIN, *WHOLE_LIFE):
        host.apply(command, "0", 1, epoch=6, ramp_steps=1)
        stages.append(host.seeds["0", 1].stage)
    assert stages == [Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILIZED]


def test_a_fossilized_seed_stands_in_the_model_but_not_in_the_hosts_parameters() -> None:
    host = host_of(linear_model())
    plain = list(host.model.state_dict())
    into(host, "0", 2, "lowrank:8", *WHOLE_LIFE[:-1])
    assert list(host.model.state_dict()) == plain
    host.apply(Command.FOSSILIZE, "0", 2, epoch=9)
    added = [name for name in host.model.state_dict() if name not in plain]
    assert added == ["0.seeds.2.alpha", "0.seeds.2.features.0.weight", "0.seeds.2.last.weight", "0.seeds.2.last.bias"]
    assert sum(parameter.numel() for parameter in host.model.parameters()) == host.parameters()
    assert sum(parameter.numel() for parameter in host.host_parameters()) < host.parameters()


def test_a_culled_seed_is_gone_and_its_slot_can_be_reset() -> None:
    host = host_of(linear_model())
    into(host, "0", 0, "mlp:24", Command.GRAFT, Command.STABILIZE)
    host.apply(Command.CULL, "0", 0, epoch=6, embargo_until=9)
    seed = host.seeds["0", 0]
    assert (seed.stage, seed.embargo_until, seed.alpha, seed.life) == (Stage.CULLED, 9, None, 1)
    assert host.state()[0] == host.optimizers() == {}
    host.apply(Command.RESET, "0", 0, epoch=9)
    seed = host.seeds["0", 0]
    assert (seed.stage, seed.embargo_until, seed.life, seed.blueprint, seed.kernel) == (Stage.DORMANT, None, None, None, None)
    into_training(host, "0", 0, "mlp:24", life=9)
    assert host.seeds["0", 0].life == 9


def test_a_blamed_seed_is_locked() -> None:
    host = host_of(linear_model())
    into(host, "0", 0, "mlp:24", Command.GRAFT)
    host.roll_back("0", 0, epoch=7)
    assert host.seeds["0", 0].stage is Stage.ROLLED_BACK
    with pytest.raises(CommandError, match="no command"):
        host.apply(Command.RESET, "0", 0, epoch=8)


def test_another_life_in_a_slot_begins_with_other_weights() -> None:
    host = host_of(linear_model())
    first = host.germinate("0", 0, life=1, blueprint="mlp:24", lr=LR)
    host.apply(Command.CANCEL, "0", 0, epoch=2)
    host.apply(Command.RESET, "0", 0, epoch=2)
    second = host.germinate("0", 0, life=2, blueprint="mlp:24", lr=LR)
    assert first.spec == second.spec
    assert first.key != second.key


def test_a_seed_whose_optimizer_cannot_be_made_stays_as_it_was() -> None:
    def refusing(*_: object) -> NoReturn:
        raise ZeroDivisionError

    host = Host(linear_model(), GrowthSettings(max_parameters=9.0), seed_optimizer=refusing)
    kernel = kernel_of(host.germinate("0", 0, life=1, blueprint="mlp:24", lr=LR))
    with pytest.raises(ZeroDivisionError):
        host.load("0", 0, kernel, epoch=2)
    assert (host.seeds["0", 0].stage, host.seeds["0", 0].branch) == (Stage.GERMINATED, None)


def test_the_learning_rate_at_germination_is_kept() -> None:
    host = host_of(linear_model())
    host.begin_step(epoch=1, step=1)
    host.end_step(lr=0.25)
    kernel = kernel_of(host.germinate("0", 0, life=1, blueprint="mlp:24"))
    host.begin_step(epoch=2, step=2)
    host.end_step(lr=0.5)
    host.load("0", 0, kernel, epoch=2)
    assert host.optimizers()["0/0"].param_groups[0]["lr"] == 0.25


def test_a_race_counts_once_by_its_largest() -> None:
    model = linear_model()
    size = sum(parameter.numel() for parameter in model.parameters())
    host = host_of(model, limit=1 + 1600 / size)
    assert host.parameters_limit == size + 1600
    for seed, blueprint in enumerate(("mlp:24", "lowrank:8", "signal:12")):
        host.germinate("0", seed, life=1, blueprint=blueprint, lr=LR)
    with pytest.raises(CommandError, match=f"at most {size + 1600} parameters, 4/0 with"):
        host.germinate("4", 0, life=1, blueprint="mlp:24", lr=LR)
    assert host.seeds["4", 0].stage is Stage.DORMANT


def give(host: Host, command: Command) -> None:
    if command is Command.GERMINATE:
        host.germinate("0", 0, life=3, blueprint="mlp:24", lr=LR)
    elif command is Command.LOAD:
        order = host_of(linear_model()).germinate("0", 0, life=1, blueprint="mlp:24", lr=LR)
        host.load("0", 0, kernel_of(order), epoch=3)
    else:
        host.apply(command, "0", 0, epoch=3, ramp_steps=2)


@pytest.mark.parametrize("command", sorted(set(Command) - {Command.GRAFT, Command.CULL, Command.CANCEL}))
def test_a_command_that_is_not_in_the_table_is_refused_and_changes_nothing(command: Command) -> None:
    host = host_of(linear_model())
    into_training(host, "0", 0, "mlp:24")
    before = table_of(host)
    with pytest.raises(CommandError, match="0/0: expected one of cancel, cull, graft"):
        give(host, command)
    assert table_of(host) == before


def test_commands_that_cannot_be_applied_change_nothing() -> None:
    host = host_of(linear_model())
    into_training(host, "0", 0, "mlp:24")
    other = kernel_of(host.germinate("4", 0, life=1, blueprint="lowrank:8", lr=LR))
    host.germinate("4", 1, life=1, blueprint="lowrank:8", lr=LR)
    before = table_of(host)
    with pytest.raises(CommandError, match="expected the kernel of 4/1"):
        host.load("4", 1, other, epoch=2)
    with pytest.raises(CommandError, match="ramp_steps >= 1"):
        host.apply(Command.GRAFT, "0", 0, epoch=2)
    with pytest.raises(CommandError, match=r"one of mlp:24, lowrank:8, signal:12 at site '0', got 'conv:8'"):
        host.germinate("0", 1, life=1, blueprint="conv:8", lr=LR)
    with pytest.raises(CommandError, match=r"slot of '0' \(0\.\.2\).*seed 7 of site 'x'"):
        host.apply(Command.CULL, "x", 7, epoch=2)
    with pytest.raises(CommandError, match="no step was taken yet"):
        host.germinate("0", 1, life=1, blueprint="mlp:24")
    assert table_of(host) == before


def test_germinate_and_load_have_methods_of_their_own() -> None:
    with pytest.raises(RuleError, match=r"Host\.germinate"):
        host_of(linear_model()).apply(Command.GERMINATE, "0", 0, epoch=1)


def test_an_override_needs_a_body() -> None:
    host = host_of(linear_model())
    with pytest.raises(RuleError, match="0/0 in DORMANT"), host.override_alpha({("0", 0): 1.0}):
        pass


@pytest.mark.parametrize("options", [{"slots": 0}, {"max_parameters": 0.5}, {"max_parameters": float("nan")}, {"clip": 0.0}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        GrowthSettings(**options)


def test_a_shared_layer_stays_shared() -> None:
    shared = nn.Linear(12, 12)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": nn.Sequential(shared), "head": nn.Linear(12, 2)})
    host = host_of(model, sites="a.0")
    into(host, "a.0", 0, "lowrank:8", Command.GRAFT, Command.STABILIZE)
    host.state()[0]["a.0/0/last.bias"].fill_(1.0)
    x = torch.ones(2, 12)
    assert torch.equal(model["b"](x), shared(x))
    assert model["a"][0] is model["b"][0]  # type: ignore[index] # Both are Sequential.
