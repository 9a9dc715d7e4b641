"""What cannot mean what it says is refused in one line before there is a run; the lines stand here as they are printed."""

import copy
import itertools
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import esper
from esper.errors import EsperError
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunStarted
from esper.oona.directory import Directory
from esper.processes.train import Result
from esper.tolaria.objective import Supervised
from esper.tolaria.requirements import require_trains
from esper.tolaria.trainer import Interrupted
from esper.tolaria.validation import Evaluator
from tests.recipes import Acting, events
from tests.tolaria.worlds import STEPS, batches, loss_of, perceptron, samples

Given = dict[str, Any]  # Arguments of esper.fit, which checks them.


class Pairs(TensorDataset):
    """The twenty samples, one at a time."""

    def __init__(self) -> None:
        super().__init__(*samples())


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.cycle(zip(*samples(), strict=True))


class Nothing(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(())


class Unsized:
    """Batches that can be iterated again, of a number that is not known."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(batches())


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = self.inner(inputs)
        return output, output


def fit(log: Path, **given: Any) -> Result:  # As above.
    options: Given = {"train": batches(), "valid": batches(20), "loss": loss_of, "epochs": 2, "grow": None, "observe": False}
    model = given.pop("model") if "model" in given else perceptron()
    return esper.fit(model, **options | {"log": log} | given)


def trained_by(
    make: Callable[[nn.Module], object], schedule: Callable[[Any], object] | None = None, model: nn.Module | None = None, **more: Any
) -> Given:
    """A model with the optimizer and the schedule that are made for it."""
    host = perceptron() if model is None else model
    optimizer = make(host)
    return {"model": host, "optimizer": optimizer, **({} if schedule is None else {"scheduler": schedule(optimizer)}), **more}


def adam(model: nn.Module) -> Optimizer:
    return Adam(model.parameters(), lr=1e-2)


def warmup_and_decay(optimizer: Optimizer, steps: int) -> LambdaLR:
    """The schedule that transformers makes for a number of steps."""
    return LambdaLR(optimizer, lambda step: min(1.0, step / 10) * max(0.0, (steps - step) / steps))


MISUSED: dict[str, Callable[[], Given]] = {
    "the class of a model": lambda: {"model": nn.Flatten},
    "the loader in the model's place": lambda: {"model": DataLoader(Pairs()), "train": perceptron()},
    "a model without parameters": lambda: {"model": nn.Flatten()},
    "a frozen model": lambda: {"model": perceptron().requires_grad_(False)},
    "a lazy layer": lambda: {"model": nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))},
    "a lazy buffer": lambda: {"model": nn.Sequential(nn.Linear(4, 2), nn.LazyBatchNorm1d(affine=False))},
    "the class of an optimizer": lambda: {"optimizer": AdamW},
    "a function that makes an optimizer": lambda: {"optimizer": partial(AdamW, lr=1e-3)},
    "an optimizer by name": lambda: {"optimizer": "adam"},
    "LBFGS": lambda: trained_by(lambda model: LBFGS(model.parameters())),
    "an optimizer of another model": lambda: {"optimizer": adam(perceptron())},
    "an optimizer of what is frozen": lambda: trained_by(lambda model: SGD(next(model.children()).requires_grad_(False).parameters())),
    "the class of a scheduler": lambda: trained_by(adam, lambda _: StepLR),
    "a scheduler by name": lambda: trained_by(adam, lambda _: "cosine"),
    "a scheduler of another optimizer": lambda: trained_by(adam, lambda _: StepLR(adam(perceptron()), 1)),
    "a plateau of another optimizer": lambda: trained_by(adam, lambda _: ReduceLROnPlateau(adam(perceptron()))),
    "a scheduler without its optimizer": lambda: {"scheduler": StepLR(adam(perceptron()), 1)},
    "one cycle of steps": lambda: trained_by(adam, lambda made: OneCycleLR(made, 0.1, total_steps=2 * STEPS)),
    "one cycle of too few steps": lambda: trained_by(adam, lambda made: OneCycleLR(made, 0.1, total_steps=STEPS), scheduler_every="step"),
    "one cycle of too few epochs": lambda: trained_by(adam, lambda made: OneCycleLR(made, 0.1, total_steps=2), epochs=4),
    "a cyclic rate": lambda: trained_by(adam, lambda made: CyclicLR(made, 1e-3, 1e-1, step_size_up=100, cycle_momentum=False)),
    "a cosine of steps": lambda: trained_by(adam, lambda made: CosineAnnealingLR(made, 2 * STEPS)),
    "a cosine of steps after a warmup": lambda: trained_by(
        adam, lambda made: SequentialLR(made, [StepLR(made, 1), CosineAnnealingLR(made, 2 * STEPS)], [1])
    ),
    "warmup and decay of steps": lambda: trained_by(adam, lambda made: warmup_and_decay(made, 10 * STEPS), epochs=10),
    "a plateau at every step": lambda: trained_by(adam, ReduceLROnPlateau, scheduler_every="step"),
    "another scheduler_every": lambda: {"scheduler_every": "batch"},
    "no validation": lambda: {"valid": None},
    "no training data": lambda: {"train": None},
    "a data set": lambda: {"train": Pairs()},
    "a data set for validation": lambda: {"valid": Pairs()},
    "a data set for the test": lambda: {"test": Pairs()},
    "inputs and targets": lambda: {"train": samples()},
    "a tensor": lambda: {"train": samples()[0]},
    "an array": lambda: {"valid": samples()[0].numpy()},
    "the class of a loader": lambda: {"train": DataLoader},
    "a folder": lambda: {"train": "data/train"},
    "an empty list": lambda: {"train": []},
    "no batch that is whole": lambda: {"train": DataLoader(Pairs(), batch_size=64, drop_last=True)},
    "an empty validation": lambda: {"valid": []},
    "a validation of unknown length that is empty": lambda: {"valid": DataLoader(Nothing())},
    "an iterator": lambda: {"train": iter(batches())},
    "a cycle": lambda: {"train": itertools.cycle(batches())},
    "an iterator of validation": lambda: {"valid": iter(batches())},
    "an endless loader": lambda: {"train": DataLoader(Endless(), batch_size=5)},
    "data of unknown length": lambda: {"train": Unsized()},
    "batches of three": lambda: {"valid": [(*samples(), 1)]},
    "batches by name": lambda: {"valid": [{"x": samples()[0]}]},
    "single samples": lambda: {"valid": list(zip(*samples(), strict=True))},
    "a batch without samples": lambda: {"valid": [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]},
    "training batches of three": lambda: {"train": [(*samples(), 1)]},
    "training batches by name": lambda: {"train": [{"x": samples()[0]}]},
    "a training batch without samples": lambda: {"train": [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]},
    "training data of epochs of steps that are empty": lambda: {"train": DataLoader(Nothing()), "epoch_steps": 3},
    "test batches of three": lambda: {"test": [(*samples(), 1)]},
    "a loss without a gradient": lambda: {"loss": lambda output, target: loss_of(output, target).detach()},
    "the class of a loss": lambda: {"loss": nn.CrossEntropyLoss},
    "a loss by name": lambda: {"loss": "mse"},
    "a loss of a number": lambda: {"loss": lambda output, target: F.cross_entropy(output, target).item()},
    "a loss of nothing": lambda: {"loss": lambda _output, _target: None},
    "a loss that counts": lambda: {"loss": lambda output, target: (output.argmax(1) != target).sum()},
    "an objective of a number": lambda: {"loss": None, "objective": lambda _model, _batch: 0.5},
    "an objective with metrics": lambda: {"loss": None, "objective": lambda model, batch: (model(batch[0]).sum(), {})},
    "the class of a metric": lambda: {"metrics": {"mae": nn.L1Loss}},
    "a metric that is none": lambda: {"metrics": {"mae": None}},
    "a list of metrics": lambda: {"metrics": [loss_of]},
    "a metric of nothing": lambda: {"metrics": {"nothing": lambda _output, _target: None}},
    "a metric of text": lambda: {"metrics": {"words": lambda _output, _target: "0.5"}},
    "two outputs": lambda: {"model": TwoOutputs()},
    "neither loss nor objective": lambda: {"loss": None},
    "grow=True": lambda: {"grow": True},
    "epochs as text": lambda: {"epochs": "2"},
    "nothing left by clip": lambda: {"clip": 0},
    "resume=True": lambda: {"resume": True},
}

LINES: dict[str, str] = {
    "the class of a model": "model: expected a torch.nn.Module, got the class Flatten: give an instance, Flatten(...)",
    "the loader in the model's place": "model: expected a torch.nn.Module, got a DataLoader: fit(model, train, valid, ...)",
    "a model without parameters": "model: expected parameters to train, got a Flatten with none",
    "a frozen model": "model: expected parameters to train, got a Sequential with none that requires a gradient",
    "a lazy layer": (
        "model: expected parameters whose shapes are known, got '0.weight', which is not initialised: run the model once "
        "before, model(inputs), then make its optimizer"
    ),
    "a lazy buffer": (
        "model: expected parameters whose shapes are known, got '1.running_mean', which is not initialised: run the model once "
        "before, model(inputs), then make its optimizer"
    ),
    "the class of an optimizer": (
        "optimizer: expected an optimizer of the model's parameters, got the class AdamW: AdamW(model.parameters(), lr=...)"
    ),
    "a function that makes an optimizer": (
        "optimizer: expected an optimizer of the model's parameters, got a partial: torch.optim.Adam(model.parameters(), lr=...)"
    ),
    "an optimizer by name": (
        "optimizer: expected an optimizer of the model's parameters, got a str: torch.optim.Adam(model.parameters(), lr=...)"
    ),
    "LBFGS": (
        "optimizer: expected one whose step() needs no closure, got LBFGS, which computes the loss several times a step: "
        "torch.optim.Adam(model.parameters(), lr=...), for example"
    ),
    "an optimizer of another model": (
        "optimizer: expected one over the model's parameters, got Adam over 4 tensors of which the model trains none: make it "
        "after the model was copied, loaded or moved, Adam(model.parameters(), ...)"
    ),
    "an optimizer of what is frozen": (
        "optimizer: expected one over the model's parameters, got SGD over 2 tensors of which the model trains none: make it "
        "after the model was copied, loaded or moved, SGD(model.parameters(), ...)"
    ),
    "the class of a scheduler": (
        "scheduler: expected a scheduler of the optimizer, got the class StepLR: give an instance, StepLR(optimizer, ...)"
    ),
    "a scheduler by name": "scheduler: expected a scheduler of the optimizer, got a str",
    "a scheduler of another optimizer": (
        "scheduler: expected one of the optimizer that trains, got StepLR of another: StepLR(optimizer, ...) of that one"
    ),
    "a plateau of another optimizer": (
        "scheduler: expected one of the optimizer that trains, got ReduceLROnPlateau of another: ReduceLROnPlateau(optimizer, "
        "...) of that one"
    ),
    "a scheduler without its optimizer": (
        "scheduler: expected one of the optimizer that trains, got StepLR of another: StepLR(optimizer, ...) of that one"
    ),
    "one cycle of steps": (
        "scheduler: expected a schedule of 2 epochs, got OneCycleLR of 8 steps, which would be stepped once an epoch: "
        'scheduler_every="step"'
    ),
    "one cycle of too few steps": "scheduler: expected 8 steps for 2 epochs, got OneCycleLR of 4: total_steps=8",
    "one cycle of too few epochs": "scheduler: expected 4 steps for 4 epochs, got OneCycleLR of 2: total_steps=4",
    "a cyclic rate": (
        "scheduler: expected a schedule of 2 epochs, got CyclicLR of 200 steps, which would be stepped once an epoch: "
        'scheduler_every="step"'
    ),
    "a cosine of steps": (
        "scheduler: expected a schedule of 2 epochs, got CosineAnnealingLR of 8 steps, which would be stepped once an epoch: "
        'scheduler_every="step"'
    ),
    "a cosine of steps after a warmup": (
        "scheduler: expected a schedule of 2 epochs, got SequentialLR of 8 steps, which would be stepped once an epoch: "
        'scheduler_every="step"'
    ),
    "warmup and decay of steps": (
        "scheduler: expected a schedule of 10 epochs, got LambdaLR of 40 steps, which would be stepped once an epoch: "
        'scheduler_every="step"'
    ),
    "a plateau at every step": 'scheduler_every: expected "epoch" with ReduceLROnPlateau, which needs the validation loss, got "step"',
    "another scheduler_every": "setting trainer.scheduler_every: expected 'epoch' or 'step', got 'batch'",
    "no validation": (
        "valid: expected batches that can be iterated once an epoch, got None: torch.utils.data.DataLoader(dataset, "
        "batch_size=64); some of the training data, if there are no others (torch.utils.data.random_split)"
    ),
    "no training data": (
        "train: expected batches that can be iterated once an epoch, got None: torch.utils.data.DataLoader(dataset, batch_size=64)"
    ),
    "a data set": (
        "train: expected batches that can be iterated once an epoch, got a Pairs, which has single samples: "
        "torch.utils.data.DataLoader(dataset, batch_size=64)"
    ),
    "a data set for validation": (
        "valid: expected batches that can be iterated once an epoch, got a Pairs, which has single samples: "
        "torch.utils.data.DataLoader(dataset, batch_size=64)"
    ),
    "a data set for the test": (
        "test: expected batches that can be iterated once an epoch, got a Pairs, which has single samples: "
        "torch.utils.data.DataLoader(dataset, batch_size=64)"
    ),
    "inputs and targets": (
        "train: expected batches that can be iterated once an epoch, got a tuple of 2 of tensors, which is one batch: "
        "[(inputs, targets)], or torch.utils.data.DataLoader of a TensorDataset"
    ),
    "a tensor": (
        "train: expected batches that can be iterated once an epoch, got a Tensor of shape (20, 4): "
        "torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=64), or a list of batches"
    ),
    "an array": (
        "valid: expected batches that can be iterated once an epoch, got a ndarray: "
        "torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=64), or a list of batches"
    ),
    "the class of a loader": (
        "train: expected batches that can be iterated once an epoch, got the class DataLoader: "
        "torch.utils.data.DataLoader(dataset, batch_size=64), or a list of batches"
    ),
    "a folder": (
        "train: expected batches that can be iterated once an epoch, got a str: torch.utils.data.DataLoader(dataset, "
        "batch_size=64), or a list of batches"
    ),
    "an empty list": "train: expected at least one batch, got a list of 0 with none",
    "no batch that is whole": "train: expected at least one batch, got a DataLoader with none",
    "an empty validation": "valid: expected at least one batch, got a list of 0 with none",
    "a validation of unknown length that is empty": "valid: expected at least one batch, got a DataLoader with none",
    "an iterator": (
        "train: expected data that can be iterated once an epoch, got a list_iterator, which ends with the first: give a "
        "loader, or epoch_steps= for a stream"
    ),
    "a cycle": (
        "train: expected data that can be iterated once an epoch, got a cycle, which ends with the first: give a loader, or "
        "epoch_steps= for a stream"
    ),
    "an iterator of validation": (
        "valid: expected data that can be iterated once an epoch, got a list_iterator, which ends with the first: give a loader or a list"
    ),
    "an endless loader": (
        "train: expected training data with a length, or epoch_steps=, got a DataLoader with neither: nothing says that it "
        "ends; an epoch ends after epoch_steps optimizer steps or with the data, whichever is first"
    ),
    "data of unknown length": (
        "train: expected training data with a length, or epoch_steps=, got a Unsized with neither: nothing says that it ends; "
        "an epoch ends after epoch_steps optimizer steps or with the data, whichever is first"
    ),
    "training batches of three": (
        "train: expected batches of (inputs, targets) with loss=, got a tuple of 3: use objective= for other batches"
    ),
    "training batches by name": (
        "train: expected batches of (inputs, targets) with loss=, got a dict of 1: use objective= for other batches"
    ),
    "a training batch without samples": "train: expected a batch with at least one sample, got tuple with none",
    "training data of epochs of steps that are empty": "train: expected at least one batch, got a DataLoader with none",
    "test batches of three": "test: expected batches of (inputs, targets) with loss=, got a tuple of 3: use objective= for other batches",
    "a loss without a gradient": (
        "loss: expected a loss that depends on the model's parameters, got one without a gradient: no .detach(), no no_grad"
    ),
    "batches of three": "valid: expected batches of (inputs, targets) with loss=, got a tuple of 3: use objective= for other batches",
    "batches by name": "valid: expected batches of (inputs, targets) with loss=, got a dict of 1: use objective= for other batches",
    "single samples": (
        "valid: expected batches with loss=, got one sample, a Tensor of shape (4,), whose target is a number: give a DataLoader of them"
    ),
    "a batch without samples": "valid: expected a batch with at least one sample, got tuple with none",
    "the class of a loss": "loss: expected a function, got the class CrossEntropyLoss: give an instance, CrossEntropyLoss()",
    "a loss by name": "loss: expected a function, got a str",
    "a loss of a number": "loss: expected a function that returns a tensor to minimise, got a float from it: no .item(), no float()",
    "a loss of nothing": "loss: expected a function that returns a tensor to minimise, got None from it",
    "a loss that counts": "loss: expected a function that returns a loss of floating point, got torch.int64 from it",
    "an objective of a number": (
        "objective: expected a function that returns a tensor to minimise, got a float from it: no .item(), no float()"
    ),
    "an objective with metrics": "objective: expected a function that returns a tensor to minimise, got a tuple of 2 from it",
    "the class of a metric": "metric 'mae': expected a function, got the class L1Loss: give an instance, L1Loss()",
    "a metric that is none": "metric 'mae': expected a function, got None",
    "a list of metrics": 'metrics: expected functions by name, {"accuracy": accuracy}, got a list of 1',
    "a metric of nothing": "metric 'nothing': expected a tensor or a number, got None",
    "a metric of text": "metric 'words': expected a tensor or a number, got a str",
    "two outputs": (
        "expected a model that returns one tensor with loss=, got a tuple of 2, which the loss refuses: objective=lambda "
        "model, batch: loss(model(batch[0])[0], batch[1]), for example"
    ),
    "neither loss nor objective": "expected exactly one of loss= and objective=, and metrics= only beside loss=",
    "grow=True": "grow: expected esper.Grow(...), or None where nothing may grow, got True",
    "epochs as text": "setting trainer.epochs: expected a whole number, got '2'",
    "nothing left by clip": "setting trainer.clip: expected a number greater than 0, got 0",
    "resume=True": 'resume: expected "latest", or the id of a run, got True',
}


@pytest.mark.parametrize("case", MISUSED)
def test_it_is_refused_in_one_line_before_there_is_a_run(case: str, tmp_path: Path) -> None:
    with pytest.raises(EsperError) as refused:
        fit(tmp_path / "runs", **MISUSED[case]())
    assert str(refused.value) == LINES[case]
    assert not (tmp_path / "runs").exists()


# What is close to it, and works


def test_a_schedule_of_steps_is_stepped_after_every_optimizer_step(tmp_path: Path) -> None:
    given = trained_by(adam, lambda made: OneCycleLR(made, 0.1, total_steps=2 * STEPS), scheduler_every="step")
    rates = OneCycleLR(adam(perceptron()), 0.1, total_steps=2 * STEPS)
    expected = []
    for step in range(2 * STEPS):
        rates.optimizer.step()
        rates.step()
        expected += [rates.get_last_lr()[0]] if step % STEPS == STEPS - 1 else []
    result = fit(tmp_path, **given)
    (started,) = events(Directory(tmp_path), result.run, RunStarted)
    epochs = events(Directory(tmp_path), result.run, EpochCompleted)
    assert started.settings["trainer.scheduler_every"] == "step"
    assert [epoch.learning_rates for epoch in epochs] == [(rate,) for rate in expected]


def test_a_schedule_of_steps_is_resumed_to_the_same_rates(tmp_path: Path) -> None:
    def given() -> Given:
        return trained_by(adam, lambda made: OneCycleLR(made, 0.1, total_steps=4 * STEPS), scheduler_every="step", epochs=4)

    whole = fit(tmp_path / "whole", **given())
    with pytest.raises(Interrupted):
        fit(tmp_path / "halves", **given(), train=Acting(2 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT)))
    resumed = fit(tmp_path / "halves", **given(), train=Acting(0, lambda: None), resume="latest")
    assert resumed.metrics == whole.metrics


SCHEDULES: list[tuple[Callable[[Optimizer], object], Given]] = [
    (lambda made: OneCycleLR(made, 0.1, total_steps=2), {}),
    (lambda made: CosineAnnealingLR(made, 50), {}),
    (lambda made: CosineAnnealingLR(made, 2 * STEPS), {"scheduler_every": "step"}),
    (lambda made: warmup_and_decay(made, 2), {}),
    (lambda made: warmup_and_decay(made, 2 * STEPS), {"scheduler_every": "step"}),
    (ReduceLROnPlateau, {}),
]


@pytest.mark.parametrize(("schedule", "more"), SCHEDULES)
def test_a_schedule_that_is_stepped_as_it_is_meant_is_taken(tmp_path: Path, schedule: Callable[[Optimizer], object], more: Given) -> None:
    assert fit(tmp_path, **trained_by(adam, schedule, **more)).metrics["validation_loss"] > 0


def test_a_metric_may_be_a_number(tmp_path: Path) -> None:
    numbers = {"tensor": lambda _output, _target: torch.tensor(0.25), "float": lambda _output, _target: 0.25, "int": lambda *_: 3}
    metrics = fit(tmp_path, metrics=numbers, accumulate=2).metrics
    assert [metrics[f"validation_{name}"] for name in numbers] == [0.25, 0.25, 3.0]


def test_data_of_unknown_length_are_one_pass_with_an_epoch_of_at_most_so_many_steps(tmp_path: Path) -> None:
    result = fit(tmp_path, train=Unsized(), epoch_steps=10**9)
    assert [epoch.optimizer_steps for epoch in events(Directory(tmp_path), result.run, EpochCompleted)] == [STEPS, STEPS]


def test_an_endless_loader_has_epochs_of_steps(tmp_path: Path) -> None:
    result = fit(tmp_path, train=DataLoader(Endless(), batch_size=5), epoch_steps=3)
    assert [epoch.optimizer_steps for epoch in events(Directory(tmp_path), result.run, EpochCompleted)] == [3, 3]


def test_a_loss_may_take_an_output_of_several_tensors(tmp_path: Path) -> None:
    assert fit(tmp_path, model=TwoOutputs(), loss=lambda output, target: loss_of(output[0], target)).metrics["validation_loss"] > 0


def test_an_optimizer_may_have_a_part_of_the_parameters(tmp_path: Path) -> None:
    given = trained_by(lambda model: Adam(list(model.children())[-1].parameters()))
    before = [parameter.clone() for parameter in given["model"].parameters()]
    fit(tmp_path, **given)
    assert [torch.equal(*pair) for pair in zip(before, given["model"].parameters(), strict=True)] == [True, True, False, False]


# The first batches


def test_what_code_of_the_user_s_raises_on_the_first_training_batch_leaves_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, targets = samples()
    with pytest.raises(IndexError):
        fit(tmp_path / "runs", train=[(inputs, targets + 7)])
    assert re.fullmatch(
        r"esper: IndexError raised by the loss on batch 1 of the training data before the first step: Target \d+ is out of bounds.; "
        r"no run was begun\n",
        capsys.readouterr().err,
    )
    assert not (tmp_path / "runs").exists()


class Counting(nn.Module):
    """BatchNorm, dropout, and a count of its own: everything that a pass in train mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
        self.passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        output: Tensor = self.layers(inputs)
        return output


def test_the_first_training_batch_is_measured_without_a_trace() -> None:
    model, shuffled = Counting().eval(), DataLoader(Pairs(), batch_size=5, shuffle=True, num_workers=1, persistent_workers=True)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    require_trains(Evaluator(model, shuffled, Supervised(loss_of), torch.device("cpu"), name="training data"))
    assert (model.passes, model.training, any(parameter.grad is not None for parameter in model.parameters())) == (0, False, False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert shuffled._iterator is None


def test_no_batch_is_taken_from_a_stream_before_it_is_trained_on(tmp_path: Path) -> None:
    result = fit(tmp_path, train=iter(batches()), epochs=1, epoch_steps=100)
    assert [epoch.optimizer_steps for epoch in events(Directory(tmp_path), result.run, EpochCompleted)] == [STEPS]


def test_the_first_validation_batch_is_measured_without_a_trace(tmp_path: Path) -> None:
    model, shuffled = perceptron(), DataLoader(Pairs(), batch_size=5, shuffle=True)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with pytest.raises(EsperError):
        fit(tmp_path, model=model, valid=shuffled, metrics={"words": lambda _output, _target: "0.5"})
    assert torch.rand(1) == expected
