"""Paired evidence about seeds at an epoch's end: shadow validation of those that learn beside the host, evaluation of those in it."""

import math
from typing import Literal

from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, Stage
from esper.kasmina.slots import Slot
from esper.tolaria.trainer_state import Place
from esper.tolaria.training import Training
from esper.tolaria.validation import Evaluator, Losses, Paired, paired_difference


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


def _needs_shadow(training: Training, seed: Slot) -> bool:
    lasted = training.counters.epoch - seed.since_epoch
    return seed.stage is Stage.TRAINING and not seed.recovering and lasted >= training.schedule.train_epochs


def _needs_evaluation(training: Training, seed: Slot) -> bool:
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
