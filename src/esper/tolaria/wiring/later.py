"""Weights from one epoch's end to the next, by 32 numbers of each: those that fade away, and those that no longer change."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.tolaria.wiring.findings import Finding
from esper.tolaria.wiring.parameters import places_of

_FADED = 0.15
"""The share of its largest size below which a matrix of weights has faded."""
_STILL = 0.75
"""The share of numbers that stay what they were where updates are lost; as many have changed in an epoch before."""
_LEAST_NUMBERS = 64
"""Fewer numbers that are looked at say nothing about the others."""


class _Row(NamedTuple):
    name: str
    parameter: nn.Parameter
    places: Tensor
    size: int


class WeightHistory:
    """The weights of a model at the last epoch's end, and the largest size of each so far."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        learning = ((name, one) for name, one in named if one.requires_grad and one.numel() and one.is_floating_point())
        self._rows = [_Row(name, one, places_of(one), one.numel()) for name, one in learning]
        self._largest: dict[str, float] = {}
        self._moved = False
        self._before = self._now()
        self._sizes(self._before)

    def equal(self) -> Iterator[Finding]:
        """All matrices of weights, more than one, begin as one number each.

        Scales do so by nature, and heads at zero: one that has rows and columns must begin as another number.
        """
        matrices = {name: one for name, one, *_ in self._rows if one.dim() > 1 and one.numel() > 1}
        alike = [name for name in matrices if bool((self._before[name] == self._before[name][0]).all())]
        filled = any(one.numel() > max(one.shape) and float(self._before[name][0]) != 0.0 for name, one in matrices.items())
        if len(alike) > 1 and len(alike) == len(matrices) and filled:
            yield Finding("weights-equal", f"{len(alike)} of {len(matrices)} matrices of weights", alike)

    def after_epoch(self, rates: Sequence[float]) -> list[Finding]:
        """The findings at an epoch's end, whose learning rates were `rates`."""
        now = self._now()
        found = [*self._faded(self._sizes(now)), *self._still(now, rates)]
        self._before = now
        return found

    def _faded(self, sizes: Mapping[str, float]) -> Iterator[Finding]:
        faded = [name for name, one, *_ in self._rows if one.dim() > 1 and sizes[name] < _FADED * self._largest[name]]
        if faded:
            least = min(faded, key=lambda name: sizes[name] / self._largest[name])
            yield Finding("weights-faded", f"{least} has {100 * sizes[least] / self._largest[least]:.2g} % of the size that it had", faded)

    def _still(self, now: Mapping[str, Tensor], rates: Sequence[float]) -> Iterator[Finding]:
        learning = {name: now[name] for name in self._with_rate(rates)}
        same = sum(int((values == self._before[name]).sum()) for name, values in learning.items())
        total = sum(map(len, learning.values()))
        if not total:
            return
        share = same / total
        if share < 1 - _STILL:
            self._moved = True
        elif self._moved and share > _STILL and total >= _LEAST_NUMBERS and share < 1.0:
            yield Finding("updates-lost", f"{same:,} of {total:,} numbers that were looked at are what they were an epoch before")

    def _with_rate(self, rates: Sequence[float]) -> list[str]:
        """Parameters whose group has a learning rate above 0."""
        groups = [group for group, rate in zip(self._optimizer.param_groups, rates, strict=False) if rate > 0.0]
        own = {id(one) for group in groups for one in group["params"]}
        return [row.name for row in self._rows if row.parameter.requires_grad and id(row.parameter) in own]

    def _now(self) -> dict[str, Tensor]:
        """The numbers that are looked at. A parameter that has changed its size or device is left out from then on."""
        self._rows = [row for row in self._rows if (row.parameter.numel(), row.parameter.device) == (row.size, row.places.device)]
        kinds = defaultdict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]](list)
        for name, one, places, _ in self._rows:
            kinds[one.device, one.dtype].append((name, one.detach().flatten()[places]))
        found = dict[str, Tensor]()
        for rows in kinds.values():  # The CPU waits here, once an epoch for each device and type of numbers.
            values = torch.cat([part for _, part in rows]).cpu().double()
            found |= zip((name for name, _ in rows), values.split([len(part) for _, part in rows]), strict=True)
        return found

    def _sizes(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        sizes = {name: float(part.square().mean().sqrt()) for name, part in values.items()}
        for name, size in sizes.items():
            self._largest[name] = max(size, self._largest.get(name, 0.0))
        return sizes
