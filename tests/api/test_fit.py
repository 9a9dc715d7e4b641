"""`esper.fit`: what comes back, what is minimised, and how it is trained."""

import copy
import importlib.util
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor, nn

import esper
from esper.errors import DataError, SettingsError
from esper.events.envelope import EventId
from esper.events.kinds.control import DecisionMade
from esper.events.kinds.epoch import EpochCompleted, SystemState
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import CheckpointSaved, RunFailed, RunStarted, SiteFrozen
from esper.oona.directory import Directory
from esper.processes.train import Result
from esper.tamiyo.policy import decide
from esper.tamiyo.policy_input import PolicySettings
from esper.tolaria.objective import Batch
from esper.tolaria.trainer import Interrupted
from tests.api.fitted import fit, output_of
from tests.recipes import Acting, events
from tests.tolaria.worlds import ADVANCE, GERMINATE, STEPS, Step, batches, decided, loss_of, perceptron, samples

# What comes back


def test_a_model_is_trained_and_grown_and_its_history_is_in_the_log(tmp_path: Path) -> None:
    result = fit(tmp_path, metrics={"accuracy": lambda output, target: (output.argmax(1) == target).float()}, test=batches(7))
    assert set(result.metrics) == {"validation_loss", "validation_accuracy", "test_loss", "test_accuracy"}
    with result.history as history:
        assert history.state.status == "finished"
    stages = [event.to_stage for event in events(Directory(tmp_path), result.run, SeedTransitioned)]
    losses = [event.train.loss for event in events(Directory(tmp_path), result.run, EpochCompleted)]
    assert stages == [Stage.GERMINATED, Stage.LOADING, Stage.TRAINING, Stage.GRAFTING]
    assert losses[-1] < losses[0]


def test_the_model_that_comes_back_is_plain_and_can_be_pickled(finished: tuple[Path, Result]) -> None:
    _, result = finished
    modules = {type(module).__module__.partition(".")[0] for module in result.model.modules()}
    assert modules == {"torch"}
    again = pickle.loads(pickle.dumps(result.model))  # noqa: S301 - made here
    inputs, _ = samples()
    expected = output_of(result.host.model, inputs)
    assert torch.equal(output_of(again, inputs), expected)
    assert sum(parameter.numel() for parameter in again.parameters()) == 23 + 19


def test_the_model_that_was_given_is_the_one_that_was_trained(tmp_path: Path) -> None:
    model = perceptron()
    result = fit(tmp_path, model)
    inputs, _ = samples()
    assert torch.equal(output_of(model, inputs), output_of(result.model, inputs))
    assert not torch.equal(output_of(model, inputs), output_of(perceptron(), inputs))


def test_what_is_saved_rebuilds_the_model_from_a_fresh_host(finished: tuple[Path, Result], tmp_path: Path) -> None:
    _, result = finished
    folder = result.save(tmp_path / "grown")
    spec = importlib.util.spec_from_file_location("grown", folder / "grown.py")
    assert spec is not None
    assert spec.loader is not None
    grown = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grown)
    inputs, _ = samples()
    assert torch.equal(output_of(grown.rebuild(perceptron(rng_seed=99)), inputs), output_of(result.model, inputs))


class Later(nn.Module):
    """A layer that is called once in a pass, and twice from the 20th pass in train mode on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.entry, self.step, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        x = self.step(torch.tanh(self.entry(x)))
        found: Tensor = self.head(self.step(x) if self.passes >= 20 else x)
        return found


def test_a_run_says_at_its_start_which_one_it_is_and_whether_its_name_is_another_s_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(tmp_path, perceptron(), name="baseline", grow=None).run[-6:]
    shown = f"esper show {{}} --log {tmp_path} has its history"
    assert capsys.readouterr().err.splitlines()[0] == f"esper: run {first} begins; {shown.format(first)}"
    fit(tmp_path, perceptron(), name="baseline", grow=None)
    fit(tmp_path, perceptron(), name="another", grow=None)
    told = [line for line in capsys.readouterr().err.splitlines() if "baseline" in line]
    assert told == [
        f"esper: 'baseline' is the name of run {first} too, so that it means neither: a name of its own, or tags=, tells this run"
    ]


def learns_then_decides(state: SystemState, evidence: EventId) -> tuple[DecisionMade, ...]:
    """Germinates at "step" after epoch 1, trains from epoch 2 on, then decides as Tamiyo does."""
    lines: dict[int, list[Step]] = {1: [GERMINATE], 2: [ADVANCE, ADVANCE]}
    if state.epoch in lines:
        return tuple(decided(line, evidence).model_copy(update={"site": "step"}) for line in lines[state.epoch])
    return decide(state, evidence, PolicySettings(train_epochs=9))


def test_a_layer_that_shows_late_that_nothing_can_grow_there_is_frozen_once_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    growing = esper.Grow(policy=learns_then_decides, blueprints=("mlp:2",), max_parameters=9.0)
    result = fit(tmp_path, Later(), epochs=14, grow=growing)
    directory = Directory(tmp_path)
    (started,) = events(directory, result.run, RunStarted)
    assert [site.name for site in started.sites] == ["entry", "step"]
    assert started.passed_over == {"head": "its outputs are the model's own"}
    (frozen,) = events(directory, result.run, SiteFrozen)
    assert (frozen.site, frozen.reason) == ("step", "one pass called it twice")
    ends = [event for event in events(directory, result.run, SeedTransitioned) if event.to_stage is Stage.CULLED]
    assert [(event.site, event.reason) for event in ends] == [("step", "it cannot learn here: one pass called it twice")]
    told = "esper: nothing can grow at 'step' from step 20 on: one pass called it twice; training goes on\n"
    assert capsys.readouterr().err.count(told) == 1
    with result.history as history:
        assert history.state.status == "finished"


def test_a_frozen_site_is_frozen_after_a_resume_and_said_once(tmp_path: Path) -> None:
    growing = esper.Grow(policy=learns_then_decides, blueprints=("mlp:2",), max_parameters=9.0, settings={"trainer.checkpoint_every": 2})
    whole = fit(tmp_path / "one", Later(), epochs=9, grow=growing)
    for at in (5 * STEPS + 2, 7 * STEPS + 2):  # Before the checkpoint that has it, and after.
        log, model = tmp_path / str(at), Later()
        with pytest.raises(Interrupted):
            fit(log, model, epochs=9, grow=growing, train=Acting(at, lambda: signal.raise_signal(signal.SIGINT)))
        model.passes = (at // STEPS // 2) * 2 * STEPS
        resumed = fit(log, model, epochs=9, grow=growing, train=Acting(0, lambda: None), resume="latest")
        assert len(events(Directory(log), resumed.run, SiteFrozen)) == 1
        assert resumed.metrics == whole.metrics


# What is minimised


def test_a_loss_a_batch_trains_as_well(tmp_path: Path) -> None:
    by_sample, by_batch = fit(tmp_path, epochs=2), fit(tmp_path, epochs=2, loss=F.cross_entropy)
    assert by_batch.metrics["validation_loss"] == pytest.approx(by_sample.metrics["validation_loss"], rel=1e-5)


def test_an_objective_takes_batches_of_any_shape(finished: tuple[Path, Result], tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(batch, dict)
        return loss_of(model(batch["x"]), batch["y"])

    def named(given: list[tuple[Tensor, Tensor]]) -> list[dict[str, Tensor]]:
        return [{"x": inputs, "y": targets} for inputs, targets in given]

    result = fit(tmp_path, loss=None, objective=objective, train=named(batches()), valid=named(batches(20)))
    assert result.metrics == finished[1].metrics


def objective(_model: nn.Module, _batch: Batch) -> Tensor:
    return torch.zeros(())


BOTH: list[dict[str, Any]] = [  # Arguments of esper.fit, which checks them.
    {"loss": None},
    {"loss": loss_of, "objective": objective},
    {"loss": None, "objective": objective, "metrics": {"a": loss_of}},
]


@pytest.mark.parametrize("given", BOTH)
def test_there_is_exactly_one_of_loss_and_objective(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="exactly one of loss= and objective=, and metrics= only beside loss="):
        fit(tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()


def test_no_metric_hides_the_loss(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="metrics of other names than 'loss'"):
        fit(tmp_path, metrics={"loss": loss_of})


def test_batches_that_show_late_that_they_are_no_pairs_are_refused_with_advice_and_the_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="use objective= for other batches"):
        fit(tmp_path, train=[*batches(), {"x": torch.zeros(5, 4)}])
    log = Directory(tmp_path)
    assert [event.kind for event in events(log, log.resolve("latest"), RunFailed)] == ["error"]


# How it is trained


def test_arguments_reach_the_trainer_and_the_log(tmp_path: Path) -> None:
    result = fit(
        tmp_path,
        accumulate=2,
        clip=None,
        epoch_steps=1,
        rng_seed=9,
        grow=esper.Grow(sites="0", max_parameters=9.0, settings={"policy.window": 7}),
    )
    (started,) = events(Directory(tmp_path), result.run, RunStarted)
    steps = [event.optimizer_steps for event in events(Directory(tmp_path), result.run, EpochCompleted)]
    chosen = {name: started.settings[f"trainer.{name}"] for name in ("epochs", "accumulate", "clip", "epoch_steps", "rng_seed")}
    assert chosen == {"epochs": 4, "accumulate": 2, "clip": None, "epoch_steps": 1, "rng_seed": 9}
    assert started.settings["policy.window"] == 7
    assert started.rng_seed == 9
    assert steps == [1, 1, 1, 1]


SITES: list[tuple[str | type[nn.Module] | Callable[[str, nn.Module], bool], tuple[str, ...]]] = [
    ("auto", ("0",)),
    ("*", ("0", "2")),
    (nn.Linear, ("0", "2")),
    (lambda name, _module: name == "2", ("2",)),
]


@pytest.mark.parametrize(("sites", "expected"), SITES)
def test_sites_are_chosen_by_glob_type_or_function(tmp_path: Path, sites: str, expected: tuple[str, ...]) -> None:
    result = fit(tmp_path, epochs=1, grow=esper.Grow(sites=sites, max_parameters=9.0))
    assert tuple(site.name for site in result.host.sites) == expected


def test_without_growth_the_host_is_trained_alone(tmp_path: Path) -> None:
    result = fit(tmp_path, grow=None, epochs=1)
    assert result.host.sites == ()
    assert sum(parameter.numel() for parameter in result.model.parameters()) == 23


def test_growth_as_it_comes_works_on_a_model_as_it_comes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    result = fit(tmp_path, model, grow=esper.Grow(), optimizer=None, epochs=1)
    assert [site.blueprints for site in result.host.sites] == [("mlp:24", "lowrank:8"), ("mlp:24", "lowrank:8", "signal:12")]


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_a_seed_grows_under_any_optimizer(tmp_path: Path, make: Callable[..., torch.optim.Optimizer]) -> None:
    model = perceptron()
    result = fit(tmp_path, model, epochs=2, optimizer=make(model.parameters(), lr=1e-2))
    assert [type(own) for own in result.host.optimizers().values()] == [make]


def test_a_scheduler_is_stepped(tmp_path: Path) -> None:
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fit(tmp_path, model, epochs=2, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**2)


class Told(torch.optim.lr_scheduler.LRScheduler):
    """Wants to be told something."""

    def step(self, reward: float) -> None:  # type: ignore[override] # That is what is refused.
        raise AssertionError(reward)

    def _initial_step(self) -> None:
        """Nothing yet."""


def test_a_scheduler_that_wants_to_be_told_something_else_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with pytest.raises(SettingsError, match=r"step\(\) can be called without arguments, Told wants reward: float"):
        fit(tmp_path / "runs", model, optimizer=optimizer, scheduler=Told(optimizer))
    assert not (tmp_path / "runs").exists()


@pytest.mark.whole
def test_the_same_call_twice_gives_the_same_bits(finished: tuple[Path, Result], tmp_path: Path) -> None:
    inputs, _ = samples()
    assert torch.equal(output_of(fit(tmp_path).model, inputs), output_of(finished[1].model, inputs))


REFUSED: list[tuple[dict[str, JsonValue], str]] = [
    ({"policy.windoww": 7}, "unknown setting 'policy.windoww'"),
    ({"trainer.epochs": 7}, "setting trainer.epochs: expected as an argument of its own"),
    ({"growth.sites": "0"}, "setting growth.sites: expected as an argument of its own"),
    ({"growth.max_parameters": 3.0}, "setting growth.max_parameters: expected as an argument of its own"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_no_setting_is_silently_passed_over(tmp_path: Path, more: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        fit(tmp_path, grow=esper.Grow(settings=more))


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("epochs", 2.5), ("clip", float("nan")), ("accumulate", 0), ("epoch_steps", 0)])
def test_an_impossible_argument_is_refused_by_name(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        fit(tmp_path / "runs", None, **{name: value})
    assert not (tmp_path / "runs").exists()


def test_a_device_that_torch_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a device torch knows, or auto; got 'gpu9'"):
        fit(tmp_path, device="gpu9")


@pytest.mark.parametrize("sites", ["auto", "0"])
def test_a_model_that_grew_before_is_refused_by_name(tmp_path: Path, sites: str) -> None:
    model = perceptron()
    fit(tmp_path, model, epochs=1)
    with pytest.raises(SettingsError, match=r"'0': an earlier training has grown it; go on with the result\.model of that fit"):
        fit(tmp_path, model, epochs=1, grow=esper.Grow(sites=sites))


def test_what_grew_before_can_be_trained_on_as_the_plain_model_that_came_back(finished: tuple[Path, Result], tmp_path: Path) -> None:
    result = fit(tmp_path, copy.deepcopy(finished[1].model), grow=None, epochs=1)
    assert sum(parameter.numel() for parameter in result.model.parameters()) == 23 + 19


def putting(output: Tensor, target: Tensor) -> Tensor:
    """A loss by way of `put_`, which has no deterministic kernel on any device."""
    losses = loss_of(output, target)
    return losses + torch.zeros_like(losses).put_(torch.tensor([0]), losses.detach()[:1])


def test_an_operation_without_a_deterministic_kernel_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        fit(tmp_path, loss=putting)
    assert (
        "esper: an operation has no deterministic kernel here: deterministic=False (esper train --no-deterministic)"
        in capsys.readouterr().err
    )


def test_determinism_can_be_switched_off_and_more_threads_asked_for_and_the_log_says_so(tmp_path: Path) -> None:
    result = fit(tmp_path, loss=putting, deterministic=False, threads=2)
    (started,) = events(Directory(tmp_path), result.run, RunStarted)
    assert (started.determinism.deterministic_algorithms, started.determinism.threads) == (False, 2)
    assert (started.settings["trainer.deterministic"], started.settings["trainer.threads"]) == (False, 2)
    saved = [event.checkpoint for event in events(Directory(tmp_path), result.run, CheckpointSaved)]
    assert saved == [f"epoch-{epoch:06d}" for epoch in range(5)]
