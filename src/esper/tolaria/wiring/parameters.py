"""Gradients and changes of the parameters in the first epoch, in a few of its steps; read from the device when a span ends.

Of a parameter looked at are the number with the largest gradient, which must change in a step, and 32 numbers all over it, for the size of
the change. What a parameter has shown once is not looked for again.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.kasmina.calls import unwrapped
from esper.tolaria.wiring.judging import ParameterSeen

PLACES = 32
"""Numbers of a parameter that are looked at."""
_COUPLED = frozenset(
    getattr(torch.optim, name) for name in ("SGD", "Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD")
)
"""Optimizers that add their weight decay to the gradient. Others, and classes made of these, may multiply the weights by it."""


@dataclass(eq=False)
class _Watched:
    name: str
    parameter: nn.Parameter
    module: str
    alone: bool
    group: int | None
    places: Tensor
    at_first: Tensor
    gradient: bool | None = None
    changed: bool = False


@dataclass(eq=False)
class ParameterProbe:
    """The trainable parameters of a model that are in `own`, and what their steps have shown so far."""

    model: nn.Module
    own: Iterable[nn.Parameter]
    optimizer: Optimizer
    update_ratios: list[float] = field(default_factory=list)
    decay_ratios: list[tuple[int, float]] = field(default_factory=list)
    """Parameter groups with the size of their weight decay over that of their gradient, each in one step."""

    def __post_init__(self) -> None:
        groups = {id(one): number for number, group in enumerate(self.optimizer.param_groups) for one in group["params"]}
        inner, own = unwrapped(self.model), {id(one) for one in self.own}
        modules = dict(inner.named_modules())  # A script's get_submodule raises.
        self._rows: list[_Watched] = []
        for name, parameter in inner.named_parameters():
            if parameter.requires_grad and id(parameter) in own and parameter.numel() and parameter.is_floating_point():
                module = name.rpartition(".")[0]
                alone = next(modules[module].children(), None) is not None
                places = places_of(parameter)
                first = _at(parameter, places)
                self._rows.append(_Watched(name, parameter, module, alone, groups.get(id(parameter)), places, first))
        self._before: list[tuple[_Watched, Tensor, Tensor]] = []
        self._flags: list[tuple[_Watched, str, Tensor]] = []
        self._sizes: list[list[Tensor]] = []
        self._pulls: list[tuple[int, list[Tensor]]] = []

    def with_gradient(self) -> list[str]:
        """The parameters of the optimizer that have a gradient now, before the backward pass."""
        return [row.name for row in self._rows if row.group is not None and row.parameter.grad is not None]

    def before_step(self) -> None:
        """Looks at the gradients, and keeps what the step is to change."""
        self._before = []
        pulls = defaultdict[int, list[Tensor]](list)
        for row in self._rows:
            gradient = row.parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            largest = gradient.detach().abs().flatten().argmax()[None]
            if not row.gradient:
                row.gradient = False
                self._flags.append((row, "gradient", _at(gradient, largest)[0] != 0))
            places = torch.cat((largest, row.places))
            self._before.append((row, places, _at(row.parameter, places)))
            if row.group is not None and (decay := _coupled_decay(self.optimizer, row.group)):
                both = torch.stack((decay * _at(row.parameter, row.places), _at(gradient, row.places).to(row.parameter))).double()
                pulls[row.group].append(both.square().mean(1) * row.parameter.numel())
        self._pulls += pulls.items()

    def after_step(self) -> None:
        """Looks at what the step has changed."""
        sizes = []
        for row, places, before in self._before:
            after = _at(row.parameter, places)
            if not row.changed:
                self._flags.append((row, "changed", (after != before).any()))
            change, size = (after - before)[1:].float(), before[1:].float()
            sizes.append(torch.stack((change.square().mean(), size.square().mean())) * row.parameter.numel())
        self._before = []
        if sizes:
            self._sizes.append(sizes)

    def settle(self) -> None:
        """Reads what was looked at: the CPU waits for the device here."""
        if self._flags:
            for (row, what, _), flag in zip(self._flags, _read([flag for *_, flag in self._flags]), strict=True):
                setattr(row, what, bool(getattr(row, what)) or bool(flag))
        for sizes in self._sizes:
            pairs = [tuple(pair) for pair in _on_cpu(sizes).tolist()]
            known = [(change, size) for change, size in pairs if size > 0.0]  # What begins at zero has no size to compare with.
            total = sum(size for _, size in known)
            if total > 0.0:
                self.update_ratios.append(math.sqrt(sum(change for change, _ in known) / total))
        for group, parts in self._pulls:
            pull, force = _on_cpu(parts).sum(0).tolist()
            self.decay_ratios.append((group, math.sqrt(pull / force) if force > 0.0 else 0.0))
        self._flags, self._sizes, self._pulls = [], [], []

    def rows(self, called: Iterable[str], rates: Sequence[float]) -> tuple[ParameterSeen, ...]:
        """All parameters; `called` are names of modules, `rates` the largest learning rate of each group so far."""
        self.settle()
        by_others = _read([(_at(row.parameter, row.places) != row.at_first).any() for row in self._rows]) if self._rows else []
        names = set(called)
        return tuple(
            ParameterSeen(
                name=row.name,
                module=row.module,
                alone=row.alone,
                size=row.parameter.numel(),
                group=row.group,
                called=row.module in names,
                gradient=row.gradient,
                changed=row.changed or bool(other),
                rate=0.0 if row.group is None else rates[row.group],
            )
            for row, other in zip(self._rows, by_others, strict=True)
        )


def places_of(parameter: Tensor) -> Tensor:
    """Places of up to 32 numbers, all over it."""
    number = min(PLACES, parameter.numel())
    return torch.arange(number, device=parameter.device) * (parameter.numel() - 1) // max(1, number - 1)


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    return tensor.detach().flatten()[places]


def _coupled_decay(optimizer: Optimizer, number: int) -> float:
    """The weight decay that is added to the gradient; 0 where there is none, or it may be apart from the gradient, as AdamW's."""
    group: dict[str, Any] = optimizer.param_groups[number]  # Any: options of an optimizer.
    coupled = type(optimizer) in _COUPLED and not group.get("decoupled_weight_decay")
    return float(group.get("weight_decay") or 0.0) if coupled else 0.0


def _read(flags: Sequence[Tensor]) -> list[bool]:
    return [bool(flag) for flag in _on_cpu(flags).tolist()]


def _on_cpu(tensors: Sequence[Tensor]) -> Tensor:
    """A stack of tensors of any devices, with one transfer where they are on one."""
    devices = {one.device for one in tensors}
    return torch.stack(list(tensors)).cpu() if len(devices) == 1 else torch.stack([one.cpu() for one in tensors])
