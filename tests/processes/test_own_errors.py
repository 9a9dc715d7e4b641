"""An exception of the user's own: one line first, with what raised it, where the run is and how it goes on; then it is raised as it is."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.oona.directory import Directory
from esper.processes.recipe import Recipe, require_trainable, run_settings
from esper.processes.train import fresh_run_id, train
from esper.tolaria.objective import Supervised, WithoutMetrics
from tests.recipes import Acting, BurstError, burst, recipe, settings
from tests.tolaria.worlds import STEPS, batches, loss_of, perceptron

ALONE = run_settings(settings().dotted(), {"growth.enabled": False})


class At:
    """A function that bursts when it is called for the `at`-th time."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            burst()


class Bursting(nn.Module):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.inner, self.at = perceptron(), At(at)

    def forward(self, inputs: Tensor) -> Tensor:
        self.at()
        output: Tensor = self.inner(inputs)
        return output


def with_model(at: int) -> Recipe:
    return replace(recipe(model=Bursting(at)), policy=None)


def with_loss(at: int) -> Recipe:
    act = At(at)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        act()
        return loss_of(output, target)

    return _with(Supervised(loss))


def with_metric(at: int) -> Recipe:
    act = At(at)

    def right(_output: Tensor, _target: Tensor) -> float:
        act()
        return 1.0

    return _with(Supervised(loss_of, {"right": right}))


def with_objective(at: int) -> Recipe:
    act = At(at)

    def objective(model: nn.Module, batch: object) -> Tensor:
        act()
        assert isinstance(batch, tuple)
        return loss_of(model(batch[0]), batch[1])

    return _with(WithoutMetrics(objective))


def _with(objective: Callable[..., tuple[Tensor, dict[str, Tensor]]]) -> Recipe:
    return replace(recipe(), objective=objective, policy=None)


# The second epoch's second batch is the call after four batches of training, one of validation and one more.
SECOND = STEPS + 1 + 2
RAISED: list[tuple[Callable[[], Recipe], str]] = [
    (lambda: replace(recipe(Acting(STEPS + 2, burst)), policy=None), "raised by the training data at batch 2 of the epoch"),
    (lambda: with_model(SECOND), "raised by the model on batch 2 of the epoch's training data"),
    (lambda: with_loss(SECOND), "raised by the loss on batch 2 of the epoch's training data"),
    (lambda: with_metric(SECOND), "raised by the metric 'right' on batch 2 of the epoch's training data"),
    (lambda: with_objective(SECOND), "raised by the objective on batch 2 of the epoch's training data"),
    (lambda: with_loss(2 * STEPS + 2), "raised by the loss on batch 1 of the validation data"),
]


def lines_of(capfd: pytest.CaptureFixture[str]) -> str:
    """The lines on standard error but those about the wiring: these trainings are validated by what they are trained on."""
    return "".join(line for line in capfd.readouterr().err.splitlines(keepends=True) if not line.startswith("esper: wiring, info: samples"))


@pytest.mark.parametrize(("make", "by"), RAISED)
def test_the_line_says_what_raised_it_where_the_run_is_and_how_it_goes_on(
    make: Callable[[], Recipe], by: str, directory: Directory, capfd: pytest.CaptureFixture[str]
) -> None:
    run = fresh_run_id()
    with pytest.raises(BurstError):
        train(make(), ALONE, directory, run)
    step = 2 * STEPS if "validation" in by else STEPS + (1 if "training data at" in by else 2)
    assert lines_of(capfd) == (
        f"esper: BurstError {by}: the data server is gone; run {run[-6:]} ended in epoch 2, step {step}; "
        f"it was trained by tiny: resume it there, with esper.fit(..., resume={run[-6:]!r})\n"
    )


def test_before_there_is_a_run_the_line_says_that_there_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BurstError):
        require_trainable(with_model(1), ALONE)
    assert capfd.readouterr().err == (
        "esper: BurstError raised by the model on batch 1 of the validation data before the first step: the data server is gone; "
        "no run was begun\n"
    )


def test_a_data_set_that_cannot_be_read_for_the_log_is_named(directory: Directory, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(list[tuple[Tensor, Tensor]]):
        def __getitem__(self, index: object) -> object:  # type: ignore[override] # It returns nothing.
            raise BurstError(f"sample {index} is damaged")

    with pytest.raises(BurstError):
        train(recipe(Broken(batches())), settings(), directory, fresh_run_id())
    assert "BurstError raised by the data train= as samples of it were read for the log: sample 0 is damaged" in capfd.readouterr().err


def test_a_rolled_back_epoch_is_reported_at_the_end(directory: Directory, capfd: pytest.CaptureFixture[str]) -> None:
    poisoned = At(STEPS + 2)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        try:
            poisoned()
        except BurstError:
            return loss_of(output, target) * float("nan")
        return loss_of(output, target)

    trained = train(_with(Supervised(loss)), ALONE, directory, fresh_run_id())
    assert lines_of(capfd) == (
        f"esper: run {trained.run[-6:]} was rolled back in epoch 2 to the end of epoch 1 (loss nan at step 5); "
        "what it learned in between is not in the model\n"
    )


def test_a_training_that_never_went_back_reports_nothing(directory: Directory, capfd: pytest.CaptureFixture[str]) -> None:
    train(recipe(), settings(epochs=1), directory, fresh_run_id())
    assert lines_of(capfd) == ""


OWN_TASK = """
from pathlib import Path
import torch
import esper

calls = []

def data(rng_seed):
    torch.manual_seed(rng_seed)
    batches = [(torch.randn(5, 4), torch.randint(2, (5,))) for _ in range(9)]
    return batches[:3], batches[3:6], batches[6:]

def model(rng_seed):
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))

def loss(output, target):
    calls.extend([1] * output.requires_grad)
    if len(calls) > 9 and Path("bug").exists():
        raise ValueError("no target for class 7\\nin this batch")
    return torch.nn.functional.cross_entropy(output, target, reduction="none")

task = esper.Task(
    name="own:task", data=data, model=model, loss=loss, metrics={}, settings={"growth.enabled": False, "trainer.epochs": 3}
)
"""


@pytest.mark.whole
def test_the_command_that_the_shell_names_goes_on_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_TASK)
    (tmp_path / "bug").touch()
    esper = (sys.executable, "-m", "esper.cli")
    failed = subprocess.run((*esper, "train", "own:task", "--no-observe"), cwd=tmp_path, capture_output=True, text=True, check=False)
    first = next(line for line in failed.stderr.splitlines() if "calls" not in line)
    assert re.fullmatch(
        r"esper: ValueError raised by the loss on batch \d of the epoch's training data: no target for class 7 \.\.\. in this batch; "
        r"run \w{6} ended in epoch 2, step \d; esper resume \w{6} --log runs",
        first,
    )
    assert failed.stderr.splitlines()[1] == "Traceback (most recent call last):"
    assert failed.returncode == 1
    (tmp_path / "bug").unlink()
    words = shlex.split(first.rpartition("; ")[2])
    resumed = subprocess.run((*esper, *words[1:], "--no-observe"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (resumed.returncode, resumed.stderr) == (0, "")


def test_the_traceback_of_a_loaders_worker_is_two_of_its_lines(directory: Directory, capfd: pytest.CaptureFixture[str]) -> None:
    class Damaged(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            if torch.utils.data.get_worker_info() is None:
                return torch.zeros(4), torch.tensor(0)  # As it is read for the log.
            raise OSError(f"cannot read {index}.png")

    loader = torch.utils.data.DataLoader(Damaged(), batch_size=5, num_workers=1)
    with pytest.raises(OSError, match=r"cannot read 0\.png"):
        train(recipe(loader), settings(), directory, fresh_run_id())
    assert (
        "OSError raised by the training data at batch 1 of the epoch: Caught OSError in DataLoader worker process 0. ... "
        "OSError: cannot read 0.png; run " in capfd.readouterr().err
    )


def test_a_log_that_is_gone_does_not_hide_why_a_training_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log, run = tmp_path / "here", fresh_run_id()

    def moves_and_bursts(_output: Tensor, _target: Tensor) -> Tensor:
        if (log / run / "checkpoints").exists():
            log.rename(tmp_path / "there")
            burst()
        return loss_of(_output, _target)

    with pytest.raises(BurstError):
        train(_with(Supervised(moves_and_bursts)), ALONE, Directory(log, create=True), run)
    assert f"esper: how run {run[-6:]} ended could not be recorded: cannot append to {log / run}" in capfd.readouterr().err
    with Directory(tmp_path / "there").resume(run):
        pass
