"""What cannot work is refused by an error that names the place, and nothing that was written before is lost."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import apsw
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from esper.api.task import recipe_of
from esper.demo.tasks import TASKS, TensorBatches, perceptron
from esper.errors import DataError, EsperError, LogError, RuleError, SettingsError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import CheckpointSaved, RunFailed, RunFinished, RunResumed
from esper.events.topics import FACTS
from esper.folds.run_state import Status
from esper.kasmina.blueprints import Blueprint
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe, RunSettings, require_trainable
from esper.processes.train import fresh_run_id, resume, train
from esper.tolaria.objective import Batch, Loss, Supervised
from tests.folds.histories import fold
from tests.whole.conftest import ROOT, Grown
from tests.whole.runs import digits, told

pytestmark = pytest.mark.whole


# Hosts: refused before there is a run


def short(*more: dict[str, JsonValue]) -> RunSettings:
    """Two epochs of digits."""
    return digits({"trainer.epochs": 2}, *more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"growth.sites": "layer*"}, r"expected sites to match a layer, 'layer\*' matches none; the model has '0', '2'"),
        ({"growth.sites": "1"}, r"expected a Linear, Conv1d or Conv2d as a site, got '1': a GELU cannot be one"),
        ({"growth.blueprints": ["conv:8"]}, r"expected a blueprint that fits site '0' \(Linear 64.6\), none does: conv needs"),
        ({"growth.blueprints": ["mpl:8"]}, r"setting growth\.blueprints: expected a blueprint such as mlp:24 .* got 'mpl:8'"),
        ({"growth.blueprints": []}, r"setting growth\.blueprints: expected one or more, got none"),
    ],
)
def test_settings_that_fit_no_host_leave_no_run_behind(tmp_path: Path, more: dict[str, JsonValue], message: str) -> None:
    directory, settings = Directory(tmp_path), short(more)

    with pytest.raises(SettingsError, match=message):
        require_trainable(recipe_of(TASKS["digits"], settings), settings)

    assert directory.runs() == []
    assert list(tmp_path.iterdir()) == []


def test_layer_too_small_for_a_blueprint_is_named() -> None:
    with pytest.raises(DataError, match=r"fits site 'head' \(Linear 4.2\), got signal:12: signal needs at least 10 inputs"):
        Blueprint.parse("signal:12").spec("head", nn.Linear(4, 2, device="meta"))


# Data: refused when it is met, and the log says so


def nothing(features: int = 64) -> TensorBatches:
    """Batches of no samples."""
    return TensorBatches(torch.zeros(0, features), torch.zeros(0, dtype=torch.long), 64, shuffle=False)


def without(what: str, batches: Iterable[Batch]) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, **{what: batches})  # type: ignore[arg-type] # a field's name


@pytest.mark.parametrize(
    ("change", "message", "epochs"),
    [
        (without("train", []), "the training data is empty: expected at least one batch per epoch, got none", 0),
        (without("valid", []), "the validation data is empty: expected at least one batch, got none", 0),
        (without("test", []), "the test data is empty: expected at least one batch, got none", 2),
        (without("train", nothing()), "expected a batch with at least one sample", 0),
        (without("valid", nothing()), "expected a batch with at least one sample", 0),
        (without("train", [torch.zeros(4, 64)]), r"expected batches of \(inputs, targets\) with loss=, got a Tensor", 0),
    ],
    ids=["train", "valid", "test", "train-of-no-samples", "valid-of-no-samples", "no-pairs"],
)
def test_empty_or_malformed_data_ends_the_run_by_name(
    tmp_path: Path, change: Callable[[Recipe], Recipe], message: str, epochs: int
) -> None:
    directory, settings, name = Directory(tmp_path), short(), fresh_run_id()

    with pytest.raises(DataError, match=message):
        train(change(recipe_of(TASKS["digits"], settings)), settings, directory, name)

    run = told(directory, name, settings)
    (failed,) = run.events_of(RunFailed)
    assert failed.kind == "error"
    assert failed.error.startswith("DataError: ")
    assert run.records[-1].type == RunFailed.KIND
    assert len(run.of(EpochCompleted)) == epochs
    assert fold(run.records).status is Status.FAILED


# A run that failed, to be damaged


@dataclass(frozen=True)
class Failed:
    """A run of eight epochs that failed in the seventh, with checkpoints of epochs 0 and 5: its directory, and its records as they were."""

    directory: Directory
    run: RunId
    settings: RunSettings
    records: tuple[Record, ...]

    @property
    def file(self) -> Path:
        return self.directory.path / self.run / "run.sqlite"

    @property
    def checkpoint(self) -> Path:
        return self.directory.checkpoints(self.run) / "epoch-000005"

    def recipe(self, model: nn.Module | None = None) -> Recipe:
        return recipe_of(TASKS["digits"], self.settings, model=model)


class _Breaking:
    """A loss that fails at a training step."""

    def __init__(self, inner: Loss, at: int) -> None:
        self._inner, self._at, self._taken = inner, at, 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self._taken += output.requires_grad
        if self._taken == self._at:
            raise RuntimeError("the user's own code failed")
        return self._inner(output, target)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Failed:
    """The run that the tests below copy before they damage it."""
    directory, settings, run = Directory(tmp_path_factory.mktemp("failed")), digits({"trainer.epochs": 8}), fresh_run_id()
    recipe = recipe_of(TASKS["digits"], settings)
    assert isinstance(recipe.objective, Supervised)
    breaking = replace(recipe.objective, loss=_Breaking(recipe.objective.loss, at=6 * 18 + 9))
    with pytest.raises(RuntimeError, match="the user's own code failed"):
        train(replace(recipe, objective=breaking), settings, directory, run)
    return Failed(directory, run, settings, told(directory, run, settings).records)


@pytest.fixture
def failed(template: Failed, tmp_path: Path) -> Failed:
    """A copy of the failed run, for one test to damage."""
    copied = tmp_path / "log"
    shutil.copytree(template.directory.path, copied)
    return replace(template, directory=Directory(copied))


def test_error_of_the_users_own_stands_in_the_log_with_its_place(template: Failed) -> None:
    last = decode(template.records[-1])

    assert isinstance(last, RunFailed)
    assert last.error == "RuntimeError: the user's own code failed"
    assert last.where == "epoch 7, step 117"


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


def _change_epoch(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["counters"] = manifest["counters"].replace('"epoch":5', '"epoch":4')
    path.write_text(json.dumps(manifest))


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a flipped bit in the tensors": ("tensors.safetensors", lambda path: _flip(path, -5), "expected sha256 "),
    "tensors cut short": ("tensors.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100]), "expected sha256 "),
    "no tensors": ("tensors.safetensors", lambda path: path.unlink(), "expected manifest.json and tensors.safetensors, whole"),
    "another number in the manifest": ("manifest.json", _change_epoch, "the log expects digest "),
    "a manifest cut short": ("manifest.json", lambda path: path.write_bytes(path.read_bytes()[:50]), "expected manifest.json and"),
    "no manifest": ("manifest.json", lambda path: path.unlink(), "expected manifest.json and tensors.safetensors, whole"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_corrupt_checkpoint_is_named_and_passed_over_and_costs_nothing_that_was_logged(failed: Failed, damage: str) -> None:
    name, do, message = DAMAGES[damage]
    do(failed.checkpoint / name)

    result = resume(failed.recipe(), failed.settings, failed.directory, failed.run)

    after = told(failed.directory, failed.run, failed.settings)
    assert after.records[: len(failed.records)] == failed.records
    (resumed,) = after.events_of(RunResumed)
    (passed_over,) = (change for change in resumed.environment_changes if failed.checkpoint.name in change)
    assert message in passed_over
    assert after.records[-1].type == RunFinished.KIND
    assert [record.epoch for record, _ in after.of(EpochCompleted)] == list(range(1, 9))
    assert result.metrics == after.events_of(RunFinished)[0].metrics


def test_checkpoint_of_another_host_is_named(failed: Failed) -> None:
    """Of a host that RunStarted cannot tell from the run's own: sites and parameters are the same, their names are not."""
    own = perceptron((64, 6, 10), 4)
    other = nn.Sequential(own[0], own[1], nn.Identity(), own[2])

    with pytest.raises(DataError, match=f"checkpoint {failed.checkpoint} does not fit this host: "):
        resume(failed.recipe(other), failed.settings, failed.directory, failed.run)


@pytest.mark.parametrize(
    ("changed", "model", "field"),
    [
        ({"trainer.rng_seed": 5}, None, r"data\.data\[0\]\.digest"),
        ({"policy.window": 6}, None, r"data\.settings\.policy\.window 5, got 6"),
        ({}, (64, 7, 10), r"data\.parameters 460, got 535"),
    ],
)
def test_run_that_is_resumed_as_another_is_refused_where_it_differs(
    failed: Failed, changed: dict[str, JsonValue], model: tuple[int, ...] | None, field: str
) -> None:
    other = digits({"trainer.epochs": 8}, changed)
    recipe = recipe_of(TASKS["digits"], other, model=None if model is None else perceptron(model, 4))

    with pytest.raises(LogError, match=rf"run {failed.run} diverged from its log at .* \(moment 1, epoch 0, step 0\): expected {field}"):
        resume(recipe, other, failed.directory, failed.run)

    records = told(failed.directory, failed.run, failed.settings).records
    assert records[: len(failed.records)] == failed.records
    event = decode(records[-1])
    assert isinstance(event, RunFailed)
    assert event.kind == "diverged"


# A damaged log file


def test_log_file_cut_short_is_refused_and_left_as_it_is(failed: Failed) -> None:
    whole = failed.file.read_bytes()
    failed.file.write_bytes(whole[: len(whole) // 2])

    for attempt in (
        lambda: failed.directory.open(failed.run),
        lambda: resume(failed.recipe(), failed.settings, failed.directory, failed.run),
    ):
        with pytest.raises(LogError, match=rf"cannot open {failed.file}: the file is damaged: expected {len(whole)} bytes, got"):
            attempt()
    assert failed.file.read_bytes() == whole[: len(whole) // 2]
    failed.file.write_bytes(whole)
    assert told(failed.directory, failed.run, failed.settings).records == failed.records


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_file_that_is_no_log_is_refused(failed: Failed, content: bytes) -> None:
    failed.file.write_bytes(content)

    with pytest.raises(LogError, match=rf"cannot open {failed.file}: expected a run's SQLite file, got {len(content)} bytes"):
        resume(failed.recipe(), failed.settings, failed.directory, failed.run)


def test_flipped_bit_in_a_record_is_named_and_what_stands_before_it_is_readable(failed: Failed) -> None:
    damaged = next(record for record in failed.records if record.type == EpochCompleted.KIND and record.epoch == 4)
    _flip(failed.file, failed.file.read_bytes().index(damaged.data) + 10)
    before = failed.file.read_bytes()

    with pytest.raises(
        LogError, match=rf"cannot trust {failed.file}: .*topic {damaged.topic}, sequence 4, moment {damaged.moment}: expected chain"
    ):
        resume(failed.recipe(), failed.settings, failed.directory, failed.run)

    with failed.directory.open(failed.run) as log:
        readable = log.read(limit=len(failed.records)).records
    assert readable[: damaged.moment - 1] == failed.records[: damaged.moment - 1]
    with pytest.raises(DataError, match=rf"run {failed.run}, topic {damaged.topic}, moment {damaged.moment}: a payload of"):
        decode(readable[damaged.moment - 1])
    assert fold(readable[: damaged.moment - 1]).epochs[-1].epoch == 3
    assert failed.file.read_bytes() == before


def test_no_flipped_bit_anywhere_is_taken_for_the_log_or_ends_in_another_error(failed: Failed) -> None:
    """Wherever a bit flips, whoever resumes either gets the same records or is refused; whoever reads gets no other error than ours."""
    whole = failed.file.read_bytes()
    places = random.Random(5).sample(range(len(whole)), 80) + list(range(0, 112, 7))
    found = {}
    for place in places:
        _flip(failed.file, place)
        found[place] = _resumed(failed)
        _read_all(failed)
        failed.file.write_bytes(whole)

    refusals = [what for what in found.values() if isinstance(what, LogError)]
    assert all(str(failed.file) in str(error) for error in refusals)
    assert all(what == failed.records for what in found.values() if not isinstance(what, LogError))
    assert len(refusals) >= 40


def _resumed(failed: Failed) -> tuple[Record, ...] | LogError:
    try:
        with failed.directory.resume(failed.run) as log:
            everything = log.read(limit=1000).records
            assert log.read(limit=1000, topics=FACTS).records == tuple(record for record in everything if record.fact is not None)
            return everything
    except LogError as error:
        return error


def _read_all(failed: Failed) -> None:
    for chosen in (None, FACTS):
        try:
            with failed.directory.open(failed.run) as log:
                for record in log.read(limit=1000, topics=chosen).records:
                    decode(record)
        except EsperError:
            continue


def test_flipped_bit_in_the_index_is_refused_where_a_reader_would_miss_a_record(failed: Failed) -> None:
    connection = apsw.Connection(str(failed.file), flags=apsw.SQLITE_OPEN_READONLY)
    page = int(connection.execute("SELECT rootpage FROM sqlite_schema WHERE type = 'index' AND name = 'facts'").get)
    size = int(connection.pragma("page_size"))
    connection.close()
    _flip(failed.file, page * size - 1)  # The number of a row: cells are filled from the end.

    with (
        failed.directory.open(failed.run) as log,
        pytest.raises(LogError, match=f"cannot read {failed.file}: .*damaged"),
    ):
        log.read(limit=1000, topics=FACTS)
    with pytest.raises(LogError, match=f"cannot trust {failed.file}: the file is damaged: "):
        resume(failed.recipe(), failed.settings, failed.directory, failed.run)


# Places and processes


@pytest.mark.parametrize("below", ["", "runs", "runs/deeper"])
def test_log_that_cannot_be_written_is_refused(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")

    with pytest.raises(LogError, match=f"cannot make the folder {file / below}: "):
        Directory(file / below, create=True)
    assert file.read_text() == "not a folder"


READ_ONLY = """
import sys
from esper.errors import LogError
from esper.oona.directory import Directory, new_run_id
from datetime import UTC, datetime
directory, run = Directory(sys.argv[1]), sys.argv[2]
for attempt in (
    lambda: Directory(sys.argv[1], create=True),
    lambda: directory.create(new_run_id(datetime.now(UTC), bytes(10))),
    lambda: directory.resume(run),
):
    try:
        attempt()
    except LogError as error:
        print(error)
print(sum(1 for _ in directory.open(run).read(limit=10000).records))
"""


def test_log_on_a_read_only_disk_is_refused_for_writing_and_can_be_read(grown: Grown) -> None:
    path = grown.told.directory.path
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77; shift; exec "$@"'
    if shutil.which("unshare") is None:
        pytest.skip("a read-only mount needs unshare (util-linux)")
    done = subprocess.run(
        ("unshare", "-rm", "sh", "-c", script, "sh", path, sys.executable, "-c", READ_ONLY, path, grown.told.run),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip(f"a read-only mount is not to be had here: {done.stderr}")

    *errors, count = done.stdout.splitlines()
    assert done.stderr == ""
    assert len(errors) == 3
    assert all(str(path) in error for error in errors)
    assert int(count) == len(grown.told.records)


HOLD = """
import sys
from esper.oona.directory import Directory
with Directory(sys.argv[1]).resume(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_run_that_another_process_trains_is_refused_by_its_pid(failed: Failed) -> None:
    command = (sys.executable, "-c", HOLD, failed.directory.path, failed.run)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        entry = failed.directory.entry(failed.run)
        with pytest.raises(LogError, match=rf"run {failed.run} is being written by process {other.pid} \(lock .*/lock\)"):
            resume(failed.recipe(), failed.settings, failed.directory, failed.run)
        other.communicate(timeout=60)

    assert entry is not None
    assert entry.holder == other.pid
    assert told(failed.directory, failed.run, failed.settings).records == failed.records


def test_run_that_has_ended_takes_no_more(grown: Grown) -> None:
    recipe = recipe_of(TASKS["digits"], grown.told.settings)  # One for all: a refusal leaves the model as it is.

    with pytest.raises(LogError, match=rf"run {grown.told.run} is finished and sealed"):
        resume(recipe, grown.told.settings, grown.told.directory, grown.told.run)
    with pytest.raises(LogError, match=rf"cannot create run {grown.told.run}: expected no log yet"):
        train(recipe, grown.told.settings, grown.told.directory, grown.told.run)
    assert told(grown.told.directory, grown.told.run, grown.told.settings).records == grown.told.records


def test_run_that_is_not_there_is_refused_with_those_that_are(failed: Failed) -> None:
    absent = fresh_run_id()

    with pytest.raises(LogError, match=f"expected the log of run {absent} at .*, got nothing"):
        resume(failed.recipe(), failed.settings, failed.directory, absent)
    with pytest.raises(RuleError, match=f"no run begins or ends with 'zzz' .*there are: {failed.run}"):
        failed.directory.resolve("zzz")


def test_checkpoints_in_the_log_are_those_on_disk(failed: Failed) -> None:
    saved = [event.checkpoint for event in told(failed.directory, failed.run, failed.settings).events_of(CheckpointSaved)]

    assert sorted(path.name for path in failed.directory.checkpoints(failed.run).iterdir()) == saved == ["epoch-000000", "epoch-000005"]
