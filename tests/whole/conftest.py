"""Whole runs that several tests look at: each is trained once in a session."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.api.task import recipe_of
from esper.demo.tasks import TASKS, TensorBatches
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.oona.directory import Directory
from esper.processes.train import Result
from tests.whole.runs import Poisoned, Told, Watch, break_seed, digits, told, trained

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Grown:
    """A run of digits that grew: its log, what a bystander noted, and the digests that another process folded while it trained."""

    told: Told
    watch: Watch
    trained: Result
    digests: dict[int, str]
    digests_while_training: int


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Sixty epochs of digits with Tamiyo's own policy, telemetry on, and a reader attached."""
    path = tmp_path_factory.mktemp("grown")
    directory, settings = Directory(path), digits()
    lines: list[str] = []
    reader = subprocess.Popen((sys.executable, "-m", "tests.whole.follow", path), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "following\n"
        output = reader.stdout
        # Reading waits for the other process: it is known to have folded this much before training goes on.
        watch = Watch(at_end=lambda _watch, epoch: lines.append(output.readline()) if epoch % 10 == 0 else None)
        result = trained(directory, settings, watch)
        early = len(lines)
        lines += output.readlines()
        assert reader.wait(timeout=60) == 0
    finally:
        reader.kill()
        reader.wait()
        if reader.stdout is not None:
            reader.stdout.close()
    digests = {int(moment): digest for moment, digest in (line.split() for line in lines)}
    return Grown(told(directory, result.run, settings), watch, result, digests, early)


@dataclass
class Faults:
    """What goes wrong in a run, and the trainer's state when each epoch begins: its seed table and the host's own parameters, by epoch."""

    nan_batches: dict[int, tuple[str, int] | None] = field(default_factory=dict)
    broken: dict[Stage, tuple[int, tuple[str, int]]] = field(default_factory=dict)
    tables: dict[int, tuple[SeedRow, ...]] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)

    def note(self, watch: Watch, epoch: int) -> None:
        """Notes the state in which `epoch` begins."""
        self.tables[epoch] = watch.table()
        self.weights[epoch] = torch.cat([parameter.detach().reshape(-1) for parameter in watch.host.host_parameters()])

    def poison(self, watch: Watch, epoch: int) -> bool:
        """Whether `epoch` has a NaN batch: the third has, and the first in which a seed is blended in."""
        grafting = [place for place, seed in watch.host.seeds.items() if seed.stage is Stage.GRAFTING]
        if epoch == 3:
            self.nan_batches[epoch] = None
        elif grafting and len(self.nan_batches) == 1:
            self.nan_batches[epoch] = grafting[0]
        return epoch in self.nan_batches

    def break_seeds(self, watch: Watch, epoch: int) -> None:
        """Once the blended seed is gone, breaks the first seed seen in TRAINING and the first seen in GRAFTING."""
        for place, seed in sorted(watch.host.seeds.items()):
            if len(self.nan_batches) == 2 and seed.stage in (Stage.TRAINING, Stage.GRAFTING) and seed.stage not in self.broken:
                self.broken[seed.stage] = (epoch, place)
                break_seed(watch.host, *place)


@dataclass(frozen=True)
class Faulty:
    """A run that went back twice and lost two seeds to non-finite values: its log, what a bystander noted, and what was done to it."""

    told: Told
    watch: Watch
    trained: Result
    faults: Faults


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """Digits with a NaN batch before anything grows and another while a seed is blended in, then with two broken seeds."""
    directory = Directory(tmp_path_factory.mktemp("faulty"))
    settings = digits({"policy.max_germinations": 3})
    faults = Faults()
    watch = Watch(at_end=faults.break_seeds)
    recipe = recipe_of(TASKS["digits"], settings)
    assert isinstance(recipe.train, TensorBatches)
    batches = Poisoned(recipe.train, lambda epoch: faults.poison(watch, epoch), lambda epoch: faults.note(watch, epoch))
    result = trained(directory, settings, watch, recipe=replace(recipe, train=batches))
    return Faulty(told(directory, result.run, settings), watch, result, faults)
