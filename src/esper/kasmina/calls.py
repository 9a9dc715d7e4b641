"""The way of a forward pass through the layers of a model: one pass on one batch, before anything is trained, which leaves no trace.

A layer can be a site where a pass calls it exactly once and reads its weight nowhere else. Whether that is so stands in no module tree.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from esper.kasmina.blueprints import Layer


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within `torch.compile`, DataParallel and DistributedDataParallel: their prefixes stand in none of its names."""
    while True:
        if "_orig_mod" in model._modules:
            inner = model._modules["_orig_mod"]
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        else:
            return model
        assert isinstance(inner, nn.Module)
        model = inner


def plainly_named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every module, each once, as `named_modules` gives them, without what wraps them."""
    seen: set[int] = set()

    def walk(name: str, wrapped: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        module = unwrapped(wrapped)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield name, module
        for child_name, child in module.named_children():
            yield from walk(f"{name}.{child_name}" if name else child_name, child)

    return walk("", model)


@dataclass
class Calls:
    """The calls of one pass: layers in the order in which they were called last, and why a layer cannot be a site, by layer's id.

    `uncalled` are those that the pass did not come to: another may. `frozen` are layers whose output needs no gradient though one could be
    asked for: nothing before them is trained.
    """

    order: list[int] = field(default_factory=list)
    refusals: dict[int, str] = field(default_factory=dict)
    uncalled: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)

    def is_last(self, layer: nn.Module) -> bool:
        """Its outputs are the model's own: no layer was called after it."""
        return self.order[-1:] == [id(layer)]


def calls_of(model: nn.Module, measure: Callable[[nn.Module], Tensor]) -> Calls:
    """The calls in `measure(model)`, the losses of a batch in train mode. The model and its modes are afterwards what they were.

    Random state is the caller's to keep. Raises what `measure` raises.
    """
    calls, times, without_gradient = Calls(), Counter[int](), set[int]()

    def called(layer: nn.Module, _inputs: Any, output: Any) -> None:  # Any: what a module takes and gives.
        times[id(layer)] += 1
        calls.order = [one for one in calls.order if one != id(layer)] + [id(layer)]
        if isinstance(output, Tensor) and not output.requires_grad:
            (calls.frozen if torch.is_grad_enabled() else without_gradient).add(id(layer))

    inner = unwrapped(model)
    layers = [module for _, module in plainly_named(inner) if isinstance(module, Layer)]
    if not layers:
        return calls
    with ExitStack() as stack:
        stack.enter_context(tried(inner))
        for layer in layers:
            stack.callback(layer.register_forward_hook(called).remove)
        loss = measure(inner).sum()
    reads = _reads(loss)
    found = {id(layer): _refusal(times[id(layer)], reads[id(layer.weight)], id(layer) in without_gradient) for layer in layers}
    calls.refusals = {layer: reason for layer, reason in found.items() if reason is not None}
    calls.uncalled = {layer for layer, reason in found.items() if reason is None and not times[layer]}
    return calls


def _refusal(called: int, read: int, without_gradient: bool) -> str | None:
    if called > 1:
        return f"one pass calls it {called} times"
    if read > called:
        return "its weight is read by others too" if called else "its weight is read without calling it (F.linear(x, layer.weight))"
    if without_gradient:
        return "it is called where no gradient is recorded (torch.no_grad, or checkpointing with use_reentrant=True)"
    return None


def _reads(loss: Tensor) -> Counter[int]:
    """Number of times that the graph behind `loss` reads each parameter, by the parameter's id."""
    reads = Counter[int]()
    waiting: list[Node] = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            if (variable := getattr(node, "variable", None)) is not None:
                reads[id(variable)] += 1
            elif node not in seen:
                seen.add(node)
                waiting.append(node)
    return reads


@contextmanager
def tried(model: nn.Module) -> Iterator[None]:
    """Within, `model` runs in train mode, uncompiled; afterwards attributes, modes and buffers, their values too, are what they were."""
    held: list[tuple[dict[str, Any], dict[str, Any]]] = []  # Any: attributes of modules.
    lists: list[tuple[list[object], list[object]]] = []
    for module in model.modules():
        maps = [vars(module), *(value for value in vars(module).values() if type(value) is dict)]
        held += [(one, one.copy()) for one in maps]
        lists += [(value, value.copy()) for value in vars(module).values() if type(value) is list]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    compiled = any("_orig_mod" in module._modules for module in model.modules())
    model.train()
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for now, before in held:
            for name in [name for name in now if name not in before]:
                del now[name]
            now.update(before)
        for items, kept in lists:
            items[:] = kept
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
