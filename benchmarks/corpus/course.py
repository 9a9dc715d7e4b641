"""Trainings that learn, and then go wrong; and trainings of which validation alone goes wrong."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from .case import Case, Pair, Severity, Training, struck, struck_valid
from .clean_courses import scheduled
from .parts import adam, classes, classify, convolutions, images, mlp, regress, sgd, trained, values

AT = 130


def _learning_rate(rate: float, until: int = 10**9) -> Any:
    """Sets the rate before every step: a rollback does not bring the old one back."""

    def act(training: Training, since: int, batch: Pair) -> Pair:
        for group in training.optimizer.param_groups:
            group["lr"] = rate if since < until else 3e-3
        return batch

    return act


def _to_and_fro(training: Training, since: int, batch: Pair) -> Pair:
    for group in training.optimizer.param_groups:
        group["lr"] = 0.35 if since % 24 < 6 else 0.01
    return batch


def _decays(training: Training, since: int, batch: Pair) -> Pair:
    if since == 0:
        for group in training.optimizer.param_groups:
            group["weight_decay"] = 3.0
    return batch


def _loses_moments(training: Training, since: int, batch: Pair) -> Pair:
    """The optimizer begins anew with a step a hundred times too large: what a restart without its state does."""
    if since == 0:
        training.optimizer.state.clear()
        for group in training.optimizer.param_groups:
            group["lr"] *= 100
    return batch


def _scrambles(training: Training, since: int, batch: Pair) -> Pair:
    """The weights are those of another start: a checkpoint that was loaded wrongly."""
    if since == 0:
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.copy_(parameter[torch.randperm(len(parameter))])
    return batch


def _other_task(_: Training, _since: int, batch: Pair) -> Pair:
    inputs, labels = batch
    return inputs.flip(1), labels


def _wrong_sign(output: Tensor, target: Tensor) -> Tensor:
    return -F.cross_entropy(output, target, reduction="none")


def _mislabelled(share_of: Any) -> Any:
    def act(_: Training, since: int, batch: Pair) -> Pair:
        inputs, labels = batch
        wrong = torch.rand(len(labels)) < share_of(since)
        return inputs, torch.where(wrong, torch.randint(4, labels.shape), labels)

    return act


def _course(name: str, at: int, severity: Severity, cause: str, told: str, make: Any) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "course", make, at, severity, cause, told)


COURSE = (
    _course(
        "learning_rate_absurd",
        0,
        "critical",
        "learning_rate",
        "the learning rate is far too high: the loss rises from the start",
        lambda s: regress(s, optimize=sgd(30.0), clip=None),
    ),
    _course(
        "sign_of_loss_wrong",
        0,
        "critical",
        "loss",
        "the loss is maximised: it falls below zero without an end",
        lambda s: classify(s, loss=_wrong_sign),
    ),
    _course(
        "learning_rate_jumps",
        AT,
        "critical",
        "learning_rate",
        "the learning rate is 170 times what it was, and the loss is lost",
        lambda s: struck(classify(s), AT, _learning_rate(0.5)),
    ),
    _course(
        "learning_rate_spikes",
        AT,
        "warning",
        "learning_rate",
        "the learning rate was 20 times too high for eight steps, and the loss rose",
        lambda s: struck(classify(s), AT, _learning_rate(0.06, 8)),
    ),
    _course(
        "swings",
        AT,
        "warning",
        "learning_rate",
        "the learning rate goes to and fro, and the loss with it",
        lambda s: struck(regress(s, optimize=sgd(0.05), clip=None), AT, _to_and_fro),
    ),
    _course(
        "decay_begins",
        AT,
        "critical",
        "decay",
        "a weight decay of 3 takes back what was learnt",
        lambda s: struck(classify(s), AT, _decays),
    ),
    _course(
        "moments_lost",
        AT,
        "critical",
        "optimizer",
        "the optimizer lost its state and steps a hundred times too far",
        lambda s: struck(classify(s), AT, _loses_moments),
    ),
    _course(
        "weights_scrambled",
        AT,
        "warning",
        "weights",
        "the weights are others from one step to the next: the loss is back where it began",
        lambda s: struck(classify(s), AT, _scrambles),
    ),
    _course("other_task", AT, "critical", "data", "the data are those of another task", lambda s: struck(classify(s), AT, _other_task)),
    _course(
        "labels_rot",
        AT,
        "critical",
        "labels",
        "more and more labels are wrong: the loss rises slowly and stays",
        lambda s: struck(classify(s, epochs=20), AT, _mislabelled(lambda n: min(0.7, n / 200))),
    ),
    _course(
        "learning_stops_early",
        40,
        "warning",
        "learning_rate",
        "the schedule ends after two epochs, long before the loss is down",
        lambda s: scheduled(classify(s, optimize=sgd(0.02)), lambda o: lr_scheduler.MultiStepLR(o, [2], 1e-4)),
    ),
    _course(
        "capacity_too_small",
        0,
        "warning",
        "loss",
        "the run learns hardly anything: its loss is at the level of guessing",
        lambda s: classify(s, mlp(16, 1, 4), data=classes(s, wrong=0.9)),
    ),
)


class Runaway(nn.BatchNorm2d):
    """A normalisation whose running statistics are those of something else."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 # torch's own name.
        """As torch's, with a running variance that training spoils."""
        output = super().forward(input)
        if self.training and self.running_var is not None:
            self.running_var = self.running_var * 1.5
        return output


def _runaway(rng_seed: int) -> Training:
    model = convolutions()
    model[1] = Runaway(8)
    return trained(model, images(rng_seed), F.cross_entropy)


def _overfitted(rng_seed: int) -> Training:
    return classify(rng_seed, mlp(16, 256, 4), adam(1e-2), data=classes(rng_seed, 240, wrong=0.3), batch=16, valid=160, epochs=40)


def _valid_of(training: Training, change: Any) -> Training:
    return replace(training, valid=[change(batch) for batch in training.valid])


def _any_labels(batch: Pair) -> Pair:
    return batch[0], torch.randint(4, batch[1].shape)


def _leaked(rng_seed: int) -> Training:
    """The target stands in the inputs: both losses are too good to be true."""
    inputs, targets = values(rng_seed, noise=1.0)
    inputs[:, 0] = targets[:, 0] * 3
    return regress(rng_seed, data=(inputs, targets), epochs=30)


def _train_only_leak(rng_seed: int) -> Training:
    made = classify(rng_seed, data=classes(rng_seed, wrong=0.3), epochs=20)
    held = [(inputs, labels) for inputs, labels in made.valid]

    def told(_: Training, _since: int, batch: Pair) -> Pair:
        inputs, labels = batch
        return torch.cat((F.one_hot(labels, 4).float() * 2, inputs[:, 4:]), 1), labels

    return struck(replace(made, valid=held), 0, told)


class Duplicates:
    """Validation data that are the training data: the metric is of the wrong split."""

    def __init__(self, batches: Any) -> None:
        self._batches = list(batches)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._batches)


def _wrong_split(rng_seed: int) -> Training:
    made = classify(rng_seed, mlp(16, 256, 4), adam(1e-2), data=classes(rng_seed, 320, wrong=0.4), batch=16, epochs=30)
    return replace(made, valid=Duplicates(made.train))


def _validation(name: str, at: int, severity: Severity, cause: str, told: str, make: Any) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "validation", make, at, severity, cause, told)


def _brightened(batch: Pair) -> Pair:
    return batch[0] * 4 + 2, batch[1]


VALIDATION = (
    _validation("overfitting", 25, "warning", "overfitting", "validation gets worse while training gets better", _overfitted),
    _validation(
        "validation_labels_wrong",
        0,
        "warning",
        "validation",
        "validation labels do not belong to their inputs",
        lambda s: _valid_of(classify(s, epochs=16), _any_labels),
    ),
    _validation(
        "validation_preprocessed_otherwise",
        0,
        "warning",
        "preprocessing",
        "validation inputs have another scale and mean than training inputs",
        lambda s: _valid_of(classify(s, epochs=16), _brightened),
    ),
    _validation(
        "validation_breaks",
        200,
        "critical",
        "validation",
        "validation data are wrong from one epoch on",
        lambda s: struck_valid(classify(s, epochs=20), 200, _any_labels),
    ),
    _validation(
        "validation_inputs_scaled",
        200,
        "critical",
        "preprocessing",
        "validation inputs have another scale from one epoch on",
        lambda s: struck_valid(classify(s, epochs=20), 200, _brightened),
    ),
    _validation(
        "running_statistics_run_away",
        0,
        "warning",
        "mode",
        "running statistics are wrong: eval mode is far worse than train mode",
        _runaway,
    ),
    _validation("target_among_inputs", 0, "info", "validation", "the target stands in the inputs: the losses are too good", _leaked),
    _validation(
        "leak_in_training_alone",
        0,
        "warning",
        "overfitting",
        "training inputs give the target away, validation inputs do not",
        _train_only_leak,
    ),
    _validation("validation_is_training", 0, "info", "validation", "validation data are the training data", _wrong_split),
    _validation(
        "validation_not_finite",
        200,
        "critical",
        "not_finite",
        "the validation loss is not a number",
        lambda s: struck_valid(classify(s, epochs=16), 200, lambda b: (b[0] * float("nan"), b[1])),
    ),
)
