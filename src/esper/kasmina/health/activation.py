"""The activation function behind a site: dead units show behind it and not before.

A module is recognized by the identity of the tensor that it takes, directly or through normalisation and dropout, in every measured forward
pass anew: one activation module often serves many layers. A function (`F.relu(self.conv(x))`) is recognized once, by what autograd recorded
between the site and the model's output, and then applied to the site's sample; behind a normalisation module that is not possible. Where
neither is found, or the model is compiled, nothing is measured: null, not zero.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from esper.kasmina.health.formulas import sample

_Function = Callable[[Tensor], Tensor]
_RECTIFYING = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus)
_SATURATING = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)
_PASSING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.Dropout, nn.Dropout2d, nn.Identity)
_FUNCTIONS: dict[str, _Function] = {
    "ReluBackward0": torch.relu,
    "GeluBackward0": nn.functional.gelu,
    "SiluBackward0": nn.functional.silu,
    "TanhBackward0": torch.tanh,
    "SigmoidBackward0": torch.sigmoid,
    "SoftplusBackward0": nn.functional.softplus,
    "MishBackward0": nn.functional.mish,
}
_RESHAPING = frozenset(
    {"ToCopyBackward0", "ViewBackward0", "UnsafeViewBackward0", "TransposeBackward0", "PermuteBackward0", "CloneBackward0"}
)


class ActivationHooks:
    """Hooks on the activations behind one model's sites, set for a measured step only: any other forward costs nothing."""

    def __init__(self) -> None:
        # By id, a site's output or what a passing module made of it, with the site's name. It is held, so that its id stays its own.
        self._outputs: dict[int, tuple[str, Tensor]] = {}
        self._channels_first: set[str] = set()
        self._nodes: dict[Node, str] = {}  # Of the outputs that no module has taken.
        self._after: dict[str, Tensor] = {}
        self._functions: dict[str, _Function | None] = {}
        self._handles: list[RemovableHandle] = []

    def arm(self, model: nn.Module) -> None:
        """From now until `disarm` the model's activations are hooked."""
        self.disarm()
        self._after.clear()
        for module in model.modules():
            if isinstance(module, _PASSING):
                self._handles.append(module.register_forward_hook(self._passed))
            elif isinstance(module, _RECTIFYING + _SATURATING):
                self._handles.append(module.register_forward_hook(self._activated))
        self._handles.append(model.register_forward_hook(self._finished))

    def disarm(self) -> None:
        """Removes the hooks; recorded samples stay until the next `arm`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()
        self._nodes.clear()

    def add_output(self, name: str, y: Tensor, *, channels_first: bool = False) -> None:
        """Makes `y` known as the output of site `name` in this forward pass."""
        if channels_first:
            self._channels_first.add(name)
        self._outputs[id(y)] = (name, y)
        if y.grad_fn is not None:
            self._nodes[y.grad_fn] = name

    def behind(self, name: str, S: Tensor) -> Tensor | None:
        """A sample of the activation behind site `name`, whose own sample is `S`; None where none was found."""
        function = self._functions.get(name)
        seen = self._after.get(name)
        return seen if seen is not None or function is None else function(S)

    # The inputs of the hooks below are whatever a module was called with: only a known tensor is looked at.

    @torch.compiler.disable  # type: ignore[untyped-decorator] # It keeps the signature; torch does not say so.
    def _passed(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if (name := self._taken(inputs)) is not None:
            self._outputs[id(output)] = (name, output)

    @torch.compiler.disable  # type: ignore[untyped-decorator] # It keeps the signature; torch does not say so.
    def _activated(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if (name := self._taken(inputs)) is not None:
            self._after[name] = sample(output.detach(), channels_first=name in self._channels_first)

    def _taken(self, inputs: tuple[Any, ...]) -> str | None:
        """The site whose output a module took."""
        taken = self._outputs.pop(id(inputs[0]), None) if inputs else None
        if taken is None:
            return None
        self._nodes = {node: name for node, name in self._nodes.items() if name != taken[0]}
        return taken[0]

    @torch.compiler.disable  # type: ignore[untyped-decorator] # It keeps the signature; torch does not say so.
    def _finished(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        unknown = {node: name for node, name in self._nodes.items() if name not in self._functions}
        self._outputs.clear()
        self._nodes.clear()
        if unknown:
            self._functions |= dict.fromkeys(unknown.values()) | _functions_behind(unknown, output)


def _functions_behind(sites: dict[Node, str], output: Any) -> dict[str, _Function]:
    """By site, the function between it and the model's output that takes its output, changes of shape or precision passed over."""
    found: dict[str, _Function] = {}
    waiting: list[Node | None] = [leaf.grad_fn for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    seen = set(waiting)
    while waiting:
        if (node := waiting.pop()) is None:
            continue
        sources = [source for source, _ in node.next_functions]
        if node.name() in _FUNCTIONS:
            source = sources[0]
            while source is not None and source.name() in _RESHAPING and source not in sites:
                source = source.next_functions[0][0]
            if source is not None and source in sites:
                found.setdefault(sites[source], _FUNCTIONS[node.name()])
        waiting += [source for source in sources if source not in seen]
        seen.update(sources)
    return found
