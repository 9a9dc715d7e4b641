"""Confidence and urgency computed a second time, in float64, from the records of a log alone.

Written from the catalogue and the design's words, with numpy and scipy; it knows nothing of `esper.tamiyo`, nor of any fold.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

import numpy as np
from scipy.special import betainc, ndtr

from esper.events.envelope import EventId, Record
from esper.events.kinds.control import Adaptation, Command, CommandApplied, CommandIssued, DecisionMade
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedEvaluated, SeedTransitioned, Stage
from esper.events.kinds.run import CheckpointSaved, RunRolledBack, RunStarted
from tests.whole.runs import Told

PAIRS_NEEDED = 8
GATE_CONFIDENCE = 0.7


class Figures(NamedTuple):
    """The two numbers of a decision."""

    confidence: float
    urgency: float


SURE = Figures(1.0, 1.0)


@dataclass
class Known:
    """What the log says up to one EpochCompleted: losses since the last cycle, stages, and this epoch's evaluations by id."""

    settings: dict[str, float]
    planned_epochs: int
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    stage: dict[tuple[str, int], tuple[Stage, int]] = field(default_factory=dict)
    evaluated: dict[EventId, tuple[int, SeedEvaluated]] = field(default_factory=dict)
    saved: dict[str, list[float]] = field(default_factory=dict)

    def take(self, record: Record, event: object) -> None:
        """Takes the next fact."""
        match event:
            case EpochCompleted():
                self.epoch = record.epoch
                assert event.validation is not None
                self.losses.append(event.validation.loss)
            case SeedEvaluated():
                self.evaluated[record.id] = (record.epoch, event)
            case SeedTransitioned():
                self.stage[event.site, event.seed] = (event.to_stage, record.epoch)
            case CommandApplied(command=Command.GRAFT | Command.CULL):
                self.losses = []
            case CheckpointSaved():
                self.saved[event.checkpoint] = list(self.losses)
            case RunRolledBack():
                self.losses = list(self.saved[event.checkpoint])
                self.stage = {(row.site, row.seed): (row.stage, row.since_epoch) for row in event.seeds}
            case _:
                pass

    # The numbers

    def figures(self, decision: DecisionMade) -> Figures:
        """Confidence and urgency of `decision`, which follows from the EpochCompleted taken last."""
        match decision.adaptation:
            case Adaptation.GERMINATE | Adaptation.NONE:
                return self._plateau()
            case Adaptation.GRAFT:
                return Figures(self._confidence(decision, +1, self._tried(decision)), self._urgency(decision, "policy.train_epochs"))
            case Adaptation.FOSSILIZE:
                return Figures(self._confidence(decision, +1), self._urgency(decision, "policy.fine_tune_epochs"))
            case Adaptation.CULL:
                return self._cull(decision)
            case Adaptation.ADVANCE if self._stage(decision) is Stage.EVALUATING:
                return Figures(self._confidence(decision, +1), 1.0)
            case Adaptation.ADVANCE | Adaptation.CANCEL:
                return SURE
            case other:
                assert_never(other)

    def _plateau(self) -> Figures:
        """r = 1 - min(last W) / min(all before), of a loss below 0 a share of a scale.

        Confidence Phi((tolerance - r) / sigma), urgency clip(1 - r / (2 tolerance), 0, 1).
        """
        window = int(self.settings["policy.window"])
        values = np.array(self.losses, dtype=np.float64)
        last, before = values[-window:], values[:-window][np.isfinite(values[:-window])]
        if not len(before) or not np.isfinite(last).all() or values.min() == 0.0:
            return Figures(0.0, 0.0)
        fall, lowest, time = before.min() - last.min(), min(before.min(), last.min()), np.arange(window)
        newest = values[-32:][np.isfinite(values[-32:])]
        scale = before.min() if lowest > 0.0 else max(-lowest, np.median(newest) - lowest)
        improved, course = fall / scale, np.log(last) if lowest > 0.0 else last / scale
        residual = course - np.polyval(np.polyfit(time, course, 1), time)
        sigma = max(self.settings["policy.noise"], float(np.sqrt((residual**2).sum() / (window - 2))))
        tolerance = self.settings["policy.tolerance"]
        return Figures(float(ndtr((tolerance - improved) / sigma)), float(np.clip(1.0 - improved / (2.0 * tolerance), 0.0, 1.0)))

    def _cull(self, decision: DecisionMade) -> Figures:
        """On evidence Phi(-z)^k; for what makes a seed useless whatever it is worth, 1 and 1."""
        stage = self._stage(decision)
        if stage in (Stage.EVALUATING, Stage.FINE_TUNING) and self._evidence(decision):
            confidence = self._confidence(decision, -1)
            if confidence > GATE_CONFIDENCE:
                planned = "policy.evaluate_epochs" if stage is Stage.EVALUATING else "policy.fine_tune_epochs"
                return Figures(confidence, self._urgency(decision, planned))
        return SURE

    def _confidence(self, decision: DecisionMade, sign: int, k: int | None = None) -> float:
        """T(z)^(k l (l + 1)) with z = mean(d) / its standard error, nearer to 0 where it is skewed.

        T is Student's for n - 1 degrees of freedom, by the incomplete beta.
        """
        (evidence,) = self._evidence(decision)
        found = evidence.evaluation
        if found.n < PAIRS_NEEDED:
            return 0.0
        z, s, freedom = np.float64(found.mean) / np.float64(found.standard_error), np.float64(found.skewness), found.n - 1
        hall = np.sign(z) * (z + s * z**2 / 3 + s**2 * z**3 / 27 + s / 6)
        z = sign * np.sign(z) * np.clip(hall, 0.0, np.abs(z))
        tail = 0.5 * betainc(freedom / 2, 0.5, freedom / (freedom + z**2))
        below = 1.0 - tail if z > 0 else tail
        return float(below ** ((found.k if k is None else k) * found.look * (found.look + 1)))

    def _tried(self, decision: DecisionMade) -> int:
        """Every alternative that was tried at the site at this epoch's end: all candidates, all alphas."""
        return sum(
            evaluated.evaluation.k for epoch, evaluated in self.evaluated.values() if (epoch, evaluated.site) == (self.epoch, decision.site)
        )

    def _urgency(self, decision: DecisionMade, planned: str) -> float:
        """Epochs in stage over planned epochs, which are cut to those left; at most 1."""
        left = self.planned_epochs - self.epoch
        since = self.stage[self._place(decision)][1]
        return min(1.0, (self.epoch - since) / max(1, min(int(self.settings[planned]), left)))

    def _evidence(self, decision: DecisionMade) -> list[SeedEvaluated]:
        return [self.evaluated[name][1] for name in decision.evidence if name in self.evaluated]

    def _stage(self, decision: DecisionMade) -> Stage:
        return self.stage[self._place(decision)][0]

    @staticmethod
    def _place(decision: DecisionMade) -> tuple[str, int]:
        assert decision.site is not None
        assert decision.seed is not None
        return decision.site, decision.seed


def each_decision(run: Told, judge: Callable[[Known, Record, DecisionMade], None]) -> int:
    """Calls `judge` for every decision of `run` with what the log knew when it was made; how many there were.

    All decisions of an epoch are made before the first of their commands takes effect, and so stand before it in the log.
    """
    (started,) = run.events_of(RunStarted)
    assert started.epochs is not None
    numbers = {name: float(value) for name, value in started.settings.items() if isinstance(value, int | float)}
    known, count = Known(numbers, started.epochs), 0
    for record in run.records:
        event = run.events[record.id]
        known.take(record, event)
        if isinstance(event, DecisionMade):
            judge(known, record, event)
            count += 1
    return count


def command_of(run: Told) -> dict[EventId, Record]:
    """The record of the command that each decision became, by the decision's id."""
    found: dict[EventId, Record] = {}
    for record, _ in run.of(CommandIssued):
        assert record.cause is not None
        assert record.cause not in found, "a decision becomes one command"
        found[record.cause] = record
    return found
