"""Settings that cannot be are refused by name, however they come."""

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
