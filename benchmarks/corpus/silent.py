"""Silent errors: trainings that run to their end and are worse than they should be, by causes that were found behind real bugs.

The causes are of the kinds that TrainCheck (Jiang et al., OSDI 2025) collects; every script here was written anew, on one process.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case, Pair, Severity, Training, struck
from .parts import Attention, classes, classify, images, mlp, of_places, sgd, trained, words


class Grown(nn.Module):
    """A vocabulary that was enlarged after the optimizer was made: the new table is in no parameter group."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(6, 16), nn.Linear(16, 12)

    def enlarge(self) -> None:
        """Makes the table twice as long."""
        table = nn.Embedding(12, 16)
        with torch.no_grad():
            table.weight[:6] = self.table.weight
        self.table = table

    def forward(self, text: Tensor) -> Tensor:
        """(samples, places, 12)."""
        return self.last(self.table(text))  # type: ignore[no-any-return]


def _stale_table(rng_seed: int) -> Training:
    model = Grown()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.enlarge()
    return replace(trained(model, words(rng_seed), of_places), optimizer=optimizer)


class Untied(nn.Module):
    """Two matrices that were one: the output's is a copy, which an optimizer of its own was never made for."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(12, 16), nn.Linear(16, 12, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """(samples, places, 12)."""
        return self.last(self.table(text))  # type: ignore[no-any-return]


def _untied(rng_seed: int) -> Training:
    model = Untied()
    return trained(model, words(rng_seed), of_places, lambda m: torch.optim.Adam([m.get_parameter("table.weight")], lr=3e-3))


def _keeps_gradients(training: Training, since: int, batch: Pair) -> Pair:
    """The optimizer's zero_grad does nothing: gradients add up over steps."""
    if since == 0:
        training.optimizer.zero_grad = lambda *_, **__: None  # type: ignore[method-assign]
    return batch


class Copied(nn.Module):
    """Computes with a copy of its weights that was made once, as a compiled graph with constants in it does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(16, 32, 4)
        self._frozen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits: of the first layer as it was at first."""
        if not self._frozen:
            self._frozen = [parameter.detach().clone() for parameter in self.inner.parameters()]
        weight, bias, last, last_bias = self._frozen
        own = list(self.inner.parameters())
        return F.linear(F.relu(F.linear(inputs, weight, bias)), last + 0 * own[2], last_bias + 0 * own[3])


class Replicas(nn.Module):
    """Two halves that must stay equal, of which only the first is clipped: they drift apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.other.load_state_dict(self.first.state_dict())
        self.first.weight.register_hook(lambda gradient: gradient.clamp(-1e-4, 1e-4))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits; even samples go through one replica, odd ones through the other."""
        hidden = torch.where(torch.arange(len(inputs))[:, None] % 2 == 0, self.first(inputs), self.other(inputs))
        return self.last(F.relu(hidden))  # type: ignore[no-any-return]


class SameDraws:
    """Augmentation whose generator is the same in every worker and every epoch: each epoch sees the same noise."""

    def __init__(self, batches: Any) -> None:
        self._batches = list(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Pair]:
        draw = random.Random(0)
        for inputs, labels in self._batches:
            yield inputs + 1.5 * draw.gauss(0, 1), labels


def _same_draws(rng_seed: int) -> Training:
    made = classify(rng_seed, epochs=24)
    return replace(made, train=SameDraws(made.train))


def _padded_mean(output: Tensor, target: Tensor) -> Tensor:
    """A mean over places of which nine in ten are padding that counts as right."""
    losses = F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
    padding = torch.arange(len(losses)) % 10 != 0
    return torch.where(padding, 0 * losses, losses)


def _undivided(rng_seed: int) -> Training:
    """Eight parts are accumulated and their gradients added, not averaged."""
    return classify(
        rng_seed, optimize=sgd(0.1), loss=lambda o, t: 80 * F.cross_entropy(o, t, reduction="none"), accumulate=8, clip=None, epochs=40
    )


def _channels_swapped(rng_seed: int) -> Training:
    inputs, labels = images(rng_seed)
    made = trained(nn.Sequential(nn.Flatten(), mlp(64, 16, 4)), (inputs, labels), F.cross_entropy, epochs=16)
    return replace(made, valid=[(part.transpose(2, 3), answers) for part, answers in made.valid])


class Warm(nn.Module):
    """Dropout by the functional form, which knows no mode: validation is measured with it on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self.last(F.dropout(F.relu(self.first(inputs)), 0.7))  # type: ignore[no-any-return]


class AverageForgotten(nn.Module):
    """Answers from averaged weights in eval mode, and nobody updates the average."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.average = mlp(16, 32, 4), mlp(16, 32, 4).requires_grad_(requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return (self.online if self.training else self.average)(inputs)  # type: ignore[no-any-return]


def _unshuffled(rng_seed: int) -> Training:
    inputs, labels = classes(rng_seed)
    order = torch.cat((labels[:640].argsort(), torch.arange(640, 800)))
    return classify(rng_seed, optimize=sgd(0.3), data=(inputs[order], labels[order]), shuffle=False)


def _low_rank_unused(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([model.get_parameter("2.bias")], lr=3e-3)


def _scaled_then_clipped(rng_seed: int) -> Training:
    """Gradients are clipped while they are still multiplied by the scale of mixed precision."""
    return classify(rng_seed, optimize=sgd(1e-4), loss=lambda o, t: 65_536 * F.cross_entropy(o, t, reduction="none"), clip=1.0)


def _silent(name: str, group: str, severity: Severity, cause: str, told: str, make: Any, at: int = 0) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(f"silent_{name}", group, make, at, severity, cause, told)


SILENT = (
    _silent(
        "table_enlarged",
        "wiring",
        "warning",
        "optimizer",
        "the embedding was replaced after the optimizer was made: it is never trained",
        _stale_table,
    ),
    _silent(
        "weights_untied",
        "wiring",
        "warning",
        "optimizer",
        "the output's matrix is no longer the embedding's, and is never trained",
        _untied,
    ),
    _silent(
        "gradients_kept",
        "wiring",
        "critical",
        "gradient",
        "gradients are never set to zero: they add up",
        lambda s: struck(classify(s, optimize=sgd(0.05), clip=None), 0, _keeps_gradients),
    ),
    _silent(
        "computes_with_a_copy",
        "wiring",
        "warning",
        "gradient",
        "the model computes with a copy of its weights",
        lambda s: classify(s, Copied()),
    ),
    _silent(
        "replicas_drift", "wiring", "warning", "weights", "two parts that must be equal drift apart", lambda s: classify(s, Replicas())
    ),
    _silent("same_draws", "data", "warning", "data", "every epoch is augmented with the same random numbers", _same_draws),
    _silent(
        "padding_counted",
        "wiring",
        "warning",
        "loss",
        "the loss is a mean over padding: it is ten times too small",
        lambda s: trained(Attention(), words(s), _padded_mean),
    ),
    _silent(
        "accumulated_undivided",
        "course",
        "warning",
        "learning_rate",
        "accumulated gradients are added, not averaged: steps are far too large",
        _undivided,
    ),
    _silent("axes_swapped", "validation", "warning", "preprocessing", "validation images have their axes swapped", _channels_swapped),
    _silent(
        "dropout_in_validation",
        "validation",
        "warning",
        "mode",
        "dropout is on while validation is measured",
        lambda s: classify(s, Warm()),
    ),
    _silent(
        "average_forgotten",
        "validation",
        "warning",
        "weights",
        "validation is of averaged weights that are never updated",
        lambda s: classify(s, AverageForgotten()),
    ),
    _silent("never_shuffled", "data", "warning", "data", "the data come sorted by class, and the loss swings with them", _unshuffled),
    _silent(
        "adapter_alone_unused",
        "wiring",
        "warning",
        "optimizer",
        "only one bias is in the optimizer",
        lambda s: classify(s, optimize=_low_rank_unused),
    ),
    _silent(
        "clipped_while_scaled",
        "numerics",
        "warning",
        "precision",
        "gradients are clipped before they are unscaled: steps are next to nothing",
        _scaled_then_clipped,
    ),
)
