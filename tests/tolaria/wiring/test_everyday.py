"""Everyday trainings, three rng seeds each: no warning about their wiring."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR

import esper
from tests.tolaria.wiring.trainings import classes, cut, found, values

Made = dict[str, Any]  # Any: the arguments of `found`.


class Reader(nn.Module):
    """A GRU over embedded words, or a transformer over them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.table, self.body, self.last = nn.Embedding(20, 16), body, nn.Linear(16, 3)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.body(self.table(words))
        output: Tensor = self.last((hidden[0] if isinstance(hidden, tuple) else hidden).mean(1))
        return output


def texts(rng_seed: int) -> Made:
    words = torch.randint(20, (416, 8), generator=torch.Generator().manual_seed(rng_seed))
    labels = (words < 7).sum(1).clamp(1, 3) - 1
    return {"train": cut(words[:320], labels[:320]), "valid": cut(words[320:], labels[320:])}


def gru(rng_seed: int) -> Made:
    return {"model": Reader(nn.GRU(16, 16, batch_first=True)), **texts(rng_seed)}


def transformer_with_warm_up(rng_seed: int) -> Made:
    model = Reader(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = LambdaLR(optimizer, lambda step: min(1.0, step / 30))
    return {"model": model, "optimizer": optimizer, "scheduler": schedule, "scheduler_every": "step", **texts(rng_seed)}


def perceptron(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, outputs))


def gaussian_likelihood(rng_seed: int) -> Made:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        mean, log_variance = output.chunk(2, 1)
        return 0.5 * (log_variance + (target - mean).square() * (-log_variance).exp()).mean()

    return {"model": perceptron(2), "loss": loss, "train": cut(*values(320, rng_seed)), "valid": cut(*values(96, rng_seed + 9))}


def hinge(rng_seed: int) -> Made:
    (inputs, targets), (later, wanted) = values(320, rng_seed), values(96, rng_seed + 9)
    train, valid = cut(inputs, targets.sign()), cut(later, wanted.sign())
    return {"model": perceptron(1), "loss": lambda output, target: F.relu(1 - output * target).mean(), "train": train, "valid": valid}


def cosine_restarts(rng_seed: int) -> Made:
    model = perceptron(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    schedule = CosineAnnealingWarmRestarts(optimizer, 2)
    return {"model": model, "optimizer": optimizer, "scheduler": schedule, "epochs": 6, "train": cut(*classes(320, rng_seed))}


def small_noisy_batches(rng_seed: int) -> Made:
    inputs, labels = classes(160, rng_seed)
    noisy = torch.where(torch.rand(160) < 0.2, torch.randint(3, (160,)), labels)
    return {"model": perceptron(3), "train": cut(inputs, noisy, 2)}


def nothing_to_gain(rng_seed: int) -> Made:
    grow = esper.Grow(sites="0", max_parameters=9.0, settings={"policy.window": 3, "policy.train_epochs": 1, "gate.cooldown": 1})
    return {"model": perceptron(3), "grow": grow, "epochs": 20, "train": cut(*classes(160, rng_seed))}


KINDS = [gru, transformer_with_warm_up, gaussian_likelihood, hinge, cosine_restarts, small_noisy_batches, nothing_to_gain]


@pytest.mark.parametrize("rng_seed", range(3))
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_an_everyday_training_is_not_warned_of(make: Callable[[int], Made], rng_seed: int, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng_seed)
        made = make(rng_seed)
    told = found(tmp_path, made.pop("model"), rng_seed=rng_seed, **made)
    assert [(one.check, one.measured) for one in told.values() if one.severity != "info"] == []
