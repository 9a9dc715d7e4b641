"""Tasks: found by name or import path; their hosts and batches vary with the rng seed and with nothing else."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.api.task import accuracy, cross_entropy, recipe_of
from esper.demo.tasks import TASKS, Split, TensorBatches, find_task, perceptron
from esper.errors import SettingsError
from esper.processes.recipe import run_settings


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digitz", r"expected a task, one of digits, mnist1d, or module:attribute; got 'digitz'"),
        ("no_such_module:task", r"task 'no_such_module:task': .*No module named 'no_such_module'"),
        ("esper.demo.tasks:nothing", r"task 'esper.demo.tasks:nothing': .*has no attribute 'nothing'"),
        ("esper.api.task:adam", r"task 'esper.api.task:adam': expected an esper Task, got a function"),
        (":task", r"task ':task': .*Empty module name"),
        ("..up:task", r"task '..up:task': .*relative import"),
    ],
)
def test_unknown_task_is_named(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        find_task(name)


@pytest.mark.parametrize(("source", "message"), [("raise ValueError('no GPU here')", "ValueError: no GPU here"), ("def (", "SyntaxError")])
def test_task_whose_module_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    (tmp_path / "failing_task.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing_task", raising=False)

    with pytest.raises(SettingsError, match=f"task 'failing_task:task': {message}"):
        find_task("failing_task:task")


def test_a_task_found_by_its_path_is_called_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_task.py").write_text("from esper.demo.tasks import TASKS\nmine = TASKS['digits']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_task", raising=False)
    assert find_task("own_task:mine").name == "own_task:mine"


# Batches


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(10.0).reshape(10, 1), torch.arange(10)


def order(data: TensorBatches) -> list[int]:
    return [int(target) for _, targets in data for target in targets]


def test_the_order_of_shuffled_batches_is_drawn_from_torchs_generator_at_each_pass() -> None:
    data = TensorBatches(*pairs(), 4, shuffle=True)
    torch.manual_seed(5)
    first, second = order(data), order(data)
    torch.manual_seed(5)
    assert (order(data), order(data)) == (first, second)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(10))


def test_batches_that_are_not_shuffled_keep_their_order_and_draw_nothing() -> None:
    data, before = TensorBatches(*pairs(), 4, shuffle=False), torch.get_rng_state()
    assert order(data) == list(range(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_pair_inputs_with_their_targets_and_the_last_may_be_smaller() -> None:
    data = TensorBatches(*pairs(), 4, shuffle=True)
    taken = list(data)
    assert [len(targets) for _, targets in taken] == [4, 4, 2]
    assert len(data) == 3
    assert all(torch.equal(inputs[:, 0], targets.float()) for inputs, targets in taken)


# Hosts and recipes


def test_initial_weights_vary_with_the_rng_seed_and_leave_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (perceptron((4, 3, 2), rng_seed).state_dict() for rng_seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_perceptron_has_gelu_between_its_layers_and_nothing_after_the_last() -> None:
    assert [type(layer).__name__ for layer in perceptron((4, 5, 3, 2), 0)] == ["Linear", "GELU", "Linear", "GELU", "Linear"]


@pytest.mark.parametrize("name", TASKS)
def test_the_wider_net_has_about_the_parameters_that_a_grown_host_ends_with(name: str) -> None:
    wider = TASKS[name].wider
    assert wider is not None
    parameters = sum(parameter.numel() for parameter in wider(0).parameters())
    host = sum(parameter.numel() for parameter in TASKS[name].model(0).parameters())
    assert 2 * host < parameters < 10 * host


def of_digits_shape(batch_size: int) -> TensorBatches:
    return TensorBatches(torch.zeros(20, 64), torch.zeros(20, dtype=torch.int64), batch_size, shuffle=False)


def test_a_recipe_is_of_the_tasks_host_or_of_another_model_with_an_optimizer_over_all_of_it() -> None:
    task = replace(TASKS["digits"], data=lambda _rng_seed: Split(*map(of_digits_shape, (5, 10, 20))))
    own, wide = recipe_of(task, run_settings()), perceptron((64, 29, 10), 0)
    other = recipe_of(task, run_settings(), model=wide)
    assert sum(parameter.numel() for parameter in own.model.parameters()) == 64 * 6 + 6 + 6 * 10 + 10
    assert other.model is wide
    for recipe in (own, other):
        held = {id(parameter) for group in recipe.optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in recipe.model.parameters()}
        assert recipe.optimizer.param_groups[0]["lr"] == 3e-3


def test_data_may_be_a_plain_tuple_of_three() -> None:
    task = replace(TASKS["digits"], data=lambda _rng_seed: tuple(map(of_digits_shape, (5, 10, 20))))  # type: ignore[arg-type,return-value] # Whatever a user gives.
    recipe = recipe_of(task, run_settings())
    assert [len(part) for part in (recipe.train, recipe.valid, recipe.test) if isinstance(part, TensorBatches)] == [4, 2, 1]


@pytest.mark.parametrize(("data", "found"), [((1, 2), "tuple of 2"), ([1, 2, 3], "list of 3"), (None, "NoneType")])
def test_data_that_are_no_split_are_refused_by_the_tasks_name(data: Any, found: str) -> None:
    task = replace(TASKS["digits"], data=lambda _rng_seed: data)
    with pytest.raises(SettingsError, match=rf"task 'digits': expected its data to be \(train, valid, test\), got a {found}"):
        recipe_of(task, run_settings())


def test_losses_and_accuracy_are_by_sample() -> None:
    output, target = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 1, 0])
    assert accuracy(output, target).tolist() == [1.0, 1.0, 0.0]
    assert cross_entropy(output, target).shape == (3,)
    assert float(cross_entropy(output, target)[0]) == pytest.approx(math.log(1 + math.exp(-2.0)))
