"""Trainings of a few steps, and what is found in their wiring."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import esper
from esper.events.kinds.wiring_findings import WiringFound
from esper.oona.directory import Directory
from esper.tolaria.trainer import UnstableError
from tests.recipes import events

Batches = list[tuple[Tensor, Tensor]]


def cut(inputs: Tensor, targets: Tensor, size: int = 16) -> Batches:
    """Batches of this size."""
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def classes(samples: int = 320, rng_seed: int = 5) -> tuple[Tensor, Tensor]:
    """Eight inputs and one of three classes that a line through them gives."""
    generator = torch.Generator().manual_seed(rng_seed)
    inputs = torch.randn(samples, 8, generator=generator)
    return inputs, (inputs @ torch.randn(8, 3, generator=torch.Generator().manual_seed(1))).argmax(1)


def values(samples: int = 320, rng_seed: int = 5) -> tuple[Tensor, Tensor]:
    """Eight inputs and a value that a line through them gives, with noise."""
    generator = torch.Generator().manual_seed(rng_seed)
    inputs = torch.randn(samples, 8, generator=generator)
    line = torch.randn(8, 1, generator=torch.Generator().manual_seed(1))
    return inputs, inputs @ line + 0.1 * torch.randn(samples, 1, generator=generator)


def mlp(*widths: int, active: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Layers of these widths, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), active()]
    return nn.Sequential(*layers[:-1])


def found(log: Path, model: nn.Module, **given: Any) -> dict[str, WiringFound]:  # Any: arguments of esper.fit, which are checked there.
    """What is found in the wiring of a training of two epochs, by check."""
    train, valid = cut(*classes()), cut(*classes(96, rng_seed=6))
    options: dict[str, Any] = {"epochs": 2, "grow": None, "observe": False, "log": log, "train": train, "valid": valid} | given
    if "objective" not in options:
        options.setdefault("loss", F.cross_entropy)
    with suppress(UnstableError):
        esper.fit(model, options.pop("train"), options.pop("valid"), **options)
    directory = Directory(log)
    (run,) = directory.names()
    return {event.check: event for event in events(directory, run, WiringFound)}
