"""Whole runs for tests: how one is made, what a bystander sees of it while it trains, and its log as it is read back.

What a `Watch` notes comes from the trainer's own host, objective and model at that time: never from the log, never by a fold.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import pytest
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor, nn

from esper.api.task import recipe_of
from esper.demo.tasks import TASKS, TensorBatches
from esper.events.codec import decode
from esper.events.digests import comparison_form
from esper.events.envelope import EventId, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.control import DecisionMade
from esper.events.kinds.epoch import SystemState
from esper.events.kinds.lifecycle import SeedRow
from esper.kasmina.host import Host
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe, RunSettings, run_settings
from esper.processes.train import Result, fresh_run_id, train
from esper.tamiyo.policy import decide
from esper.tolaria.objective import Batch, Objective
from esper.tolaria.training import Policy

E = TypeVar("E", bound=Event)
POISONED_BATCH = 3
Names = dict[str, JsonValue]

# Growth begins early, so that sixty epochs see races, refusals, grafts, cancellations and a seed that is part of the host for good.
EARLY: Names = {"trainer.epochs": 60, "policy.tolerance": 0.3, "policy.fine_tune_epochs": 5, "gate.cooldown": 5, "trainer.rng_seed": 4}


def digits(*more: Names) -> RunSettings:
    """The settings of the task `digits` where growth begins early, with `more` on top."""
    return run_settings(TASKS["digits"].settings, EARLY, *more)


@dataclass(frozen=True)
class Told:
    """A run as its log tells it: all records in the log's order, and the event in each by id."""

    directory: Directory
    run: RunId
    settings: RunSettings
    records: tuple[Record, ...]
    events: dict[EventId, Event]

    def of(self, kind: type[E]) -> list[tuple[Record, E]]:
        """Every event of `kind` with its record, in order."""
        found = ((record, self.events[record.id]) for record in self.records)
        return [(record, event) for record, event in found if isinstance(event, kind)]

    def events_of(self, kind: type[E]) -> list[E]:
        """Every event of `kind`, in order."""
        return [event for _, event in self.of(kind)]


def told(directory: Directory, run: RunId, settings: RunSettings) -> Told:
    """The log of `run`, read to its end by pages."""
    records: list[Record] = []
    with directory.open(run) as log:
        page = log.read(limit=200)
        while page.records:
            records += page.records
            page = log.read(page.position, limit=200)
    return Told(directory, run, settings, tuple(records), {record.id: decode(record) for record in records})


def placed(rows: Iterable[SeedRow]) -> tuple[SeedRow, ...]:
    """`rows` without what is measured of a seed: its place, stage, life and what it is made of."""
    kept = {"site", "seed", "stage", "since_epoch", "life", "blueprint", "kernel", "embargo_until"}
    return tuple(SeedRow.model_validate(row.model_dump(include=kept)) for row in rows)


@dataclass
class Watch:
    """What a bystander notes while a run trains.

    `judged`: the seed table when the policy is asked, by the id of that EpochCompleted. `left`: the seed table after that epoch's
    commands, by epoch. `steps`: what the objective gave at every optimizer step. `validated`: (loss, accuracy) of the model on the
    validation data, by epoch, measured here. `decided`: what the policy said, by the id of that EpochCompleted. `at_end`: called after
    each epoch's commands, with the epoch.
    """

    at_end: Callable[["Watch", int], None] | None = None
    hosts: list[Host] = field(default_factory=list)
    judged: dict[EventId, tuple[SeedRow, ...]] = field(default_factory=dict)
    left: dict[int, tuple[SeedRow, ...]] = field(default_factory=dict)
    steps: list["Taken"] = field(default_factory=list)
    validated: dict[int, tuple[float, float]] = field(default_factory=dict)
    decided: dict[EventId, tuple[DecisionMade, ...]] = field(default_factory=dict)
    epoch: int = 0

    @property
    def host(self) -> Host:
        """The trainer's host."""
        return self.hosts[-1]

    def table(self) -> tuple[SeedRow, ...]:
        """The trainer's own seed table as it is now."""
        return placed(seed.row for _, seed in sorted(self.host.seeds.items()))

    def watched(self, recipe: Recipe, policy: Policy) -> Recipe:
        """`recipe` with `policy`, all of it watched. The numbers of the training stay the same."""
        return replace(
            recipe,
            policy=lambda state, evidence: self._judge(recipe, policy, state, evidence),
            objective=_WatchedObjective(recipe.objective, self),
            scheduler=EpochEnd(self._end),
        )

    def _judge(self, recipe: Recipe, policy: Policy, state: SystemState, evidence: EventId) -> tuple[DecisionMade, ...]:
        self.epoch = state.epoch
        self.judged[evidence] = self.table()
        self.validated[state.epoch] = _validate(recipe)
        self.decided[evidence] = policy(state, evidence)
        return self.decided[evidence]

    def _end(self) -> None:
        self.left[self.epoch] = self.table()
        if self.at_end is not None:
            self.at_end(self, self.epoch)

    @contextmanager
    def sees_the_host(self) -> Iterator[None]:
        """Within, the host that a training makes for itself is noted."""
        seen = self.hosts

        class SeenHost(Host):
            def __init__(self, *args: object, **kwargs: object) -> None:
                super().__init__(*args, **kwargs)  # type: ignore[arg-type] # passed on as they came
                seen.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("esper.processes.train.Host", SeenHost)
            yield


def _validate(recipe: Recipe) -> tuple[float, float]:
    """(loss, accuracy) over the validation data, of digits or a task like it, straight from the model."""
    assert isinstance(recipe.valid, TensorBatches)
    recipe.model.eval()
    with torch.no_grad():
        output = recipe.model(recipe.valid.inputs)
    recipe.model.train()
    losses = F.cross_entropy(output, recipe.valid.targets, reduction="none").double()
    return float(losses.mean()), float((output.argmax(1) == recipe.valid.targets).double().mean())


class Taken(NamedTuple):
    """One optimizer step, as the objective measured it."""

    loss: float
    accuracy: float
    samples: int


@dataclass(frozen=True)
class _WatchedObjective:
    inner: Objective
    watch: Watch

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = self.inner(model, batch)
        if torch.is_grad_enabled():  # Validation has none.
            self.watch.steps.append(Taken(float(losses.detach().mean()), float(metrics["accuracy"].mean()), len(losses)))
        return losses, metrics


@dataclass(frozen=True)
class EpochEnd:
    """A scheduler that schedules nothing: the trainer steps it after an epoch's commands took effect, and `ended` is told."""

    ended: Callable[[], None] = lambda: None

    def step(self) -> None:
        """One epoch is over."""
        self.ended()

    def state_dict(self) -> dict[str, object]:
        """Nothing: it has no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Takes nothing back."""
        assert state_dict == {}


def trained(
    directory: Directory, settings: RunSettings, watch: Watch, policy: Policy | None = None, *, recipe: Recipe | None = None
) -> Result:
    """A run of digits, or of `recipe`, in `directory`, watched, by Tamiyo's own policy or by `policy`."""
    watched = watch.watched(recipe or recipe_of(TASKS["digits"], settings), policy or tamiyo(settings))
    with watch.sees_the_host():
        return train(watched, settings, directory, fresh_run_id())


def tamiyo(settings: RunSettings) -> Policy:
    """Tamiyo's own policy."""
    return lambda state, evidence: decide(state, evidence, settings.policy)


def comparable(run: Told) -> list[JsonValue]:
    """The facts of `run` in the comparison form, each with its place: what two executions of one training must agree on.

    Of RunStarted, code, packages and hardware are left out: files may change between two runs of a test session.
    """
    places = {record.id: f"{record.topic}#{record.sequence}" for record in run.records}

    def placed(cause: EventId | None) -> str | None:
        return None if cause is None else places[cause]

    found: list[JsonValue] = []
    for record in run.records:
        if record.fact is not None:
            form = comparison_form(run.events[record.id], places.__getitem__)
            assert isinstance(form, dict)
            kept = {name: value for name, value in form.items() if name not in ("code", "packages", "hardware")}
            found.append([record.fact, record.topic, record.sequence, record.type, record.epoch, record.step, placed(record.cause), kept])
    return found


def first_difference(one: list[JsonValue], other: list[JsonValue]) -> str:
    """The first place where two lists of facts differ, for a message; empty where they are equal."""
    for left, right in zip(one, other, strict=False):
        if left != right:
            return f"{json.dumps(left)[:2000]}\nagainst\n{json.dumps(right)[:2000]}"
    return "" if len(one) == len(other) else f"{len(one)} facts against {len(other)}"


class Poisoned:
    """Batches of which one is NaN in those passes that `when` picks (by number, from 1); `begun` is told of each pass before it begins."""

    def __init__(self, batches: TensorBatches, when: Callable[[int], bool], begun: Callable[[int], None] = lambda _number: None) -> None:
        self._batches, self._when, self._begun, self._passes = batches, when, begun, 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._passes += 1
        self._begun(self._passes)
        poisoned = self._when(self._passes)
        for number, (inputs, targets) in enumerate(self._batches):
            yield (inputs * math.nan if poisoned and number == POISONED_BATCH else inputs), targets


def break_seed(host: Host, site: str, seed: int) -> None:
    """Makes a weight of the seed's body NaN, as an optimizer step gone wrong would."""
    tensors, _ = host.state()
    tensors[f"{site}/{seed}/last.weight"].view(-1)[0] = math.nan
