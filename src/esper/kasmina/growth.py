"""Growth of a model: its settings, the layers that become sites, and the refusal by name of what cannot grow."""

import fnmatch
import math
from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from esper.errors import DataError, SettingsError
from esper.events.fields import Finite, Part, Positive
from esper.events.kinds.run import Site
from esper.kasmina.blueprints import Blueprint, Layer, features_of, layer_text
from esper.kasmina.calls import Calls, plainly_named
from esper.kasmina.compiler import parameter_count
from esper.kasmina.site_layer import HostSite, SiteLayer
from esper.kasmina.slots import HostSlot

Choice = str | type[nn.Module] | Callable[[str, nn.Module], bool]
"""Which layers become sites: a glob over their names or "auto", a type, or a function (name, module) -> bool."""

SeedOptimizer = Callable[[list[nn.Parameter], float], Optimizer]

AUTO_SITES = 16
# Frozen layers before a new head that may grow: each makes a backward pass through what lies between.
_NEIGHBOURS = 2
_NAMED = 6
_DEFAULTS = ("mlp:24", "lowrank:8", "signal:12", "conv:8")
# These call kernels that read their layers' weights and never call the layers (TransformerEncoderLayer: in eval mode).
_BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


class GrowthSettings(Part):
    """Settings of growth: sites, blueprints, slots and limits."""

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


def find_sites(
    model: nn.Module, growth: GrowthSettings, choice: Choice | None = None, calls: Calls | None = None
) -> tuple[list[HostSite], dict[str, str]]:
    """The sites of `model`, not adopted yet, and why other layers are passed over, by name; both in the model's order.

    `choice` replaces `growth.sites`; shared layers are looked at once, children of a match skipped. "auto": every trainable Linear, Conv1d
    and Conv2d that a blueprint fits, but for those that `calls` refuses and the last one, whose outputs are the answer itself; where only
    the last is trained, the frozen ones just before it; of more than `AUTO_SITES` those spread evenly. Raises SettingsError: for an
    explicit choice every match must be able to be a site.
    """
    choice, blueprints, calls = choice or growth.sites, _parsed(growth.blueprints), calls or Calls()
    passed_over: dict[str, str] = {}
    found = _automatic(model, blueprints, calls, passed_over) if choice == "auto" else _chosen(model, choice, calls)
    sites = []
    for name, layer in found:
        inputs, outputs = features_of(layer)
        misfits = {blueprint.name: blueprint.misfit(layer) for blueprint in blueprints}
        names = tuple(blueprint for blueprint, misfit in misfits.items() if misfit is None)
        if not names:
            why = "; ".join(map(str, misfits.values()))
            raise SettingsError(f"expected a blueprint that fits site {name!r} ({layer_text(layer)}), none does: {why}")
        site = Site(name=name, layer=layer_text(layer), inputs=inputs, outputs=outputs, slots=growth.slots, blueprints=names)
        sites.append(HostSite(site, layer, [HostSlot(site=name, seed=seed) for seed in range(growth.slots)]))
    return sites, passed_over


def _parsed(names: tuple[str, ...] | None) -> tuple[Blueprint, ...]:
    if names is not None and not names:
        raise SettingsError("setting growth.blueprints: expected one or more, got none; growth.enabled=false is how nothing grows")
    try:
        return tuple(dict.fromkeys(Blueprint.parse(name) for name in (_DEFAULTS if names is None else names)))
    except DataError as error:
        raise SettingsError(f"setting growth.blueprints: {error}") from error


def _automatic(model: nn.Module, blueprints: tuple[Blueprint, ...], calls: Calls, passed_over: dict[str, str]) -> list[tuple[str, Layer]]:
    """The layers that "auto" takes; why it does not take others stands in `passed_over` afterwards."""
    layers = [(name, layer, bypassed) for name, layer, bypassed in _walk(model) if isinstance(layer, Layer)]
    for name, layer, bypassed in layers:
        if isinstance(layer, SiteLayer):
            raise SettingsError(f"expected a layer that can be a site, got {name!r}: {_refusal(layer, bypassed)}")
    last = next((layer for _, layer, _ in layers if calls.is_last(layer)), layers[-1][1] if layers else None)
    able: list[tuple[str, Layer]] = []
    for name, layer, bypassed in layers:
        uncalled = "a pass does not call it" if id(layer) in calls.uncalled else None
        reason = _refusal(layer, bypassed) or calls.refusals.get(id(layer)) or uncalled or _unfit(layer, blueprints)
        if layer is last:
            reason = "its outputs are the model's own"
        if reason is None:
            able.append((name, layer))
        else:
            passed_over[name] = reason
    trainable = [(name, layer) for name, layer in able if any(parameter.requires_grad for parameter in layer.parameters())]
    found = (
        trainable
        or sorted((one for one in able if id(one[1]) in calls.frozen), key=lambda one: calls.order.index(id(one[1])))[-_NEIGHBOURS:]
    )
    taken = {name for name, _ in found}
    passed_over |= {name: "it is frozen" for name, layer in able if name not in taken}
    if not found:
        raise SettingsError(_nothing_grows(model, passed_over))
    return found[:: math.ceil(len(found) / AUTO_SITES)]


def _unfit(layer: Layer, blueprints: tuple[Blueprint, ...]) -> str | None:
    misfits = [blueprint.misfit(layer) for blueprint in blueprints]
    return "; ".join(map(str, misfits)) if all(misfits) else None


def _nothing_grows(model: nn.Module, passed_over: dict[str, str]) -> str:
    """The reason why nothing can grow in a model, in words."""
    if isinstance(model, torch.jit.ScriptModule):
        found = "a torch.jit script, whose layers cannot be changed: give the model that was scripted"
    elif passed_over:
        shown = [f"{name!r} cannot ({reason})" for name, reason in list(passed_over.items())[:_NAMED]]
        more = f" and {len(passed_over) - _NAMED} more" if len(passed_over) > _NAMED else ""
        found = f"one in which {', '.join(shown)}{more}"
    else:
        found = f"a {type(model).__name__} without any"
    all_the_same = "grow=None (growth.enabled=false) records the training all the same"
    return f"expected a model with a Linear, Conv1d or Conv2d that can grow, got {found}; {all_the_same}"


def _chosen(model: nn.Module, choice: Choice, calls: Calls) -> list[tuple[str, Layer]]:
    found: list[tuple[str, Layer]] = []
    taken: tuple[str, ...] = ()
    for name, module, bypassed in _walk(model):
        if name.startswith(taken) or not _is_chosen(name, module, choice):
            continue
        taken += (f"{name}." if name else "",)
        if not isinstance(module, Layer):
            raise SettingsError(f"expected a Linear, Conv1d or Conv2d as a site, got {name!r}: a {type(module).__name__} cannot be one yet")
        if (refusal := _refusal(module, bypassed) or calls.refusals.get(id(module))) is not None:
            raise SettingsError(f"expected a layer that can be a site, got {name!r}: {refusal}")
        found.append((name, module))
    if not found:
        names = ", ".join(repr(name) for name, layer, _ in _walk(model) if isinstance(layer, Layer))
        none = "no Linear, Conv1d or Conv2d"
        raise SettingsError(f"expected sites to match a layer, {choice!r} matches none; the model has {names or none}")
    return found


def _walk(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """(name, module, inside a module that bypasses its layers), each module once."""
    bypassing: tuple[str, ...] = ()
    for name, module in plainly_named(model):
        yield name, module, name.startswith(bypassing)
        if isinstance(module, _BYPASSING):
            bypassing += (f"{name}." if name else "",)


def _is_chosen(name: str, module: nn.Module, choice: Choice) -> bool:
    if isinstance(choice, str):
        return fnmatch.fnmatchcase(name, choice) and (isinstance(module, Layer) or not set("*?[") & set(choice))
    if isinstance(choice, type):
        return isinstance(module, choice)
    return choice(name, module)


def _refusal(layer: nn.Module, bypassed: bool) -> str | None:
    """Reason why a layer cannot be a site; None where it can."""
    if isinstance(layer, SiteLayer):
        return "an earlier training has grown it; go on with the result.model of that fit, a plain copy (Host.export_plain)"
    if "forward" in vars(layer):
        return "its instance has a forward of its own (a compiled module, Accelerate or PEFT hooks): attach before wrapping"
    if len(signature(layer.forward).parameters) != 1:
        return "its forward takes more than the input"
    if any(is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
        return "its shape is not known yet: run the model once before"
    if bypassed:
        return "the module around it reads its weights without calling it (MultiheadAttention, TransformerEncoderLayer)"
    return None


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
    model: nn.Module,
    growth: GrowthSettings,
    optimizer: Optimizer,
    seed_optimizer: SeedOptimizer,
    *,
    sites: Choice | None = None,
    calls: Calls | None = None,
) -> None:
    """Raises SettingsError where nothing that the settings ask for can grow in `model`, which is left as it is."""
    own = sum(parameter.numel() for parameter in model.parameters())
    limit = int(growth.max_parameters * own)
    found, _ = find_sites(model, growth, sites, calls)
    sizes = sorted((parameter_count(site.spec(name)), name, site.name) for site in found for name in site.site.blueprints)
    (least, blueprint, name), (most, _, _) = sizes[0], sizes[-1]
    if own + least > limit:
        needed, enough = (math.ceil(100 * (1 + size / own)) / 100 for size in (least, most))
        raise SettingsError(
            f"setting growth.max_parameters: nothing can grow: the model has {own} parameters and may have {limit}, the smallest seed "
            f"({blueprint} at {name!r}) adds {least}; expected at least {needed:g} times its own, {enough:g} for "
            f"every blueprint: esper.Grow(max_parameters={enough:g}), smaller blueprints, or grow=None"
        )
    try:
        seed_optimizer([nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(1))], 1e-3)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"expected an optimizer that can be made for a seed as well, {type(optimizer).__name__} cannot: {error}; give seed_optimizer="
        ) from error
