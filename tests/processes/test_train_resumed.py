"""What was stopped goes on to the bits of the run that was not, whatever data, damages and failures there were."""

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from esper.events.envelope import RunId
from esper.events.kinds.epoch import EpochCompleted, StateDigests
from esper.events.kinds.lifecycle import SeedEvaluated
from esper.events.kinds.run import RunFailed, RunResumed
from esper.events.kinds.wiring_findings import WiringFound
from esper.oona.contract import records_of
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe
from esper.processes.train import fresh_run_id, resume, train
from esper.tolaria.objective import Batch, Supervised, WithoutMetrics
from esper.tolaria.trainer import Interrupted
from tests.recipes import Acting, BurstError, burst, events, recipe, settings
from tests.tolaria.worlds import SAMPLES, STEPS, loss_of, samples

pytestmark = pytest.mark.whole
NEVER = 0


def digests(directory: Directory, run: RunId) -> list[StateDigests]:
    return [epoch.digests for epoch in events(directory, run, EpochCompleted)]


class Whole(NamedTuple):
    """What a run that nothing stopped comes to."""

    digests: list[StateDigests]
    metrics: Mapping[str, float]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The usual training."""
    directory = Directory(tmp_path_factory.mktemp("whole"))
    trained = train(recipe(), settings(), directory, fresh_run_id())
    return Whole(digests(directory, trained.run), trained.metrics)


def test_what_a_signal_stopped_goes_on_to_the_bits_of_the_run_that_was_not_stopped(directory: Directory, whole: Whole) -> None:
    run = fresh_run_id()
    with pytest.raises(Interrupted):
        train(recipe(Acting(3 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT))), settings(), directory, run)
    resumed = resume(recipe(Acting(NEVER, burst)), settings(), directory, run)
    assert (digests(directory, run), resumed.metrics) == whole
    assert [one.incarnation for one in events(directory, run, RunResumed)] == [2]


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


DAMAGES: list[tuple[Callable[[Path], object], str | None]] = [  # To the checkpoints, and which one is gone back to.
    (lambda folder: flip_a_bit(folder / "epoch-000003" / "tensors.safetensors"), "epoch-000002"),
    (lambda folder: shutil.rmtree(folder / "epoch-000003"), "epoch-000002"),
    (shutil.rmtree, None),
]


@pytest.mark.parametrize(("damage", "older"), DAMAGES)
def test_where_the_newest_checkpoint_is_not_whole_the_next_older_one_is_gone_back_to(
    directory: Directory, whole: Whole, damage: Callable[[Path], object], older: str | None
) -> None:
    run = fresh_run_id()
    with pytest.raises(Interrupted):
        train(recipe(Acting(3 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT))), settings(), directory, run)
    damage(directory.checkpoints(run))
    resume(recipe(Acting(NEVER, burst)), settings(), directory, run)
    assert digests(directory, run) == whole.digests
    (resumed,) = events(directory, run, RunResumed)
    assert resumed.checkpoint == older
    assert "epoch-000003" in resumed.environment_changes[0]
    assert events(directory, run, RunFailed) == []


class Loaded:
    """Batches of a loader; before the `at`-th batch of all something is done."""

    def __init__(self, loader: DataLoader[tuple[Tensor, ...]], at: int = NEVER, act: Callable[[], object] = burst) -> None:
        self._loader, self._acting, self.dataset = loader, Acting(at, act), loader.dataset

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch, _ in zip(self._loader, self._acting, strict=True))


def shuffled() -> DataLoader[tuple[Tensor, ...]]:
    """A loader that shuffles by a generator of its own."""
    return DataLoader(TensorDataset(*samples()), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("epoch", [4, 5])  # With an epoch to catch up with, and from the checkpoint alone.
def test_data_that_a_generator_of_their_own_shuffles_come_in_the_same_order_after_a_resume(directory: Directory, epoch: int) -> None:
    chosen = settings(checkpoint_every=2)
    whole = train(recipe(shuffled()), chosen, directory, fresh_run_id())
    run, stops = fresh_run_id(), Loaded(shuffled(), (epoch - 1) * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train(recipe(stops), chosen, directory, run)
    resume(recipe(shuffled()), chosen, directory, run)
    assert digests(directory, run) == digests(directory, whole.run)


class Augmented(Dataset[tuple[Tensor, ...]]):
    """Samples with noise."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = samples()
        return inputs[index] + 0.1 * torch.randn(4), targets[index]


def test_data_with_random_augmentation_are_the_same_data_when_the_run_is_resumed(directory: Directory) -> None:
    whole = train(recipe(DataLoader(Augmented(), batch_size=5)), settings(), directory, fresh_run_id())
    run, stops = fresh_run_id(), Loaded(DataLoader(Augmented(), batch_size=5), 2 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT))
    chosen = recipe(stops)
    torch.manual_seed(5)
    with pytest.raises(Interrupted):
        train(chosen, settings(), directory, run)
    chosen = recipe(DataLoader(Augmented(), batch_size=5))
    torch.manual_seed(99)
    resume(chosen, settings(), directory, run)
    assert digests(directory, run) == digests(directory, whole.run)


def test_what_was_evaluated_before_the_checkpoint_is_cited_by_its_id_after_it(directory: Directory) -> None:
    run, chosen = fresh_run_id(), settings(epochs=10)
    with pytest.raises(Interrupted):
        train(recipe(Acting(9 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT))), chosen, directory, run)
    resume(recipe(Acting(NEVER, burst)), chosen, directory, run)
    with directory.open(run) as log:
        *_, evaluated = (record.id for record in records_of(log, frozenset({SeedEvaluated.TOPIC})) if record.type == SeedEvaluated.KIND)
    assert events(directory, run, EpochCompleted)[-1].system.seeds[0].evaluated == evaluated


def test_a_run_that_failed_is_resumed_and_finishes(directory: Directory, whole: Whole) -> None:
    run = fresh_run_id()
    with pytest.raises(BurstError):
        train(recipe(Acting(2 * STEPS + 2, burst)), settings(), directory, run)
    again = resume(recipe(Acting(NEVER, burst)), settings(), directory, run)
    assert (digests(directory, run), again.metrics) == whole


def test_a_run_whose_checkpoints_are_lost_is_resumed_by_an_objective_of_another_kind_that_comes_to_the_same(directory: Directory) -> None:
    """What guessing comes to is known of a loss, and not of an objective; it stands in no checkpoint."""
    run, stops = fresh_run_id(), Acting(2 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train(replace(recipe(stops), objective=Supervised(loss_of)), settings(), directory, run)
    shutil.rmtree(directory.checkpoints(run))
    own = WithoutMetrics(lambda model, batch: loss_of(model(batch[0]), batch[1]))  # type: ignore[index] # What the recipe's batches are.
    resume(replace(recipe(Acting(NEVER, burst)), objective=own), settings(), directory, run)
    assert [one.system.epoch for one in events(directory, run, EpochCompleted)] == [1, 2, 3, 4, 5]


def test_a_finding_that_the_log_has_is_found_again_where_it_was(directory: Directory) -> None:
    """It was known from the first epoch, which the process that goes on has not seen."""

    def guessing(train: Acting) -> Recipe:
        made = recipe(train)
        return replace(made, optimizer=torch.optim.SGD(made.model.parameters(), lr=1e-9), policy=lambda *_: ())

    run, stops, chosen = (
        fresh_run_id(),
        Acting(4 * SAMPLES + 2, lambda: signal.raise_signal(signal.SIGINT), 1),
        settings(checkpoint_every=3),
    )
    with pytest.raises(Interrupted):
        train(guessing(stops), chosen, directory, run)
    found = [one.check for one in events(directory, run, WiringFound)]
    assert found[-1] == "still-guessing"
    resume(guessing(Acting(NEVER, burst, 1)), chosen, directory, run)
    assert [one.check for one in events(directory, run, WiringFound)] == found
    assert [one.checkpoint for one in events(directory, run, RunResumed)] == ["epoch-000003"]
