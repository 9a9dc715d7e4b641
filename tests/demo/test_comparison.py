"""What a grown net is compared with: the same architecture from the start, the host alone, a wider one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.api.task import Task, cross_entropy
from esper.demo.comparison import Compared, compare, require_comparable, static_same
from esper.demo.tasks import Split, TensorBatches, perceptron
from esper.errors import SettingsError
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.run import RunStarted
from esper.kasmina.growth import GrowthSettings
from esper.kasmina.host import Host
from esper.oona.directory import Directory
from esper.processes.recipe import RunSettings, run_settings
from esper.processes.train import Result, fresh_run_id, train
from tests.recipes import events, grafts, recipe, settings
from tests.tolaria.worlds import samples

pytestmark = pytest.mark.whole

OWN, SEED = 4 * 3 + 3 + 3 * 2 + 2, 4 * 2 + 2 + 2 * 3 + 3


def split(_rng_seed: int) -> Split:
    inputs, targets = samples()
    return Split(*(TensorBatches(inputs, targets, 5, shuffle=shuffle) for shuffle in (True, False, False)))


def of_widths(*widths: int) -> Callable[[int], nn.Module]:
    return lambda rng_seed: perceptron(widths, rng_seed)


TASK = Task("tiny", data=split, model=of_widths(4, 3, 2), wider=of_widths(4, 6, 2))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Directory, RunSettings, Result]:
    """A run with one seed in the host, of a blueprint that is not in the first set."""
    directory, chosen = Directory(tmp_path_factory.mktemp("log")), settings(epochs=7)
    model = TASK.model(0)
    return directory, chosen, train(replace(recipe(model=model), policy=grafts), chosen, directory, fresh_run_id())


def test_the_same_net_static_has_the_grown_architecture_and_no_trained_value(grown: tuple[Directory, RunSettings, Result]) -> None:
    directory, chosen, trained = grown
    static, plain = static_same(TASK, chosen, directory, trained.host), trained.host.export_plain()
    shapes = [{name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} for model in (static, plain)]
    assert shapes[0] == shapes[1]
    assert sum(parameter.numel() for parameter in static.parameters()) == OWN + SEED == trained.host.parameters()
    found, theirs = static.state_dict(), plain.state_dict()
    assert not [name for name in found if "alpha" not in name and torch.equal(found[name], theirs[name])]


def test_the_same_net_static_is_plain_all_in_force_and_trains_as_a_whole(grown: tuple[Directory, RunSettings, Result]) -> None:
    directory, chosen, trained = grown
    static = static_same(TASK, chosen, directory, trained.host)
    assert static.get_buffer("0.seeds.0.alpha").item() == 1.0
    assert all(parameter.requires_grad for parameter in static.parameters())
    inputs, _ = samples()
    assert torch.equal(static(inputs), TASK.model(0)(inputs))  # A body is born without effect.


def test_a_host_in_which_nothing_grew_is_itself(grown: tuple[Directory, RunSettings, Result], tmp_path: Path) -> None:
    _, chosen, _ = grown
    host = Host(TASK.model(0), GrowthSettings(enabled=False), seed_optimizer=torch.optim.SGD)
    static = static_same(TASK, chosen, Directory(tmp_path), host)
    assert [type(module) for module in static.modules()] == [nn.Sequential, nn.Linear, nn.GELU, nn.Linear]


def test_every_way_of_training_is_a_run_of_its_own(grown: tuple[Directory, RunSettings, Result]) -> None:
    directory, chosen, trained = grown
    said: list[str] = []
    trained = replace(trained, metrics={**trained.metrics, "test_accuracy": 0.5})
    entries = list(compare(TASK, chosen, directory, trained, say=said.append))
    assert [entry.variant for entry in entries] == ["grown", *said] == ["grown", "host", "static_same", "static_wider"]
    assert [entry.parameters for entry in entries] == [OWN + SEED, OWN, OWN + SEED, 4 * 6 + 6 + 6 * 2 + 2]
    assert entries[0] == Compared("grown", trained.run, 0.5, OWN + SEED)
    assert len({entry.run for entry in entries}) == 4
    for entry in entries[1:]:
        assert events(directory, entry.run, SeedTransitioned) == []
        assert events(directory, entry.run, RunStarted)[0].settings["growth.enabled"] is False


def test_a_task_without_an_accuracy_is_not_compared() -> None:
    require_comparable(TASK)
    with pytest.raises(SettingsError, match="a comparison is by the metric 'accuracy', and the task's metrics are: error"):
        require_comparable(replace(TASK, metrics={"error": cross_entropy}))


def test_a_task_without_a_wider_net_is_compared_with_the_others(grown: tuple[Directory, RunSettings, Result]) -> None:
    directory, chosen, trained = grown
    trained = replace(trained, metrics={"test_accuracy": 0.5})
    short = run_settings(chosen.dotted(), {"trainer.epochs": 1})
    entries = list(compare(replace(TASK, wider=None), short, directory, trained, say=lambda _way: None))
    assert [entry.variant for entry in entries] == ["grown", "host", "static_same"]
    [begun] = events(directory, entries[2].run, RunStarted)
    assert begun.task == "tiny (static_same)", "a run of another net must not be resumed as the task's own"
    assert directory.resolve("latest") == trained.run, "people ask for what they trained, not for what it was compared with"
    beneath = [entry.run for entry in directory.runs() if entry.run in {one.run for one in entries}]
    assert beneath == [entry.run for entry in entries]
