"""Settings that cannot be are refused by name, however they come."""

import json
import math
from pathlib import Path

import pytest
from pydantic import JsonValue

from esper.api.task import read_task_file
from esper.cli.commands.trainings import parse_assignment
from esper.demo.tasks import TASKS
from esper.errors import SettingsError
from esper.processes.recipe import RunSettings, run_settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trainer.epoch", 3, r"unknown setting 'trainer\.epoch', perhaps trainer\.epochs; there are: .*trainer\.epochs"),
        ("epochs", 3, r"unknown setting 'epochs', perhaps trainer\.epochs; there are: "),
        ("policy.windw", 3, r"unknown setting 'policy\.windw', perhaps policy\.window; there are: "),
        ("xyz", 3, r"unknown setting 'xyz'; there are: "),
        ("gate.confidence_above", math.nan, r"setting gate\.confidence_above: expected a finite number, got nan"),
        ("gate.confidence_above", "NaN", r"setting gate\.confidence_above: expected a finite number, got nan"),
        ("gate.urgency_above", -math.inf, r"setting gate\.urgency_above: expected a finite number, got -inf"),
        ("gate.cooldown", -1, r"setting gate\.cooldown: expected a number greater than or equal to 0, got -1"),
        ("policy.tolerance", math.nan, r"setting policy\.tolerance: expected a finite number, got nan"),
        ("policy.tolerance", 1.0, r"setting policy\.tolerance: expected a number less than 1, got 1\.0"),
        ("policy.needed_z", math.inf, r"setting policy\.needed_z: expected a finite number, got inf"),
        ("policy.alphas", [0.5, math.nan], r"setting policy\.alphas\.1: expected a finite number, got nan"),
        ("policy.alphas", [], r"setting policy\.alphas: .* at least 1 item.*, got \[\]"),
        ("trainer.clip", math.nan, r"setting trainer\.clip: expected a finite number, got nan"),
        ("trainer.clip", 0, r"setting trainer\.clip: expected a number greater than 0, got 0"),
        ("trainer.explosion_factor", math.nan, r"setting trainer\.explosion_factor: expected a finite number, got nan"),
        ("growth.seed_lr", math.nan, r"setting growth\.seed_lr: expected a finite number, got nan"),
        ("growth.max_parameters", 0.5, r"setting growth\.max_parameters: expected a number greater than or equal to 1, got 0\.5"),
        ("trainer.epochs", None, r"setting trainer\.epochs: expected a whole number, got None"),
        ("trainer.epochs", 2.5, r"setting trainer\.epochs: expected a whole number, got 2\.5"),
        ("trainer.epochs", True, r"setting trainer\.epochs: expected a whole number, got True"),
        ("trainer.patience", 1.5, r"setting trainer\.patience: expected a whole number, got 1\.5"),
        ("trainer.digest", "none", r"setting trainer\.digest: expected 'full', 'parameters' or 'off', got 'none'"),
        ("growth.enabled", None, r"setting growth\.enabled: expected true or false, got None"),
        ("growth.blueprints", "mlp:24", r"setting growth\.blueprints: expected a list, got 'mlp:24'"),
        ("growth.blueprints", [24], r"setting growth\.blueprints\.0: expected a text, got 24"),
    ],
)
def test_impossible_setting_is_refused_by_name(name: str, value: JsonValue, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run_settings(TASKS["digits"].settings, {name: value})


def test_nan_threshold_is_refused_however_it_comes(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("task='digits'\n[gate]\nconfidence_above = nan\n")
    with pytest.raises(SettingsError, match=rf"^{file}:3: gate\.confidence_above: expected a finite number, got nan"):
        read_task_file(file)
    with pytest.raises(SettingsError, match=r"^setting gate\.confidence_above: expected a finite number, got nan"):
        run_settings(parse_assignment("gate.confidence_above=NaN"))


def test_every_setting_can_be_given_as_it_is_recorded() -> None:
    """The check above refuses nothing that is a setting's own value."""
    for task in TASKS.values():
        settings = run_settings(task.settings)
        assert run_settings(settings.dotted()) == settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("task = ", ":1: Invalid value"),
        (
            "task = 'digits'\nepochs = 3",
            r":2: epochs: unknown key, perhaps trainer\.epochs; expected one of trainer, growth, policy, gate, task",
        ),
        ("task = 'digits'\ntrainer = 3", r":2: trainer: expected a table \[trainer\], got 3"),
        ("task = 3", ":1: task: expected a text, got 3"),
        (
            "task = 'digits'\n[trainer]\n\nepoch = 3",
            r":4: trainer\.epoch: unknown key, perhaps epochs; expected one of epochs, epoch_steps, ",
        ),
        ("task = 'digits'\n[trainer]\nepochs = 2.5", r":3: trainer\.epochs: expected a whole number, got 2\.5"),
    ],
)
def test_a_mistake_in_a_settings_file_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(content)

    with pytest.raises(SettingsError, match=f"^{file}{message}"):
        read_task_file(file)


def test_later_layers_win_over_earlier_ones_and_those_over_the_defaults() -> None:
    settings = run_settings({"trainer.epochs": 3, "trainer.clip": None}, {"trainer.epochs": 4})
    assert (settings.trainer.epochs, settings.trainer.clip, settings.trainer.accumulate) == (4, None, 1)


def test_every_setting_has_a_name_and_is_json() -> None:
    named = RunSettings().dotted()
    assert json.loads(json.dumps(named)) == named
    assert {name.partition(".")[0] for name in named} == {"trainer", "growth", "policy", "gate"}
    assert named["policy.alphas"] == [0.25, 0.5, 1.0]


def test_no_setting_is_lost_between_its_name_and_the_component() -> None:
    """Another value for every setting that has a number comes back as it was given."""
    changed: dict[str, JsonValue] = {
        name: value + 1 for name, value in RunSettings().dotted().items() if isinstance(value, int) and not isinstance(value, bool)
    }
    assert len(changed) > 20
    assert {name: value for name, value in run_settings(changed).dotted().items() if name in changed} == changed


def test_a_settings_file_gives_a_task_and_settings_by_dotted_name(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "digits"\n[trainer]\nepochs = 7\nclip = 0.5\n[policy]\nalphas = [0.5, 1]\n[growth]\nblueprints = ["mlp:2"]\n')
    task, named = read_task_file(file)
    assert (task, named) == (
        "digits",
        {"trainer.epochs": 7, "trainer.clip": 0.5, "policy.alphas": [0.5, 1], "growth.blueprints": ["mlp:2"]},
    )
    settings = run_settings(named)
    assert (settings.trainer.epochs, settings.policy.alphas, settings.growth.blueprints) == (7, (0.5, 1), ("mlp:2",))


def test_a_settings_file_must_name_its_task(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[trainer]\nepochs = 1\n")
    with pytest.raises(SettingsError, match=rf"^{tmp_path}/run.toml:1: task: expected this key, got nothing$"):
        read_task_file(tmp_path / "run.toml")


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"expected settings at {tmp_path / 'none.toml'}, got nothing"):
        read_task_file(tmp_path / "none.toml")


ASSIGNED: list[tuple[str, dict[str, JsonValue]]] = [
    ("trainer.epochs=3", {"trainer.epochs": 3}),
    ("trainer.clip=null", {"trainer.clip": None}),
    ("trainer.telemetry=false", {"trainer.telemetry": False}),
    ("policy.alphas=[0.5, 1]", {"policy.alphas": [0.5, 1]}),
    ("growth.sites=auto", {"growth.sites": "auto"}),
    ("growth.sites=a=b", {"growth.sites": "a=b"}),
    ("growth.sites=", {"growth.sites": ""}),
    ('growth.sites="0"', {"growth.sites": "0"}),
]


@pytest.mark.parametrize(("text", "expected"), ASSIGNED)
def test_an_assignment_is_a_name_and_json_or_a_bare_text(text: str, expected: dict[str, JsonValue]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["trainer.epochs", "=3", ""])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"--set: expected name=value, got '{text}'"):
        parse_assignment(text)
