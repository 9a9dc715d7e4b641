"""Paired evidence about seeds at an epoch's end: shadow validation of those that learn beside the host, evaluation of those in it."""

import math
from typing import Literal

from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated, Stage
from esper.kasmina.host import Host
from esper.kasmina.slots import Slot
from esper.tolaria.adaptation import Now
from esper.tolaria.evaluation import Evaluator, Losses, Paired, compare
from esper.tolaria.journal import Journal
from esper.tolaria.progress import Memory, Place
from esper.tolaria.settings import Schedule


class Examiner:
    """Evaluates seeds that are due, says what came out, and remembers it for the next SystemState."""

    def __init__(self, *, host: Host, evaluator: Evaluator, memory: Memory, journal: Journal, schedule: Schedule) -> None:
        self._host, self._evaluator, self._memory, self._journal, self._schedule = host, evaluator, memory, journal, schedule

    def examine(self, losses: Losses, now: Now) -> None:
        """Evaluates every seed that is due; `losses` are those of the model as it stands.

        A seed in TRAINING is due once it has trained for `train_epochs`: each alpha is tried, the largest mean gain is kept, and k
        says how many were tried, since the best of many is better by luck. A seed in EVALUATING is
        compared with the model without it, and so is one in FINE_TUNING that is about to be fossilized; never with how the model was
        before the graft, for the host has adapted to it since.
        """
        seeds = sorted(self._host.seeds.items())
        for place, seed in seeds:
            if self._is_due(seed, now):
                alpha, best = self._best_blend(place, losses)
                self._say("shadow", place, best, now, alpha=alpha, k=len(self._schedule.alphas))
        for place, seed in seeds:
            if self._is_judged(seed, now):
                with self._host.override_alpha({place: 0.0}):
                    without = self._evaluator.losses()
                assert seed.alpha is not None
                self._say("evaluation", place, compare(without, losses), now, alpha=seed.alpha, k=1)

    def _is_due(self, seed: Slot, now: Now) -> bool:
        return seed.stage is Stage.TRAINING and not seed.recovering and now.epoch - seed.since_epoch >= self._schedule.train_epochs

    def _is_judged(self, seed: Slot, now: Now) -> bool:
        tuned = now.epoch - seed.since_epoch >= self._schedule.fine_tune_epochs or now.epochs_left <= 1
        return (seed.stage is Stage.EVALUATING or (seed.stage is Stage.FINE_TUNING and tuned)) and not seed.recovering

    def _best_blend(self, place: Place, losses: Losses) -> tuple[float, Paired]:
        tried: list[tuple[float, Paired]] = []
        for alpha in self._schedule.alphas:
            with self._host.override_alpha({place: alpha}):
                tried.append((alpha, compare(losses, self._evaluator.losses())))
        # A NaN gain never wins over a number; where every gain is NaN, that is what is said.
        return max(tried, key=lambda one: (not math.isnan(one[1].mean), one[1].mean))

    def _say(self, purpose: Literal["shadow", "evaluation"], place: Place, pair: Paired, now: Now, *, alpha: float, k: int) -> None:
        site, slot = place
        life = self._host.seeds[place].life
        assert life is not None
        evaluation = Evaluation(
            epoch=now.epoch,
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
        self._memory.evaluations[site, slot, now.epoch] = self._journal.emit(event, epoch=now.epoch, step=now.step)
        self._memory.progress = self._memory.progress.noted(site, slot, evaluation=evaluation)
