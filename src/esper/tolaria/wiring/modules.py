"""Modules in the first epoch: which are called, in which mode, and whether what they give is dead or saturated."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from esper.kasmina.calls import plainly_named
from esper.tolaria.wiring.judging import ActivationSeen

_ZERO = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardshrink, nn.Softshrink, _DropoutNd)
_FLAT = {nn.Tanh: (-1.0, 1.0), nn.Sigmoid: (0.0, 1.0), nn.Hardtanh: (-1.0, 1.0), nn.Hardsigmoid: (0.0, 1.0)}
_NEAR = 1e-3
_DROPOUTS = frozenset(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"))


def is_compiled(model: nn.Module) -> bool:
    """True where a part of `model` is compiled: a hook would compile it again."""
    return any("_orig_mod" in module._modules for module in model.modules())


class ActivationProbe:
    """The outputs of a model's activations in the steps that were looked at."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._compiled = model, is_compiled(model)
        self.called: set[str] = set()
        self._shares: list[tuple[str, str, Tensor]] = []
        self._least: dict[tuple[str, str], float] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, calls are looked at."""
        with ExitStack() as stack:
            for name, module in () if self._compiled else plainly_named(self._model):
                if not isinstance(module, torch.jit.ScriptModule):  # It takes no hook.
                    stack.callback(module.register_forward_hook(partial(self._on_call, name)).remove)
            yield

    def rows(self) -> tuple[ActivationSeen, ...]:
        """All activations that were called. The CPU waits for the device here."""
        for name, what, share in self._shares:
            self._least[name, what] = min(self._least.get((name, what), 1.0), float(share))
        self._shares = []
        names = dict.fromkeys(name for name, _ in self._least)
        return tuple(ActivationSeen(name, self._least.get((name, "zeros"), 0.0), self._least.get((name, "flat"), 0.0)) for name in names)

    def _on_call(self, name: str, module: nn.Module, _inputs: Any, output: Any) -> None:  # Any: what a module takes and gives.
        if not torch.is_grad_enabled():
            return
        self.called.add(name)
        if not isinstance(output, Tensor) or output.layout != torch.strided or not output.numel() or not output.is_floating_point():
            return
        value = output.detach()
        if isinstance(module, _ZERO) and module.training:
            self._shares.append((name, "zeros", (value == 0).float().mean()))
        limits = _FLAT.get(type(module))
        if limits is not None:
            self._shares.append((name, "flat", near_limits(value, *limits)))


def near_limits(value: Tensor, low: float, high: float) -> Tensor:
    """The share of `value` that is next to one of the limits."""
    return ((value < low + _NEAR) | (value > high - _NEAR)).float().mean()


def on_eval(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of normalisations that train in eval mode without statistics, and of dropouts that are off beside layers that train."""
    modules = dict(plainly_named(model))
    normal, dropout = list[str](), list[str]()
    for name, module in modules.items():
        if module.training:
            continue
        if isinstance(module, _BatchNorm) and module.num_batches_tracked is not None and not int(module.num_batches_tracked):
            normal.append(name)
        parent = modules[name.rpartition(".")[0]]
        if isinstance(module, _DropoutNd) and module.p > 0.0 and any(one.requires_grad for one in parent.parameters()):
            dropout.append(name)
    return normal, dropout


class Dropouts(TorchFunctionMode):
    """Within, calls of dropout that is on are counted, whichever module or function makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # Any: any call of torch.
        given = kwargs or {}
        if getattr(function, "__name__", "").rstrip("_") in _DROPOUTS:
            rate = args[1] if len(args) > 1 else given.get("p", 0.5)
            training = args[2] if len(args) > 2 else given.get("training", given.get("train", True))
            self.count += bool(training) and rate > 0.0
        return function(*args, **given)
