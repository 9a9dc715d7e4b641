"""From the log alone a training is built again: model, optimizer, scheduler, loaders and loss, and its first epoch has the same digests.

Each script runs in a folder of its own, outside of any repository. Afterwards only the run's log is kept, in another folder: no script, no
checkpoint. Classes of torch come from torch; those of the script, and its data, from the source that the log has.
"""

import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from esper.events.envelope import RunId
from esper.events.kinds.epoch import EpochCompleted, StateDigests
from esper.events.kinds.run import RunStarted
from esper.events.kinds.training_description import Component, Loader, TrainingDescribed
from esper.history.run_history import open_run
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE, SEAL_MARK
from esper.processes.recipe import Recipe, run_settings
from esper.processes.train import fresh_run_id, train
from esper.tolaria.environment import data_fingerprint
from esper.tolaria.objective import Objective, Supervised, WithoutMetrics
from tests.recipes import events

pytestmark = pytest.mark.whole

HEAD = """
import sys
import torch
import esper
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
"""

SCRIPTS = {
    "two groups, cosine": """
def data():
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(300, 4, generator=generator)
    return TensorDataset(inputs, inputs[:, :2].pow(2))

if __name__ == "__main__":
    torch.manual_seed(11)
    model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 2, bias=False))
    rest = [*model[1].parameters(), *model[4].parameters()]
    groups = [{"params": model[0].parameters()}, {"params": rest, "lr": 1e-3, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.99))
    esper.fit(
        model, DataLoader(data(), batch_size=32, shuffle=True), DataLoader(data(), batch_size=50), epochs=2, optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7, eta_min=1e-5), loss=nn.HuberLoss(reduction="none", delta=0.5),
        grow=None, observe=False, log=sys.argv[1], config={"weights": 11},
    )
""",
    "class of one's own that grows, plateau": """
def data():
    generator = torch.Generator().manual_seed(6)
    inputs = torch.randn(250, 1, 8, 8, generator=generator)
    return TensorDataset(inputs, inputs.mean((1, 2, 3)).gt(0).long())

class Net(nn.Module):
    def __init__(self, channels, rate=0.5):
        super().__init__()
        self.channels, self.rate = channels, rate
        first = nn.Conv2d(1, channels, 3, padding=1)
        self.body = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3))
        self.head = nn.Linear(channels, 2)

    def forward(self, x):
        return self.head(nn.functional.dropout(self.body(x).mean((2, 3)), self.rate, self.training))

if __name__ == "__main__":
    torch.manual_seed(12)
    model = Net(6, rate=0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    esper.fit(
        model, DataLoader(data(), batch_size=16, shuffle=True, drop_last=True), DataLoader(data(), batch_size=25), epochs=2,
        optimizer=optimizer, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1), clip=0.5,
        loss=nn.CrossEntropyLoss(label_smoothing=0.1), grow=esper.Grow(max_parameters=9.0), observe=False, log=sys.argv[1],
        config={"weights": 12},
    )
""",
    "objective, accumulation": """
def data():
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(20, (200, 6), generator=generator)
    return TensorDataset(tokens, tokens.sum(1, keepdim=True).float() / 60)

class Bag(nn.Module):
    def __init__(self, words, width):
        super().__init__()
        self.words, self.width = words, width
        self.embedding, self.out = nn.Embedding(words, width), nn.Linear(width, 1)

    def forward(self, tokens):
        return self.out(self.embedding(tokens).mean(1))

def distance(model, batch):
    tokens, targets = batch
    return (model(tokens) - targets).abs().mean(1)

if __name__ == "__main__":
    torch.manual_seed(13)
    model = Bag(20, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    esper.fit(
        model, DataLoader(data(), batch_size=24), DataLoader(data(), batch_size=40), epochs=2, optimizer=optimizer, accumulate=2, clip=None,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.3), objective=distance, grow=None, observe=False, log=sys.argv[1],
        config={"weights": 13},
    )
""",
}


def logged(script: str, folder: Path) -> tuple[Directory, RunId]:
    """The log of a training by `script`, without anything else that it left."""
    (folder / "script").mkdir()
    (folder / "script" / "train.py").write_text(HEAD + script)
    subprocess.run([sys.executable, "train.py", folder / "whole"], check=True, cwd=folder / "script")
    (run,) = Directory(folder / "whole").names()
    kept = Directory(folder / "kept", create=True)
    (kept.path / run).mkdir()
    for name in (RUN_FILE, SEAL_MARK):
        shutil.copy2(folder / "whole" / run / name, kept.path / run / name)
    shutil.rmtree(folder / "script")
    shutil.rmtree(folder / "whole")
    return kept, run


class Rebuilt:
    """The parts of a training, built of its description alone."""

    def __init__(self, started: RunStarted, described: TrainingDescribed) -> None:
        self.started, self.described = started, described
        self.own = ModuleType("rebuilt")
        assert described.sources is not None
        for source in described.sources:
            assert source.complete
            exec(source.text or "", vars(self.own))  # noqa: S102 - the script that this test has written

    def named(self, kind: str) -> Any:
        """The class or function of that name: of the script, or of an installed package."""
        return getattr(self.own, kind.removeprefix("__main__.")) if kind.startswith("__main__.") else resolve_name(kind)

    def made(self, make: Callable[..., Any], *first: object, options: Mapping[str, Any], **more: object) -> Any:
        """`make` called with those of `options` that it takes."""
        known = inspect.signature(make).parameters.keys() - {"last_epoch", "optimizer", "params"}
        return make(*first, **{name: value for name, value in options.items() if name in known} | more)

    def component(self, one: Component) -> Any:
        found = self.named(one.kind)
        return self.made(found, options=one.options) if isinstance(found, type) else found

    def model(self) -> nn.Module:
        """The model: of the class of its first row; a Sequential of its rows."""
        torch.manual_seed(self.started.config["weights"])
        root, *rows = self.described.model.modules
        if not root.kind.endswith(".Sequential"):
            made: nn.Module = self.made(self.named(root.kind), options=root.options)
            return made
        return nn.Sequential(*(self.made(self.named(row.kind), options=_whole(row.options, row.shapes)) for row in rows))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        parameters = dict(model.named_parameters())
        groups = [
            {
                **{name: _as_given(value) for name, value in group.options.items() if name != "initial_lr"},
                "lr": group.options.get("initial_lr", group.options["lr"]),
                "params": [parameters[name] for name in group.parameters or parameters],
            }
            for group in self.described.groups
        ]
        optimizer: torch.optim.Optimizer = self.made(
            self.named(self.described.optimizer.kind), groups, options=self.described.optimizer.options
        )
        return optimizer

    def loader(self, loader: Loader) -> DataLoader[Any]:
        shuffle = loader.sampler is not None and self.named(loader.sampler.kind) is RandomSampler
        made: DataLoader[Any] = DataLoader(
            self.own.data(),
            batch_size=loader.batch_size,
            shuffle=shuffle,
            drop_last=bool(loader.drop_last),
            num_workers=loader.workers or 0,
        )
        return made

    def objective(self) -> Objective:
        loss, objective = self.described.loss, self.described.objective
        if objective is not None:
            return WithoutMetrics(self.component(objective))
        assert loss is not None
        return Supervised(self.component(loss))

    def recipe(self) -> Recipe:
        model, described = self.model(), self.described
        optimizer, scheduler = self.optimizer(model), described.scheduler
        loaders = {loader.name: self.loader(loader) for loader in described.loaders}
        for data in self.started.data:
            assert data_fingerprint(data.name, loaders[data.name]) == data
        return Recipe(
            task="rebuilt",
            model=model,
            optimizer=optimizer,
            train=loaders["train"],
            valid=loaders["valid"],
            objective=self.objective(),
            scheduler=None if scheduler is None else self.made(self.named(scheduler.kind), optimizer, options=scheduler.options),
        )


def _whole(options: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any]:
    """The options of a layer; that it has no bias is told by its parameters."""
    return options if "bias" in shapes or "weight" not in shapes else {**options, "bias": False}


def _as_given(value: object) -> object:
    """A pair, such as betas, is a tuple, for which JSON has a list."""
    return tuple(value) if isinstance(value, list) else value


def first_epoch(directory: Directory, run: RunId) -> StateDigests:
    return events(directory, run, EpochCompleted)[0].digests


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_training_is_built_again_from_its_log_alone(script: str, tmp_path: Path) -> None:
    directory, run = logged(script, tmp_path)
    with open_run(run, directory.path) as history:
        started, described = history.known.timeline.started, history.known.timeline.described
    assert started is not None
    assert described is not None
    settings = run_settings(started.settings, {"trainer.epochs": 1})
    again, copy = Directory(tmp_path / "again", create=True), fresh_run_id()
    train(Rebuilt(started, described).recipe(), settings, again, copy)
    assert first_epoch(again, copy) == first_epoch(directory, run)
    assert events(again, copy, TrainingDescribed)[0].model.parameters == described.model.parameters


def test_digest_tells_another_training_apart(tmp_path: Path) -> None:
    directory, run = logged(SCRIPTS["objective, accumulation"], tmp_path)
    with open_run(run, directory.path) as history:
        started, described = history.known.timeline.started, history.known.timeline.described
    assert started is not None
    assert described is not None
    other = described.groups[0].model_copy(update={"options": described.groups[0].options | {"betas": [0.8, 0.999]}})
    again, copy = Directory(tmp_path / "again", create=True), fresh_run_id()
    rebuilt = Rebuilt(started, described.model_copy(update={"groups": (other,)}))
    train(rebuilt.recipe(), run_settings(started.settings, {"trainer.epochs": 1}), again, copy)
    assert first_epoch(again, copy) != first_epoch(directory, run)
