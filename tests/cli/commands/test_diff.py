"""`esper diff` and `esper show --how`: how runs were trained, and two of them side by side."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.events.envelope import RunId
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe
from esper.processes.train import fresh_run_id, train
from tests.cli.conftest import Esper
from tests.recipes import recipe, settings

Rates = Callable[[float], Recipe]


def at(rate: float) -> Recipe:
    """The tiny training with SGD at `rate`."""
    made = recipe()
    return replace(made, optimizer=torch.optim.SGD(made.model.parameters(), lr=rate, momentum=0.9), source=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunId, RunId]:
    """A log with two short runs that differ in their learning rate and clip, and their ids."""
    directory = Directory(tmp_path_factory.mktemp("log"))
    one, other = fresh_run_id(), fresh_run_id()
    train(at(0.1), settings(epochs=1), directory, one)
    train(at(0.2), settings(epochs=1, clip=None), directory, other)
    return directory.path, one, other


def test_how_names_every_part_of_a_training(esper: Esper, trained: tuple[Path, RunId, RunId]) -> None:
    said = esper("show", trained[1], "--how", "--log", str(trained[0]))
    assert said.code == 0
    for words in (
        "  model      ",
        "    0  Linear weight 3x4, bias 3, in_features=4, out_features=3",
        "  optimizer  SGD",
        "    group 0  all parameters: lr 0.1, weight_decay 0, momentum 0.9, nesterov false",
        "  scheduler  none",
        "  loss       tests.tolaria.worlds.loss_of",
        "  pairs      20 of samples: the loss gives one number a sample",
        "  metric     accuracy: tests.recipes.",
        "  policy     tests.recipes.grafts",
        "  precision  float32, no autocast",
        "  step       gradient norm clipped at 1, micro-batches a step: 1",
        "  source     not recorded, as asked",
    ):
        assert words in said.out


@pytest.mark.parametrize("width", [80, 100])
def test_how_fits_its_width(esper: Esper, trained: tuple[Path, RunId, RunId], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    log = str(trained[0])
    lines = [*esper("show", trained[1], "--how", "--all", "--log", log).lines, *esper("diff", trained[1], trained[2], "--log", log).lines]
    assert max(len(line) for line in lines if log not in line) <= width  # A path to be copied is not cut, however long it is.


def test_run_whose_log_does_not_say_how_is_shown_all_the_same(esper: Esper) -> None:
    said = esper("show", "latest", "--how")
    assert (said.code, "the log does not say how it was trained" in said.out) == (0, True)


def test_description_stands_in_the_json_of_show(esper: Esper, trained: tuple[Path, RunId, RunId]) -> None:
    found = json.loads(esper("show", trained[1], "--json", "--log", str(trained[0])).out)["described"]
    assert (found["optimizer"]["kind"], found["groups"][0]["options"]["lr"]) == ("torch.optim.sgd.SGD", 0.1)


def test_diff_shows_what_differs_and_counts_what_does_not(esper: Esper, trained: tuple[Path, RunId, RunId]) -> None:
    said = esper("diff", trained[1], trained[2], "--log", str(trained[0]))
    rows = {line.split()[0]: line.split()[1:] for line in said.lines if line.strip()}
    assert rows["settings"] == [f"…{trained[1][-6:]}", f"…{trained[2][-6:]}"]
    assert rows["groups.0.options.lr"] == ["0.1", "0.2"]
    assert rows["trainer.clip"] == ["1", "-"]
    assert "groups.0.options.momentum" not in rows
    assert "settings the same: --all shows them" in said.out
    assert rows["status"] == ["finished", "finished"]


def test_diff_breaks_no_name_within_a_word(esper: Esper, trained: tuple[Path, RunId, RunId], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = esper("diff", trained[1], trained[2], "--all", "--log", str(trained[0]))
    rows = json.loads(esper("diff", trained[1], trained[2], "--all", "--json", "--log", str(trained[0])).out)
    parts = {part for row in (*rows["settings"], *rows["outcomes"]) for part in re.split(r"(?<=[._])", row["name"])}
    shown = {part for line in said.lines for part in re.split(r"(?<=[._])", line[:32].strip())}
    assert parts <= shown


def test_diff_of_a_run_with_itself_has_no_row(esper: Esper, trained: tuple[Path, RunId, RunId]) -> None:
    found = json.loads(esper("diff", trained[1], trained[1], "--json", "--log", str(trained[0])).out)
    assert found["settings"] == []
    assert found["same_settings"] > 50
    assert all(row["one"] == row["other"] for row in found["outcomes"])


def test_diff_as_json_has_values_as_the_log_has_them(esper: Esper, trained: tuple[Path, RunId, RunId]) -> None:
    found = json.loads(esper("diff", trained[1], trained[2], "--json", "--log", str(trained[0])).out)
    rows = {row["name"]: (row["one"], row["other"]) for row in found["settings"]}
    assert found["runs"] == [trained[1], trained[2]]
    assert (rows["groups.0.options.lr"], rows["trainer.clip"]) == ((0.1, 0.2), (1.0, None))


def test_diff_needs_two_runs_that_there_are(esper: Esper) -> None:
    assert esper("diff", "latest").code == 2
    assert esper("diff", "latest", "nothing").code == 1
