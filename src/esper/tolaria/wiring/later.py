"""Weights from one epoch's end to the next, by 32 numbers of each: those that fade away, and those that no longer change."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from esper.tolaria.wiring.findings import Finding
from esper.tolaria.wiring.parameters import places_of

_FADED = 0.15
_STILL = 0.75
_LEAST_NUMBERS = 64
"""Fewer numbers that are looked at say nothing about the others."""


class WeightHistory:
    """The weights of a model at the last epoch's end, and the largest size of each so far."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._places = [(name, one, places_of(one)) for name, one in named if one.requires_grad and one.numel() and one.is_floating_point()]
        self._largest: dict[str, float] = {}
        self._moved = False
        self._before = self._now()
        self._sizes(self._before)

    def equal(self) -> Iterator[Finding]:
        """All matrices of weights, more than one, begin as one number each."""
        matrices = {name: self._before[name] for name, one, _ in self._places if one.dim() > 1 and one.numel() > 1}
        alike = [name for name, values in matrices.items() if bool((values == values[0]).all())]
        if len(alike) > 1 and len(alike) == len(matrices):
            yield Finding("weights-equal", f"{len(alike)} of {len(matrices)} matrices of weights", alike)

    def after_epoch(self, rates: Sequence[float]) -> list[Finding]:
        """The findings at an epoch's end, whose learning rates were `rates`."""
        now = self._now()
        found = [*self._faded(self._sizes(now)), *(self._still(now) if any(rates) else ())]
        self._before = now
        return found

    def _faded(self, sizes: Mapping[str, float]) -> Iterator[Finding]:
        faded = [name for name, one, _ in self._places if one.dim() > 1 and sizes[name] < _FADED * self._largest[name]]
        if faded:
            least = min(faded, key=lambda name: sizes[name] / self._largest[name])
            yield Finding("weights-faded", f"{least} has {100 * sizes[least] / self._largest[least]:.2g} % of the size that it had", faded)

    def _still(self, now: Mapping[str, Tensor]) -> Iterator[Finding]:
        learning = {name: now[name] for name, one, _ in self._places if one.requires_grad}
        same = sum(int((values == self._before[name]).sum()) for name, values in learning.items())
        total = sum(map(len, learning.values()))
        share = same / total if total else 0.0
        if share < 1 - _STILL:
            self._moved = True
        elif self._moved and share > _STILL and total >= _LEAST_NUMBERS and share < 1.0:
            yield Finding("updates-lost", f"{same:,} of {total:,} numbers that were looked at are what they were an epoch before")

    def _now(self) -> dict[str, Tensor]:
        if not self._places:
            return {}
        values = torch.cat([one.detach().flatten()[places].double().cpu() for _, one, places in self._places])
        parts = values.split([len(places) for *_, places in self._places])
        return {name: part for (name, *_), part in zip(self._places, parts, strict=True)}

    def _sizes(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        sizes = {name: float(part.square().mean().sqrt()) for name, part in values.items()}
        for name, size in sizes.items():
            self._largest[name] = max(size, self._largest.get(name, 0.0))
        return sizes
