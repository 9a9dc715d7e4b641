"""The verdict on what a training that came to its end has learned, against the best constant output."""

from esper.events.kinds.wiring_findings import OutcomeJudged
from esper.tolaria.training import Training
from esper.tolaria.wiring.judging import verdict


def judge_outcome(training: Training, loss: float, guessing: float | None) -> None:
    """Record what was learned, by the validation `loss` of the trained model, and of the best constant output; tell where it is nothing."""
    best = training.progress.best_loss
    found = verdict(loss, best, guessing, training.counters.step)
    training.emit(OutcomeJudged(verdict=found, loss=loss, best_loss=best, guessing=guessing))
    if found in {"nothing", "worse than guessing"}:
        learned = "has learned nothing" if found == "nothing" else "ends worse than guessing"
        training.tell(f"the model {learned}: its validation loss is {loss:.4g}, that of the best constant output {guessing:.4g}")
