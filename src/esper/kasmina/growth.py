"""A model made ready to grow: the settings of growth, the host that they make, and the refusal of what cannot grow."""

import math
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from esper.errors import DataError, SettingsError
from esper.events.fields import Finite, Part, Positive
from esper.kasmina.blueprints import Blueprint
from esper.kasmina.host import Host, SeedOptimizer
from esper.kasmina.site_selection import Choice, Sites, find
from esper.kasmina.slots import sizes_at


class GrowthSettings(Part):
    """Where and with what a host may grow."""

    enabled: bool = True
    """False trains the host alone; the log is the same, and nothing grows."""

    sites: str = "auto"
    """Which layers are sites: a glob over their names, or "auto"."""

    blueprints: tuple[str, ...] | None = None
    """What seeds may be made of, like "mlp:24"; None: the first set of the layer's kind."""

    slots: Positive = 4
    """Seeds that may live at one site at a time."""

    max_parameters: Annotated[Finite, Field(ge=1)] = 2.0
    """Growth stops at this many times the host's own parameters; a tiny host needs more room than a large one."""

    seed_lr: Annotated[Finite, Field(gt=0)] = 2.0
    """A seed's learning rate, as a multiple of the host's at its germination. Measured on digits: 1 gives +2.0 points, 2 gives +2.7."""

    clip: Annotated[Finite, Field(gt=0)] | None = 1.0
    """Largest gradient norm of each seed, apart from the host's."""


def host_of(model: nn.Module, growth: GrowthSettings, seed_optimizer: SeedOptimizer, *, sites: Choice | None = None, rng_seed: int) -> Host:
    """`model` as a host; `sites` replaces what the settings name. Raises SettingsError."""
    return Host(
        model,
        seed_optimizer=seed_optimizer,
        sites=(sites or growth.sites) if growth.enabled else None,
        blueprints=_blueprints(growth.blueprints),
        slots=growth.slots,
        rng_seed=rng_seed,
        max_parameters=growth.max_parameters,
        clip=growth.clip,
    )


def seed_optimizer_like(optimizer: Optimizer, factor: float) -> SeedOptimizer:
    """Makes a seed's optimizer: class and options of the host's first group, without weight decay, at `factor` times its learning rate."""
    kind: Callable[..., Optimizer] = type(optimizer)
    # Not every entry of a group is an argument: AdamW's group notes that it is Adam with decoupled weight decay.
    given = set(signature(kind).parameters)
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in signature(kind).parameters.values()):
        given |= set(optimizer.defaults)
    options = {name: value for name, value in optimizer.param_groups[0].items() if name in given and name not in ("params", "lr")}
    if "weight_decay" in given:
        options["weight_decay"] = 0.0

    def make(parameters: list[nn.Parameter], lr: float) -> Optimizer:
        return kind(parameters, lr=factor * lr, **options)

    return make


def require_growth(
    model: nn.Module, growth: GrowthSettings, optimizer: Optimizer, seed_optimizer: SeedOptimizer, *, sites: Choice | None = None
) -> None:
    """Raises SettingsError where nothing that the settings ask for can grow in `model`, which is left as it is."""
    _require_room(model, find(model, sites or growth.sites, _blueprints(growth.blueprints)), growth.max_parameters)
    try:
        seed_optimizer([nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(1))], 1e-3)
    except (TypeError, ValueError) as error:
        name = type(optimizer).__name__
        raise SettingsError(
            f"expected an optimizer that can be made for a seed as well, {name} cannot: {error}; give seed_optimizer="
        ) from error


def _blueprints(names: tuple[str, ...] | None) -> tuple[Blueprint, ...] | None:
    if names is None:
        return None
    if not names:
        raise SettingsError("setting growth.blueprints: expected one or more, got none; growth.enabled=false is how nothing grows")
    try:
        return tuple(Blueprint.parse(name) for name in names)
    except DataError as error:
        raise SettingsError(f"setting growth.blueprints: {error}") from error


def _require_room(model: nn.Module, sites: Sites, factor: float) -> None:
    """Raises SettingsError where not even the smallest seed fits within `factor` times the parameters of `model`."""
    own = sum(parameter.numel() for parameter in model.parameters())
    limit = int(factor * own)
    sizes = sorted((size, kind, name) for name, layer, fitting in sites for kind, size in sizes_at(name, layer, fitting).items())
    (least, kind, site), (most, _, _) = sizes[0], sizes[-1]
    if own + least > limit:
        needed, enough = (math.ceil(100 * (1 + size / own)) / 100 for size in (least, most))
        raise SettingsError(
            f"setting growth.max_parameters: nothing can grow: the model has {own} parameters and may have {limit}, the smallest seed "
            f"({kind} at {site!r}) adds {least}; expected at least {needed:g}, {enough:g} for every blueprint (or smaller blueprints, "
            "or no growth)"
        )
