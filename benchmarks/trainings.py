"""Trainings to put faults into: small, real, and as different as they come: optimizers, schedules, batch sizes, losses, activations.

Two of them grow. Each is trained by Esper's own trainer into a log, and what the log then holds is what detectors are judged by.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.api.task import accuracy, cross_entropy
from esper.demo.tasks import Split, TensorBatches, find_task
from esper.kasmina.randomness import derive
from esper.processes.recipe import Dotted
from esper.tolaria.objective import Batches, Objective, Supervised
from esper.tolaria.training import Scheduler

STATIC: Dotted = {"policy.max_germinations": 0, "growth.sites": "auto"}
QUICK: Dotted = {"trainer.digest": "off", "trainer.checkpoint_every": 10}
CLASSIFIED = Supervised(cross_entropy, {"accuracy": accuracy})


@dataclass(frozen=True)
class Training:
    """What is trained: fresh for every rng seed. `affine`: layers whose outputs go straight into an activation function."""

    model: nn.Module
    optimizer: Optimizer
    train: Batches
    valid: Batches
    objective: Objective
    epochs: int
    epoch_steps: int
    affine: tuple[str, ...]
    scheduler: Scheduler | None = None
    settings: Dotted = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.epoch_steps


class Parts:
    """The same data cut at random into `parts` batches, again and again for `steps` steps an epoch; one part is the whole data."""

    def __init__(self, inputs: Tensor, targets: Tensor, parts: int, steps: int) -> None:
        self._inputs, self._targets, self._parts, self._steps = inputs, targets, parts, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left = self._steps
        while left:
            for chosen in torch.randperm(len(self._inputs)).chunk(self._parts)[:left]:
                left -= 1
                yield self._inputs[chosen], self._targets[chosen]


class Convolutional(nn.Module):
    """Two convolutions, the first one normalised, and a hidden layer, over 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.normal, self.first_active = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.second, self.second_active = nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.ReLU()
        self.hidden, self.hidden_active, self.last = nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        image = self.first_active(self.normal(self.first(inputs.reshape(-1, 1, 8, 8))))
        return self.last(self.hidden_active(self.hidden(self.second_active(self.second(image)).flatten(1))))


def _seeded(make: Callable[[], nn.Module], rng_seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(rng_seed, "host"))
        return make()


def _layers(widths: tuple[int, ...], active: type[nn.Module], rng_seed: int, dropout: float = 0.0) -> nn.Sequential:
    def make() -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), active(), *([nn.Dropout(dropout)] if dropout else [])]
        return nn.Sequential(*layers[: -2 if dropout else -1])

    made = _seeded(make, rng_seed)
    assert isinstance(made, nn.Sequential)
    return made


def _signals(rng_seed: int, sizes: tuple[int, int], batch_size: int) -> Split:
    # The task's own split has 3,200 training samples: fewer of them are the first ones.
    split = find_task("mnist1d").data(rng_seed)
    return _cut(split, sizes, batch_size)


def _images(rng_seed: int, batch_size: int) -> Split:
    return _cut(find_task("digits").data(rng_seed), (1097, 350), batch_size)


def _cut(split: Split, sizes: tuple[int, int], batch_size: int) -> Split:
    train, valid = split.train, split.valid
    return Split(
        TensorBatches(train.inputs[: sizes[0]], train.targets[: sizes[0]], batch_size, shuffle=True),
        TensorBatches(valid.inputs[: sizes[1]], valid.targets[: sizes[1]], sizes[1], shuffle=False),
        split.test,
    )


def _taught(rng_seed: int, samples: int) -> tuple[Tensor, Tensor]:
    """Sixteen inputs, and one output that a small tanh network makes of them, with noise."""
    random = torch.Generator().manual_seed(derive(rng_seed, "teacher"))
    inputs = torch.randn(samples, 16, generator=random)
    hidden = torch.tanh(inputs @ (torch.randn(16, 16, generator=random) / 4))
    return inputs, hidden @ torch.randn(16, 1, generator=random) + 0.1 * torch.randn(samples, 1, generator=random)


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean(1)


def gelu(rng_seed: int) -> Training:
    """Adam at a constant learning rate."""
    model, split = _layers((40, 46, 16, 10), nn.GELU, rng_seed), _signals(rng_seed, (3200, 400), 64)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Training(model, adam, split.train, split.valid, CLASSIFIED, 30, 50, ("0", "2"), settings=STATIC)


def relu(rng_seed: int) -> Training:
    """SGD with momentum, until the training data are learnt by heart and the loss of a batch varies a hundredfold."""
    model, split = _layers((64, 48, 32, 10), nn.ReLU, rng_seed), _images(rng_seed, 32)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Training(model, sgd, split.train, split.valid, CLASSIFIED, 43, 35, ("0", "2"), settings=STATIC)


def tanh(rng_seed: int) -> Training:
    """Adam on a cosine."""
    model, split = _layers((40, 64, 32, 10), nn.Tanh, rng_seed), _signals(rng_seed, (3200, 400), 64)
    adam = torch.optim.Adam(model.parameters(), lr=2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 30)
    return Training(model, adam, split.train, split.valid, CLASSIFIED, 30, 50, (), cosine, STATIC)


def teacher(rng_seed: int) -> Training:
    """A regression with AdamW and a warm-up."""
    model = _layers((16, 64, 64, 1), nn.ReLU, rng_seed)
    inputs, targets = _taught(rng_seed, 3200)
    train = TensorBatches(inputs[:2800], targets[:2800], 56, shuffle=True)
    valid = TensorBatches(inputs[2800:], targets[2800:], 400, shuffle=False)
    adam = torch.optim.AdamW(model.parameters(), lr=2e-3)
    warmup = torch.optim.lr_scheduler.LambdaLR(adam, lambda epoch: min(1.0, (epoch + 1) / 4))
    return Training(model, adam, train, valid, Supervised(_squared), 30, 50, ("0", "2"), warmup, STATIC)


def convolutional(rng_seed: int) -> Training:
    """Convolutions with batch normalisation, SGD, and a learning rate that falls to 0.3 of itself at once."""
    model, split = _seeded(Convolutional, rng_seed), _images(rng_seed, 32)
    sgd = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    steps = torch.optim.lr_scheduler.StepLR(sgd, 20, 0.3)
    return Training(model, sgd, split.train, split.valid, CLASSIFIED, 43, 35, ("second", "hidden"), steps, STATIC)


def dropout(rng_seed: int) -> Training:
    """Small batches and dropout: much noise."""
    model, split = _layers((40, 64, 32, 10), nn.ReLU, rng_seed, dropout=0.3), _signals(rng_seed, (800, 400), 16)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    return Training(model, adam, split.train, split.valid, CLASSIFIED, 30, 50, ("0", "3"), settings=STATIC)


def whole(rng_seed: int) -> Training:
    """All data in every step: no noise at all."""
    model, split = _layers((64, 32, 10), nn.Tanh, rng_seed), _images(rng_seed, 350)
    train = Parts(split.train.inputs, split.train.targets, 1, 50)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    return Training(model, sgd, train, split.valid, CLASSIFIED, 30, 50, (), settings=STATIC)


def square(rng_seed: int) -> Training:
    """A regression by plain SGD in few large batches, near the largest learning rate that it can bear."""
    model = _layers((16, 48, 24, 1), nn.Tanh, rng_seed)
    inputs, targets = _taught(rng_seed, 1200)
    valid = TensorBatches(inputs[1000:], targets[1000:], 200, shuffle=False)
    sgd = torch.optim.SGD(model.parameters(), lr=0.02)
    train = Parts(inputs[:1000], targets[:1000], 8, 50)
    return Training(model, sgd, train, valid, Supervised(_squared), 30, 50, (), settings=STATIC)


def growing_digits(rng_seed: int) -> Training:
    """The task `digits`, which grows by its policy."""
    return _growing("digits", rng_seed, 18)


def growing_mnist1d(rng_seed: int) -> Training:
    """The task `mnist1d`, which grows by its policy."""
    return _growing("mnist1d", rng_seed, 50)


def _growing(name: str, rng_seed: int, epoch_steps: int) -> Training:
    task = find_task(name)
    split, model = task.data(rng_seed), task.model(rng_seed)
    epochs = task.settings["trainer.epochs"]
    assert isinstance(epochs, int)
    objective = Supervised(task.loss, task.metrics)
    optimizer = task.optimizer(model.parameters())
    return Training(model, optimizer, split.train, split.valid, objective, epochs, epoch_steps, (), settings=task.settings)


STATICS: dict[str, Callable[[int], Training]] = {
    make.__name__: make for make in (gelu, relu, tanh, teacher, convolutional, dropout, whole, square)
}
GROWING: dict[str, Callable[[int], Training]] = {make.__name__: make for make in (growing_digits, growing_mnist1d)}
TRAININGS = STATICS | GROWING
