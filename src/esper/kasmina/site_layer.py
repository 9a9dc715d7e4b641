"""Sites: layers of a host where seeds live, adopted in place.

Adopting swaps a layer's class for one that mixes `SiteLayer` in, as torch's own `parametrize` and FSDP2 do: state_dict keys, `isinstance`,
attributes and deepcopy stay as they were, and a dormant site costs one truth test a call. A wrapper module would cost more and rename keys.
A branch stands outside `_modules` until it is fossilized: registered earlier it would join the user's `clip_grad_norm_(model.parameters())`
and so change the host's path. `SiteState`, a plain object in the layer's `__dict__`, holds what a site knows.

Forward: y = layer(x); then y + alpha * body(x) for every branch with alpha > 0, in the order of their slots. At alpha 0 nothing is added,
so the output is the host's, bit for bit (0 * NaN is NaN). Where someone listens, a `Capture` keeps the detached input, the standard
deviation of the output, and by `register_hook` the gradient at the output. (`retain_grad` is wrong before an in-host_site activation, and
None under activation checkpointing.) A call inside a backward pass is a recomputation: neither counted nor measured.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from esper.errors import RuleError
from esper.kasmina.branch import Branch
from esper.kasmina.health.activation import SiteOutput
from esper.kasmina.health.formulas import sample

_NO_BACKWARD = -1


@dataclass(slots=True, eq=False)
class Capture:
    """Input, output statistics and gradient of a micro-batch at a site; `gradient` is None until its backward pass, `task` its id."""

    x: Tensor | None
    version: int
    spread: Tensor | None
    sample: Tensor | None
    samples: int
    gradient: Tensor | None = None
    task: int = _NO_BACKWARD

    def on_gradient(self, gradient: Tensor) -> None:
        """Keeps the gradient at the output. On CUDA this runs on autograd's thread: it stores and does nothing else."""
        self.gradient = gradient.detach()
        self.task = _backward_task()


@dataclass(eq=False)
class SiteState:
    """State of a site: its branches by slot, those that act, and its captures. `active` is the one truth test of a dormant site.

    While the site is measured, it puts its output into `outputs`, the very object, so that the activation behind it can be told.
    """

    name: str
    branches: dict[int, Branch] = field(default_factory=dict)
    acting: tuple[Branch, ...] = ()
    learning: bool = False
    outputs: dict[int, SiteOutput] | None = None
    captures: list[Capture] = field(default_factory=list)
    active: bool = False

    def rewire(self, disabled: frozenset[int] = frozenset()) -> None:
        """Select the acting branches: alpha above 0 and not `disabled`."""
        acting = (branch for slot, branch in sorted(self.branches.items()) if branch.strength != 0.0 and slot not in disabled)
        self.acting = tuple(acting)
        self.active = bool(self.acting) or self.learning or self.outputs is not None

    def enable(self, *, learning: bool, outputs: dict[int, SiteOutput] | None) -> None:
        """Turns captures on for learning, for measuring (`outputs`), or off; drops those of an unfinished step."""
        self.learning, self.outputs = learning, outputs
        self.captures.clear()
        self.active = bool(self.acting) or learning or outputs is not None

    @torch.compiler.disable  # type: ignore[untyped-decorator] # It keeps the signature; torch does not say so.
    def grow(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The site's output, from the layer's; captures it where captures are on."""
        for branch in self.acting:
            y = branch(x, y)
        if (self.learning or self.outputs is not None) and layer.training and torch.is_grad_enabled():
            self._capture(x, y)
        return y

    def _capture(self, x: Tensor, y: Tensor) -> None:
        if _backward_task() != _NO_BACKWARD:
            if not self.captures:
                raise RuleError(f"expected site {self.name!r} outside reentrant checkpointing: use checkpoint(..., use_reentrant=False)")
            return
        if not y.requires_grad:
            raise RuleError(f"expected a site whose output needs a gradient, got {self.name!r}: it and all before it are frozen")
        value = y.detach()
        capture = Capture(
            x=x.detach() if self.learning else None,
            version=x._version,
            spread=value.float().std() if self.learning else None,
            sample=sample(value) if self.outputs is not None else None,
            samples=y.shape[0] if y.dim() > 1 else 1,
        )
        y.register_hook(capture.on_gradient)
        self.captures.append(capture)
        if self.outputs is not None:
            self.outputs[id(y)] = SiteOutput(self.name, y, y.grad_fn)

    def take_captures(self, where: str) -> list[Capture]:
        """This step's captures with a gradient; clears all. Raises RuleError for a layer that one loss went through twice."""
        captures, self.captures = [capture for capture in self.captures if capture.gradient is not None], []
        if len({capture.task for capture in captures}) < len(captures):
            raise RuleError(f"expected site {self.name!r} to be called once in a forward pass, got two calls ({where})")
        return captures


def _backward_task() -> int:
    """The id of the backward pass that this thread is in, or _NO_BACKWARD."""
    return int(torch._C._current_graph_task_id())


class SiteLayer:
    """Mixed into a layer's class. Holds no state of its own but `esper_site`."""

    esper_site: SiteState

    # Not recursive: a wrapper around the call, which the recursive form is, would cost twice what a dormant site costs.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator] # It keeps the signature; torch does not say so.
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name: callers pass it by keyword
        y: Tensor = super().forward(input)  # type: ignore[misc] # The layer's class comes next in the order of resolution.
        growth = self.esper_site
        if not growth.active:
            return y
        return growth.grow(self, input, y)  # type: ignore[no-any-return] # `grow` is typed; its decorator is not.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SiteLayer":
        super()._apply(fn, recurse)  # type: ignore[misc] # nn.Module's.
        for branch in _hidden(self):
            branch._apply(fn)  # type: ignore[no-untyped-call] # nn.Module's.
        return self

    def train(self, mode: bool = True) -> "SiteLayer":
        super().train(mode)  # type: ignore[misc] # nn.Module's.
        for branch in _hidden(self):
            branch.train(mode)
        return self

    def __getstate__(self) -> NoReturn:
        raise RuleError(
            f"expected a plain module to pickle, got a host with site {self.esper_site.name!r}: pickle Host.export_plain() instead"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "SiteLayer":  # The memo is copy's own.
        """An independent copy that computes the same and belongs to no Host: nothing listens to it."""
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        growth = SiteState(self.esper_site.name)
        memo[id(self.esper_site)] = growth
        copy.__dict__.update({key: deepcopy(value, memo) for key, value in self.__dict__.items()})
        growth.branches = deepcopy(self.esper_site.branches, memo)
        growth.acting = tuple(deepcopy(branch, memo) for branch in self.esper_site.acting)
        growth.active = bool(growth.acting)
        return copy


def _hidden(site: SiteLayer) -> list[Branch]:
    """The branches that stand outside `_modules`."""
    registered = {id(module) for module in getattr(site, "seeds", {}).values()}
    return [branch for branch in site.esper_site.branches.values() if id(branch) not in registered]


_classes: dict[type[nn.Module], type[nn.Module]] = {}


def adopt(layer: nn.Module, name: str) -> SiteState:
    """The growth of `layer`, which from now on is a site. Its class keeps its name."""
    plain = type(layer)
    if plain not in _classes:
        _classes[plain] = type(plain.__name__, (SiteLayer, plain), {"__module__": plain.__module__, "__qualname__": plain.__qualname__})
    growth = SiteState(name)
    layer.__dict__["esper_site"] = growth
    layer.__class__ = _classes[plain]
    return growth


def site_state(layer: nn.Module) -> SiteState:
    """State of a site."""
    growth = layer.__dict__["esper_site"]
    assert isinstance(growth, SiteState)
    return growth


def release(layer: nn.Module) -> None:
    """Makes `layer` the plain layer that it was; its branches are gone from it."""
    plain = type(layer).__mro__[2]
    layer._modules.pop("seeds", None)
    del layer.__dict__["esper_site"]
    layer.__class__ = plain


def register(layer: nn.Module, slot: int, branch: Branch) -> None:
    """Makes a branch part of the host: its tensors stand under `<site>.seeds.<slot>.*` from now on."""
    if "seeds" not in layer._modules:
        layer.add_module("seeds", nn.ModuleDict())
    seeds = layer._modules["seeds"]
    assert isinstance(seeds, nn.ModuleDict)
    seeds[str(slot)] = branch


def unregister(layer: nn.Module) -> None:
    """Takes every branch out of the host's modules again; for a restore."""
    layer._modules.pop("seeds", None)
