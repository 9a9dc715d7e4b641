"""A tiny training by `esper.fit`: a seed is grafted after the third of four epochs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import esper
from esper.processes.train import Result
from tests.recipes import grafts
from tests.tolaria.worlds import batches, loss_of, perceptron

GROWING = esper.Grow(sites="0", blueprints=("mlp:2",), policy=grafts, max_parameters=9.0)


def fit(log: Path, model: nn.Module | None = None, **more: Any) -> Result:  # The arguments of esper.fit, which are checked there.
    """Four epochs of the tiny host: a seed is grafted after the third."""
    options: dict[str, Any] = {"loss": loss_of, "epochs": 4, "grow": GROWING, "log": log, "train": batches(), "valid": batches(20)} | more
    return esper.fit(perceptron() if model is None else model, options.pop("train"), options.pop("valid"), **options)


def output_of(model: nn.Module, inputs: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        output: Tensor = model(inputs)
    return output
