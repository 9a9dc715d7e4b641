"""Losses on the validation data, and their paired difference with and without one seed.

Shapes: N samples (or batches, where the loss function gives one number a batch), always in the same order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esper.errors import DataError
from esper.tolaria.determinism import seed_own, undisturbed
from esper.tolaria.objective import Batches, Objective, size_of, to_device

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """Losses over a data set: `values` [N] float64, `weights` [N] samples behind each, sample-weighted means of metrics."""

    values: Floats
    weights: Floats
    metrics: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The sample-weighted mean loss; NaN as soon as one value is."""
        return float(np.average(self.values, weights=self.weights))

    @property
    def samples(self) -> int:
        """Number of samples behind the mean."""
        return int(self.weights.sum())


@dataclass(frozen=True)
class Paired:
    """The paired difference loss(without) - loss(with) over `n` pairs: its mean and standard error, and both sides' means."""

    n: int
    mean: float
    standard_error: float
    without: Losses
    with_seed: Losses


class Evaluator:
    """Measures losses in eval mode, without gradients, leaving mode and random state as they were."""

    def __init__(
        self, model: nn.Module, batches: Batches, objective: Objective, device: torch.device, *, name: str = "validation data"
    ) -> None:
        self._model, self._batches, self._objective, self._device, self._name = model, batches, objective, device, name

    def losses(self) -> Losses:
        """Losses per sample (or batch) in the order of the data. Waits for the device once per data set."""
        was_training = self._model.training
        self._model.eval()
        try:
            with undisturbed(self._device), torch.no_grad():
                seed_own(self._batches, 0, 0)  # The same order at each pass: differences are taken in pairs.
                return self._measure()
        finally:
            self._model.train(was_training)

    def _measure(self) -> Losses:
        values: list[Tensor] = []
        weights: list[Tensor] = []
        sums: dict[str, list[Tensor]] = {}
        for batch in self._batches:
            loss, metrics = self._objective.measure(self._model, to_device(batch, self._device))
            count = size_of(batch)
            values.append(loss.reshape(-1).double())
            weights.append(torch.full((loss.numel(),), count / loss.numel(), dtype=torch.float64))
            for name, metric in metrics.items():
                sums.setdefault(name, []).append(metric.double().mean() * count)
        if not values:
            raise DataError(f"the {self._name} is empty: expected at least one batch, got none")
        total = float(torch.cat(weights).sum())
        means = {name: float(torch.stack(parts).sum()) / total for name, parts in sums.items()}
        return Losses(torch.cat(values).cpu().numpy(), torch.cat(weights).numpy(), means)


def paired_difference(without: Losses, with_seed: Losses) -> Paired:
    """The paired difference of two passes over the same data; standard error sd / sqrt(n) with n - 1 degrees of freedom.

    Fewer than two pairs have no standard error: it is NaN, and nobody can be confident.
    """
    difference = without.values - with_seed.values
    n = len(difference)
    error = float(np.std(difference, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Paired(n, float(np.mean(difference)), error, without, with_seed)
