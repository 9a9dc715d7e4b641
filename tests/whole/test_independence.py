"""Nothing but decisions enters training: not telemetry, not a reader, not a seed that was rejected; and what breaks does not spread."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from esper.api.task import recipe_of
from esper.demo.tasks import TASKS, TensorBatches
from esper.events import topics
from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, DecisionMade, FieldReported
from esper.events.kinds.epoch import EpochCompleted, SystemState
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import RunFailed, RunFinished, RunRolledBack, StreamEnded
from esper.events.kinds.telemetry import Heartbeat, StepsMeasured
from esper.events.kinds.training_description import TrainingDescribed
from esper.folds.run_state import RunState, Status, step
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe, RunSettings
from esper.processes.train import Result, fresh_run_id, train
from esper.tolaria.objective import Batch
from esper.tolaria.trainer import UnstableError
from tests.folds.histories import fold
from tests.whole.conftest import Faulty, Grown
from tests.whole.runs import (
    EpochEnd,
    Poisoned,
    Told,
    Watch,
    break_seed,
    comparable,
    digits,
    first_difference,
    placed,
    tamiyo,
    told,
    trained,
)

pytestmark = pytest.mark.whole

FEWER: dict[str, JsonValue] = {"trainer.epochs": 42}


# Telemetry and readers


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The same training as `grown` with telemetry off, nobody reading and nobody watching."""
    directory, settings = Directory(tmp_path_factory.mktemp("quiet")), digits({"trainer.telemetry": False})
    usual = recipe_of(TASKS["digits"], settings)

    # The scheduler stands in checkpoints, and so in their digests.
    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return usual.objective(model, batch)

    recipe = replace(usual, scheduler=EpochEnd(), objective=objective)
    result = train(recipe, settings, directory, fresh_run_id())
    return told(directory, result.run, settings)


def test_quiet_run_has_facts_alone(quiet: Told) -> None:
    telemetry = {record.topic for record in quiet.records if record.topic in topics.TELEMETRY}

    assert telemetry <= {Heartbeat.TOPIC}
    assert len(quiet.of(EpochCompleted)) == 60


def test_digests_at_every_epoch_are_the_same_without_telemetry_and_readers(grown: Grown, quiet: Told) -> None:
    digests = [event.digests for event in grown.told.events_of(EpochCompleted)]

    assert len(set(digests)) == 60
    assert all(digest.parameters and digest.optimizer and digest.random for digest in digests)
    assert [event.digests for event in quiet.events_of(EpochCompleted)] == digests


def test_facts_are_the_same_without_telemetry_and_readers(grown: Grown, quiet: Told) -> None:
    loud, silent = _unwatched(grown.told), _unwatched(quiet)

    assert _setting(loud, "trainer.telemetry") is True
    assert _setting(silent, "trainer.telemetry") is False
    assert first_difference(loud, silent) == ""


def _unwatched(told: Told) -> list[JsonValue]:
    """The facts without how the run was trained: one is watched, by an objective and a policy of the tests' own, and says so."""
    return [fact for fact in comparable(told) if not (isinstance(fact, list) and TrainingDescribed.KIND in fact)]


def _setting(facts: list[JsonValue], name: str) -> JsonValue:
    """Takes one setting out of RunStarted: what two runs that differ in it alone may differ in."""
    started = facts[0]
    assert isinstance(started, list)
    form = started[-1]
    assert isinstance(form, dict)
    settings = form["settings"]
    assert isinstance(settings, dict)
    return settings.pop(name)


# A seed that was rejected


@dataclass(frozen=True)
class Hosted:
    """A run of a host with BatchNorm and dropout, with the recipe that the host and its optimizer came from."""

    told: Told
    recipe: Recipe
    trained: Result


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    """The host alone: growth is off."""
    return _host(Directory(tmp_path_factory.mktemp("alone")), digits(FEWER, {"growth.enabled": False}), Watch())


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    """The same host with a race in it of which nothing is kept: one seed breaks, one is cancelled, and the best is culled."""
    settings = digits(FEWER)
    inner = tamiyo(settings)
    broken: list[tuple[str, int]] = []

    def break_one(watch: Watch, _epoch: int) -> None:
        training = [place for place, seed in sorted(watch.host.seeds.items()) if seed.stage is Stage.TRAINING]
        if training and not broken:
            broken.append(training[0])
            break_seed(watch.host, *training[0])

    def never_graft(state: SystemState, evidence: EventId) -> tuple[DecisionMade, ...]:
        return tuple(_culled(decision) if decision.adaptation is Adaptation.GRAFT else decision for decision in inner(state, evidence))

    return _host(Directory(tmp_path_factory.mktemp("rejected")), settings, Watch(at_end=break_one), never_graft)


def _culled(graft: DecisionMade) -> DecisionMade:
    return graft.model_copy(update={"adaptation": Adaptation.CULL, "confidence": 1.0, "urgency": 1.0, "reason": "nothing is kept"})


def _host(
    directory: Directory,
    settings: RunSettings,
    watch: Watch,
    policy: Callable[[SystemState, EventId], tuple[DecisionMade, ...]] | None = None,
) -> Hosted:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(64, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Dropout(0.1), nn.Linear(6, 10))
    recipe = recipe_of(TASKS["digits"], settings, model=model)
    result = trained(directory, settings, watch, policy, recipe=recipe)
    return Hosted(told(directory, result.run, settings), recipe, result)


def test_rejected_race_was_run(rejected: Hosted) -> None:
    entered = Counter(event.to_stage for event in rejected.told.events_of(SeedTransitioned))

    assert entered[Stage.TRAINING] >= 3
    assert entered[Stage.CULLED] >= 2
    assert entered[Stage.CANCELLED] >= 1
    assert entered[Stage.GRAFTING] == 0


def test_rejected_race_leaves_the_host_as_it_would_have_been_alone(alone: Hosted, rejected: Hosted) -> None:
    expected, found = alone.recipe.model.state_dict(), rejected.recipe.model.state_dict()

    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert _optimizer(rejected) == _optimizer(alone)
    (with_race,), (without,) = rejected.told.events_of(RunFinished), alone.told.events_of(RunFinished)
    assert (with_race.model_digest, with_race.metrics, with_race.parameters) == (without.model_digest, without.metrics, 472)


def _optimizer(run: Hosted) -> list[tuple[int, str, list[float]]]:
    state = run.recipe.optimizer.state_dict()["state"]
    return [(index, key, torch.as_tensor(value).reshape(-1).tolist()) for index, kept in state.items() for key, value in kept.items()]


def test_rejected_race_leaves_every_epoch_as_it_would_have_been_alone(alone: Hosted, rejected: Hosted) -> None:
    expected, found = alone.told.events_of(EpochCompleted), rejected.told.events_of(EpochCompleted)

    assert [(event.train, event.validation) for event in found] == [(event.train, event.validation) for event in expected]
    assert [event.digests.random for event in found] == [event.digests.random for event in expected]
    # A seed's tensors are in the digest of parameters for as long as there is one.
    bare = [event for event in zip(found, expected, strict=True) if all(seed.kernel is None for seed in event[0].system.seeds)]
    assert len(bare) >= 15
    assert bare[-1][0].system.epoch == 42
    assert all(one.digests == other.digests for one, other in bare)


# What is not finite


def test_nan_loss_stands_in_the_log_as_nan(faulty: Faulty) -> None:
    spans = [(record, event) for record, event in faulty.told.of(StepsMeasured) if b'"NaN"' in record.data]

    assert [record.epoch for record, _ in spans] == list(faulty.faults.nan_batches)
    for record, event in spans:
        json.loads(record.data, parse_constant=_refuse)
        first = next(index for index, loss in enumerate(event.steps.loss) if loss is None or not math.isfinite(loss))
        assert first == 3
        assert all(loss is not None and math.isnan(loss) for loss in event.steps.loss[first:])


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def test_nan_loss_takes_the_run_back_with_its_whole_seed_table(faulty: Faulty) -> None:
    rolled_back = faulty.told.of(RunRolledBack)

    assert [(event.from_epoch, event.blamed and (event.blamed.site, event.blamed.seed)) for _, event in rolled_back] == list(
        faulty.faults.nan_batches.items()
    )
    for record, event in rolled_back:
        now = {(row.site, row.seed): row for row in faulty.faults.tables[record.epoch + 1]}
        said = {(row.site, row.seed): row for row in placed(event.seeds)}
        blamed = None if event.blamed is None else (event.blamed.site, event.blamed.seed)
        assert said.keys() == now.keys()
        assert {place: row for place, row in said.items() if place != blamed} == {
            place: row for place, row in now.items() if place != blamed
        }
        if blamed is not None:
            assert (said[blamed].stage, now[blamed].stage) == (Stage.GRAFTING, Stage.ROLLED_BACK)


def test_rolled_back_run_goes_on_with_the_bits_of_the_checkpoint(faulty: Faulty) -> None:
    for _, event in faulty.told.of(RunRolledBack):
        saved, restored = faulty.faults.weights[event.to_epoch + 1], faulty.faults.weights[event.from_epoch + 1]
        assert torch.equal(restored, saved)
        assert bool(torch.isfinite(restored).all())


def test_epochs_and_steps_count_on_after_a_rollback(faulty: Faulty) -> None:
    completed = faulty.told.of(EpochCompleted)
    lost = set(faulty.faults.nan_batches)

    assert len(lost) == 2
    assert [record.epoch for record, _ in completed] == [epoch for epoch in range(1, 61) if epoch not in lost]
    assert all(event.optimizer_steps == 18 for _, event in completed)
    # A lost epoch ends where its losses are looked at: after ten steps.
    assert completed[-1][0].step == 58 * 18 + 2 * 10


def test_blamed_seed_is_locked_and_reported(faulty: Faulty) -> None:
    ((record, rolled_back),) = [(record, event) for record, event in faulty.told.of(RunRolledBack) if event.blamed is not None]
    assert rolled_back.blamed is not None
    place = (rolled_back.blamed.site, rolled_back.blamed.seed)
    moves = [(move.cause, event.to_stage) for move, event in faulty.told.of(SeedTransitioned) if (event.site, event.seed) == place]

    assert moves[-1] == (record.id, Stage.ROLLED_BACK)
    assert [event.outcome for event in faulty.told.events_of(FieldReported) if (event.site, event.seed) == place] == ["ROLLED_BACK"]
    assert {(row.site, row.seed): row.stage for row in faulty.watch.table()}[place] is Stage.ROLLED_BACK


def test_folded_seed_table_is_the_trainers_through_rollbacks_and_culls(faulty: Faulty) -> None:
    states, last = _states(faulty.told), {record.epoch: record.moment for record in faulty.told.records if record.type != StreamEnded.KIND}

    assert states[max(states)].irregularities == ()
    for record, _ in faulty.told.of(EpochCompleted):
        assert placed(states[record.moment].seeds) == faulty.watch.judged[record.id]
    for epoch, table in faulty.faults.tables.items():
        assert epoch == 1 or placed(states[last[epoch - 1]].seeds) == table, f"before epoch {epoch}"


def _states(run: Told) -> dict[int, RunState]:
    state, found = RunState(run.run), dict[int, RunState]()
    for record in run.records:
        state = step(state, record)
        found[record.moment] = state
    return found


@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.GRAFTING])
def test_broken_seed_is_known_and_culled_at_the_next_epochs_end(faulty: Faulty, stage: Stage) -> None:
    epoch, (site, seed) = faulty.faults.broken[stage]
    ((record, completed),) = [(record, event) for record, event in faulty.told.of(EpochCompleted) if record.epoch == epoch + 1]
    (row,) = [row for row in completed.system.seeds if (row.site, row.seed) == (site, seed)]
    (decision,) = [
        event
        for made, event in faulty.told.of(DecisionMade)
        if made.cause == record.id and event.adaptation is Adaptation.CULL and event.seed == seed
    ]
    (move,) = [event for moved, event in faulty.told.of(SeedTransitioned) if moved.epoch == epoch + 1 and event.seed == seed]

    assert row.recovering
    assert row.errors >= 1
    assert row.health_score in (0.0, None)
    assert (decision.confidence, decision.urgency) == (1.0, 1.0)
    assert (move.from_stage, move.to_stage) == (stage, Stage.CULLED)


def test_host_goes_on_unharmed_by_broken_seeds(faulty: Faulty) -> None:
    losses = [
        loss
        for record, event in faulty.told.of(StepsMeasured)
        if record.epoch not in faulty.faults.nan_batches
        for loss in (*event.steps.loss, *event.steps.gradient_norm)
    ]
    (finished,) = faulty.told.events_of(RunFinished)

    assert len(losses) == 2 * 58 * 18
    assert bool(np.isfinite(np.array(losses, dtype=np.float64)).all())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in faulty.trained.host.model.state_dict().values())
    assert finished.metrics["test_accuracy"] > 0.9


def test_nan_validation_stands_in_the_log_and_takes_the_run_back(tmp_path: Path) -> None:
    settings = digits({"trainer.epochs": 4})
    recipe = recipe_of(TASKS["digits"], settings)
    assert isinstance(recipe.valid, TensorBatches)
    inputs = recipe.valid.inputs
    # The first pass over the data is before the first step, by which pairs are found.
    valid = Poisoned(TensorBatches(inputs, recipe.valid.targets, 50, shuffle=False), lambda number: number == 3)
    directory = Directory(tmp_path)

    result = train(replace(recipe, valid=valid), settings, directory, fresh_run_id())

    run = told(directory, result.run, settings)
    lost = [record.epoch for record, event in run.of(EpochCompleted) if event.validation and math.isnan(event.validation.loss)]
    assert lost == [2]
    assert [record.epoch for record, _ in run.of(EpochCompleted) if b'"NaN"' in record.data] == [2]
    assert [(event.from_epoch, event.to_epoch) for event in run.events_of(RunRolledBack)] == [(2, 0)]
    assert [record.epoch for record, _ in run.of(EpochCompleted)] == [1, 2, 3, 4]
    assert fold(run.records).irregularities == ()
    assert math.isfinite(result.metrics["validation_loss"])


def test_one_rollback_too_many_ends_the_run(tmp_path: Path) -> None:
    settings = digits({"trainer.epochs": 4, "trainer.max_rollbacks": 1})
    recipe = recipe_of(TASKS["digits"], settings)
    assert isinstance(recipe.train, TensorBatches)
    directory, name = Directory(tmp_path), fresh_run_id()

    with pytest.raises(UnstableError, match=r"epoch 2, step 20: loss nan at step 14; expected at most 1 rollbacks"):
        train(replace(recipe, train=Poisoned(recipe.train, lambda _number: True)), settings, directory, name)

    run = told(directory, name, settings)
    (failed,) = run.events_of(RunFailed)
    assert failed.kind == "rollbacks"
    assert failed.where == "epoch 2, step 20"
    assert len(run.of(RunRolledBack)) == 1
    assert run.records[-1].type == RunFailed.KIND
    ended = {record.topic: (record.sequence, record.chain and record.chain.hex()) for record in run.records[:-1]}
    assert {tail.topic: (tail.sequence, tail.chain) for tail in failed.tails} == ended
    assert {record.topic for record, _ in run.of(StreamEnded)} == {record.topic for record in run.records} - {topics.RUN}
    assert fold(run.records).status is Status.FAILED
    entry = directory.entry(name)
    assert entry is not None
    assert not entry.sealed
    assert not entry.live
