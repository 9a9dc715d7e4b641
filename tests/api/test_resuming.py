"""Runs of `esper.fit` that are resumed, and what is restored with them."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.errors import DataError, LogError, RuleError
from esper.events.kinds.epoch import EpochCompleted
from esper.oona.directory import Directory
from esper.processes.train import Result
from esper.tolaria.trainer import Interrupted
from tests.api.fitted import fit
from tests.recipes import Acting, events
from tests.tolaria.worlds import STEPS, batches, loss_of, perceptron


def test_a_finished_run_is_not_resumed(finished: tuple[Path, Result]) -> None:
    log, result = finished
    with pytest.raises(LogError, match=f"run {result.run} is finished and sealed"):
        fit(log, resume="latest")


def test_an_interrupted_run_is_resumed_to_the_same_end_by_any_script(
    finished: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stops = Acting(STEPS + 1, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        fit(tmp_path, train=stops)
    [run] = Directory(tmp_path).names()
    *_, line = capfd.readouterr().err.splitlines()
    assert line == f"esper: run {run[-6:]} stopped in epoch 2 after step {STEPS + 1}; esper.fit(..., resume={run[-6:]!r}) goes on"
    monkeypatch.setattr("sys.argv", ["goes_on.py"])
    resumed = fit(tmp_path, train=Acting(0, lambda: None), resume="latest")
    assert resumed.metrics == finished[1].metrics
    with resumed.history as history:
        assert history.state.incarnation == 2


@pytest.mark.whole
def test_a_notebook_goes_on_with_the_model_that_was_interrupted(tmp_path: Path) -> None:
    model = perceptron()
    with pytest.raises(Interrupted):
        fit(tmp_path / "one", model, epochs=6, train=Acting(4 * STEPS + 1, lambda: signal.raise_signal(signal.SIGINT)))
    assert {type(module).__module__.partition(".")[0] for module in model.modules()} == {"torch"}
    assert [type(module) for module in model] == [nn.Linear, nn.GELU, nn.Linear]
    resumed = fit(tmp_path / "one", model, epochs=6, train=Acting(0, lambda: None), resume="latest")
    assert resumed.metrics == fit(tmp_path / "other", epochs=6).metrics


def test_a_model_whose_training_failed_is_trained_again(tmp_path: Path) -> None:
    model = perceptron()
    with pytest.raises(DataError):
        fit(tmp_path, model, train=[*batches(), {"x": torch.zeros(5, 4)}])
    fit(tmp_path, model, epochs=1)


def weighing(weight: nn.Parameter) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss whose weight is learned beside the model."""
    return lambda output, target: loss_of(output, target) * torch.exp(-weight) + weight


def weighed(log: Path, weight: nn.Parameter, **more: Any) -> Result:
    model = perceptron()
    optimizer = torch.optim.Adam([*model.parameters(), weight], lr=1e-2)
    return fit(log, model, loss=weighing(weight), optimizer=optimizer, **more)


def test_a_parameter_that_only_the_optimizer_has_is_resumed_with_the_rest(tmp_path: Path) -> None:
    whole, again = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    finished = weighed(tmp_path / "one", whole, epochs=6)
    with pytest.raises(Interrupted):
        weighed(tmp_path / "other", again, epochs=6, train=Acting(22, lambda: signal.raise_signal(signal.SIGINT)))
    with torch.no_grad():
        again.fill_(17.0)
    resumed = weighed(tmp_path / "other", again, epochs=6, train=Acting(0, lambda: None), resume="latest")
    assert float(whole.detach()) != 0.0
    assert (float(again.detach()), resumed.metrics) == (float(whole.detach()), finished.metrics)


def test_a_parameter_that_only_the_optimizer_has_is_rolled_back_with_the_rest(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.zeros(()))
    at_start: list[float] = []

    class Poisoned:
        """The usual batches, of NaN in the second epoch; the weight with which each epoch begins is noted."""

        def __len__(self) -> int:
            return len(batches())

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            at_start.append(float(weight.detach()))
            factor = float("nan") if len(at_start) == 3 else 1.0
            return iter([(inputs * factor, targets) for inputs, targets in batches()])

    growing = esper.Grow(sites="0", max_parameters=9.0, settings={"trainer.checkpoint_every": 1})
    weighed(tmp_path, weight, epochs=3, train=Poisoned(), grow=growing)
    del at_start[0]  # When the first batch was looked at before the start.
    assert at_start[0] == 0.0
    assert at_start[2] == at_start[1] != 0.0


def test_a_run_without_determinism_is_resumed_though_its_numbers_differ(tmp_path: Path) -> None:
    def trembling(output: Tensor, target: Tensor) -> Tensor:
        return loss_of(output, target) * (1 + 1e-3 * int.from_bytes(os.urandom(1)))

    options: dict[str, Any] = {"loss": trembling, "deterministic": False, "grow": None}
    with pytest.raises(Interrupted):
        fit(tmp_path, train=Acting(2 * STEPS + 2, lambda: signal.raise_signal(signal.SIGINT)), **options)
    resumed = fit(tmp_path, train=Acting(0, lambda: None), resume="latest", **options)
    assert [event.system.epoch for event in events(Directory(tmp_path), resumed.run, EpochCompleted)] == [1, 2, 3, 4]


def test_a_run_that_is_not_there_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="got an empty log"):
        fit(tmp_path, resume="latest")
