"""Trainings of which validation alone goes wrong, or is not what it seems."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..case import Case, Pair, Severity, Struck, Training, struck, struck_valid
from ..parts import adam, classify, mlp, random_of, regress, values
from .clean_schedules import Averaged
from .tasks import (
    Reader,
    Tabular,
    Transformer,
    bars,
    customers,
    leaving,
    looking,
    reading,
    sentences,
    striped,
    winding,
)

AT = 150


def _memorised(rng_seed: int) -> Training:
    """Forty sentences, learnt by heart."""
    return reading(rng_seed, Transformer(width=48), adam(3e-3), data=sentences(rng_seed, 200, odd=0.4), batch=10, epochs=50)


def _strangers(rng_seed: int) -> Training:
    """Customers are known by their number, and those of validation are others."""
    inputs, leaves = customers(rng_seed, wrong=0.5)
    inputs[:, 8] = torch.arange(960)
    return leaving(rng_seed, Known(), adam(1e-2), data=(inputs, leaves), epochs=16)


class Known(Tabular):
    """Has a row of its own for each customer."""

    def __init__(self) -> None:
        super().__init__()
        self.tables[0] = nn.Embedding(960, 4)


def _late_statistics(rng_seed: int) -> Training:
    """Running statistics move by a ten-thousandth a step: the convention of another library."""
    images, which = bars(rng_seed)
    return looking(rng_seed, striped(nn.BatchNorm2d, momentum=1e-4), data=(8 * images + 20, which))


def _other_vocabulary(rng_seed: int) -> Training:
    """The words of validation were numbered anew."""
    made = reading(rng_seed, epochs=16)
    numbers = torch.randperm(20, generator=random_of(rng_seed, "numbers"))
    return replace(made, valid=[(numbers[text], numbers[after]) for text, after in made.valid])


def _fading_average(rng_seed: int) -> Training:
    """The average of the weights is multiplied and never added to: it fades."""
    model = Averaged(mlp(2, 32, 32, 3), mlp(2, 32, 32, 3), 0.98, adds=0.0)
    return winding(rng_seed, model, lambda m: torch.optim.Adam(m.get_submodule("online").parameters(), 1e-2))


def _becomes_training(rng_seed: int) -> Training:
    """From an epoch on the file of validation is that of training."""
    inputs, targets = values(rng_seed, 400, noise=0.6)
    made = regress(rng_seed, mlp(16, 128, 1), adam(5e-3), data=(inputs, targets), batch=16, valid=160, epochs=20)
    seen = inputs[:160], targets[:160]
    return struck_valid(made, AT, lambda _: seen)


class Wandering:
    """Validation data that move away, epoch by epoch, once training has come to a step."""

    def __init__(self, inner: Any, steps: Struck, at: int) -> None:
        self._inner, self._steps, self._at = inner, steps, at

    def __iter__(self) -> Iterator[Pair]:
        far = max(0, self._steps.shown - self._at) / 100
        for inputs, targets in self._inner:
            yield inputs + far, targets


def _wanders(rng_seed: int) -> Training:
    made = regress(rng_seed, epochs=18)
    steps = Struck(made.train, AT, lambda _since, batch: batch)
    return replace(made, train=steps, valid=Wandering(made.valid, steps, AT))


def _only_ones(batch: Pair) -> Pair:
    """What is left of the validation file: its first samples, all of one class and wrongly read."""
    inputs, labels = batch
    kept = (labels == labels[0]).nonzero().squeeze(1)[:2]
    return -inputs[kept], labels[kept]


def _noisy_training(rng_seed: int) -> Training:
    """Small data, half of whose answers are any answer, and a net that can learn them by heart."""
    images, which = bars(rng_seed, 320)
    any_bar = torch.randint(6, which.shape, generator=random_of(rng_seed, "any_bar"))
    odd = torch.rand(which.shape, generator=random_of(rng_seed, "odd")) < 0.5
    odd[160:] = False
    return looking(rng_seed, striped(None), adam(5e-3), data=(images, torch.where(odd, any_bar, which)), epochs=40)


class SeesAll(Reader):
    """A reader over the sentence and its next words: the answer stands in what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(16, 32, batch_first=True, bidirectional=True)
        self.last = nn.Linear(64, 20)


def _poisoned(_: Training, since: int, batch: Pair) -> Pair:
    """One batch of a broken sensor leaves its size in the running statistics."""
    return (batch[0] * 1e6, batch[1]) if since == 0 else batch


def _validation(name: str, at: int, severity: Severity, cause: str, told: str, make: Any) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "validation", make, at, severity, cause, told)


VALIDATION = (
    _validation(
        "sentences_by_heart",
        28,
        "warning",
        "overfitting",
        "few sentences are learnt by heart: validation gets worse and worse",
        _memorised,
    ),
    _validation(
        "known_by_number", 25, "warning", "overfitting", "customers are known by their number: strangers are judged ever worse", _strangers
    ),
    _validation(
        "wrong_answers_by_heart",
        50,
        "warning",
        "overfitting",
        "wrong answers are learnt by heart, and validation gets worse",
        _noisy_training,
    ),
    _validation(
        "statistics_come_too_late",
        0,
        "warning",
        "mode",
        "running statistics hardly move: eval mode is far worse than train mode",
        _late_statistics,
    ),
    _validation(
        "other_vocabulary",
        0,
        "warning",
        "preprocessing",
        "the words of validation have other numbers than those of training",
        _other_vocabulary,
    ),
    _validation(
        "average_fades", 0, "critical", "weights", "validation is of an average of the weights that fades to zero", _fading_average
    ),
    _validation(
        "validation_becomes_training",
        AT,
        "warning",
        "validation",
        "from an epoch on validation data are training data: the gap is gone",
        _becomes_training,
    ),
    _validation(
        "word_ahead_is_seen",
        0,
        "info",
        "validation",
        "the net sees the word that it must predict: the losses are too good",
        lambda s: reading(s, SeesAll(), data=sentences(s, odd=0.3)),
    ),
    _validation(
        "validation_wanders", AT, "warning", "data", "validation inputs move away from those of training, epoch by epoch", _wanders
    ),
    _validation(
        "statistics_poisoned",
        AT,
        "critical",
        "mode",
        "one batch a million times too large is left in the running statistics: eval mode is useless since",
        lambda s: struck(looking(s, striped(nn.BatchNorm2d, momentum=0.02), epochs=20), AT, _poisoned),
    ),
    _validation(
        "validation_shrinks",
        AT,
        "critical",
        "validation",
        "two samples of validation are left, and those are broken",
        lambda s: struck_valid(classify(s, epochs=16), AT, _only_ones),
    ),
)
