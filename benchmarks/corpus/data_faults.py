"""Trainings whose data, or whose numbers, go wrong."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Act, Case, Pair, Severity, Training, struck
from .parts import Recurrent, classify, convolutions, images, mlp, of_places, regress, sgd, squared, trained, words

AT = 130


def _changed(change: Any) -> Act:
    return lambda _training, since, batch: change(since, *batch)


class Stuck:
    """The first batch that it is given, for ever."""

    def __init__(self) -> None:
        self._batch: Pair | None = None

    def __call__(self, _training: Training, _since: int, batch: Pair) -> Pair:
        self._batch = self._batch or batch
        return self._batch


def _without(inputs: Tensor, labels: Tensor, lost: int) -> Pair:
    kept = (labels != lost).nonzero().squeeze(1)
    return inputs[kept], labels[kept]


def _sleeps(seconds: float, steps: int = 10**9) -> Act:
    def act(_training: Training, since: int, batch: Pair) -> Pair:
        if since < steps:
            time.sleep(seconds)
        return batch

    return act


def _in_order(_since: int, inputs: Tensor, labels: Tensor) -> Pair:
    """One class after the other, as after a sort: here each batch is of one class alone."""
    chosen = (labels == _since // 8 % 4).nonzero().squeeze(1)
    return (inputs[chosen], labels[chosen]) if len(chosen) else (inputs, labels)


def _shard_lost(_since: int, inputs: Tensor, targets: Tensor) -> Pair:
    """Only one sample in nine is left, of one side of the space."""
    kept = (inputs[:, 0] >= inputs[:, 0].max().clamp_max(1.2)).nonzero().squeeze(1)
    return inputs[kept], targets[kept]


def _data(name: str, severity: Severity, cause: str, told: str, make: Any, at: int = AT) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "data", make, at, severity, cause, told)


def _more(rng_seed: int) -> Training:
    return classify(rng_seed, epochs=18)


DATA_FAULTS = (
    _data("batch_stuck", "warning", "stuck", "the loader gives the same batch again and again", lambda s: struck(_more(s), AT, Stuck())),
    _data(
        "class_lost",
        "warning",
        "data",
        "one class is no longer in the training data",
        lambda s: struck(_more(s), AT, _changed(lambda _n, x, y: _without(x, y, 1))),
    ),
    _data("shard_lost", "warning", "data", "most of the data are gone", lambda s: struck(_more(s), AT, _changed(_shard_lost))),
    _data(
        "duplicates",
        "warning",
        "data",
        "each batch is one sample many times",
        lambda s: struck(_more(s), AT, _changed(lambda _n, x, y: (x[:1].expand(len(x), -1), y[:1].expand(len(y))))),
    ),
    _data(
        "scale_lost",
        "critical",
        "preprocessing",
        "inputs are 50 times too large from one step on",
        lambda s: struck(_more(s), AT, _changed(lambda _n, x, y: (x * 50, y))),
    ),
    _data("inputs_zero", "critical", "data", "every input is zero", lambda s: struck(_more(s), AT, _changed(lambda _n, x, y: (x * 0, y)))),
    _data(
        "order_sorted",
        "warning",
        "data",
        "the data come sorted by class",
        lambda s: struck(classify(s, optimize=sgd(0.3), epochs=18), AT, _changed(_in_order)),
    ),
    _data(
        "labels_shifted",
        "critical",
        "labels",
        "labels are those of the next class",
        lambda s: struck(_more(s), AT, _changed(lambda _n, x, y: (x, (y + 1) % 4))),
    ),
    _data(
        "noise_floods",
        "critical",
        "data",
        "inputs drown in noise",
        lambda s: struck(_more(s), AT, _changed(lambda _n, x, y: (x + 4 * torch.randn(x.shape), y))),
    ),
    _data(
        "columns_swapped",
        "critical",
        "preprocessing",
        "the columns of the inputs stand in another order",
        lambda s: struck(regress(s, epochs=18), AT, _changed(lambda _n, x, y: (x.roll(5, 1), y))),
    ),
    _data(
        "targets_scaled",
        "critical",
        "labels",
        "targets are in another unit",
        lambda s: struck(regress(s, epochs=18), AT, _changed(lambda _n, x, y: (x, y * 30))),
    ),
    _data(
        "words_masked",
        "warning",
        "data",
        "every word is the padding",
        lambda s: struck(trained(Recurrent(), words(s), of_places, epochs=18), AT, _changed(lambda _n, x, y: (x * 0, y))),
    ),
    _data(
        "images_inverted",
        "critical",
        "preprocessing",
        "images are inverted from one step on",
        lambda s: struck(trained(convolutions(), images(s, 800), F.cross_entropy), AT, _changed(lambda _n, x, y: (-x, y))),
    ),
    _data("loader_slow", "warning", "loader", "the loader takes most of each step", lambda s: struck(classify(s), AT, _sleeps(0.03))),
    _data("loader_hangs", "info", "loader", "the loader stood still for some seconds", lambda s: struck(classify(s), AT, _sleeps(5.0, 1))),
)


def _nan_in(_since: int, inputs: Tensor, targets: Tensor) -> Pair:
    inputs = inputs.clone()
    inputs[0, 0] = float("nan")
    return inputs, targets


def _log_of_zero(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy by hand: the logarithm of a probability that is zero once the model is sure."""
    right = (400 * output).softmax(1).gather(1, target[:, None]).squeeze(1)
    return -right.log()


class Rooted(nn.Module):
    """A distance whose gradient at zero is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(16, 32, 4)
        self.power = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self.inner(inputs) + (inputs[:, :1] * 0 + self.power * 0).abs().sqrt()  # type: ignore[no-any-return]


def _halved(model: nn.Module, batch: Any) -> Tensor:
    """Through half precision: what is small becomes zero."""
    inputs, targets = batch
    return F.cross_entropy((model(inputs * 1e-6).half().float()), targets)


def _low(training: Training, since: int, batch: Pair) -> Pair:
    """Weights are kept in bfloat16: small steps round to nothing."""
    if since == 0:
        for group in training.optimizer.param_groups:
            group["lr"] = 1e-5
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return batch


def _infinite_weight(training: Training, since: int, batch: Pair) -> Pair:
    if since == 0:
        with torch.no_grad():
            next(training.model.parameters()).view(-1)[0] = float("inf")
    return batch


class Overflow(nn.Module):
    """An exponential that overflows once its argument has grown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(16, 32, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """A value."""
        return self.inner(inputs).exp()  # type: ignore[no-any-return]


def _grows_large(_since: int, inputs: Tensor, targets: Tensor) -> Pair:
    return inputs * 1.5 ** min(_since, 60), targets


def _numeric(name: str, severity: Severity, cause: str, told: str, make: Any, at: int = AT) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "numerics", make, at, severity, cause, told)


NUMERICS = (
    _numeric("nan_in_inputs", "critical", "not_finite", "an input is not a number", lambda s: struck(classify(s), AT, _changed(_nan_in))),
    _numeric(
        "infinite_loss",
        "critical",
        "not_finite",
        "the loss is infinite",
        lambda s: struck(regress(s), AT, _changed(lambda _n, x, y: (x, y * 1e25))),
    ),
    _numeric(
        "logarithm_of_zero", "critical", "not_finite", "the loss takes the logarithm of zero", lambda s: classify(s, loss=_log_of_zero), 0
    ),
    _numeric(
        "gradient_of_root",
        "critical",
        "not_finite",
        "the gradient of a root at zero is not finite from the start",
        lambda s: classify(s, Rooted()),
        0,
    ),
    _numeric(
        "exponential_overflows",
        "critical",
        "not_finite",
        "an exponential overflows",
        lambda s: struck(regress(s, Overflow()), AT, _changed(_grows_large)),
    ),
    _numeric(
        "half_precision_underflows",
        "warning",
        "precision",
        "what the model sees is too small for half precision",
        lambda s: replace(classify(s), options={"objective": _halved}),
        0,
    ),
    _numeric(
        "steps_round_to_nothing",
        "warning",
        "precision",
        "weights are kept in too low a precision: they do not change any more",
        lambda s: struck(classify(s, optimize=sgd(0.02)), 60, _low),
        60,
    ),
    _numeric("weight_infinite", "critical", "not_finite", "a weight is infinite", lambda s: struck(classify(s), AT, _infinite_weight)),
    _numeric(
        "loss_underflows",
        "warning",
        "precision",
        "the loss is so small that no gradient is left",
        lambda s: regress(s, loss=lambda o, t: 1e-44 * squared(o, t)),
        0,
    ),
    _numeric(
        "one_nan_batch",
        "critical",
        "not_finite",
        "one batch was not finite",
        lambda s: struck(classify(s), AT, _changed(lambda n, x, y: _nan_in(n, x, y) if n == 0 else (x, y))),
    ),
)
