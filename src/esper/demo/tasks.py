"""The tasks that Esper can train without a download: `digits` (8x8 digits of scikit-learn) and `mnist1d` (made here by its recipe).

A task gives data, a host and what it is compared with; the split and the initial weights vary with the rng seed.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esper.api.task import Task
from esper.errors import SettingsError
from esper.kasmina.randomness import derive
from esper.processes.recipe import Dotted

_Floats = npt.NDArray[np.float32]
_Labels = npt.NDArray[np.int64]
_BATCH_SIZE = 64


class TensorBatches:
    """Batches of two tensors held in memory, in an order drawn from torch's generator at each pass, or always the same.

    Much faster than a DataLoader for data this small: one index operation a batch. Iterating yields (inputs, targets).
    """

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, *, shuffle: bool) -> None:
        self.inputs, self.targets, self.batch_size, self.shuffle = inputs, targets, batch_size, shuffle

    def __len__(self) -> int:
        return math.ceil(len(self.inputs) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs)) if self.shuffle else torch.arange(len(self.inputs))
        for chosen in order.split(self.batch_size):
            yield self.inputs[chosen], self.targets[chosen]


class Split(NamedTuple):
    """Training, validation and test data of a task."""

    train: TensorBatches
    valid: TensorBatches
    test: TensorBatches


def find_task(name: str) -> Task:
    """The task of that name, or what `module:attribute` names. Raises SettingsError saying what there is."""
    if name in TASKS:
        return TASKS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise SettingsError(f"expected a task, one of {', '.join(sorted(TASKS))}, or module:attribute; got {name!r}")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # The module is the user's own code: whatever it raises, the task cannot be had.
        what = f"{type(error).__name__}: {error}"
        raise SettingsError(f"task {name!r}: {what}; expected a Task that can be imported from here") from error
    if not isinstance(found, Task):
        raise SettingsError(f"task {name!r}: expected an esper Task, got a {type(found).__name__}")
    # The name in the log is the path, so that `esper resume` finds the task again.
    return replace(found, name=name)


def perceptron(widths: tuple[int, ...], rng_seed: int) -> nn.Sequential:
    """A multi-layer perceptron with GELU between its layers, its weights drawn for `rng_seed` without touching torch's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(rng_seed, "host"))
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def split_of(samples: tuple[_Floats, _Labels], sizes: tuple[int, int, int], rng_seed: int) -> Split:
    """`samples` split at random for `rng_seed` into training, validation and test data of these sizes."""
    inputs, targets = samples
    order = np.random.default_rng(derive(rng_seed, "split")).permutation(len(inputs))
    parts = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    train, valid, test = ((torch.from_numpy(inputs[part]), torch.from_numpy(targets[part])) for part in parts)
    return Split(
        TensorBatches(*train, _BATCH_SIZE, shuffle=True),
        TensorBatches(*valid, len(valid[0]), shuffle=False),
        TensorBatches(*test, len(test[0]), shuffle=False),
    )


@cache
def _digits() -> tuple[_Floats, _Labels]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.data / 16.0).astype(np.float32), data.target.astype(np.int64)


# Ten templates of twelve points, and the transformations below: Greydanus and Kobak (2020), "Scaling down deep learning with MNIST-1D".
_TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_POINTS, _WIDTH, _LENGTH = 12, 72, 40
_PADDING = (36, 60)
_SCALE, _SHEAR, _SHIFT = 0.4, 0.75, 48
_CORRELATED_NOISE, _NOISE = 0.25, 0.02
_SAMPLES, _DATA_SEED = 5000, 42


@cache
def _mnist1d() -> tuple[_Floats, _Labels]:
    """5,000 signals of 40 values: each template is padded, stretched, scaled, shifted, sheared, and drowned in noise where it is flat."""
    shapes = np.array(_TEMPLATES)
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    shapes = shapes / shapes.std(axis=1, keepdims=True)
    shapes = (shapes - shapes[:, :1]) / 6.0
    random = np.random.default_rng(_DATA_SEED)
    labels = np.arange(_SAMPLES) % len(shapes)
    rows = np.stack([_signal(shapes[label], random) for label in labels])
    return ((rows - rows.mean()) / rows.std()).astype(np.float32), labels.astype(np.int64)


def _signal(template: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter1d

    padded = _POINTS + int(random.integers(_PADDING[0], _PADDING[1] + 1))
    fine = np.linspace(0, 1, _WIDTH)
    # The offset marks the template's own points, so that noise can tell them from the padding.
    signal = np.concatenate([template + 1e-8, np.zeros(padded - _POINTS)])
    signal = np.interp(fine, np.linspace(0, 1, padded), signal)
    signal = np.roll(signal * (1 + _SCALE * (random.random() - 0.5)), int(random.integers(_SHIFT)))
    quiet = gaussian_filter1d(_CORRELATED_NOISE * random.standard_normal(_WIDTH), 2)
    signal = np.where(signal != 0, signal, quiet) + _NOISE * random.standard_normal(_WIDTH)
    signal -= _SHEAR * (random.random() - 0.5) * np.linspace(-0.5, 0.5, _WIDTH)
    sampled: npt.NDArray[np.float64] = np.interp(np.linspace(0, 1, _LENGTH), fine, signal)
    return sampled


_GROWTH: Dotted = {"growth.sites": "0", "policy.max_germinations": 2, "gate.cooldown": 8}

TASKS: dict[str, Task] = {
    "digits": Task(
        "digits",
        data=lambda rng_seed: split_of(_digits(), (1097, 350, 350), rng_seed),
        model=lambda rng_seed: perceptron((64, 6, 10), rng_seed),
        wider=lambda rng_seed: perceptron((64, 29, 10), rng_seed),
        settings={**_GROWTH, "trainer.epochs": 80, "growth.max_parameters": 10.0},
    ),
    "mnist1d": Task(
        "mnist1d",
        data=lambda rng_seed: split_of(_mnist1d(), (3200, 800, 1000), rng_seed),
        model=lambda rng_seed: perceptron((40, 16, 16, 10), rng_seed),
        wider=lambda rng_seed: perceptron((40, 46, 16, 10), rng_seed),
        settings={**_GROWTH, "trainer.epochs": 60, "growth.max_parameters": 6.0},
    ),
}
