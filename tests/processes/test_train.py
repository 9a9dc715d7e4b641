"""A training process: how it begins, is stopped, goes on and ends, as its log says; and what optimizer a seed gets."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from esper.errors import DataError, LogError, SettingsError
from esper.events.envelope import RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, RunFailed, RunFinished, RunResumed, RunStarted, StreamEnded
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.processes.recipe import Recipe, RunSettings, require_trainable, run_settings
from esper.processes.train import Result, fresh_run_id, resume, resume_point, run_started, train
from esper.tolaria.trainer import Interrupted, UnstableError
from tests.oona.memory import MemoryLog
from tests.recipes import Acting, BurstError, burst, events, recipe, settings
from tests.tolaria.worlds import STEPS, batches, perceptron

Handlers = list[object]


def without_growth(epochs: int) -> RunSettings:
    return run_settings(settings(epochs=epochs).dotted(), {"growth.enabled": False})


def handlers() -> Handlers:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


# Begin and end


def test_a_run_begins_with_all_its_settings_and_ends_sealed_with_its_metrics(directory: Directory) -> None:
    chosen = settings(epochs=2)
    trained = train(recipe(test=batches(7)), chosen, directory, fresh_run_id())
    (begun,), (ended,) = events(directory, trained.run, RunStarted), events(directory, trained.run, RunFinished)
    assert begun.settings == chosen.dotted()
    assert [(one.name, one.length) for one in begun.data] == [("train", 4), ("valid", 1), ("test", 3)]
    assert (begun.task, begun.parameters, begun.epochs, begun.rng_seed) == ("tiny", 23, 2, 0)
    assert set(ended.metrics) == {"validation_loss", "validation_accuracy", "test_loss", "test_accuracy"}
    assert ended.metrics["test_loss"] == pytest.approx(ended.metrics["validation_loss"])  # The same samples.
    assert ended.metrics == trained.metrics
    entry = directory.entry(trained.run)
    assert entry is not None
    assert entry.sealed
    assert entry.summary is not None
    assert (entry.summary["status"], entry.summary["epochs"], entry.summary["metrics"]) == ("finished", 2, dict(trained.metrics))


def test_the_seed_is_in_the_host_that_is_given_back(directory: Directory) -> None:
    trained = train(recipe(), settings(epochs=8), directory, fresh_run_id())
    stages = [str(one.to_stage) for one in events(directory, trained.run, SeedTransitioned)]
    assert stages == ["GERMINATED", "LOADING", "TRAINING", "GRAFTING", "STABILIZATION", "EVALUATING", "FINE_TUNING"]
    assert trained.host.parameters() == 23 + 19


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_trains_on_as_many_threads_as_are_asked_for_and_is_afterwards_as_it_was(directory: Directory, threads: int) -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    seen: list[tuple[int, bool]] = []
    chosen = recipe(Acting(1, lambda: seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))))
    torch.manual_seed(11)
    trained = train(chosen, settings(epochs=1, threads=threads), directory, fresh_run_id())
    assert seen == [(threads, True)]
    assert events(directory, trained.run, RunStarted)[0].determinism.threads == threads
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (1, False)
    assert torch.rand(1) == expected


def test_growth_can_be_turned_off(directory: Directory) -> None:
    chosen = without_growth(epochs=3)
    trained = train(replace(recipe(), policy=None), chosen, directory, fresh_run_id())
    assert events(directory, trained.run, RunStarted)[0].sites == ()
    assert events(directory, trained.run, SeedTransitioned) == []
    assert trained.host.parameters() == 23


def test_an_error_of_the_users_own_is_raised_and_stands_in_the_log(directory: Directory) -> None:
    run = fresh_run_id()
    with pytest.raises(BurstError):
        train(recipe(Acting(STEPS + 2, burst)), settings(), directory, run)
    (failed,) = events(directory, run, RunFailed)
    assert (failed.kind, failed.where) == ("error", "epoch 2, step 5")
    assert failed.error == "BurstError: the data server is gone"
    assert events(directory, run, RunFinished) == []


def test_too_many_rollbacks_have_a_word_of_their_own(directory: Directory) -> None:
    poisoned = [(inputs * float("nan"), targets) for inputs, targets in batches()]
    run = fresh_run_id()
    with pytest.raises(UnstableError):
        train(recipe(poisoned), settings(max_rollbacks=0), directory, run)
    assert [failed.kind for failed in events(directory, run, RunFailed)] == ["rollbacks"]


def test_a_run_of_which_every_epoch_was_rolled_back_has_failed(directory: Directory) -> None:
    poisoned = [(inputs * float("nan"), targets) for inputs, targets in batches()]
    run = fresh_run_id()
    with pytest.raises(UnstableError):
        train(recipe(poisoned), settings(epochs=3), directory, run)
    assert [(failed.kind, failed.where) for failed in events(directory, run, RunFailed)] == [("rollbacks", "epoch 3, step 12")]
    assert events(directory, run, RunFinished) == []


def test_a_run_that_exists_is_not_begun_again(directory: Directory) -> None:
    run = fresh_run_id()
    train(recipe(), settings(epochs=1), directory, run)
    with pytest.raises(LogError, match=run):
        train(recipe(), settings(epochs=1), directory, run)


def test_where_no_seed_fits_within_the_limit_of_parameters_the_refusal_says_what_would_do(directory: Directory) -> None:
    tight = run_settings(settings().dotted(), {"growth.max_parameters": 1.8})
    with pytest.raises(SettingsError, match=r"has 23 parameters and may have 41, .* \(mlp:2 at '0'\) adds 19; expected at least 1.83"):
        require_trainable(recipe(), tight)
    enough = run_settings(settings().dotted(), {"growth.max_parameters": 1.83})
    assert train(recipe(), enough, directory, fresh_run_id()).host.parameters() == 23 + 19


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Directory]:
    """A log on a disk of eight MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("only root may mount a small disk")
    yield Directory(place)
    subprocess.run(["umount", place], check=True)


def test_a_checkpoint_that_finds_the_disk_full_ends_the_run_by_its_name_and_leaves_room_for_the_last_words(small: Directory) -> None:
    run, wide = fresh_run_id(), nn.Sequential(nn.Linear(4, 100_000), nn.GELU(), nn.Linear(100_000, 2))
    alone = without_growth(epochs=2)
    with pytest.raises(LogError, match=r"cannot save checkpoint .*epoch-000001: No space left on device"):
        train(replace(recipe(model=wide), policy=None), alone, small, run)
    (failed,) = events(small, run, RunFailed)
    assert (failed.kind, failed.where) == ("log", "epoch 1, step 4")
    assert [path.name for path in small.checkpoints(run).iterdir()] == ["epoch-000000"]


# Stopping and going on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_under_way_and_the_run_has_no_end(directory: Directory, number: signal.Signals) -> None:
    run, before = fresh_run_id(), handlers()
    with pytest.raises(Interrupted, match="stopped in epoch 2 after step 6"):
        train(recipe(Acting(STEPS + 2, lambda: signal.raise_signal(number))), settings(), directory, run)
    assert events(directory, run, RunFailed) == []
    assert events(directory, run, RunFinished) == []
    assert len(events(directory, run, EpochCompleted)) == 1
    with directory.open(run) as log:
        last = log.read(limit=100_000).records[-1]
    assert last.type == StreamEnded.KIND
    assert handlers() == before


def test_batches_that_cannot_begin_again_are_refused_unless_an_epoch_is_a_number_of_steps(directory: Directory) -> None:
    with pytest.raises(SettingsError, match=r"can be iterated once an epoch, got a list_iterator.*epoch_steps"):
        require_trainable(recipe(iter(batches())), settings())
    train(recipe(iter(batches() * 3)), settings(epochs=2, epoch_steps=4), directory, fresh_run_id())


def test_a_run_on_a_stream_that_is_at_another_place_is_not_resumed(directory: Directory) -> None:
    run, chosen = fresh_run_id(), settings(epochs=2, epoch_steps=4)
    with pytest.raises(Interrupted):
        train(recipe(iter(Acting(2, lambda: signal.raise_signal(signal.SIGINT)))), chosen, directory, run)
    with pytest.raises(SettingsError, match="got a list_iterator: where it stands in its data is not known"):
        resume(recipe(iter(batches())), chosen, directory, run)
    assert events(directory, run, RunResumed) == []


def test_a_second_ctrl_c_leaves_at_once(directory: Directory) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = handlers()
    with pytest.raises(KeyboardInterrupt):
        train(recipe(Acting(2, twice)), settings(), directory, fresh_run_id())
    assert handlers() == before


def test_beside_the_main_thread_training_works_and_leaves_signals_alone(directory: Directory) -> None:
    before, seen, done = handlers(), list[Handlers](), list[Result]()
    chosen = recipe(Acting(2, lambda: seen.append(handlers())))
    thread = threading.Thread(target=lambda: done.append(train(chosen, settings(epochs=1), directory, fresh_run_id())))
    thread.start()
    thread.join()
    assert len(done) == 1
    assert seen == [before]


def test_a_finished_run_is_not_resumed(directory: Directory) -> None:
    trained = train(recipe(), settings(epochs=1), directory, fresh_run_id())
    with pytest.raises(LogError, match=f"run {trained.run} is finished and sealed"):
        resume(recipe(), settings(epochs=1), directory, trained.run)


# What a log says of its run


@pytest.fixture
def log() -> MemoryLog:
    """A log without a record."""
    return MemoryLog(RunId("run"))


def said(log: MemoryLog, *written: CheckpointSaved | CheckpointPruned) -> None:
    with Emitter(log, log.run, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), heartbeat_s=1000) as emitter:
        for epoch, event in enumerate(written):
            emitter.emit(event, epoch=epoch, step=epoch)


def saved(name: str) -> CheckpointSaved:
    return CheckpointSaved(checkpoint=name, digest="0" * 64, size_bytes=1, reason="due", duration_s=0.0)


def test_a_resume_looks_at_the_checkpoints_that_are_not_pruned_the_newest_first(log: MemoryLog, tmp_path: Path) -> None:
    said(log, *map(saved, "abcd"), CheckpointPruned(checkpoint="d", reason="r"), CheckpointPruned(checkpoint="a", reason="r"))
    newest, _, problems = resume_point(log, tmp_path)
    assert newest is None
    assert [problem.partition(":")[0] for problem in problems] == [f"checkpoint {tmp_path / name}" for name in "cb"]


def test_a_run_without_a_checkpoint_resumes_from_its_start(log: MemoryLog, tmp_path: Path) -> None:
    assert resume_point(log, tmp_path) == (None, None, ())


def test_a_run_that_never_began_says_so(log: MemoryLog) -> None:
    with pytest.raises(DataError, match="interrupted before it began; start it again"):
        run_started(log)


# The optimizer of a seed

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda own: SGD(own, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda own: Adam(own, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
    "AdamW": lambda own: AdamW(own, lr=0.01, betas=(0.8, 0.99), weight_decay=0.1, amsgrad=True),
    "RMSprop": lambda own: torch.optim.RMSprop(own, lr=0.01, alpha=0.9, momentum=0.5),
    "Adagrad": lambda own: torch.optim.Adagrad(own, lr=0.01, lr_decay=0.1),
    "NAdam": lambda own: torch.optim.NAdam(own, lr=0.01, momentum_decay=0.1),
    "RAdam": lambda own: torch.optim.RAdam(own, lr=0.01, decoupled_weight_decay=True),
    "Rprop": lambda own: torch.optim.Rprop(own, lr=0.01, etas=(0.4, 1.1)),
}


def with_optimizer(make: Make) -> Recipe:
    chosen = recipe()
    return replace(chosen, optimizer=make(chosen.model.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_seed_gets_the_hosts_optimizer_with_its_options_and_no_weight_decay(directory: Directory, name: str) -> None:
    chosen = with_optimizer(OPTIMIZERS[name])
    trained = train(chosen, settings(epochs=2, clip=0.5), directory, fresh_run_id())
    (own,) = trained.host.optimizers().values()
    assert type(own) is type(chosen.optimizer)
    unlike = {"params", "lr", "weight_decay", "initial_lr"}
    (theirs,), (its,) = chosen.optimizer.param_groups, own.param_groups
    assert {key: its[key] for key in its if key not in unlike} == {key: theirs[key] for key in theirs if key not in unlike}
    assert its["lr"] == 2.0 * theirs["lr"]
    assert its.get("weight_decay", 0.0) == 0.0


class Peculiar(SGD):
    """Cannot be made from what stands in its groups."""

    def __init__(self, own: Iterable[nn.Parameter], secret: str) -> None:
        super().__init__(own, lr=0.01)
        self.secret = secret


def test_an_optimizer_that_no_seed_can_have_is_refused() -> None:
    chosen = with_optimizer(lambda own: Peculiar(own, "x"))
    with pytest.raises(SettingsError, match=r"Peculiar cannot: .*; give seed_optimizer="):
        require_trainable(chosen, settings())
    assert type(chosen.model.get_submodule("0")) is nn.Linear


def test_with_an_optimizer_of_its_own_for_seeds_any_will_do(directory: Directory) -> None:
    chosen = replace(with_optimizer(lambda own: Peculiar(own, "x")), seed_optimizer=lambda own, lr: SGD(own, lr=3 * lr))
    trained = train(chosen, settings(epochs=2), directory, fresh_run_id())
    assert [own.param_groups[0]["lr"] for own in trained.host.optimizers().values()] == [0.03]


def test_where_nothing_grows_any_optimizer_will_do(directory: Directory) -> None:
    chosen = without_growth(epochs=1)
    train(replace(with_optimizer(lambda own: Peculiar(own, "x")), policy=None), chosen, directory, fresh_run_id())


def test_a_model_of_another_shape_is_refused() -> None:
    with pytest.raises(SettingsError, match="got '0': a Identity cannot be one yet"):
        require_trainable(recipe(model=nn.Sequential(nn.Identity(), *perceptron())), settings())
