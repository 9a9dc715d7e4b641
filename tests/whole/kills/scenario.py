"""A short training in which everything happens: races, a cull, grafts, refusals, two rollbacks, a fossilized seed, pruned checkpoints.

Small digits, 34 epochs, about a second. One blueprint is bad: its seed learns at a rate that makes it non-finite, and the gate lets it be
culled. Two epochs hold a batch of NaN: in the first a seed is being grafted and is blamed, in the second nobody is. Dropout, BatchNorm
and a scheduler are there because each keeps a state that a resume must bring back.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from esper.api.task import accuracy, cross_entropy
from esper.demo.tasks import Split, TensorBatches, find_task
from esper.events.envelope import RunId
from esper.kasmina.randomness import derive
from esper.processes.recipe import Dotted, Recipe, RunSettings, run_settings
from esper.tolaria.objective import Supervised

RUN = RunId("killed")
POISONED_EPOCHS = (9, 22)
POISONED_BATCH = 6
BAD_RATE = 1e25  # Its first step leaves weights of that size, its second is not finite.

SETTINGS: Dotted = {
    "trainer.epochs": 34,
    "trainer.rng_seed": 2,
    "trainer.checkpoint_every": 5,
    "trainer.keep_checkpoints": 2,
    "trainer.measure_every": 4,
    "growth.sites": "0",
    "growth.blueprints": ["mlp:8", "lowrank:2", "signal:3"],
    "growth.max_parameters": 10.0,
    "policy.window": 3,
    "policy.tolerance": 0.6,
    "policy.train_epochs": 2,
    "policy.graft_epochs": 2,
    "policy.fine_tune_epochs": 4,
    "policy.max_germinations": 3,
    "gate.cooldown": 4,
    "gate.embargo": 2,
}


class PoisonedBatches:
    """`batches`, with one of NaN in each poisoned epoch. The epoch is known by torch's seed, which the trainer sets at its start."""

    def __init__(self, batches: TensorBatches, rng_seed: int) -> None:
        self.inputs, self.targets = batches.inputs, batches.targets
        self._batches = batches
        self._poisoned = {derive(rng_seed, "epoch", epoch) for epoch in POISONED_EPOCHS}

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        poisoned = torch.initial_seed() in self._poisoned
        for index, (inputs, targets) in enumerate(self._batches):
            yield inputs * torch.nan if poisoned and index == POISONED_BATCH else inputs, targets


def settings(**changes: int | float | str | bool) -> RunSettings:
    """The settings of the scenario; `changes` by dotted name with `__` for the dot."""
    return run_settings(SETTINGS, {name.replace("__", "."): value for name, value in changes.items()})


def recipe(*, data_seed: int = 0) -> Recipe:
    """The recipe of the scenario, fresh; another `data_seed` gives other data of the same shape."""
    rng_seed = settings().trainer.rng_seed
    data = find_task("digits").data(data_seed)
    assert isinstance(data, Split)
    train = TensorBatches(data.train.inputs[:640], data.train.targets[:640], 64, shuffle=True)
    valid, test = (TensorBatches(part.inputs[:200], part.targets[:200], 200, shuffle=False) for part in (data.valid, data.test))
    model = _model(rng_seed)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return Recipe(
        task="killed",
        model=model,
        optimizer=optimizer,
        train=PoisonedBatches(train, rng_seed),
        valid=valid,
        test=test,
        objective=Supervised(cross_entropy, {"accuracy": accuracy}),
        scheduler=ExponentialLR(optimizer, 0.99),
        seed_optimizer=_seed_optimizer,
    )


def _model(rng_seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(rng_seed, "host"))
        return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 10))


def _seed_optimizer(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    lowrank = any(parameter.shape == (2, 64) for parameter in parameters)
    return Adam(parameters, lr=BAD_RATE if lowrank else 2 * lr)
