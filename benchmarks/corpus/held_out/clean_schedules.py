"""Clean trainings that differ in their schedule and optimizer, their precision and their length."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer, lr_scheduler

from ..case import Case, Pair, Training
from ..clean_courses import scheduled
from ..parts import adam, classify, mlp, regress, sgd, squared
from .tasks import (
    Reader,
    Transformer,
    customers,
    forecast,
    leaving,
    looking,
    next_words,
    reading,
    sentences,
    winding,
)


def _noam(optimizer: Optimizer) -> Any:
    """Up for forty steps, then down with the root of the step."""
    return lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 40, math.sqrt(40 / (step + 1))))


def _stable_then_down(optimizer: Optimizer) -> Any:
    return lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 30, 1.0, max(0.0, (300 - step) / 60)))


class Signs(torch.optim.Optimizer):
    """Steps of one size in the direction of a running mean of the gradient (Chen et al., 2023)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, _closure: None = None) -> None:  # type: ignore[override] # No closure is taken.
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    parameter.sub_(group["lr"] * mean.lerp(parameter.grad, 0.1).sign())
                    mean.lerp_(parameter.grad, 0.01)


class Private(torch.optim.SGD):
    """Gradients with noise on them, so that no sample can be told from the weights."""

    def step(self, closure: Any = None) -> Any:
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(0.02 * torch.randn(parameter.shape))
        return super().step(closure)


class Averaged(nn.Module):
    """A model, and the average of its weights over training steps, which answers in eval mode."""

    def __init__(self, online: nn.Module, average: nn.Module, keeps: float, adds: float | None = None) -> None:
        super().__init__()
        self.online, self.average = online, average.requires_grad_(requires_grad=False)
        self.keeps, self.adds = keeps, 1 - keeps if adds is None else adds
        self.average.load_state_dict(online.state_dict())

    def forward(self, inputs: Tensor) -> Tensor:
        """The output of the one or the other."""
        if not self.training:
            return self.average(inputs)  # type: ignore[no-any-return]
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.online.parameters(), strict=True):
                slow.mul_(self.keeps).add_(fast, alpha=self.adds)
        return self.online(inputs)  # type: ignore[no-any-return]


class Larger:
    """Batches of which more and more are put together: 1 of them, then 2, then 4."""

    def __init__(self, batches: Any) -> None:
        self._batches, self._passes = batches, 0

    def __len__(self) -> int:
        return math.ceil(len(self._batches) / self._together)

    @property
    def _together(self) -> int:
        return 1 if self._passes <= 4 else 2 if self._passes <= 8 else 4

    def __iter__(self) -> Iterator[Pair]:
        self._passes += 1
        waiting: list[Pair] = []
        for batch in self._batches:
            waiting.append(batch)
            if len(waiting) == self._together:
                yield torch.cat([one for one, _ in waiting]), torch.cat([other for _, other in waiting])
                waiting = []


def _larger(rng_seed: int) -> Training:
    made = winding(rng_seed, optimize=sgd(0.1, momentum=0.9), epochs=14)
    return replace(made, train=Larger(made.train))


class Low(nn.Module):
    """Layers whose weights are kept in eight bits of mantissa; logits as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(16, 32, 4).bfloat16()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self.inner(inputs.bfloat16()).float()  # type: ignore[no-any-return]


class Whole(nn.Module):
    """Weights of which only sixteen steps are used; the gradient goes past the rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 48), nn.Linear(48, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self._through(self.last, F.relu(self._through(self.first, inputs)))

    @staticmethod
    def _through(layer: nn.Linear, inputs: Tensor) -> Tensor:
        step = layer.weight.detach().abs().max() / 8
        rounded = (layer.weight / step).round() * step
        return F.linear(inputs, layer.weight + (rounded - layer.weight).detach(), layer.bias)


def _half_precision(rng_seed: int) -> Training:
    """Float16 within, and a loss that is multiplied by 1,024 for the way back alone."""

    def objective(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            output = model(batch[0])
        return F.cross_entropy(output.float(), batch[1], reduction="none")

    return replace(winding(rng_seed), options={"objective": objective})


def _case(group: str, made: dict[str, Callable[[int], Training]]) -> tuple[Case, ...]:
    return tuple(Case(name, group, make) for name, make in made.items())


SCHEDULES = _case(
    "schedule",
    {
        "root_of_the_step": lambda s: scheduled(reading(s, Transformer(), adam(1e-2), epochs=16), _noam, "step"),
        "stable_then_down_to_zero": lambda s: scheduled(leaving(s), _stable_then_down, "step"),
        "restarts_twice_as_long": lambda s: scheduled(
            looking(s, optimize=sgd(0.05, momentum=0.9), epochs=14), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2)
        ),
        "triangles_that_shrink": lambda s: scheduled(
            forecast(s), lambda o: lr_scheduler.CyclicLR(o, 5e-4, 2e-2, 40, mode="triangular2", cycle_momentum=False), "step"
        ),
        "batches_grow": _larger,
        "rate_of_thousands": lambda s: regress(s, optimize=sgd(3000.0), loss=lambda o, t: 1e-5 * squared(o, t), clip=None),
        "rate_of_a_billionth": lambda s: regress(s, optimize=sgd(2e-8), loss=lambda o, t: 1e6 * squared(o, t), clip=None),
        "steps_of_one_size": lambda s: looking(s, optimize=lambda m: Signs(m.parameters(), 1e-3)),
        "private": lambda s: leaving(s, optimize=lambda m: Private(m.parameters(), lr=0.1)),
        "resilient_over_all_data": lambda s: forecast(
            s, optimize=lambda m: torch.optim.Rprop(m.parameters(), lr=1e-3), batch=640, epochs=60
        ),
        "averaged_weights_answer": lambda s: winding(
            s,
            Averaged(mlp(2, 32, 32, 3), mlp(2, 32, 32, 3), 0.97),
            lambda m: torch.optim.Adam(m.get_submodule("online").parameters(), 1e-2),
        ),
        "adaptive_with_nesterov": lambda s: reading(s, optimize=lambda m: torch.optim.NAdam(m.parameters(), lr=5e-3), epochs=14),
    },
)
PRECISION = _case(
    "precision",
    {
        "weights_in_bfloat": lambda s: classify(s, Low(), sgd(0.1)),
        "sixteen_steps_of_weight": lambda s: winding(s, Whole(), epochs=16),
        "half_within": _half_precision,
    },
)
LENGTHS = _case(
    "length",
    {
        "one_step": lambda s: leaving(s, data=customers(s, 192), batch=128, valid=64, epochs=1),
        "two_steps_an_epoch": lambda s: winding(s, batch=400, epochs=100, optimize=adam(5e-3)),
        "four_thousand_steps": lambda s: leaving(
            s, nn.Linear(11, 1), sgd(1e-3), loss=_flat, data=customers(s, 8032), batch=8, valid=32, epochs=4
        ),
        "one_epoch_of_sentences": lambda s: reading(s, Reader(), data=sentences(s, 9600), loss=next_words, epochs=1),
    },
)


def _flat(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.squeeze(1), target, reduction="none")
