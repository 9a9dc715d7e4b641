"""The same decisions, whether the loss that people write is a mean or one number a sample, with three large validation batches."""

from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from esper.api.fit import Grow, fit
from esper.demo.tasks import TASKS, TensorBatches
from esper.events.kinds.epoch import EpochCompleted, Measured
from esper.events.kinds.lifecycle import SeedEvaluated, SeedTransitioned, Stage
from esper.events.kinds.run import RunStarted
from esper.oona.directory import Directory
from esper.processes.recipe import run_settings
from esper.tolaria.objective import Loss
from tests.whole.runs import Told, told

pytestmark = pytest.mark.whole

RNG_SEED = 200
EPOCHS = 24
GROW = Grow(sites="0", max_parameters=6.0, settings={"policy.max_germinations": 1, "policy.fine_tune_epochs": 4})


def each(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target, reduction="none").mean(1)


LOSSES: dict[str, Loss] = {
    "each": each,
    "module": nn.MSELoss(),
    "function": F.mse_loss,
    "lambda": lambda output, target: F.mse_loss(output, target, reduction="mean"),
}
OF = {"each": ("samples", 800), "module": ("unreduced", 800), "function": ("unreduced", 800), "lambda": ("pieces_of_outputs", 66)}


def trained(folder: Path, loss: Loss, grow: Grow | None = GROW) -> Told:
    """A regression of the classes of mnist1d: 1,600 samples to train on, and 800 to validate, in batches of 300, 300 and 200."""

    def batches(split: TensorBatches, size: int) -> TensorBatches:
        return TensorBatches(split.inputs[:1600], F.one_hot(split.targets[:1600], 10).float(), size, shuffle=split is train)

    train, valid, _ = TASKS["mnist1d"].data(RNG_SEED)
    assert isinstance(train, TensorBatches)
    assert isinstance(valid, TensorBatches)
    model, data = TASKS["mnist1d"].model(RNG_SEED), (batches(train, 64), batches(valid, 300))
    result = fit(model, *data, epochs=EPOCHS, loss=loss, grow=grow, log=folder, rng_seed=RNG_SEED, observe=False)
    return told(Directory(folder), result.run, run_settings())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """A run of each loss."""
    return {name: trained(tmp_path_factory.mktemp(name), loss) for name, loss in LOSSES.items()}


def lives(run: Told) -> list[tuple[int, int, str | None, Stage]]:
    return [(record.epoch, event.seed, event.blueprint, event.to_stage) for record, event in run.of(SeedTransitioned)]


def test_the_same_seeds_live_the_same_lives_and_one_becomes_part_of_the_host(runs: dict[str, Told]) -> None:
    assert {name: lives(run) for name, run in runs.items()} == dict.fromkeys(LOSSES, lives(runs["each"]))
    assert Stage.FOSSILIZED in {stage for *_, stage in lives(runs["each"])}


def test_a_run_says_what_its_pairs_are_of(runs: dict[str, Told]) -> None:
    pairs = {name: run.events_of(RunStarted)[0].pairs for name, run in runs.items()}
    assert {name: found and (found.of, found.count) for name, found in pairs.items()} == OF


def test_gains_and_what_they_are_known_by_agree(runs: dict[str, Told]) -> None:
    """A gain is the same number, its standard error within what 66 pairs tell of it: 9 %, four times."""
    reference = runs["each"].events_of(SeedEvaluated)
    for run in runs.values():
        for found, one in zip(run.events_of(SeedEvaluated), reference, strict=True):
            assert found.evaluation.mean == pytest.approx(one.evaluation.mean, abs=2e-4)
            assert found.evaluation.standard_error == pytest.approx(one.evaluation.standard_error, rel=0.36)


def test_what_is_logged_is_the_loss_as_it_was_written(runs: dict[str, Told]) -> None:
    """The gain is the difference of logged losses; the last validation is that of the model that came out."""
    for run in runs.values():
        for event in run.events_of(SeedEvaluated):
            found = event.evaluation
            assert found.mean == pytest.approx(found.loss_without - found.loss_with, rel=1e-3, abs=1e-7)


def test_judging_by_pieces_changes_no_bit_of_the_host(runs: dict[str, Told], tmp_path: Path) -> None:
    alone = trained(tmp_path, LOSSES["lambda"], grow=None)
    grafted = next(epoch for epoch, *_, stage in lives(runs["lambda"]) if stage is Stage.GRAFTING)

    def losses(run: Told) -> list[tuple[Measured, Measured | None]]:
        return [(event.train, event.validation) for event in run.events_of(EpochCompleted)][:grafted]

    assert grafted > 5
    assert losses(alone) == losses(runs["lambda"])
