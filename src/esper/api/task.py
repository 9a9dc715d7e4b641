"""`esper.Task`: a training that `esper train` takes by name or import path, and the recipe that it gives for an rng seed."""

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import SettingsError
from esper.processes.recipe import Dotted, Recipe, RunSettings
from esper.settings import TomlFile, read_text
from esper.tolaria.objective import Batches, Loss, Metric, Supervised


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """The cross entropy of each sample. Shapes: output [N, classes], target [N] -> [N]."""
    return F.cross_entropy(output, target, reduction="none")


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """1 where the largest output is the target's, else 0. Shapes: output [N, classes], target [N] -> [N]."""
    return (output.argmax(dim=1) == target).float()


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Adam at 3e-3, constant: the setting in which the figures of docs/measured.md were measured."""
    return torch.optim.Adam(parameters, lr=3e-3)


@dataclass(frozen=True)
class Task:
    """Something to train: what `esper train` takes by name, or by import path as `module:attribute`.

    data: (train, valid, test) for an rng seed. model: the host with fresh weights for an rng seed. wider: a static net with about the
    parameters that a grown host ends with, to compare with. settings: by dotted name, where the task differs from the defaults.
    """

    name: str
    data: Callable[[int], tuple[Batches, Batches, Batches]]
    model: Callable[[int], nn.Module]
    loss: Loss = cross_entropy
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"accuracy": accuracy})
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = adam
    wider: Callable[[int], nn.Module] | None = None
    settings: Dotted = field(default_factory=dict)


def recipe_of(task: Task, settings: RunSettings, *, model: nn.Module | None = None) -> Recipe:
    """The recipe of `task` for the rng seed in `settings`, of its own host or of `model` instead. Raises SettingsError."""
    data: object = task.data(settings.trainer.rng_seed)
    if not isinstance(data, tuple) or len(data) != 3:
        found = f"{type(data).__name__} of {len(data)}" if isinstance(data, Sized) else type(data).__name__
        raise SettingsError(f"task {task.name!r}: expected its data to be (train, valid, test), got a {found}")
    train, valid, test = data
    host = task.model(settings.trainer.rng_seed) if model is None else model
    return Recipe(
        task=task.name,
        model=host,
        optimizer=task.optimizer(host.parameters()),
        train=train,
        valid=valid,
        test=test,
        objective=Supervised(task.loss, task.metrics),
    )


class _TaskFile(RunSettings):
    task: str


def read_task_file(path: Path) -> tuple[str, Dotted]:
    """The task that a TOML file names, and its settings by dotted name. Raises SettingsError naming file and line."""
    found = read_text("settings", path)
    assert found is not None, "a path is given"
    file = TomlFile(*found).table(_TaskFile)
    return file.task, file.dotted(given_only=True)
