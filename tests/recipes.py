"""A tiny training for the tests of this folder: a Linear host of 4-3-2, twenty samples, a seed that is grafted as soon as it may be."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from esper.events.codec import decode
from esper.events.envelope import EventId, RunId
from esper.events.fields import Event
from esper.events.kinds.control import DecisionMade
from esper.events.kinds.epoch import SystemState
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe, RunSettings, run_settings
from esper.tolaria.objective import Batches, Supervised
from tests.tolaria.worlds import ADVANCE, GERMINATE, GRAFT, batches, decided, loss_of, perceptron

E = TypeVar("E", bound=Event)
SCRIPT = {1: [GERMINATE], 2: [ADVANCE, ADVANCE], 3: [GRAFT], 6: [ADVANCE], 7: [ADVANCE], 8: [ADVANCE]}


def grafts(state: SystemState, evidence: EventId) -> tuple[DecisionMade, ...]:
    """Germinates at the end of epoch 1 and grafts at the end of epoch 3."""
    return tuple(decided(step, evidence) for step in SCRIPT.get(state.epoch, ()))


def settings(**more: JsonValue) -> RunSettings:
    """RunSettings of five epochs with a checkpoint after each; `more` by trainer's keys."""
    small: dict[str, JsonValue] = {"growth.sites": "0", "growth.blueprints": ["mlp:2"], "growth.max_parameters": 9.0}
    chosen: dict[str, JsonValue] = {"epochs": 5, "checkpoint_every": 1, **more}
    return run_settings(small, {f"trainer.{name}": value for name, value in chosen.items()})


def recipe(train: Batches | None = None, *, model: nn.Module | None = None, test: Batches | None = None) -> Recipe:
    """The tiny training."""
    host = perceptron() if model is None else model
    return Recipe(
        task="tiny",
        model=host,
        optimizer=torch.optim.Adam(host.parameters(), lr=1e-2),
        train=batches() if train is None else train,
        valid=batches(20),
        test=test,
        objective=Supervised(loss_of, {"accuracy": lambda output, target: (output.argmax(1) == target).float()}),
        policy=grafts,
    )


class Acting:
    """The usual batches, or those of another `size`; before the `at`-th batch of all, counted from 1, it does something."""

    def __init__(self, at: int, act: Callable[[], object], size: int = 5) -> None:
        self._at, self._act, self._size, self._count = at, act, size, 0

    def __len__(self) -> int:
        return len(batches(self._size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(self._size):
            self._count += 1
            if self._count == self._at:
                self._act()
            yield batch


class BurstError(Exception):
    """Of the user's own."""


def burst() -> None:
    """Fails as a user's own code does."""
    raise BurstError("the data server is gone")


def events(directory: Directory, run: RunId, kind: type[E]) -> list[E]:
    """Every event of `kind` in the log of `run`."""
    with directory.open(run) as log:
        found = [decode(record) for record in log.read(limit=100_000, topics=frozenset({kind.TOPIC})).records]
    return [event for event in found if isinstance(event, kind)]
