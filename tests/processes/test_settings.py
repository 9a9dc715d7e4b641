"""Settings that cannot be are refused by name, however they come."""

import json
import math
from pathlib import Path

import pytest
from pydantic import JsonValue

from esper.errors import SettingsError
from esper.events.kinds.epoch import GateSettings
from esper.processes.settings import Settings, parse_assignment, read_toml, settings_from
from esper.processes.tasks import TASKS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trainer.epoch", 3, r"unknown setting 'trainer\.epoch': expected one of .*trainer\.epochs"),
        ("epochs", 3, r"unknown setting 'epochs'"),
        ("gate.confidence_above", math.nan, r"gate\.confidence_above: expected a finite number, got nan"),
        ("gate.confidence_above", "NaN", r"gate\.confidence_above: expected a finite number, got nan"),
        ("gate.urgency_above", "-Infinity", r"gate\.urgency_above: expected a finite number, got -inf"),
        ("gate.cooldown", -1, r"gate\.cooldown: .*greater than or equal to 0, got -1"),
        ("policy.tolerance", math.nan, r"policy: tolerance: expected a number above 0 and below 1, got nan"),
        ("policy.needed_z", math.inf, r"policy: needed_z: expected a number from 0 to 100, got inf"),
        ("policy.alphas", [0.5, math.nan], r"policy: alphas: expected numbers above 0 and at most 1, got nan"),
        ("trainer.clip", math.nan, r"trainer: setting clip: expected a finite number above 0, or nothing, got nan"),
        ("trainer.explosion_factor", math.nan, r"trainer: setting explosion_factor: expected a finite number above 1, got nan"),
        ("growth.seed_lr", math.nan, r"growth: setting seed_lr: expected a finite number above 0, got nan"),
        ("growth.max_parameters", math.nan, r"growth: setting max_parameters: .* got nan"),
        ("trainer.epochs", None, r"trainer\.epochs: expected a whole number, got None"),
        ("trainer.epochs", 2.5, r"trainer\.epochs: expected a whole number, got 2\.5"),
        ("trainer.epochs", True, r"trainer\.epochs: expected a whole number, got True"),
        ("trainer.patience", 1.5, r"trainer\.patience: expected a whole number, or nothing, got 1\.5"),
        ("trainer.digest", "none", r"trainer\.digest: expected one of full, parameters, off, got 'none'"),
        ("growth.enabled", None, r"growth\.enabled: expected true or false, got None"),
        ("growth.blueprints", "mlp:24", r"growth\.blueprints: expected a list of texts, or nothing, got 'mlp:24'"),
        ("growth.blueprints", [24], r"growth\.blueprints: expected a list of texts, or nothing, got \[24\]"),
    ],
)
def test_impossible_setting_is_refused_by_name(name: str, value: JsonValue, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_from(TASKS["digits"].settings, {name: value})


def test_nan_threshold_is_refused_however_it_comes(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[gate]\nconfidence_above = nan\n")
    (_, from_file), from_option = read_toml(file), parse_assignment("gate.confidence_above=NaN")

    for found in (from_file, from_option):
        with pytest.raises(SettingsError, match=r"gate\.confidence_above: expected a finite number, got nan"):
            settings_from(found)
    with pytest.raises(SettingsError, match=r"gate\.confidence_above"):
        Settings(gate=GateSettings(confidence_above=math.nan))


def test_every_setting_can_be_given_as_it_is_recorded() -> None:
    """The check above refuses nothing that is a setting's own value."""
    for task in TASKS.values():
        settings = settings_from(task.settings)
        assert settings_from(settings.named()) == settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = ", "expected readable TOML"),
        (b"\xff\xfe", "expected readable TOML"),
        (b"epochs = 3", r"expected a table \[epochs\], got epochs = 3"),
        (b"task = 3", "expected `task` to be a text, got 3"),
    ],
)
def test_unreadable_settings_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)

    with pytest.raises(SettingsError, match=f"settings file {file}: {message}"):
        read_toml(file)


def test_later_layers_win_over_earlier_ones_and_those_over_the_defaults() -> None:
    settings = settings_from({"trainer.epochs": 3, "trainer.clip": None}, {"trainer.epochs": 4})
    assert (settings.trainer.epochs, settings.trainer.clip, settings.trainer.accumulate) == (4, None, 1)


def test_every_setting_has_a_name_and_is_json() -> None:
    named = Settings().named()
    assert json.loads(json.dumps(named)) == named
    assert {name.partition(".")[0] for name in named} == {"trainer", "growth", "policy", "gate"}
    assert named["policy.alphas"] == [0.25, 0.5, 1.0]


def test_no_setting_is_lost_between_its_name_and_the_component() -> None:
    """Another value for every setting that has a number comes back as it was given."""
    changed: dict[str, JsonValue] = {
        name: value + 1 for name, value in Settings().named().items() if isinstance(value, int) and not isinstance(value, bool)
    }
    assert len(changed) > 20
    assert {name: value for name, value in settings_from(changed).named().items() if name in changed} == changed


def test_a_settings_file_gives_a_task_and_settings_by_dotted_name(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "digits"\n[trainer]\nepochs = 7\nclip = 0.5\n[policy]\nalphas = [0.5, 1]\n[growth]\nblueprints = ["mlp:2"]\n')
    task, named = read_toml(file)
    assert (task, named) == (
        "digits",
        {"trainer.epochs": 7, "trainer.clip": 0.5, "policy.alphas": [0.5, 1], "growth.blueprints": ["mlp:2"]},
    )
    settings = settings_from(named)
    assert (settings.trainer.epochs, settings.policy.alphas, settings.growth.blueprints) == (7, (0.5, 1), ("mlp:2",))


def test_a_settings_file_need_name_no_task(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")
    assert read_toml(tmp_path / "run.toml") == (None, {})


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"settings file {tmp_path / 'none.toml'}: expected readable TOML: .*No such file"):
        read_toml(tmp_path / "none.toml")


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
