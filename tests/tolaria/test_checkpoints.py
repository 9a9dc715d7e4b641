"""Checkpoints are recorded before others are removed, kept by rule, whole or refused; training goes on from one bit for bit."""

import json
import resource
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from esper.durable import remove_folder, replace_folder
from esper.errors import DataError, LogError
from esper.events.digests import comparison_form
from esper.events.kinds.control import Adaptation, FieldReported
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, RunRolledBack
from esper.kasmina.randomness import derive
from esper.tolaria.checkpoints import _name_of, _read, _write, restore_checkpoint, roll_back, save_checkpoint, verify_checkpoint
from esper.tolaria.snapshots import Snapshot
from esper.tolaria.trainer_state import KeptCheckpoint
from esper.tolaria.training import Scheduler, TrainerSettings
from tests.tolaria.event_sinks import COMMIT, ListedJournal, Said
from tests.tolaria.worlds import ADVANCE, CPU, GRAFTED, SITE, Script, World, batches, perceptron

OTHER = (Adaptation.GERMINATE, 1, "lowrank:1")
GROWN: Script = {**GRAFTED, 6: [ADVANCE, OTHER], 7: [ADVANCE], 8: [ADVANCE]}
EPOCHS = 9
SETTINGS = TrainerSettings(epochs=EPOCHS, checkpoint_every=1, keep_checkpoints=100, measure_every=2)

Schedule = Callable[[Optimizer], Scheduler]


def exponential(optimizer: Optimizer) -> Scheduler:
    return ExponentialLR(optimizer, 0.9)


def multi_step(optimizer: Optimizer) -> Scheduler:
    return MultiStepLR(optimizer, [4, 7])


SHORT = 6
SCHEDULES: dict[str, Schedule] = {
    "exponential": exponential,
    "multi step": lambda optimizer: MultiStepLR(optimizer, [3, 5]),
    "step": lambda optimizer: StepLR(optimizer, 2),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.2),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, SHORT),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, max_lr=0.05, total_steps=SHORT + 1),
    "sequential": lambda optimizer: SequentialLR(optimizer, [ExponentialLR(optimizer, 0.9), StepLR(optimizer, 2, 0.5)], [3]),
}


class PoisonedIn:
    """Batches, the last of which is NaN in some epochs; an epoch is known by torch's seed."""

    def __init__(self, *epochs: int) -> None:
        self._seeds = {derive(0, "epoch", epoch) for epoch in epochs}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        *most, (inputs, targets) = batches()
        yield from most
        yield inputs * torch.nan if torch.initial_seed() in self._seeds else inputs, targets


def world(folder: Path, schedule: Schedule | None = None, *, settings: TrainerSettings = SETTINGS, poisoned: int = 0) -> World:
    """Dropout and BatchNorm keep a state each, and so does the host's optimizer."""
    model = perceptron(3, nn.BatchNorm1d(3), nn.Dropout(0.2))
    return World(folder, script=GROWN, settings=settings, scheduler=schedule, model=model, train=PoisonedIn(poisoned))


def comparable(said: list[Said]) -> list[tuple[str, int, int, JsonValue]]:
    return [(one.event.KIND, one.epoch, one.step, comparison_form(one.event, lambda _id: "")) for one in said]


def after(sink: ListedJournal, name: str) -> list[Said]:
    """What was said after checkpoint `name`."""
    place = next(at for at, one in enumerate(sink.said) if isinstance(one.event, CheckpointSaved) and one.event.checkpoint == name)
    return sink.said[place + 1 :]


def goes_on_the_same(made: Callable[[], World], epochs: Container[int]) -> int:
    """From every checkpoint of a whole training at one of `epochs` a fresh one goes on; returns how many that were."""
    whole = made().run()
    chosen = [kept for kept in whole.training.counters.checkpoints if kept.epoch in epochs]
    for kept in chosen:
        fresh = made()
        torch.manual_seed(99)
        fresh.trainer.resume(kept.name, kept.digest, whole.training.evaluations)
        fresh.trainer.train()
        assert comparable(fresh.sink.said) == comparable(after(whole.sink, kept.name))
    return len(chosen)


@pytest.mark.whole  # Ten trainings.
def test_from_every_checkpoint_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    assert goes_on_the_same(lambda: world(tmp_path), range(EPOCHS + 1)) == EPOCHS + 1


@pytest.mark.whole
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_learning_rate_goes_on_as_planned(tmp_path: Path, schedule: Schedule) -> None:
    settings = TrainerSettings(epochs=SHORT, checkpoint_every=2, keep_checkpoints=100, measure_every=2)
    assert goes_on_the_same(lambda: World(tmp_path, script=GRAFTED, settings=settings, scheduler=schedule, train=batches(10)), (2, 4)) == 2


@pytest.mark.whole
def test_a_rollback_comes_again(tmp_path: Path) -> None:
    assert goes_on_the_same(lambda: world(tmp_path, multi_step, poisoned=6), (3, 5)) == 2


def test_a_run_out_of_patience_is_resumed_at_its_end_without_another_step(tmp_path: Path) -> None:
    settings = TrainerSettings(epochs=EPOCHS, patience=1, checkpoint_every=100)
    standing_still = World(tmp_path, settings=settings, optimizer=lambda parameters: SGD(parameters, lr=0.0))
    standing_still.run()
    end = standing_still.training.counters.checkpoints[-1]
    assert end.epoch < EPOCHS
    again = World(tmp_path, settings=settings, optimizer=lambda parameters: SGD(parameters, lr=0.0))
    again.trainer.resume(end.name, end.digest, {})
    assert again.trainer.train().stopped_early
    assert again.sink.story == []


# Saving and pruning


def test_a_checkpoint_is_on_disk_before_it_is_said_and_said_before_another_goes(tmp_path: Path) -> None:
    made = world(tmp_path, settings=TrainerSettings(epochs=3, checkpoint_every=1, keep_checkpoints=1))
    folders: list[list[str]] = []
    commit = made.sink.commit

    def watched() -> None:
        folders.append(sorted(path.name for path in made.checkpoints.iterdir()))
        commit()

    made.sink.commit = watched  # type: ignore[method-assign] # A look at the folder at every commit.
    made.training.counters = made.training.counters.model_copy(update={"epoch": 1})
    save_checkpoint(made.training, "due")
    made.training.progress = made.training.progress.model_copy(update={"validation_loss": 0.5})
    made.training.counters = made.training.counters.model_copy(update={"epoch": 2})
    save_checkpoint(made.training, "due")
    assert made.sink.kinds() == ["CheckpointSaved", COMMIT, "CheckpointSaved", COMMIT, "CheckpointPruned", COMMIT]
    assert folders == [["epoch-000001"], ["epoch-000001", "epoch-000002"], ["epoch-000001", "epoch-000002"]]
    assert [path.name for path in made.checkpoints.iterdir()] == ["epoch-000002"]


def test_an_epoch_is_saved_once(tmp_path: Path) -> None:
    made = world(tmp_path)
    save_checkpoint(made.training, "start")
    save_checkpoint(made.training, "end")
    assert [one.reason for one in made.sink.of(CheckpointSaved)] == ["start"]


def test_the_newest_are_kept_and_of_all_that_were_saved_the_best(tmp_path: Path) -> None:
    made = world(tmp_path, settings=TrainerSettings(epochs=9, keep_checkpoints=2))
    for epoch, loss in enumerate((0.9, 0.5, 0.6, 0.5, 0.8, 0.7), start=1):
        # The best epochs of all are not saved.
        made.training.progress = made.training.progress.after_validation(epoch, 0.1).after_validation(epoch, loss)
        made.training.counters = made.training.counters.model_copy(update={"epoch": epoch})
        save_checkpoint(made.training, "due")
    assert [(one.epoch, one.loss) for one in made.training.counters.checkpoints] == [(2, 0.5), (5, 0.8), (6, 0.7)]
    assert sorted(path.name for path in made.checkpoints.iterdir()) == ["epoch-000002", "epoch-000005", "epoch-000006"]
    assert [one.checkpoint for one in made.sink.of(CheckpointPruned)] == ["epoch-000001", "epoch-000003", "epoch-000004"]


def test_what_a_killed_process_did_not_get_to_prune_is_pruned_at_the_restore(tmp_path: Path) -> None:
    settings = TrainerSettings(epochs=9, keep_checkpoints=1)
    made = world(tmp_path, settings=settings)
    for epoch in (1, 2):
        made.training.progress = made.training.progress.after_validation(epoch, 1 / epoch)
        made.training.counters = made.training.counters.model_copy(update={"epoch": epoch})
        save_checkpoint(made.training, "due")
    (kept,) = made.training.counters.checkpoints
    (made.checkpoints / "epoch-000001").mkdir()
    again = world(tmp_path, settings=settings)
    restore_checkpoint(again.training, kept.name, kept.digest)
    assert again.sink.kinds() == ["CheckpointPruned", COMMIT]
    assert [path.name for path in made.checkpoints.iterdir()] == ["epoch-000002"]
    assert again.training.counters == made.training.counters


# Going back


def rolled_back(folder: Path, poisoned: int, *, checkpoint_every: int = 5) -> World:
    chosen = TrainerSettings(epochs=poisoned + 1, checkpoint_every=checkpoint_every, measure_every=2)
    return world(folder, settings=chosen, poisoned=poisoned).run()


def test_a_rollback_names_the_checkpoint_and_epochs_count_on(tmp_path: Path) -> None:
    made = rolled_back(tmp_path, 8)
    (event,) = made.sink.of(RunRolledBack)
    assert (event.from_epoch, event.to_epoch, event.checkpoint) == (8, 5, "epoch-000005")
    assert event.reason.startswith("loss nan at step 32")
    assert [one.epoch for one in made.sink.said if isinstance(one.event, EpochCompleted)] == [1, 2, 3, 4, 5, 6, 7, 9]
    steps = [one.step for one in made.sink.said]
    assert steps == sorted(steps)


def test_a_rollback_takes_the_weights_back_to_the_checkpoint(tmp_path: Path) -> None:
    made = world(tmp_path, settings=TrainerSettings(epochs=EPOCHS, checkpoint_every=100))
    save_checkpoint(made.training, "start")
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    for step in range(1, 4):
        made.step(step=step)
    roll_back(made.training, "for a reason")
    assert {name: tensor.tolist() for name, tensor in made.model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in before.items()
    }
    assert made.optimizer.state_dict()["state"] == {}


def test_the_seed_that_is_being_grafted_is_blamed_and_its_slot_locked(tmp_path: Path) -> None:
    made = rolled_back(tmp_path, 4)
    (event,) = made.sink.of(RunRolledBack)
    assert event.blamed is not None
    assert (event.blamed.site, event.blamed.seed) == (SITE, 0)
    table = {(row.site, row.seed): row.stage for row in event.seeds}
    assert table == {(SITE, 0): Stage.GRAFTING, (SITE, 1): Stage.DORMANT}
    locked = [one for one in made.sink.said if isinstance(one.event, SeedTransitioned) and one.event.to_stage is Stage.ROLLED_BACK]
    (moved,) = locked
    rollback = next(one for one in made.sink.said if isinstance(one.event, RunRolledBack))
    assert moved.cause == rollback.id
    report = next(one for one in made.sink.said if isinstance(one.event, FieldReported))
    assert isinstance(report.event, FieldReported)
    assert (report.cause, report.event.outcome) == (moved.id, "ROLLED_BACK")
    assert made.host.seeds[SITE, 0].stage is Stage.ROLLED_BACK
    assert made.training.counters.reports == (report.event,)


def test_where_no_alpha_changed_nobody_is_blamed(tmp_path: Path) -> None:
    made = rolled_back(tmp_path, 3)
    (event,) = made.sink.of(RunRolledBack)
    assert event.blamed is None
    assert Stage.ROLLED_BACK not in {one.to_stage for one in made.sink.of(SeedTransitioned)}


def test_a_stage_has_lasted_as_long_after_a_rollback_as_at_the_checkpoint(tmp_path: Path) -> None:
    made = rolled_back(tmp_path, 3, checkpoint_every=2)
    (event,) = made.sink.of(RunRolledBack)
    row = next(row for row in event.seeds if row.seed == 0)
    assert (event.to_epoch, row.stage, row.since_epoch) == (2, Stage.TRAINING, 3)


# Refusals


def saved(made: World) -> KeptCheckpoint:
    save_checkpoint(made.training, "start")
    return made.training.counters.checkpoints[-1]


def wider() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2))


def sgd(parameters: object) -> Optimizer:
    return SGD(parameters, lr=0.1)  # type: ignore[arg-type] # Whatever a World hands in: parameters.


OTHER_PARTS: list[tuple[Callable[[Path], World], str]] = [
    (lambda folder: World(folder, model=wider()), r"size mismatch for 0\.weight"),
    (lambda folder: World(folder, optimizer=sgd), "expected optimizer host of class Adam, got SGD"),
    (lambda folder: World(folder, scheduler=exponential), "expected no learning rate scheduler, as when it was saved; got one"),
    (lambda folder: World(folder, slots=3), "expected the state of a host with slots"),
]


@pytest.mark.parametrize(("other", "message"), OTHER_PARTS)
def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path, other: Callable[[Path], World], message: str) -> None:
    kept = saved(World(tmp_path))
    with pytest.raises(DataError, match=message):
        restore_checkpoint(other(tmp_path).training, kept.name, kept.digest)


def test_a_scheduler_that_is_gone_is_missed(tmp_path: Path) -> None:
    kept = saved(World(tmp_path, scheduler=exponential))
    with pytest.raises(DataError, match=r"epoch-000000 does not fit this host: expected a learning rate scheduler.*got none"):
        restore_checkpoint(World(tmp_path).training, kept.name, kept.digest)


def test_a_model_with_a_state_that_is_no_tensor_is_refused_by_name(tmp_path: Path) -> None:
    class Counting(nn.Identity):
        def get_extra_state(self) -> object:
            return {"calls": 3}

        def set_extra_state(self, state: object) -> None:
            raise AssertionError(state)

    with pytest.raises(DataError, match=r"its state '2\._extra_state' is a dict"):
        saved(World(tmp_path, model=perceptron(3, Counting())))


def test_a_damaged_checkpoint_is_named_at_a_rollback_too(tmp_path: Path) -> None:
    made = World(tmp_path)
    kept = saved(made)
    (made.checkpoints / kept.name / "manifest.json").unlink()
    with pytest.raises(DataError, match=kept.name):
        roll_back(made.training, "for a reason")


# Files

NAME = "epoch-000005"
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"


def snapshot(value: float = 1.0, *, body: JsonValue = None) -> Snapshot:
    return Snapshot({"model/weight": torch.full((2, 3), value)}, {"tally": body})


def test_names_sort_as_the_epochs_do() -> None:
    assert sorted(map(_name_of, (100, 9, 10))) == [_name_of(9), _name_of(10), _name_of(100)]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0.1, -0.0, float("nan"), float("inf"), 1e-45]),
        torch.tensor(3.5, dtype=torch.float64),
        torch.arange(6).reshape(2, 3).t(),
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.zeros(0, 4),
    ],
)
def test_a_tensor_comes_back_bit_for_bit(tmp_path: Path, tensor: Tensor) -> None:
    digest, _ = _write(tmp_path, NAME, Snapshot({"it": tensor}, {}))
    back = _read(tmp_path, NAME, digest, CPU).tensors["it"]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert back.contiguous().reshape(-1).view(torch.uint8).tolist() == tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_the_body_comes_back(tmp_path: Path) -> None:
    digest, _ = _write(tmp_path, NAME, snapshot(body={"epoch": 5}))
    back = _read(tmp_path, NAME, digest, CPU)
    assert back.body["tally"] == {"epoch": 5}


def test_nothing_else_is_left_in_the_folder_and_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    _, size_bytes = _write(tmp_path, NAME, snapshot())
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert size_bytes == sum(path.stat().st_size for path in (tmp_path / NAME).iterdir())


def test_a_checkpoint_that_cannot_be_written_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    digest, _ = _write(tmp_path, NAME, snapshot())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # No file may be longer: the tensors are.
    try:
        with pytest.raises(
            LogError, match=rf"cannot save checkpoint {tmp_path}/epoch-000006: File too large; what was saved before stands"
        ):
            _write(tmp_path, _name_of(6), snapshot())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    _read(tmp_path, NAME, digest, CPU)


def test_what_a_killed_process_left_half_written_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path) -> None:
    half = tmp_path / f".{NAME}.partial"
    half.mkdir()
    (half / TENSORS).write_bytes(b"half")
    (half / "stranger").touch()
    with pytest.raises(DataError, match=f"{NAME}: expected"):
        _read(tmp_path, NAME, "0" * 64, CPU)
    digest, _ = _write(tmp_path, NAME, snapshot())
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == [MANIFEST, TENSORS]
    assert _read(tmp_path, NAME, digest, CPU).tensors["model/weight"][0, 0] == 1.0


def test_a_checkpoint_that_was_renamed_and_not_logged_is_replaced(tmp_path: Path) -> None:
    _write(tmp_path, NAME, snapshot(1.0))
    digest, _ = _write(tmp_path, NAME, snapshot(2.0))
    assert _read(tmp_path, NAME, digest, CPU).tensors["model/weight"][0, 0] == 2.0


def test_the_digest_is_of_tensors_and_body(tmp_path: Path) -> None:
    def digest(one: Snapshot) -> str:
        return _write(tmp_path, NAME, one)[0]

    assert len({digest(snapshot()), digest(snapshot(2.0)), digest(snapshot(body=1))}) == 3


def _cut_tensors(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-1])


def _flip_a_bit_of_the_tensors(folder: Path) -> None:
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)


def _change_the_body(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["tally"] = "another"
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{}")


def _add_to_the_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"references": {}}))


def _make_a_list_of_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1]")


def _cut_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:20])


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: (folder / MANIFEST).unlink(), rf"checkpoint \S*{NAME}: expected {MANIFEST} and {TENSORS}, whole: FileNotFound"),
    (lambda folder: (folder / TENSORS).unlink(), rf"checkpoint \S*{NAME}: expected {MANIFEST} and {TENSORS}, whole: FileNotFound"),
    (_cut_tensors, rf"{NAME}/{TENSORS}: expected sha256 \w+, got \w+"),
    (_flip_a_bit_of_the_tensors, rf"{NAME}/{TENSORS}: expected sha256 \w+, got \w+"),
    (_change_the_body, rf"{NAME}/{MANIFEST}: the log expects digest \w+, the file has \w+"),
    (_empty_the_manifest, "the log expects digest"),
    (_make_a_list_of_the_manifest, rf"{NAME}: expected {MANIFEST} and {TENSORS}, whole: TypeError"),
    (_add_to_the_manifest, "the log expects digest"),
    (_cut_the_manifest, rf"{NAME}: expected {MANIFEST} and {TENSORS}, whole: JSONDecodeError"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_refused_and_the_file_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    digest, _ = _write(tmp_path, NAME, snapshot())
    damage(tmp_path / NAME)
    with pytest.raises(DataError, match=message):
        _read(tmp_path, NAME, digest, CPU)


def test_a_checkpoint_that_is_whole_and_not_the_logged_one_is_refused(tmp_path: Path) -> None:
    logged, _ = _write(tmp_path / "one", NAME, snapshot(1.0))
    _write(tmp_path / "other", NAME, snapshot(2.0))
    with pytest.raises(DataError, match=f"{MANIFEST}: the log expects digest {logged[:16]}"):
        _read(tmp_path / "other", NAME, logged, CPU)


def test_another_format_is_refused(tmp_path: Path) -> None:
    one = snapshot()
    digest, _ = _write(tmp_path, NAME, one._replace(body={**one.body, "format": 2}))
    with pytest.raises(DataError, match="expected format 1, got 2"):
        _read(tmp_path, NAME, digest, CPU)


def test_pruning_removes_a_checkpoint_and_a_second_time_nothing(tmp_path: Path) -> None:
    _write(tmp_path, NAME, snapshot())
    remove_folder(tmp_path / NAME)
    remove_folder(tmp_path / NAME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", ".hidden", "a/b", ""])
def test_the_name_of_a_checkpoint_is_never_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        CheckpointSaved(checkpoint=name, digest="0" * 64, size_bytes=1, reason="due", duration_s=0.0)
    with pytest.raises(DataError, match="expected a checkpoint's name"):
        verify_checkpoint(tmp_path, name, "0" * 64)


def test_no_checkpoint_is_written_or_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside" / "epoch-000001").mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to("outside")
    for act in (lambda folder: verify_checkpoint(folder, "epoch-000001", "0" * 64), lambda folder: _write(folder, "epoch-000001", EMPTY)):
        with pytest.raises(DataError, match="got a link"):
            act(tmp_path / "checkpoints")
    assert (tmp_path / "outside" / "epoch-000001").is_dir()


def test_no_checkpoint_is_written_where_a_link_has_taken_the_place_of_the_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "run").symlink_to("users")
    with pytest.raises(DataError, match=r"expected a folder at \S*/run, got a link"):
        _write(tmp_path / "run" / "checkpoints", NAME, EMPTY)
    with pytest.raises(OSError, match="Not a directory"):  # The link came after the look.
        replace_folder(tmp_path / "run" / "checkpoints" / NAME, {"file": b""})
    assert not list((tmp_path / "users").iterdir())


def test_a_run_that_was_moved_away_is_not_begun_anew_by_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="No such file"):
        _write(tmp_path / "moved" / "checkpoints", NAME, EMPTY)
    assert not (tmp_path / "moved").exists()


EMPTY = Snapshot({}, {})
