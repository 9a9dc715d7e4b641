"""The activation function behind a site: dead units show behind it and not before.

A module is told by the identity of the tensors it gets, directly or through normalisation and dropout, in every measured forward pass anew:
one activation module often serves many layers. A function (`F.relu(self.conv(x))`) is told once, by what autograd recorded between the site
and the model's output, and then applied to the site's sample; behind a normalisation module that way is not open. Where neither is found,
or the model is compiled, nothing is measured: null, not zero.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from esper.kasmina.health.formulas import sample

_Function = Callable[[Tensor], Tensor]
_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
)
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


@dataclass(frozen=True, slots=True, eq=False)
class SiteOutput:
    """A site's output, or what a passing module made of it. It is held, so that its id stays its own."""

    name: str
    y: Tensor
    node: Node | None
    direct: bool = True


class ActivationHooks:
    """Hooks on the activations behind one model's sites, set for a measured step only: any other forward costs nothing."""

    def __init__(self) -> None:
        self.outputs: dict[int, SiteOutput] = {}
        self._after: dict[str, Tensor] = {}
        self._functions: dict[str, _Function | None] = {}
        self._handles: list[RemovableHandle] = []

    def arm(self, model: nn.Module) -> None:
        """From now until `disarm` the model's activations are watched; sites put their outputs into `outputs`, by id."""
        self.disarm()
        self._after.clear()
        for module in model.modules():
            if isinstance(module, _PASSING):
                self._handles.append(module.register_forward_hook(self._passed))
            elif isinstance(module, _MODULES):
                self._handles.append(module.register_forward_hook(self._activated))
        self._handles.append(model.register_forward_hook(self._finished))

    def disarm(self) -> None:
        """Removes the hooks; recorded samples stay until the next `arm`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.outputs.clear()

    def behind(self, name: str, S: Tensor) -> Tensor | None:
        """A sample of the activation behind site `name`, whose own sample is `S`; None where none was found."""
        function = self._functions.get(name)
        seen = self._after.get(name)
        return seen if seen is not None or function is None else function(S)

    # What the hooks below get is whatever a module was called with: they look only at the tensor that they know.

    def _passed(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        known = self.outputs.pop(id(inputs[0]), None) if inputs else None
        if known is not None:
            self.outputs[id(output)] = SiteOutput(known.name, output, output.grad_fn, direct=False)

    def _activated(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        known = self.outputs.pop(id(inputs[0]), None) if inputs else None
        if known is not None:
            self._after[known.name] = sample(output.detach())

    def _finished(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        unknown = [known for known in self.outputs.values() if known.direct and known.name not in self._functions]
        self.outputs.clear()
        if unknown:
            takers = _takers(output)
            self._functions.update({known.name: _function_behind(known.node, takers) for known in unknown})


def _takers(output: Any) -> dict[Node, list[Node]]:
    """By node of the graph behind a model's output, the nodes that take what it makes."""
    takers: dict[Node, list[Node]] = {}
    waiting = [leaf.grad_fn for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            takers.setdefault(source, []).append(node)
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return takers


def _function_behind(node: Node | None, takers: dict[Node, list[Node]]) -> _Function | None:
    return next((_FUNCTIONS[name] for name in _names_behind(node, takers) if name in _FUNCTIONS), None)


def _names_behind(node: Node | None, takers: dict[Node, list[Node]]) -> Iterator[str]:
    """The names of the nodes right behind `node`, changes of shape or precision passed over."""
    for taker in [] if node is None else takers.get(node, []):
        if taker.name() in _RESHAPING:
            yield from _names_behind(taker, takers)
        else:
            yield taker.name()
