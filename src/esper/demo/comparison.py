"""A task trained four ways with equal data and equal steps: grown, its host alone, the grown net static from the start, a wider static net.

Each is a run in the same log, so every figure of the comparison stands in a log.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from torch import nn

from esper.api.task import Task, recipe_of
from esper.errors import SettingsError
from esper.events.envelope import RunId
from esper.events.kinds.control import Command
from esper.folds.transitions import IN_TASK_GRAPH
from esper.history.resume import Variant, variant_task
from esper.history.run_list import began
from esper.kasmina.compiler import compile_kernel
from esper.kasmina.host import Host
from esper.oona.directory import Directory, new_run_id
from esper.oona.file import KERNELS
from esper.processes.recipe import RunSettings, run_settings
from esper.processes.train import Result, train

_METRIC = "accuracy"


@dataclass(frozen=True)
class Compared:
    """A variant's run, its test accuracy (0..1) and its parameters."""

    variant: Variant
    run: RunId
    accuracy: float
    parameters: int


def require_comparable(task: Task) -> None:
    """Raises SettingsError, before anything is trained, for a task that measures nothing to compare by."""
    if _METRIC not in task.metrics:
        known = ", ".join(task.metrics) or "none"
        raise SettingsError(f"task {task.name!r}: a comparison is by the metric {_METRIC!r}, and the task's metrics are: {known}")


def compare(
    task: Task,
    settings: RunSettings,
    directory: Directory,
    grown: Result,
    *,
    say: Callable[[Variant], None],
    by: str | None = None,
    approved_by: str | None = None,
) -> Iterator[Compared]:
    """The grown run, then each of the other variants, trained when it is asked for; `say` is called before each.

    Their ids precede the grown run's: a list has them below it, and the `latest` run is still the grown one.
    """
    yield _compared("grown", grown)
    alone = run_settings(settings.dotted(), {"growth.enabled": False})
    models: list[tuple[Variant, nn.Module | None]] = [("host", None), ("static_same", static_same(task, settings, directory, grown.host))]
    if task.wider is not None:
        models.append(("static_wider", task.wider(settings.trainer.rng_seed)))
    then = began(grown.run) or datetime.now(UTC)
    for earlier_ms, (variant, model) in enumerate(models, 1):
        say(variant)
        run = new_run_id(then - timedelta(milliseconds=earlier_ms), os.urandom(10))
        recipe = replace(recipe_of(task, alone, model=model), task=variant_task(task.name, variant), by=by, approved_by=approved_by)
        yield _compared(variant, train(recipe, alone, directory, run))


def static_same(task: Task, settings: RunSettings, directory: Directory, grown: Host) -> nn.Module:
    """The architecture that `grown` ended with, untrained: a fresh host with fresh bodies in the same places from the start."""
    recipe = recipe_of(task, settings)
    host = Host(recipe.model, settings.growth, seed_optimizer=lambda _parameters, _lr: recipe.optimizer, rng_seed=settings.trainer.rng_seed)
    for (site, slot), seed in sorted(grown.seeds.items()):
        if seed.stage in IN_TASK_GRAPH:
            assert seed.blueprint is not None
            kernel = compile_kernel(host.germinate(site, slot, life=0, blueprint=seed.blueprint, lr=0.0), directory.path / KERNELS)
            host.load(site, slot, kernel, epoch=0)
            for command in (Command.TRAIN, Command.GRAFT, Command.STABILIZE, Command.EVALUATE, Command.FINE_TUNE, Command.FOSSILIZE):
                host.apply(command, site, slot, epoch=0, ramp_steps=1)
    return host.export_plain()


def _compared(variant: Variant, result: Result) -> Compared:
    return Compared(variant, result.run, result.metrics[f"test_{_METRIC}"], result.host.parameters())
