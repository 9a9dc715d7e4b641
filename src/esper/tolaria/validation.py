"""Losses on the validation data, and paired evidence about seeds: shadow validation beside the host, evaluation in it.

Shapes: N samples (or batches, where the loss function gives one number a batch), M parts (`esper.tolaria.pairs`), always in the same order.
"""

import math
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import length_hint
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esper.errors import DataError
from esper.events.kinds.epoch import Measured
from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, Stage
from esper.events.kinds.run import Pairs
from esper.folds.seeds import SeedKey
from esper.kasmina.calls import Calls, calls_of
from esper.kasmina.slots import HostSlot
from esper.tolaria.determinism import seed_epoch, seed_own, undisturbed, untouched
from esper.tolaria.objective import Batch, Batches, Objective, to_device
from esper.tolaria.pairs import Measure, find_pairs, given
from esper.tolaria.training import Training
from esper.tolaria.user_code import Noted

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """Losses over a data set: `values` [N] float64, `weights` [N] samples behind each, sample-weighted means of metrics.

    `parts` are the losses [M] that are compared with those of another pass, with the samples behind each [M].
    """

    values: _Floats
    weights: _Floats
    metrics: Mapping[str, float]
    parts: tuple[_Floats, _Floats]

    @property
    def mean(self) -> float:
        """The sample-weighted mean loss; NaN as soon as one value is."""
        return float(np.average(self.values, weights=self.weights))

    @property
    def measured(self) -> Measured:
        """The means with their number of samples."""
        return Measured(loss=self.mean, metrics=dict(self.metrics), samples=int(self.weights.sum()))

    def named(self, data: str) -> dict[str, float]:
        """The means by name, like `data`_loss."""
        return {f"{data}_loss": self.mean, **{f"{data}_{name}": value for name, value in self.metrics.items()}}


@dataclass(frozen=True)
class Evaluator:
    """Measures losses in eval mode, without gradients, leaving mode and random state as they were.

    `measure` gives the parts of a batch that are compared; None: the samples that the loss gives a number for, else the batch. `watched`
    is the objective as it is called, where somebody looks on.
    """

    model: nn.Module
    batches: Batches
    objective: Objective
    device: torch.device
    name: str = "validation data"
    measure: Measure | None = None
    watched: Objective | None = None

    def losses(self, *, parts: bool = False) -> Losses:
        """Losses per sample (or batch) in the order of the data. Waits for the device once per data set.

        Without `parts` nothing is cut or asked for `measure`: that takes time, and is for the comparison of seeds.
        """
        measure = self.measure if parts and self.measure else partial(given, self.watched or self.objective)
        with self._evaluating():
            return self._losses(measure)

    def find_pairs(self, least: int) -> Pairs:
        """The pairs that the data give, where `least` are needed. A pass over the data, and one more where their length is unknown."""
        with self._evaluating():
            length = (length_hint(self.batches) if isinstance(self.batches, Sized) else 0) or sum(1 for _ in self.batches)
            self._begin()
            batches = (to_device(batch, self.device) for batch in self.batches)
            return find_pairs(self.model, batches, self.objective, length=length, least=least)

    def calls(self, rng_seed: int) -> Calls:
        """The way of a pass on the first batch, in train mode, through the model's layers; model, data and random state stay as they were.

        Nothing is known where the pass fails, as it may on a batch that is not one to train on: what cannot grow shows while it trains.
        """
        with undisturbed(self.device), untouched((self.batches, self.objective)):
            seed_epoch(rng_seed, 0)
            self._begin()
            try:
                batch = to_device(next(iter(self.batches)), self.device)
                return calls_of(self.model, lambda model: self.objective(model, batch)[0])
            except Exception:
                return Calls()  # The user's code, perhaps on a batch that it was not written for.

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            with undisturbed(self.device), torch.no_grad():
                self._begin()
                yield
        finally:
            self.model.train(was_training)

    def _begin(self) -> None:
        seed_own((self.batches, self.objective), 0, 0)  # The same order at each pass: differences are taken in pairs.

    def _losses(self, measure: Measure) -> Losses:
        values, weights, parts, sizes = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
        sums: dict[str, list[Tensor]] = {}
        for number, batch in enumerate(self._batches(), 1):
            with Noted(f"on batch {number} of the {self.name}"):
                found = measure(self.model, to_device(batch, self.device))
            count = found.loss.numel()
            values.append(found.loss.reshape(-1).double())
            weights.append(torch.full((count,), found.samples / count, dtype=torch.float64))
            parts.append(found.values)
            sizes.append(found.weights)
            for name, metric in found.metrics.items():
                sums.setdefault(name, []).append(metric.double().mean() * found.samples)
        if not values:
            raise DataError(f"the {self.name} is empty: expected at least one batch, got none")
        total = float(torch.cat(weights).sum())
        means = {name: float(torch.stack(products).sum()) / total for name, products in sums.items()}
        compared = torch.cat(parts).cpu().numpy(), torch.cat(sizes).cpu().numpy()
        return Losses(torch.cat(values).cpu().numpy(), torch.cat(weights).numpy(), means, compared)

    def _batches(self) -> Iterator[Batch]:
        with Noted(f"raised by the {self.name}"):
            yield from self.batches


def paired_evaluation(without: Losses, with_seed: Losses, *, epoch: int, alpha: float, k: int, look: int) -> Evaluation:
    """The gain d = loss(without) - loss(with) of two passes over the same data, paired and weighted by samples, with its standard error.

    With shares p = weight / sum of weights: mean = sum(p d), and with r = p (d - mean) / sqrt(1 - p): standard error = sqrt(sum(r^2)),
    which is sd / sqrt(n) where all weights are equal, and without bias where d is a mean over as many samples as it weighs; skewness =
    sum(r^3) / standard error^3, which is that of d over sqrt(n). Source: the HC2 estimator for the mean (Horn, Horn and Duncan 1975,
    J. Am. Stat. Assoc. 70, 380; MacKinnon and White 1985). Cochran's estimator of a ratio, as in Gatz and Smith (1995, Atmos. Environ. 29,
    1185), is too small for few and unequal batches: by 10 % in variance for 64, 64, 64 and 2 samples.
    Fewer than two pairs have no standard error: it is NaN. Pairs that all differ by the same have no skewness: it is 0.
    `epoch`, `alpha`, `k` and `look` are those of `Evaluation`.
    """
    (values, weights), (values_with, _) = without.parts, with_seed.parts
    difference, share = values - values_with, weights / weights.sum()
    mean, n = float(share @ difference), len(difference)
    with np.errstate(invalid="ignore"):  # A loss that is infinite has no standard error: NaN.
        residuals = share * (difference - mean) / np.sqrt(1.0 - share) if n > 1 else np.full(n, math.nan)
        error = float(np.sqrt(np.sum(residuals**2)))
        skewness = float(np.sum((residuals / error) ** 3)) if error else 0.0
    return Evaluation(
        epoch=epoch,
        alpha=alpha,
        n=n,
        k=k,
        look=look,
        mean=mean,
        standard_error=error,
        skewness=skewness,
        loss_without=without.mean,
        loss_with=with_seed.mean,
    )


def is_seed_due(training: Training) -> bool:
    """True where a seed is evaluated at this epoch's end."""
    return any(_look(training, seed) for seed in training.host.seeds.values())


def evaluate_seeds(training: Training, evaluator: Evaluator, losses: Losses) -> None:
    """Evaluate every seed that is due, record it, and keep it for the next SystemState.

    `losses`, with parts where a seed is due, are those of the model as it is.

    A seed in TRAINING is due once it has trained for `train_epochs`: each alpha is tried, the one with the largest mean gain is kept, and
    k counts them, since the best of many is better by luck. A seed in EVALUATING is compared with the model without it, and so is one in
    FINE_TUNING that is about to be fossilized; never with the model before the graft, for the host has adapted to the seed since.
    """

    def losses_at(place: SeedKey, alpha: float) -> Losses:
        with training.host.override_alpha({place: alpha}):
            return evaluator.losses(parts=True)

    seeds = sorted(training.host.seeds.items())
    for place, seed in seeds:
        if seed.stage is Stage.TRAINING and _look(training, seed):
            _record(training, "shadow", place, [(alpha, losses, losses_at(place, alpha)) for alpha in training.schedule.alphas])
    for place, seed in seeds:
        if seed.stage is not Stage.TRAINING and _look(training, seed):
            without = losses_at(place, 0.0)
            assert seed.alpha is not None
            _record(training, "evaluation", place, [(seed.alpha, without, losses)])


def _look(training: Training, seed: HostSlot) -> int:
    """Which look at the seed in its stage is due at this epoch's end, from 1; 0: none."""
    epoch, schedule = training.counters.epoch, training.schedule
    if seed.recovering:
        return 0
    lasted = epoch - seed.since_epoch
    if seed.stage is Stage.TRAINING:
        return max(0, lasted - schedule.train_epochs + 1)
    if seed.stage is Stage.EVALUATING:
        return max(1, lasted - schedule.evaluate_epochs + 1)  # It is recorded before it may be decided.
    if seed.stage is Stage.FINE_TUNING:
        return max(int(training.settings.epochs - epoch <= 1), lasted - schedule.fine_tune_epochs + 1)
    return 0


def _record(
    training: Training, purpose: Literal["shadow", "evaluation"], place: SeedKey, tried: list[tuple[float, Losses, Losses]]
) -> None:
    """Record the best of `tried`: an alpha with the losses without and with the seed."""
    (site, seed), epoch, life = place, training.counters.epoch, training.host.seeds[place].life
    look = _look(training, training.host.seeds[place])
    assert life is not None
    compared = [
        (paired_evaluation(without, with_seed, epoch=epoch, alpha=alpha, k=len(tried), look=look), without, with_seed)
        for alpha, without, with_seed in tried
    ]
    # A NaN gain never wins over a number; where every gain is NaN, NaN is recorded.
    evaluation, without, with_seed = max(compared, key=lambda one: (not math.isnan(one[0].mean), one[0].mean))
    event = SeedEvaluated(
        site=site,
        seed=seed,
        life=life,
        purpose=purpose,
        evaluation=evaluation,
        metrics_without=dict(without.metrics),
        metrics_with=dict(with_seed.metrics),
    )
    training.evaluations[site, seed, epoch] = training.emit(event)
    training.progress = training.progress.noted(site, seed, evaluation=evaluation)
