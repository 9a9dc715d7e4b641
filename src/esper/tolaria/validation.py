"""Losses on the validation data, and their paired difference with and without one seed.

Shapes: N samples (or batches, where the loss function gives one number a batch), always in the same order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esper.errors import DataError
from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, Stage
from esper.kasmina.slots import HostSlot
from esper.tolaria.determinism import seed_own, undisturbed
from esper.tolaria.objective import Batches, Objective, size_of, to_device
from esper.tolaria.trainer_state import Place
from esper.tolaria.training import Training

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


def evaluate_seeds(training: Training, evaluator: Evaluator, losses: Losses) -> None:
    """Evaluate every seed that is due, record it, and keep it for the next SystemState; `losses` are those of the model as it is.

    A seed in TRAINING is due once it has trained for `train_epochs`: each alpha is tried, the largest mean gain is kept, and k
    says how many were tried, since the best of many is better by luck. A seed in EVALUATING is
    compared with the model without it, and so is one in FINE_TUNING that is about to be fossilized; never with how the model was
    before the graft, for the host has adapted to it since.
    """
    seeds = sorted(training.host.seeds.items())
    for place, seed in seeds:
        if _needs_shadow(training, seed):
            alpha, best = _best_blend(training, evaluator, place, losses)
            _record(training, "shadow", place, best, alpha=alpha, k=len(training.schedule.alphas))
    for place, seed in seeds:
        if _needs_evaluation(training, seed):
            with training.host.override_alpha({place: 0.0}):
                without = evaluator.losses()
            assert seed.alpha is not None
            _record(training, "evaluation", place, paired_difference(without, losses), alpha=seed.alpha, k=1)


def _needs_shadow(training: Training, seed: HostSlot) -> bool:
    lasted = training.counters.epoch - seed.since_epoch
    return seed.stage is Stage.TRAINING and not seed.recovering and lasted >= training.schedule.train_epochs


def _needs_evaluation(training: Training, seed: HostSlot) -> bool:
    epoch = training.counters.epoch
    tuned = epoch - seed.since_epoch >= training.schedule.fine_tune_epochs or training.settings.epochs - epoch <= 1
    return (seed.stage is Stage.EVALUATING or (seed.stage is Stage.FINE_TUNING and tuned)) and not seed.recovering


def _best_blend(training: Training, evaluator: Evaluator, place: Place, losses: Losses) -> tuple[float, Paired]:
    tried: list[tuple[float, Paired]] = []
    for alpha in training.schedule.alphas:
        with training.host.override_alpha({place: alpha}):
            tried.append((alpha, paired_difference(losses, evaluator.losses())))
    # A NaN gain never wins over a number; where every gain is NaN, NaN is recorded.
    return max(tried, key=lambda one: (not math.isnan(one[1].mean), one[1].mean))


def _record(training: Training, purpose: Literal["shadow", "evaluation"], place: Place, pair: Paired, *, alpha: float, k: int) -> None:
    (site, slot), epoch = place, training.counters.epoch
    life = training.host.seeds[place].life
    assert life is not None
    evaluation = Evaluation(
        epoch=epoch,
        alpha=alpha,
        n=pair.n,
        k=k,
        mean=pair.mean,
        standard_error=pair.standard_error,
        loss_without=pair.without.mean,
        loss_with=pair.with_seed.mean,
    )
    event = SeedEvaluated(
        site=site,
        seed=slot,
        life=life,
        purpose=purpose,
        evaluation=evaluation,
        metrics_without=dict(pair.without.metrics),
        metrics_with=dict(pair.with_seed.metrics),
    )
    training.evaluations[site, slot, epoch] = training.emit(event)
    training.progress = training.progress.noted(*place, evaluation=evaluation)
