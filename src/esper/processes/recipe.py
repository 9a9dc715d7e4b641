"""The parts of a training: settings by dotted name, and a recipe of what only code can give; both are checked before there is a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from pydantic import JsonValue, TypeAdapter, field_validator
from torch import nn
from torch.optim import Optimizer

from esper.errors import EsperError, SettingsError
from esper.events.fields import Finite, Part
from esper.events.kinds.epoch import GateSettings
from esper.history.labels import RunLabels
from esper.kasmina.growth import Choice, GrowthSettings, SeedOptimizer, require_growth, seed_optimizer_like
from esper.processes.bound_run import bind_metrics
from esper.settings import nearest, settings_of
from esper.stderr import warn
from esper.tamiyo.policy_input import PolicySettings
from esper.tolaria.objective import Batches, Objective
from esper.tolaria.requirements import (
    require_batches,
    require_evaluable,
    require_model,
    require_optimizer,
    require_scheduler,
    require_train,
    require_trains,
)
from esper.tolaria.training import Policy, Scheduler, TrainerSettings
from esper.tolaria.user_code import raised
from esper.tolaria.validation import Evaluator

Dotted = dict[str, JsonValue]
"""Settings by their dotted names, like `trainer.epochs`."""
_LIMITS = TypeAdapter(dict[str, Finite])


class RunSettings(Part):
    """Everything that a run is trained by, except for what only code can give: the model, the data, the loss.

    A setting has a dotted name, `<section>.<key>`: `--set` and RunStarted use it, and a TOML file has it as a table with a key.
    """

    trainer: TrainerSettings = TrainerSettings()
    growth: GrowthSettings = GrowthSettings()
    policy: PolicySettings = PolicySettings()
    gate: GateSettings = GateSettings()

    @field_validator("gate")
    @classmethod
    def _finite(cls, gate: GateSettings) -> GateSettings:
        # An event may record a limit that is not finite; no value passes such a limit.
        _LIMITS.validate_python({name: value for name, value in gate if isinstance(value, float)})
        return gate

    def dotted(self, *, given_only: bool = False) -> Dotted:
        """Settings by dotted name, as JSON: all of them, or those alone that were given."""
        sections = self.model_dump(mode="json", exclude_unset=given_only, include=set(RunSettings.model_fields))
        return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def run_settings(*layers: Mapping[str, JsonValue]) -> RunSettings:
    """The settings that `layers` of dotted names give, the last one first. Raises SettingsError naming the setting."""
    known = RunSettings().dotted()
    sections: dict[str, dict[str, object]] = {}
    for name, value in (item for layer in layers for item in layer.items()):
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}{nearest(name, known)}; there are: {', '.join(sorted(known))}")
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return settings_of(RunSettings, sections)


@dataclass(frozen=True)
class Recipe:
    """The part of a training that only code can give: the model with its optimizer, the data, the objective.

    `sites` and `policy` replace those of the settings; `test` is evaluated once, at the end. `by` names the person who starts the run,
    `approved_by` who approved its limits; None: not said. `argv`, `source`: the command line and the source are recorded.
    """

    task: str
    model: nn.Module
    optimizer: Optimizer
    train: Batches
    valid: Batches
    objective: Objective
    test: Batches | None = None
    scheduler: Scheduler | None = None
    sites: Choice | None = None
    policy: Policy | None = None
    seed_optimizer: SeedOptimizer | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    by: str | None = None
    approved_by: str | None = None
    labels: RunLabels = field(default_factory=RunLabels)
    argv: bool = True
    source: bool = True

    @property
    def loaders(self) -> Mapping[str, Batches]:
        """The data by name, where they are given."""
        data = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: batches for name, batches in data.items() if batches is not None}


def require_trainable(recipe: Recipe, settings: RunSettings, *, resumed: bool = False) -> None:
    """Raises SettingsError or DataError for a recipe that cannot be trained, before there is a run: what cannot work leaves nothing behind.

    The objective is measured on the first batch of each loader; what code of the user's raises there is raised. Where a run can grow
    that is `resumed` was found when it began.
    """
    require_model(recipe.model)
    require_optimizer(recipe.model, recipe.optimizer)
    steps = require_train(recipe.train, settings.trainer)
    require_batches("valid", recipe.valid)
    if recipe.test is not None:
        require_batches("test", recipe.test)
    if recipe.scheduler is not None:
        require_scheduler(recipe.scheduler, recipe.optimizer, settings.trainer, steps)
    with bind_metrics(None):  # A metric that is measured here belongs to no run: it is not recorded.
        _require_measured(recipe, settings, resumed=resumed)


def _require_measured(recipe: Recipe, settings: RunSettings, *, resumed: bool) -> None:
    """The part of `require_trainable` that runs the user's own code."""
    evaluator = Evaluator(recipe.model.to(recipe.device), recipe.valid, recipe.objective, recipe.device)
    try:
        require_evaluable(evaluator)
        require_trains(replace(evaluator, batches=recipe.train, name="training data"))
        if recipe.test is not None:
            require_evaluable(replace(evaluator, batches=recipe.test, name="test data"))
    except EsperError:
        raise
    except Exception as error:
        warn(f"{raised(error)}; no run was begun")
        raise
    if settings.growth.enabled and not resumed:
        seed_optimizer, calls = seed_optimizer_of(recipe, settings), evaluator.calls(settings.trainer.rng_seed)
        require_growth(recipe.model, settings.growth, recipe.optimizer, seed_optimizer, sites=recipe.sites, calls=calls)


def seed_optimizer_of(recipe: Recipe, settings: RunSettings) -> SeedOptimizer:
    """The maker of seeds' optimizers: the recipe's own, else one like that of the model."""
    return recipe.seed_optimizer or seed_optimizer_like(recipe.optimizer, settings.growth.seed_lr)
