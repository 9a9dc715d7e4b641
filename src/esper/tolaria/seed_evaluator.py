"""Paired evidence about seeds at an epoch's end: shadow validation of those that learn beside the host, evaluation of those in it."""

import math
from typing import Literal

from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, Stage
from esper.kasmina.host import Host
from esper.kasmina.slots import Slot
from esper.tolaria.adaptation import EpochEnd
from esper.tolaria.event_sink import EventSink
from esper.tolaria.settings import Schedule
from esper.tolaria.trainer_state import Place, TrainerState
from esper.tolaria.validation import Evaluator, Losses, Paired, paired_difference


class SeedEvaluator:
    """Evaluates seeds that are due, records the result, and keeps it for the next SystemState."""

    def __init__(self, *, host: Host, evaluator: Evaluator, trainer_state: TrainerState, sink: EventSink, schedule: Schedule) -> None:
        self._host, self._evaluator, self._trainer_state, self._sink, self._schedule = host, evaluator, trainer_state, sink, schedule

    def evaluate_due(self, losses: Losses, end: EpochEnd) -> None:
        """Evaluates every seed that is due; `losses` are those of the model as it stands.

        A seed in TRAINING is due once it has trained for `train_epochs`: each alpha is tried, the largest mean gain is kept, and k
        says how many were tried, since the best of many is better by luck. A seed in EVALUATING is
        compared with the model without it, and so is one in FINE_TUNING that is about to be fossilized; never with how the model was
        before the graft, for the host has adapted to it since.
        """
        seeds = sorted(self._host.seeds.items())
        for place, seed in seeds:
            if self._is_due(seed, end):
                alpha, best = self._best_blend(place, losses)
                self._say("shadow", place, best, end, alpha=alpha, k=len(self._schedule.alphas))
        for place, seed in seeds:
            if self._is_judged(seed, end):
                with self._host.override_alpha({place: 0.0}):
                    without = self._evaluator.losses()
                assert seed.alpha is not None
                self._say("evaluation", place, paired_difference(without, losses), end, alpha=seed.alpha, k=1)

    def _is_due(self, seed: Slot, end: EpochEnd) -> bool:
        return seed.stage is Stage.TRAINING and not seed.recovering and end.epoch - seed.since_epoch >= self._schedule.train_epochs

    def _is_judged(self, seed: Slot, end: EpochEnd) -> bool:
        tuned = end.epoch - seed.since_epoch >= self._schedule.fine_tune_epochs or end.epochs_left <= 1
        return (seed.stage is Stage.EVALUATING or (seed.stage is Stage.FINE_TUNING and tuned)) and not seed.recovering

    def _best_blend(self, place: Place, losses: Losses) -> tuple[float, Paired]:
        tried: list[tuple[float, Paired]] = []
        for alpha in self._schedule.alphas:
            with self._host.override_alpha({place: alpha}):
                tried.append((alpha, paired_difference(losses, self._evaluator.losses())))
        # A NaN gain never wins over a number; where every gain is NaN, that is what is said.
        return max(tried, key=lambda one: (not math.isnan(one[1].mean), one[1].mean))

    def _say(self, purpose: Literal["shadow", "evaluation"], place: Place, pair: Paired, end: EpochEnd, *, alpha: float, k: int) -> None:
        site, slot = place
        life = self._host.seeds[place].life
        assert life is not None
        evaluation = Evaluation(
            epoch=end.epoch,
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
        self._trainer_state.evaluations[site, slot, end.epoch] = self._sink.emit(event, epoch=end.epoch, step=end.step)
        self._trainer_state.progress = self._trainer_state.progress.noted(site, slot, evaluation=evaluation)
