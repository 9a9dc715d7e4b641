"""Each check finds the fault that it is there for, within the first epoch, where it is, and says what was measured."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import esper
from esper.errors import RuleError
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.events.kinds.wiring_findings import OutcomeJudged, WiringFound
from esper.oona.directory import Directory
from esper.tolaria.trainer import Interrupted
from esper.tolaria.wiring.findings import EXPLANATIONS
from esper.tolaria.wiring.watch import FirstEpoch
from tests.recipes import events
from tests.tolaria.wiring.trainings import classes, cut, found, mlp, values

Made = dict[str, Any]  # Any: the arguments of `found`.


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def no_learning_rate() -> Made:
    model = mlp(8, 16, 3)
    groups: list[dict[str, Any]] = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    return {"model": model, "optimizer": torch.optim.Adam(groups)}


def absurd_learning_rate() -> Made:
    model = mlp(8, 16, 1, active=nn.Tanh)
    later = cut(*values(96, 6))
    return {"model": model, "optimizer": sgd(model, 5.0), "clip": None, "loss": F.mse_loss, "train": cut(*values()), "valid": later}


def tiny_learning_rate() -> Made:
    model = mlp(8, 16, 3)
    return {"model": model, "optimizer": sgd(model, 3e-7)}


def left_out_of_the_optimizer() -> Made:
    model = mlp(8, 16, 3)
    return {"model": model, "optimizer": torch.optim.Adam(model[0].parameters(), lr=1e-2)}


class StandingStill(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # as Trainer calls it
        """Does nothing."""


def steps_are_skipped() -> Made:
    model = mlp(8, 16, 3)
    return {"model": model, "optimizer": StandingStill(model.parameters(), lr=0.1)}


class Cut(nn.Module):
    """A body whose output is detached."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.spare = mlp(8, 16, 16), nn.Linear(16, 3), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(inputs).detach())
        return output


class ZeroGradGone(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does nothing."""


def gradients_add_up() -> Made:
    model = mlp(8, 16, 3)
    return {"model": model, "optimizer": ZeroGradGone(model.parameters(), lr=1e-3)}


class Still(nn.Sequential):
    def train(self, _mode: bool = True) -> "Still":
        super().train(False)
        return self


def half_precision() -> Made:
    """A layer whose numbers are so large beside its steps that none of them changes."""
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))
    nn.init.constant_(model.get_parameter("0.weight"), 1e6)
    nn.init.constant_(model.get_parameter("0.bias"), 1e6)
    nn.init.normal_(model.get_parameter("1.weight"), std=1e-6)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1e-5), "clip": 1.0}


class Always(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        """Dropout that knows no mode."""
        return F.dropout(inputs, 0.2)


def dead() -> Made:
    model = mlp(8, 16, 3)
    nn.init.constant_(model.get_parameter("0.bias"), -50.0)
    return {"model": model}


def saturated_layer() -> Made:
    model = mlp(8, 16, 3, active=nn.Tanh)
    nn.init.normal_(model.get_parameter("0.weight"), std=200.0)
    return {"model": model}


def saturated_output() -> Made:
    model = nn.Sequential(nn.Linear(8, 3), nn.Sigmoid())
    nn.init.normal_(model.get_parameter("0.weight"), std=200.0)
    return {"model": model}


def broadcast() -> Made:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target.squeeze(1)).square().mean()

    return {"model": mlp(8, 16, 1), "loss": loss, "train": cut(*values()), "valid": cut(*values(96, 6))}


def large_weights() -> Made:
    model = mlp(8, 16, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50)
    return {"model": model}


def other_labels() -> Made:
    inputs, labels = classes()
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return {"model": mlp(8, 16, 3), "train": cut(inputs, shuffled)}


def slow_on_other_labels() -> Made:
    made = other_labels()
    return made | {"optimizer": sgd(made["model"], 1e-3), "epochs": 5}


def same_inputs() -> Made:
    inputs, labels = classes()
    return {"model": mlp(8, 16, 3), "train": cut(torch.ones_like(inputs), labels)}


def unscaled_validation() -> Made:
    inputs, labels = classes(96, rng_seed=6)
    return {"model": mlp(8, 16, 3), "valid": cut(inputs * 20, labels)}


def same_data() -> Made:
    return {"model": mlp(8, 16, 3), "valid": cut(*classes())[:5]}


def target_is_an_input() -> Made:
    inputs, targets = values()
    inputs = torch.cat((inputs[:, :7], 2 * targets + 1), 1)
    return {"model": mlp(8, 16, 1), "train": cut(inputs, targets), "valid": cut(inputs[:96] + 0.01, targets[:96]), "loss": F.mse_loss}


def maximised() -> Made:
    return {"model": mlp(8, 16, 3), "loss": lambda output, target: -F.cross_entropy(output, target), "clip": 1.0}


def decayed() -> Made:
    model = mlp(8, 16, 3)
    return {"model": model, "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5.0)}


class Minute(torch.optim.SGD):
    """Steps that become too small for the weights' number format."""

    taken = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # as Trainer calls it
        self.taken += 1
        self.param_groups[0]["lr"] = 0.05 if self.taken <= 40 else 1e-8
        super().step(closure)


class Overwritten(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # as Trainer calls it
        super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(0.8)


def tiring(kind: type[torch.optim.SGD]) -> Made:
    model = mlp(8, 16, 3)
    return {"model": model, "optimizer": kind(model.parameters(), lr=0.05), "epochs": 4}


def filled() -> Made:
    model = mlp(8, 16, 3)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    return {"model": model}


def masked() -> Made:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output[:2], target[:2]) / 8

    return {"model": mlp(8, 16, 3), "loss": loss}


def one_label() -> Made:
    (inputs, labels), (later, _) = classes(), classes(96, rng_seed=6)
    return {"model": mlp(8, 16, 3), "train": cut(inputs, 0 * labels), "valid": cut(later, labels[:96] * 0)}


FAULTS: dict[str, tuple[Callable[[], Made], tuple[str, ...]]] = {
    "learning-rate-zero": (no_learning_rate, ()),
    "learning-rate-absurd": (absurd_learning_rate, ()),
    "loss-upside-down": (maximised, ()),
    "steps-too-small": (tiny_learning_rate, ()),
    "decay-too-strong": (decayed, ()),
    "not-in-optimizer": (left_out_of_the_optimizer, ("2.weight", "2.bias")),
    "nothing-changes": (steps_are_skipped, ()),
    "layer-unchanged": (half_precision, ("0",)),
    "updates-lost": (lambda: tiring(Minute), ()),
    "weights-faded": (lambda: tiring(Overwritten), ("0.weight",)),
    "weights-equal": (filled, ("0.weight", "2.weight")),
    "layer-without-gradient": (lambda: {"model": Cut()}, ("body.0", "body.2")),
    "layer-unused": (lambda: {"model": Cut()}, ("spare",)),
    "gradients-kept": (gradients_add_up, ("0.weight", "0.bias", "2.weight", "2.bias")),
    "normalisation-on-eval": (lambda: {"model": Still(nn.BatchNorm1d(8), nn.Linear(8, 3))}, ("0",)),
    "dropout-on-eval": (lambda: {"model": Still(nn.Dropout(0.2), nn.Linear(8, 3))}, ("0",)),
    "dropout-in-validation": (lambda: {"model": nn.Sequential(nn.Linear(8, 16), Always(), nn.Linear(16, 3))}, ()),
    "layer-dead": (dead, ("1",)),
    "layer-saturated": (saturated_layer, ("1",)),
    "output-saturated": (saturated_output, ()),
    "output-constant": (dead, ()),
    "output-clipped": (lambda: {"model": nn.Sequential(mlp(8, 16, 3), nn.ReLU())}, ()),
    "probabilities-as-logits": (lambda: {"model": nn.Sequential(mlp(8, 16, 3), nn.Softmax(1))}, ()),
    "targets-not-paired": (broadcast, ()),
    "targets-ignored": (masked, ()),
    "targets-constant": (one_label, ()),
    "starts-far-off": (large_weights, ()),
    "guessing": (other_labels, ()),
    "still-guessing": (slow_on_other_labels, ()),
    "input-constant": (same_inputs, ()),
    "inputs-differ": (unscaled_validation, ()),
    "splits-overlap": (same_data, ()),
    "target-among-inputs": (target_is_an_input, ()),
}


@pytest.mark.parametrize("check", EXPLANATIONS)
def test_a_fault_is_found_where_it_is(check: str, tmp_path: Path) -> None:
    make, places = FAULTS[check]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make()
    told = found(tmp_path, made.pop("model"), **made)
    assert (told[check].severity, told[check].places) == (EXPLANATIONS[told[check].check].severity, places)
    assert told[check].measured


def test_steps_that_are_skipped_later_on_are_found_at_the_end_of_that_epoch(tmp_path: Path) -> None:
    class Tiring(torch.optim.SGD):
        taken = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override] # as Trainer calls it
            self.taken += 1
            if self.taken <= 40:
                super().step(closure)

    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    told = found(tmp_path, model, optimizer=Tiring(model.parameters(), lr=0.1), epochs=5)
    assert told["nothing-changes"].measured.startswith("after a whole epoch")


def test_a_schedule_that_ends_at_zero_before_training_does_is_found(tmp_path: Path) -> None:
    model = mlp(8, 16, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = found(tmp_path, model, optimizer=optimizer, scheduler=LambdaLR(optimizer, lambda epoch: float(epoch < 1)), epochs=5)
    assert told["learning-rate-zero"].measured == "the learning rate is 0, and stays so in the next epoch"


def test_a_loss_that_takes_nothing_but_what_the_model_gives_is_trained_without_a_word(tmp_path: Path) -> None:
    def strict(output: Tensor, target: Tensor) -> Tensor:
        if not output.grad_fn and torch.is_grad_enabled():
            raise ValueError("expected an output of the model")
        if (target[0] != seen[0]) and (target[0] != later[0]):
            raise ValueError("expected targets in order")
        return F.mse_loss(output, target)

    train, valid = cut(*values(320)), cut(*values(96, 6))
    seen, later = train[0][1], valid[0][1]
    told = found(tmp_path, mlp(8, 16, 1), loss=strict, train=train[:1] * 20, valid=valid[:1])
    assert told == {}


def test_a_loss_that_records_metrics_records_those_of_its_own_steps_alone(tmp_path: Path) -> None:
    def measured(output: Tensor, target: Tensor) -> Tensor:
        with suppress(RuleError):  # Before the first step, and where nothing is recorded.
            if torch.is_grad_enabled():
                esper.measure("calls", 1.0)
        return F.cross_entropy(output, target)

    found(tmp_path, mlp(8, 16, 3), loss=measured)
    directory = Directory(tmp_path)
    assert len(events(directory, directory.names()[0], CustomMetricRecorded)) == 40


def test_what_cannot_be_looked_at_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def raises(*_: object) -> None:
        raise NotImplementedError("no such tensor")

    monkeypatch.setattr("esper.tolaria.wiring.watch.keep", raises)
    assert found(tmp_path, Cut()) == {}
    assert "the wiring is looked at no further: NotImplementedError: no such tensor" in capfd.readouterr().err


def test_what_a_training_has_learned_is_judged_against_the_best_constant_output(tmp_path: Path) -> None:
    found(tmp_path / "learns", mlp(8, 16, 3), epochs=6)
    found(tmp_path / "guesses", **other_labels(), epochs=6)
    verdicts = []
    for log in ("learns", "guesses"):
        directory = Directory(tmp_path / log)
        (run,) = directory.names()
        (judged,) = events(directory, run, OutcomeJudged)
        verdicts.append(judged.verdict == "learned")
        assert judged.guessing == pytest.approx(1.07, abs=0.03)
    assert verdicts == [True, False]


class OwnNoise(nn.Module):
    """Noise of a generator that nobody seeds, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.random.random() if self.training else x


def test_looking_changes_no_bit_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.3), OwnNoise(), mlp(8, 16, 3))

    found(tmp_path / "seen", model())
    watches = iter([None])  # None in the first epoch; at the end guessing is asked for.
    monkeypatch.setattr("esper.tolaria.trainer.FirstEpoch", lambda *given: next(watches, FirstEpoch(*given)))
    found(tmp_path / "unseen", model())
    digests = []
    for log in ("seen", "unseen"):
        directory = Directory(tmp_path / log)
        digests.append([event.digests for event in events(directory, directory.names()[0], EpochCompleted)])
    assert digests[0] == digests[1]


def test_what_is_found_stands_in_the_log_once_and_is_told_in_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found(tmp_path, Cut())
    directory = Directory(tmp_path)
    checks = [event.check for event in events(directory, directory.names()[0], WiringFound)]
    assert len(checks) == len(set(checks))
    lines = [line for line in capfd.readouterr().err.splitlines() if "wiring, warning" in line]
    assert len(lines) == 1
    assert "body.0, body.2" in lines[0]


def test_a_run_that_is_stopped_in_its_first_epoch_and_resumed_has_each_finding_once(tmp_path: Path) -> None:
    class Stopping:
        def __init__(self, at: int) -> None:
            self.at = at

        def __len__(self) -> int:
            return 20

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for number, batch in enumerate(cut(*classes())):
                if number == self.at:
                    signal.raise_signal(signal.SIGINT)
                yield batch

    def model() -> nn.Module:
        return nn.Sequential(mlp(8, 16, 3), nn.Softmax(1))

    with pytest.raises(Interrupted):
        found(tmp_path, model(), train=Stopping(15))
    told = found(tmp_path, model(), train=Stopping(-1), resume="latest")
    directory = Directory(tmp_path)
    checks = [event.check for event in events(directory, directory.names()[0], WiringFound)]
    assert checks == list(told)
    assert "probabilities-as-logits" in checks
