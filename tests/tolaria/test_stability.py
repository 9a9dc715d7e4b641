"""A training that loses its footing goes back with its step, and one that cannot go on says so."""

import math
from pathlib import Path

import pytest
from torch import Tensor, nn

from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunRolledBack
from esper.tolaria.objective import Batch, Supervised
from esper.tolaria.trainer import UnstableError
from esper.tolaria.trainer_state import Rewindable
from esper.tolaria.training import TrainerSettings
from tests.tolaria.worlds import ADVANCE, FOSSILIZE, GRAFTED, STEPS, InEpoch, Script, World, completed, loss_of, started

GROWN: Script = {**GRAFTED, 6: [ADVANCE]}
WHOLE: Script = {**GROWN, 7: [ADVANCE], 8: [ADVANCE], 9: [FOSSILIZE]}


def test_a_loss_that_is_not_a_number_takes_training_back_with_its_step(tmp_path: Path) -> None:
    settings = TrainerSettings(epochs=4, checkpoint_every=1, measure_every=2)
    made = World(tmp_path, train=InEpoch(lambda inputs: inputs * math.nan, 3), settings=settings).run()
    (back,) = made.sink.of(RunRolledBack)
    assert (back.from_epoch, back.to_epoch) == (3, 2)
    assert back.reason == f"loss nan at step {2 * STEPS + 1}"
    assert [epoch.system.epoch for epoch in completed(made)] == [1, 2, 4]
    assert math.isfinite(completed(made)[-1].train.loss)


def test_a_bad_step_is_found_at_the_end_of_its_span(tmp_path: Path) -> None:
    settings = TrainerSettings(epochs=2, checkpoint_every=1, measure_every=2)
    made = World(tmp_path, train=InEpoch(lambda inputs: inputs * math.nan, 2), settings=settings).run()
    assert made.sink.story.count("step") == STEPS + 2


def test_one_rollback_too_many_ends_training_and_says_where(tmp_path: Path) -> None:
    settings = TrainerSettings(epochs=9, max_rollbacks=2, checkpoint_every=1)
    made = World(tmp_path, train=InEpoch(lambda inputs: inputs * math.nan, *range(2, 10)), settings=settings)
    with pytest.raises(UnstableError, match=r"epoch 4, step 16: loss nan at step 13; expected at most 2 rollbacks in a run"):
        made.run()
    assert len(made.sink.of(RunRolledBack)) == 2


def test_a_training_of_which_no_epoch_came_to_its_end_has_not_finished(tmp_path: Path) -> None:
    settings = TrainerSettings(epochs=3, max_rollbacks=3)
    made = World(tmp_path, train=InEpoch(lambda inputs: inputs * math.nan, 1, 2, 3), settings=settings)
    with pytest.raises(UnstableError, match="none of 3 epochs came to its end: each was rolled back"):
        made.run()
    assert len(made.sink.of(RunRolledBack)) == 3


def test_an_epoch_that_is_rolled_back_at_the_end_leaves_what_the_others_reached(tmp_path: Path) -> None:
    settings = TrainerSettings(epochs=3, checkpoint_every=1)
    made = World(tmp_path, train=InEpoch(lambda inputs: inputs * math.nan, 3), settings=settings)
    made.trainer.start(started())
    validation = made.trainer.train().metrics["validation_loss"]
    assert validation == pytest.approx(completed(made)[-1].system.validation_loss)


def test_a_model_whose_last_validation_is_no_number_has_not_finished(tmp_path: Path) -> None:
    class Worn:
        """Losses that are NaN in the validation after the last epoch's."""

        def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            losses, metrics = Supervised(loss_of)(model, batch)
            return losses * (math.nan if not model.training and made.sink.of(EpochCompleted)[1:] else 1.0), metrics

    made = World(tmp_path, objective=Worn(), settings=TrainerSettings(epochs=2))
    with pytest.raises(UnstableError, match="epoch 2, step 8: the validation loss of the trained model is nan"):
        made.run()


FACTORS: list[tuple[float, float, bool]] = [  # The last good epoch's loss, this span's, and whether it is unstable at 10 times.
    (1.0, 9.9, False),
    (1.0, 10.1, True),
    (0.1, 1.1, False),  # Above ten times the last, and below the first epoch's: as bad as at the start is no explosion.
    (0.1, 5.1, True),
    (2.0, 6.0, False),  # Above the first, and not ten times the last.
]


@pytest.mark.parametrize(("last", "loss", "unstable"), FACTORS)
def test_a_loss_explodes_above_ten_times_the_last_epochs_and_above_the_firsts(
    tmp_path: Path, last: float, loss: float, unstable: bool
) -> None:
    class Told:
        """Losses by epoch: 5, then `last`, then `loss`."""

        def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            losses, metrics = Supervised(loss_of)(model, batch)
            value = (5.0, last, loss)[made.training.counters.epoch - 1]
            return losses * 0 + value, metrics

    made = World(tmp_path, objective=Told(), settings=TrainerSettings(epochs=3, checkpoint_every=1))
    made.run()
    assert bool(made.sink.of(RunRolledBack)) is unstable


SIGNS: list[tuple[str, tuple[float, float, float], bool]] = [  # The mean losses of three epochs, and whether the third is unstable.
    ("a log-likelihood that hovers around -1", (-0.9, -1.0, -0.8), False),
    ("the same, exploding", (-0.9, -1.0, 9.0), True),
    ("crossing zero upwards", (-0.2, -0.05, 0.2), False),
    ("crossing zero downwards, and a little back", (0.3, -0.01, 0.25), False),
    ("just above zero after a start below it", (-0.9, 0.001, 0.5), False),
    ("the same, exploding", (-0.9, 0.001, 9.0), True),
    ("exactly zero, then as at the start", (0.5, 0.0, 0.4), False),
    ("exactly zero, then worse than at the start", (0.5, 0.0, 0.6), True),
    ("always zero", (0.0, 0.0, 1e-3), False),
    ("always the same, below zero", (-1.0, -1.0, -1.0), False),
    ("far below zero", (-900.0, -1000.0, -850.0), False),
    ("far below zero, exploding", (-900.0, -1000.0, 8100.0), True),
]


@pytest.mark.parametrize(("losses", "unstable"), [case[1:] for case in SIGNS], ids=[case[0] for case in SIGNS])
def test_an_explosion_has_a_meaning_for_a_loss_of_every_sign(losses: tuple[float, float, float], unstable: bool) -> None:
    progress = Rewindable().after_training(losses[0], 0.0).after_training(losses[1], 0.0)
    assert (losses[2] > progress.explosion_above(10.0)) is unstable


def test_a_loss_whose_steps_vary_more_than_its_mean_is_given_that_room() -> None:
    progress = Rewindable().after_training(-0.02, 0.5).after_training(-0.01, 0.5)
    assert progress.explosion_above(10.0) == pytest.approx(-0.01 + 9 * 0.5)


def test_a_log_likelihood_that_hovers_around_minus_one_is_trained_to_its_end(tmp_path: Path) -> None:
    class Hovering:
        """Losses around -1, now a little better, now a little worse, as the training step has it."""

        def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            losses, metrics = Supervised(loss_of)(model, batch)
            return losses * 0 - 1 + 0.3 * math.sin(made.training.counters.step), metrics

    made = World(tmp_path, objective=Hovering(), settings=TrainerSettings(epochs=12, checkpoint_every=1, measure_every=1))
    made.run()
    assert made.sink.of(RunRolledBack) == []
    assert len(completed(made)) == 12


def test_an_explosion_in_the_first_epoch_is_not_known_as_one(tmp_path: Path) -> None:
    made = World(tmp_path, train=InEpoch(lambda inputs: inputs * 1e4, 1), settings=TrainerSettings(epochs=2)).run()
    assert made.sink.of(RunRolledBack) == []
