"""Clean trainings that differ in their schedule, their data, their precision and their length."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer, lr_scheduler

from .case import Case, Pair, Training, struck
from .parts import classes, classify, mlp, random_of, regress, sgd, values

EPOCH = 20
"""Steps of an epoch of the everyday trainings."""


def scheduled(training: Training, make: Callable[[Optimizer], Any], every: str = "epoch") -> Training:
    """The training with the schedule that `make` gives its optimizer, stepped at every epoch's end or after every step."""
    scheduler = {"scheduler": make(training.optimizer), "scheduler_every": every}
    return replace(training, options={**training.options, **scheduler})


def warm_up(optimizer: Optimizer) -> Any:
    """Sixty steps up to the learning rate."""
    return lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 60))


def _polynomial(optimizer: Optimizer) -> Any:
    return lr_scheduler.LambdaLR(optimizer, lambda step: max(0.02, 1 - step / 240) ** 2)


def _tiny(rng_seed: int) -> Training:
    return classify(rng_seed, data=classes(rng_seed, 12, wrong=0.0), batch=8, valid=4, epochs=40)


def _sorted(rng_seed: int) -> Training:
    inputs, labels = classes(rng_seed)
    order = torch.cat((labels[:640].argsort(), torch.arange(640, 800)))
    return classify(rng_seed, optimize=sgd(0.02), data=(inputs[order], labels[order]), shuffle=False)


def _imbalanced(rng_seed: int) -> Training:
    inputs, labels = classes(rng_seed, 3000, kinds=2)
    kept = (labels == 0) | (torch.rand(3000, generator=random_of(rng_seed, "kept")) < 0.03)
    return classify(rng_seed, mlp(16, 32, 2), data=(inputs[kept], labels[kept]))


def _curriculum(rng_seed: int) -> Training:
    def harder(_: Training, since: int, batch: Pair) -> Pair:
        inputs, labels = batch
        return inputs + min(1.0, since / 240) * 0.8 * torch.randn(inputs.shape), labels

    return struck(classify(rng_seed), 0, harder)


class Stream:
    """Batches that nobody has seen before, without an end."""

    def __init__(self, rng_seed: int) -> None:
        self._weights = torch.randn(16, 4, generator=random_of(rng_seed, "stream"))

    def __iter__(self) -> Iterator[Pair]:
        while True:
            inputs = torch.randn(32, 16)
            yield inputs, (inputs @ self._weights).argmax(1)


def _streamed(rng_seed: int) -> Training:
    stream = Stream(rng_seed)
    return replace(classify(rng_seed), train=stream, valid=_first(stream), options={"loss": F.cross_entropy, "epoch_steps": 20})


def _first(stream: Stream) -> list[Pair]:
    batches = iter(stream)
    return [next(batches) for _ in range(4)]


def _sparse(rng_seed: int) -> Training:
    inputs, labels = classes(rng_seed)
    return classify(rng_seed, data=(torch.where(inputs.abs() > 1.2, inputs, 0.0), labels))


def _augmented(rng_seed: int) -> Training:
    def flipped(_: Training, _since: int, batch: Pair) -> Pair:
        inputs, labels = batch
        return inputs * (1 + 0.2 * torch.randn(len(inputs), 1)) + 0.1 * torch.randn(inputs.shape), labels

    return struck(classify(rng_seed), 0, flipped)


def _seasons(rng_seed: int) -> Training:
    """Inputs drift slowly to and fro, as those of the hours of a day do."""

    def shifted(_: Training, since: int, batch: Pair) -> Pair:
        inputs, targets = batch
        return inputs + 0.3 * math.sin(since / 30), targets

    return struck(regress(rng_seed), 0, shifted)


def _lowered(model: nn.Module, batch: Any) -> Tensor:
    inputs, targets = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(inputs)
    return F.cross_entropy(output.float(), targets)


def _in_bfloat(rng_seed: int) -> Training:
    made = classify(rng_seed)
    return replace(made, options={"objective": _lowered})


def _doubled(rng_seed: int) -> Training:
    inputs, targets = values(rng_seed)
    return regress(rng_seed, mlp(16, 32, 1, active=nn.Tanh).double(), data=(inputs.double(), targets.double()))


def _rounded(rng_seed: int) -> Training:
    """Inputs of eight bits."""
    inputs, labels = classes(rng_seed)
    return classify(rng_seed, data=((inputs * 32).round() / 32, labels))


def _long(rng_seed: int, epochs: int, steps: int) -> Training:
    inputs, targets = values(rng_seed, 8 * steps + 32, noise=0.5)
    return regress(rng_seed, nn.Linear(16, 1), sgd(0.003), data=(inputs, targets), batch=8, valid=32, epochs=epochs)


def _case(group: str, name: str, make: Callable[[int], Training]) -> Case:
    return Case(name, group, make)


SCHEDULES = tuple(
    _case("schedule", name, make)
    for name, make in {
        "warm_up": lambda s: scheduled(classify(s), warm_up, "step"),
        "cosine": lambda s: scheduled(classify(s), lambda o: lr_scheduler.CosineAnnealingLR(o, 12)),
        "cosine_restarts": lambda s: scheduled(
            classify(s, optimize=sgd(0.2), epochs=16), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4)
        ),
        "falls_in_steps": lambda s: scheduled(classify(s, optimize=sgd(0.2)), lambda o: lr_scheduler.StepLR(o, 4, 0.1)),
        "falls_on_plateau": lambda s: scheduled(regress(s), lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1)),
        "cyclic": lambda s: scheduled(regress(s, optimize=sgd(0.02)), lambda o: lr_scheduler.CyclicLR(o, 0.005, 0.1, 30), "step"),
        "one_cycle": lambda s: scheduled(classify(s), lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=240), "step"),
        "exponential_decay": lambda s: scheduled(classify(s, optimize=sgd(0.1)), lambda o: lr_scheduler.ExponentialLR(o, 0.8)),
        "polynomial_decay": lambda s: scheduled(classify(s), _polynomial, "step"),
        "momentum": lambda s: classify(s, optimize=sgd(0.05, momentum=0.9, nesterov=True)),
        "rms_prop": lambda s: classify(s, optimize=lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3)),
        "adagrad": lambda s: classify(s, optimize=lambda m: torch.optim.Adagrad(m.parameters(), lr=0.05)),
        "decoupled_decay": lambda s: regress(s, optimize=lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3, weight_decay=0.1)),
        "accumulated": lambda s: classify(s, accumulate=4, epochs=20),
        "near_the_edge": lambda s: regress(s, optimize=sgd(0.25, momentum=0.5), clip=None),
        "restarted_high": lambda s: scheduled(
            classify(s), lambda o: lr_scheduler.MultiplicativeLR(o, lambda e: 8.0 if e % 5 == 0 else 0.6)
        ),
    }.items()
)
DATA = tuple(
    _case("data", name, make)
    for name, make in {
        "tiny_data": _tiny,
        "one_epoch": lambda s: classify(s, data=classes(s, 4000), epochs=1),
        "sorted_by_class": _sorted,
        "imbalanced": _imbalanced,
        "label_noise": lambda s: classify(s, data=classes(s, wrong=0.4)),
        "small_noisy_batches": lambda s: classify(s, optimize=sgd(0.02), batch=2, epochs=3, data=classes(s, wrong=0.2)),
        "whole_data_at_once": lambda s: classify(s, batch=640, epochs=150),
        "last_batch_of_one": lambda s: classify(s, batch=27, data=classes(s, 160 + 27 * 20 + 1)),
        "curriculum": _curriculum,
        "streamed": _streamed,
        "sparse_inputs": _sparse,
        "augmented": _augmented,
        "seasons": _seasons,
        "many_classes": lambda s: classify(s, mlp(16, 64, 50), data=classes(s, 2000, kinds=50)),
    }.items()
)
PRECISION = tuple(
    _case("precision", name, make)
    for name, make in {
        "bfloat_autocast": _in_bfloat,
        "double": _doubled,
        "eight_bit_inputs": _rounded,
        "unclipped": lambda s: classify(s, clip=None),
    }.items()
)
LENGTHS = tuple(
    _case("length", name, make)
    for name, make in {
        "three_steps": lambda s: classify(s, data=classes(s, 96 + 64), valid=64, epochs=1),
        "thirty_steps": lambda s: regress(s, data=values(s, 480), valid=160, epochs=3),
        "epochs_of_one_step": lambda s: regress(s, data=values(s, 64), valid=32, epochs=80),
        "three_thousand_steps": lambda s: _long(s, 10, 300),
        "thirty_thousand_steps": lambda s: _long(s, 10, 3000),
    }.items()
)
