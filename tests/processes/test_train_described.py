"""How a run is trained stands in its log once, and again only where the code that goes on gives something else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch.nn.functional as F

from esper.events.envelope import RunId
from esper.events.kinds.run import RunResumed, RunStarted
from esper.events.kinds.training_description import TrainingDescribed
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe
from esper.processes.train import resume, train
from esper.tolaria.objective import Supervised
from tests.recipes import Acting, BurstError, burst, events, recipe, settings

RUN = RunId("019e2c5a-1b2c-7def-8a9b-0123456789ab")


def interrupted(folder: Path, at: int = 8) -> Directory:
    """A log whose run failed before its `at`-th batch."""
    directory = Directory(folder, create=True)
    with pytest.raises(BurstError):
        train(unsourced(recipe(Acting(at, burst))), settings(), directory, RUN)
    return directory


def unsourced(made: Recipe) -> Recipe:
    return replace(made, source=False)


def kinds(directory: Directory) -> list[str]:
    with directory.open(RUN) as log:
        return [record.type.split(".")[1] + "." + record.type.split(".")[2] for record in log.read(limit=10_000).records]


def test_description_follows_the_start(tmp_path: Path) -> None:
    train(unsourced(recipe()), settings(epochs=1), Directory(tmp_path), RUN)
    assert kinds(Directory(tmp_path))[:3] == ["run.started", "training.described", "checkpoint.saved"]
    (described,) = events(Directory(tmp_path), RUN, TrainingDescribed)
    assert (described.optimizer.kind, described.sources) == ("torch.optim.adam.Adam", None)
    assert [row.kind for row in described.model.modules][1] == "torch.nn.modules.linear.Linear"  # No site yet.


def test_same_code_that_goes_on_is_not_described_again(tmp_path: Path) -> None:
    directory = interrupted(tmp_path)
    resume(unsourced(recipe(Acting(10_000, burst))), settings(), directory, RUN)
    assert len(events(directory, RUN, TrainingDescribed)) == 1
    assert [event.environment_changes for event in events(directory, RUN, RunResumed)] == [()]


def test_other_loss_that_goes_on_is_described_after_the_resume(tmp_path: Path) -> None:
    directory = interrupted(tmp_path)
    other = replace(recipe(Acting(10_000, burst)), objective=Supervised(F.cross_entropy))
    resume(unsourced(other), settings(), directory, RUN)
    (resumed,) = events(directory, RUN, RunResumed)
    assert [one.loss is not None and one.loss.kind.rpartition(".")[2] for one in events(directory, RUN, TrainingDescribed)] == [
        "loss_of",
        "cross_entropy",
    ]
    assert resumed.environment_changes == ("loss, metrics changed: the next TrainingDescribed has what was given now",)


def test_loader_with_other_workers_is_described_after_the_resume(tmp_path: Path) -> None:
    directory = interrupted(tmp_path)
    train_data = Acting(10_000, burst)
    train_data.num_workers = 3  # type: ignore[attr-defined] # as a loader of the user's own has it
    resume(unsourced(recipe(train_data)), settings(), directory, RUN)
    first, second = events(directory, RUN, TrainingDescribed)
    assert [one.loaders[0].workers for one in (first, second)] == [None, 3]
    names = kinds(directory)
    assert names[names.index("run.resumed") + 1] == "training.described"


def test_optimizer_options_that_a_checkpoint_restores_are_no_change(tmp_path: Path) -> None:
    directory = interrupted(tmp_path)
    made = recipe(Acting(10_000, burst))
    made.optimizer.param_groups[0]["lr"] = 0.5
    resume(unsourced(made), settings(), directory, RUN)
    assert len(events(directory, RUN, TrainingDescribed)) == 1


def test_run_killed_before_it_was_described_is_described_when_it_goes_on(tmp_path: Path) -> None:
    directory = interrupted(tmp_path / "whole")
    with directory.open(RUN) as log:
        first = log.read(limit=1).records
    cut = Directory(tmp_path / "cut", create=True)
    with cut.create(RUN) as log:
        log.append(first)
    resume(unsourced(recipe(Acting(10_000, burst))), settings(), cut, RUN)
    assert kinds(cut)[:3] == ["run.started", "run.resumed", "training.described"]
    assert len(events(cut, RUN, RunStarted)) == 1


def test_run_without_a_checkpoint_begins_again_and_is_not_described_twice(tmp_path: Path) -> None:
    directory = interrupted(tmp_path)
    for folder in directory.checkpoints(RUN).iterdir():
        for file in folder.iterdir():
            file.unlink()
    resume(unsourced(recipe(Acting(10_000, burst))), settings(), directory, RUN)
    assert len(events(directory, RUN, TrainingDescribed)) == 1


def test_source_that_was_left_out_stays_out_when_the_run_goes_on(tmp_path: Path) -> None:
    directory = interrupted(tmp_path)
    resume(replace(recipe(Acting(10_000, burst)), source=True), settings(), directory, RUN)
    assert [one.sources for one in events(directory, RUN, TrainingDescribed)] == [None]
