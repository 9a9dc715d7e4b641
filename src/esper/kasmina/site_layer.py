"""Sites: layers of a host where seeds live, adopted in place.

Adopting swaps a layer's class for one that mixes `SiteLayer` in, as torch's own `parametrize` and FSDP2 do: state_dict keys, `isinstance`,
attributes and deepcopy stay as they were, and a dormant site costs one truth test a call. A wrapper module would cost more and rename keys.
A branch stands outside `_modules` until it is fossilized: registered earlier it would join the user's `clip_grad_norm_(model.parameters())`
and so change the host's path. `HostSite`, a plain object in the layer's `__dict__`, holds all that a site knows.

Forward: y = layer(x); then y + alpha * body(x) for every branch with alpha > 0, in the order of their slots. At alpha 0 nothing is added,
so the output is the host's, bit for bit (0 * NaN is NaN). Where captures are on, a `Capture` keeps the detached input, the standard
deviation of the output, and by `register_hook` the gradient at the output. (`retain_grad` is wrong before an in-place activation, and
None under activation checkpointing.) A call inside a backward pass is a recomputation: neither counted nor measured.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from esper.errors import RuleError
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import Site
from esper.folds.transitions import IN_TASK_GRAPH
from esper.kasmina.blueprints import Blueprint, Layer
from esper.kasmina.branch import Branch
from esper.kasmina.health.activation import ActivationHooks
from esper.kasmina.health.formulas import sample
from esper.kasmina.slots import HostSlot

_NO_BACKWARD = -1
_classes: dict[type[nn.Module], type[nn.Module]] = {}


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

    def example(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """(input, target) for an isolated seed; None where the gradient is non-finite or zero, or the input was changed in place."""
        if self.x is None or self.spread is None or self.gradient is None:
            return None
        gradient = self.gradient.float()
        scale = self.spread / gradient.square().mean().sqrt()
        # The CPU waits for the device here, once a micro-batch: whether to skip decides what the optimizer does.
        if self.x._version != self.version or not bool(torch.isfinite(scale)):
            return None
        return self.x.to(dtype), (gradient * -scale).to(dtype)


@dataclass(eq=False)
class HostSite:
    """A site: its layer and slots, the branches that act, its captures.

    `active` is the one truth test of a dormant site. While the site is measured, it gives its output to `hooks`, the very object, so that
    the activation behind it can be recognized. `frozen` is the reason why nothing is captured, and so nothing can grow, here any more.
    """

    site: Site
    layer: Layer
    slots: list[HostSlot]
    acting: tuple[Branch, ...] = ()
    learning: bool = False
    hooks: ActivationHooks | None = None
    captures: list[Capture] = field(default_factory=list)
    frozen: str | None = None
    active: bool = False

    @property
    def name(self) -> str:
        """The layer's name in the model."""
        return self.site.name

    @property
    def channels_first(self) -> bool:
        """Units of the output are its second dimension, not its last."""
        return not isinstance(self.layer, nn.Linear)

    def spec(self, blueprint: str) -> str:
        """The spec of a seed of `blueprint` here."""
        return Blueprint.parse(blueprint).spec(self.name, self.layer)

    def adopt(self) -> None:
        """Makes the layer a site; its class keeps its name."""
        layer: nn.Module = self.layer
        plain = type(layer)
        if plain not in _classes:
            names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__}
            _classes[plain] = type(plain.__name__, (SiteLayer, plain), names)
        layer.__dict__["esper_site"] = self
        layer.__class__ = _classes[plain]

    def release(self) -> None:
        """Makes the layer the plain layer that it was; its branches are gone from it."""
        self.layer._modules.pop("seeds", None)
        del self.layer.__dict__["esper_site"]
        self.layer.__class__ = type(self.layer).__mro__[2]

    def wire(self) -> None:
        """Attach or detach each branch by its stage: learning or frozen, a fossilized one under `<site>.seeds.<slot>.*` of the host."""
        self.layer._modules.pop("seeds", None)
        fossilized: dict[str, nn.Module] = {}
        for slot in self.slots:
            if slot.branch is not None:
                slot.branch.requires_grad_(slot.learns_task or slot.stage not in IN_TASK_GRAPH)
                if slot.stage is Stage.FOSSILIZED:
                    fossilized[str(slot.seed)] = slot.branch
        if fossilized:
            self.layer.add_module("seeds", nn.ModuleDict(fossilized))
        self.rewire()

    def rewire(self) -> None:
        """Select the acting branches: alpha above 0, and not disabled."""
        branches = (slot.branch for slot in self.slots if not slot.recovering)
        self.acting = tuple(branch for branch in branches if branch is not None and branch.strength != 0.0)
        self.active = bool(self.acting) or self.learning or self.hooks is not None

    def set_alpha(self, slot: HostSlot, alpha: float) -> None:
        """Sets the weight of a seed with a body in the output."""
        assert slot.branch is not None
        slot.branch.set_alpha(alpha)
        self.rewire()

    def enable(self, *, learning: bool, hooks: ActivationHooks | None) -> None:
        """Turns captures on for learning, for measuring (`hooks`), or off; drops those of an unfinished step."""
        self.learning, self.hooks = learning, hooks
        self.captures.clear()
        self.rewire()

    @torch.compiler.disable  # type: ignore[untyped-decorator] # It keeps the signature; torch does not say so.
    def grow(self, x: Tensor, y: Tensor) -> Tensor:
        """The site's output, from the layer's; captures it where captures are on."""
        for branch in self.acting:
            y = branch(x, y)
        if (self.learning or self.hooks is not None) and torch.is_grad_enabled() and (self.layer.training or not y.requires_grad):
            y = self._capture(x, y)
        return y

    def _capture(self, x: Tensor, y: Tensor) -> Tensor:
        """Captures input and output; the output, which asks for a gradient here where it and all before it are frozen."""
        if _backward_task() != _NO_BACKWARD:
            if not self.captures:
                self.freeze("it is called in a backward pass (checkpointing with use_reentrant=True)")
            return y
        if not y.requires_grad:
            y = y.detach().requires_grad_().clone()  # A copy: an activation may change it in place.
        value = y.detach()
        capture = Capture(
            x=x.detach() if self.learning else None,
            version=x._version,
            spread=value.float().std() if self.learning else None,
            sample=sample(value, channels_first=self.channels_first) if self.hooks is not None else None,
            samples=y.shape[0] if y.dim() > 1 else 1,
        )
        y.register_hook(capture.on_gradient)
        self.captures.append(capture)
        if self.hooks is not None:
            self.hooks.add_output(self.name, y, channels_first=self.channels_first)
        return y

    def take_captures(self) -> list[Capture]:
        """This step's captures with a gradient; clears all. None, and frozen from now on, where one loss went through the layer twice."""
        captures, self.captures = [capture for capture in self.captures if capture.gradient is not None], []
        if len({capture.task for capture in captures}) < len(captures):
            self.freeze("one pass called it twice")
        return [] if self.frozen else captures

    def freeze(self, reason: str) -> None:
        """From now on nothing is captured here, so that nothing can grow; what acts already goes on."""
        self.frozen = self.frozen or reason


def _backward_task() -> int:
    """The id of the backward pass that this thread is in, or _NO_BACKWARD."""
    return int(torch._C._current_graph_task_id())


class SiteLayer:
    """Mixed into a layer's class. Holds no state of its own but `esper_site`."""

    esper_site: HostSite

    # Not recursive: a wrapper around the call, which the recursive form is, would cost twice what a dormant site costs.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator] # It keeps the signature; torch does not say so.
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name: callers pass it by keyword
        y: Tensor = super().forward(input)  # type: ignore[misc] # The layer's class comes next in the order of resolution.
        site = self.esper_site
        if not site.active:
            return y
        return site.grow(input, y)  # type: ignore[no-any-return] # `grow` is typed; its decorator is not.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SiteLayer":
        super()._apply(fn, recurse)  # type: ignore[misc] # nn.Module's.
        for branch in _hidden(self.esper_site):
            branch._apply(fn)  # type: ignore[no-untyped-call] # nn.Module's.
        return self

    def train(self, mode: bool = True) -> "SiteLayer":
        super().train(mode)  # type: ignore[misc] # nn.Module's.
        for branch in _hidden(self.esper_site):
            branch.train(mode)
        return self

    def __getstate__(self) -> NoReturn:
        raise RuleError(
            f"expected a plain module to pickle, got a host with site {self.esper_site.name!r}: pickle Host.export_plain() instead"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "SiteLayer":  # The memo is copy's own.
        """An independent copy that computes the same and belongs to no Host: nothing captures in it."""
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        site = self.esper_site
        slots = [slot.model_copy(update={"branch": deepcopy(slot.branch, memo), "optimizer": None}) for slot in site.slots]
        twin = replace(site, layer=copy, slots=slots, learning=False, hooks=None, captures=[])  # type: ignore[arg-type] # A Layer too.
        twin.rewire()
        memo[id(site)] = twin
        copy.__dict__.update({key: deepcopy(value, memo) for key, value in self.__dict__.items()})
        return copy


def _hidden(site: HostSite) -> list[Branch]:
    """The branches that stand outside `_modules`."""
    return [slot.branch for slot in site.slots if slot.branch is not None and slot.stage is not Stage.FOSSILIZED]
