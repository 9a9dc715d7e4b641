"""Which layers of a model become sites: by a glob over names, a type, a function, or "auto"; what cannot be one is refused by name."""

import fnmatch
import inspect
import math
from collections.abc import Callable, Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from esper.errors import SettingsError
from esper.events.kinds.run import Site
from esper.kasmina.blueprints import Blueprint, Layer, features_of, layer_text
from esper.kasmina.site_layer import SiteLayer, adopt
from esper.kasmina.slots import HostSite, Slot

Choice = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Sites = list[tuple[str, Layer, tuple[Blueprint, ...]]]
AUTO = "auto"
AUTO_SITES = 16
_LINEAR_DEFAULTS = tuple(map(Blueprint.parse, ("mlp:24", "lowrank:8", "signal:12")))
_CONV_DEFAULTS = tuple(map(Blueprint.parse, ("conv:8", "lowrank:8")))
# These call kernels that read their layers' weights and never call the layers (TransformerEncoderLayer: in eval mode).
_BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def find(model: nn.Module, choice: Choice, blueprints: tuple[Blueprint, ...] | None) -> Sites:
    """(name, layer, blueprints that fit) of every site, in the model's order, shared layers once, children of a match skipped.

    "auto": every trainable Linear and Conv2d that a blueprint fits, but for the last one (its outputs are the answer itself); of more than
    `AUTO_SITES` those spread evenly. Raises SettingsError: for an explicit choice every match must be able to be a site.
    """
    if isinstance(choice, str) and choice == AUTO:
        return _automatic(model, blueprints)
    found = []
    for name, module, bypassed in _matches(model, choice):
        layer = _require_site(name, module, bypassed)
        fitting = fits(layer, blueprints)
        if not fitting:
            why = "; ".join(str(blueprint.misfit(layer)) for blueprint in blueprints or ())
            raise SettingsError(f"expected a blueprint that fits site {name!r} ({layer_text(layer)}), none does: {why}")
        found.append((name, layer, fitting))
    if not found:
        names = ", ".join(repr(name) for name, layer in model.named_modules() if isinstance(layer, Layer))
        raise SettingsError(f"expected sites to match a layer, {choice!r} matches none; the model has {names or 'no Linear or Conv2d'}")
    return found


def fits(layer: Layer, blueprints: tuple[Blueprint, ...] | None) -> tuple[Blueprint, ...]:
    """Blueprints of `blueprints` (default: the first set) that fit beside `layer`."""
    chosen = (_LINEAR_DEFAULTS + _CONV_DEFAULTS) if blueprints is None else blueprints
    fitting = tuple(blueprint for blueprint in chosen if blueprint.misfit(layer) is None)
    return tuple(dict.fromkeys(fitting))


def _automatic(model: nn.Module, blueprints: tuple[Blueprint, ...] | None) -> Sites:
    layers = [(name, layer, bypassed) for name, layer, bypassed in _walk(model) if isinstance(layer, Layer)]
    for name, layer, bypassed in layers:
        if isinstance(layer, SiteLayer):
            _require_site(name, layer, bypassed)
    found = []
    for name, layer, bypassed in layers[:-1]:
        if _refusal(layer, bypassed) is not None or not any(p.requires_grad for p in layer.parameters()):
            continue
        if fitting := fits(layer, blueprints):
            found.append((name, layer, fitting))
    if not found:
        raise SettingsError("expected a model with a Linear or Conv2d that can grow and is not its last layer; name sites explicitly")
    step = math.ceil(len(found) / AUTO_SITES)
    return found[::step]


def _walk(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """(name, module, inside a module that bypasses its layers), each module once."""
    bypassing: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(prefix) for prefix in bypassing)
        yield name, module, inside
        if isinstance(module, _BYPASSING):
            bypassing.append(f"{name}." if name else "")


def _matches(model: nn.Module, choice: Choice) -> Iterator[tuple[str, nn.Module, bool]]:
    taken: list[str] = []
    for name, module, bypassed in _walk(model):
        if any(name.startswith(prefix) for prefix in taken):
            continue
        if _chosen(name, module, choice):
            taken.append(f"{name}." if name else "")
            yield name, module, bypassed


def _chosen(name: str, module: nn.Module, choice: Choice) -> bool:
    if isinstance(choice, str):
        return fnmatch.fnmatchcase(name, choice) and (isinstance(module, Layer) or not set("*?[") & set(choice))
    if isinstance(choice, type):
        return isinstance(module, choice)
    return choice(name, module)


def _require_site(name: str, layer: nn.Module, bypassed: bool) -> Layer:
    if not isinstance(layer, Layer):
        raise SettingsError(f"expected a Linear or Conv2d as a site, got {name!r}: a {type(layer).__name__} cannot be one yet")
    refusal = _refusal(layer, bypassed)
    if refusal is not None:
        raise SettingsError(f"expected a layer that can be a site, got {name!r}: {refusal}")
    return layer


def _refusal(layer: nn.Module, bypassed: bool) -> str | None:
    if isinstance(layer, SiteLayer):
        return "an earlier training has grown it; go on with the result.model of that fit, a plain copy (Host.export_plain)"
    if "forward" in vars(layer):
        return "its instance has a forward of its own (a compiled module, Accelerate or PEFT hooks): attach before wrapping"
    if len(inspect.signature(layer.forward).parameters) != 1:
        return "its forward takes more than the input"
    if any(is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
        return "its shape is not known yet: run the model once before"
    if bypassed:
        return "the module around it reads its weights without calling it (MultiheadAttention, TransformerEncoderLayer)"
    return None


def adopt_all(found: Sites, slots: int) -> dict[str, HostSite]:
    """Sites of `found`, adopted, by name."""
    host_sites = {}
    for name, layer, blueprints in found:
        inputs, outputs = features_of(layer)
        names = {blueprint.name: blueprint for blueprint in blueprints}
        site = Site(name=name, layer=layer_text(layer), inputs=inputs, outputs=outputs, slots=slots, blueprints=tuple(names))
        host_sites[name] = HostSite(site, layer, adopt(layer, name), names, [Slot(site=name, seed=seed) for seed in range(slots)])
    return host_sites
