"""Trainings whose numbers go wrong: not finite, or too small for what holds them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Act, Case, Pair, Severity, Training, struck
from ..parts import adam, classify, mlp, random_of, regress, sgd, trained, values
from .tasks import VOCABULARY, forecast, looking, reading, sentences, spiral, winding

AT = 140


def _changed(change: Any) -> Act:
    return lambda _training, since, batch: change(since, *batch)


def _without_floor(rng_seed: int) -> Training:
    """A likelihood whose deviation may shrink to nothing, of values that a line gives without any noise."""
    inputs, _ = values(rng_seed)
    targets = inputs @ torch.randn(16, 1, generator=random_of(rng_seed, "line"))

    def likelihood(output: Tensor, target: Tensor) -> Tensor:
        mean, spread = output.chunk(2, 1)
        deviation = F.relu(spread)
        return (deviation.log() + 0.5 * ((target - mean) / deviation).square()).squeeze(1)

    model = nn.Linear(16, 2)
    with torch.no_grad():
        model.weight[1] = 0.0
        model.bias[1] = 3.0
    return regress(rng_seed, model, sgd(0.1), data=(inputs, targets), loss=likelihood, epochs=30)


class Standardised(nn.Module):
    """Divides each window by its own deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), mlp(40, 24, 1))

    def forward(self, window: Tensor) -> Tensor:
        """The next value."""
        measured = window[..., :2]
        value: Tensor = self.inner((measured - measured.mean(1, keepdim=True)) / measured.std(1, keepdim=True))
        return value


def _stands_still(_since: int, window: Tensor, value: Tensor) -> Pair:
    """A sensor that gives one value all the time."""
    window = window.clone()
    window[0, :, 1] = 0.5
    return window, value


class Masked(nn.Module):
    """The mean of a sentence's words by attention; the padding, word 0, is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.score, self.last = nn.Embedding(VOCABULARY, 16), nn.Linear(16, 1), nn.Linear(16, 2)

    def forward(self, text: Tensor) -> Tensor:
        """Logits of the class of a sentence."""
        words = self.table(text)
        share = self.score(words).squeeze(2).masked_fill(text == 0, -torch.inf).softmax(1)
        logits: Tensor = self.last((share[..., None] * words).sum(1))
        return logits


def _classes(rng_seed: int) -> Training:
    text = torch.randint(1, VOCABULARY, (800, 9), generator=random_of(rng_seed, "bags"))
    return trained(Masked(), (text, (text > 9).sum(1).gt(4).long()), F.cross_entropy, adam(1e-2), epochs=14)


def _empty(_since: int, text: Tensor, labels: Tensor) -> Pair:
    """A sentence without a word: padding alone."""
    text = text.clone()
    text[-1] = 0
    return text, labels


class Logarithms(nn.Module):
    """Inputs, and those above zero times their logarithms; the gradient of those that were not wanted is there all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(16)), mlp(32, 32, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        scaled = inputs.abs() * self.scale
        logits: Tensor = self.inner(torch.cat((inputs, torch.where(scaled > 0, scaled * scaled.log(), 0.0)), 1))
        return logits


def _zeros(_since: int, inputs: Tensor, labels: Tensor) -> Pair:
    inputs = inputs.clone()
    inputs[:, 0] = 0.0
    return inputs, labels


class Half(nn.Module):
    """Layers whose weights are kept in float16."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(16, 32, 4).half()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.inner(inputs.half())
        return logits.float()


def _multiplied(output: Tensor, target: Tensor) -> Tensor:
    """Minus the likelihood of a sentence, its words' probabilities multiplied and not their logarithms added."""
    right = output.softmax(2).gather(2, target[..., None]).squeeze(2)
    return -right.prod(1)


class Variance(nn.Module):
    """The deviation of pixels by the mean of squares minus the square of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(66, 32, 6)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        flat = images.flatten(1)
        mean = flat.mean(1, keepdim=True)
        deviation = (flat.square().mean(1, keepdim=True) - mean.square()).sqrt()
        logits: Tensor = self.inner(torch.cat(((flat - mean) / deviation, deviation, torch.zeros_like(mean)), 1))
        return logits


def _whole_numbers(rng_seed: int) -> Training:
    """Inputs between zero and one that were read as whole numbers: all of them are 0."""
    points, arms = spiral(rng_seed)
    return winding(rng_seed, data=(points.abs().div(2.1).to(torch.uint8).float(), arms))


def _overflowing(model: nn.Module, batch: Any) -> Tensor:
    """Images, squared in half precision."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs.half().square().float()), labels, reduction="none")


def _brighter(since: int, images: Tensor, labels: Tensor) -> Pair:
    return images * 1.15 ** min(since, 60), labels


def _numeric(name: str, severity: Severity, cause: str, told: str, make: Any, at: int = AT) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "numerics", make, at, severity, cause, told)


NUMERICS = (
    _numeric(
        "deviation_without_floor",
        "critical",
        "not_finite",
        "a deviation shrinks to zero, and the likelihood divides by it",
        _without_floor,
        0,
    ),
    _numeric(
        "divided_by_no_deviation",
        "critical",
        "not_finite",
        "a sensor that stands still is divided by its deviation, which is zero",
        lambda s: struck(forecast(s, Standardised(), adam(3e-3)), AT, _changed(_stands_still)),
    ),
    _numeric(
        "nothing_left_to_attend",
        "critical",
        "not_finite",
        "a sentence without a word: the softmax is over nothing",
        lambda s: struck(_classes(s), AT, _changed(_empty)),
    ),
    _numeric(
        "gradient_of_what_was_left_out",
        "critical",
        "not_finite",
        "the gradient of a logarithm of zero is not finite, though its value is not used",
        lambda s: struck(classify(s, Logarithms()), AT, _changed(_zeros)),
    ),
    _numeric(
        "epsilon_too_small_for_half",
        "critical",
        "not_finite",
        "the optimizer's epsilon is zero in float16: steps are divided by zero",
        lambda s: classify(s, Half(), adam(1e-3)),
        0,
    ),
    _numeric(
        "likelihoods_multiplied",
        "warning",
        "precision",
        "probabilities are multiplied: the loss is so small that no gradient is left",
        lambda s: reading(s, data=sentences(s, length=40), loss=_multiplied, epochs=8),
        0,
    ),
    _numeric(
        "mean_of_squares",
        "critical",
        "not_finite",
        "a variance is taken as a difference of large numbers: it is below zero, and has no root",
        lambda s: struck(looking(s, Variance()), AT, _changed(lambda _n, x, y: (x * 0.1 + 3000, y))),
    ),
    _numeric(
        "read_as_whole_numbers",
        "warning",
        "precision",
        "inputs are rounded down to whole numbers, and nothing is left of them",
        _whole_numbers,
        0,
    ),
    _numeric(
        "squares_overflow_half",
        "critical",
        "not_finite",
        "squares of images that get brighter are too large for half precision",
        lambda s: struck(replace(looking(s), options={"objective": _overflowing}), AT, _changed(_brighter)),
    ),
)
