"""Clean trainings that fine-tune a model, and clean ones that may grow."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

import esper

from ..case import Case, Training
from ..clean_courses import scheduled
from ..clean_models import FAST
from ..parts import adam, classes, classify, mlp, random_of
from .tasks import (
    bars,
    forecast,
    looking,
    reading,
    segment,
    segmenter,
    sentences,
    striped,
    winding,
)


class Adapted(nn.Module):
    """A layer that stays as it is, and a product of two small ones beside it, of which one begins at `other` (zero: adds nothing)."""

    def __init__(self, layer: nn.Linear, first: float = 0.3) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(requires_grad=False)
        self.down = nn.Parameter(first * torch.randn(4, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output and the product's."""
        output: Tensor = self.layer(inputs) + inputs @ self.down.T @ self.up.T
        return output


def pretrained(rng_seed: int, active: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Layers that have learnt the everyday classes."""
    model, (inputs, labels) = mlp(16, 32, 32, 4, active=active), classes(rng_seed, wrong=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def adapters(rng_seed: int, first: float = 0.3) -> nn.Sequential:
    """The same, of which only small products beside each layer are trained."""
    layers = list(pretrained(rng_seed))
    return nn.Sequential(*(Adapted(layer, first) if isinstance(layer, nn.Linear) else layer for layer in layers))


def _thawed(rng_seed: int) -> Training:
    """The head learns for three epochs, then its layers do too."""
    model = pretrained(rng_seed)
    model[4] = nn.Linear(32, 4)
    groups: list[dict[str, Any]] = [{"params": model[:4].parameters(), "lr": 5e-4}, {"params": model[4].parameters()}]
    made = classify(rng_seed, model, lambda _: torch.optim.Adam(groups, lr=3e-3), data=classes(rng_seed + 50))
    return scheduled(made, lambda o: lr_scheduler.LambdaLR(o, [lambda epoch: float(epoch >= 3), lambda _: 1.0]))


def _probed(rng_seed: int) -> Training:
    """A new linear layer over the features of a net that has learnt, and that stays on eval."""
    model = striped()
    images, which = bars(rng_seed + 50)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for place in range(0, 640, 64):
        optimizer.zero_grad()
        F.cross_entropy(model(images[place : place + 64]), which[place : place + 64]).backward()
        optimizer.step()
    body = model[:-1].requires_grad_(requires_grad=False)
    body.train(False)
    setattr(body, "train", lambda _mode=True: body)  # noqa: B010 - mypy lets no method be assigned to.
    return looking(rng_seed, nn.Sequential(body, nn.Linear(64, 6)), adam(1e-2))


def _replayed(rng_seed: int) -> Training:
    """A reader goes on to shorter strides; half of each batch is of what it knew."""
    text, after = sentences(rng_seed, 800)
    near = (after - text).remainder(20).mode(1).values <= 2
    order = torch.cat((near.nonzero().squeeze(1)[:240], torch.randperm(800, generator=random_of(rng_seed, "replay"))[:400]))
    return reading(rng_seed, data=(text[order], after[order]), optimize=adam(2e-3), epochs=24)


def _growing(made: Training, sites: str, epochs: int = 26) -> Training:
    grow = esper.Grow(sites=sites, max_parameters=20.0, settings=FAST)
    return replace(made, epochs=epochs, options={**made.options, "grow": grow})


def _made(group: str, cases: dict[str, Callable[[int], Training]]) -> tuple[Case, ...]:
    return tuple(Case(name, group, make) for name, make in cases.items())


FINE_TUNING = _made(
    "fine_tuning",
    {
        "small_products": lambda s: classify(s, adapters(s), data=classes(s + 50)),
        "thawed_after_three_epochs": _thawed,
        "probed_on_eval": _probed,
        "replayed": _replayed,
    },
)
GROWING = _made(
    "growth",
    {
        "spiral_from_two_units": lambda s: _growing(winding(s, mlp(2, 2, 3)), "0"),
        "segmenter_may_grow": lambda s: _growing(segment(s, segmenter(), adam(3e-3)), "0"),
        "forecast_may_grow": lambda s: _growing(forecast(s, nn.Sequential(nn.Flatten(), mlp(60, 4, 1)), adam(3e-3)), "1.0"),
    },
)
