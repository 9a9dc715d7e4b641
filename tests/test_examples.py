"""The examples are run, and show what they say they show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.whole


def printed(name: str, log: Path) -> str:
    """What an example prints, with nothing of this process's own in its way."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ESPER_")}
    command = [sys.executable, str(EXAMPLES / name), "--log", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_of_ones_own_grows_and_its_history_is_told(tmp_path: Path) -> None:
    told = printed("own_model.py", tmp_path / "runs")
    assert "mlp:24 at layer 0: born in epoch " in told
    assert "before anything had grown: " in told


def test_a_sensor_that_fails_is_noticed_by_the_rule_on_it_and_by_what_it_does_to_the_loss(tmp_path: Path) -> None:
    told = printed("watched.py", tmp_path / "runs")
    assert "critical firing sensor-dead: an input hardly varies any more: 0" in told
    assert "resolved critical sensor-dead  metric=esper_custom_input_std" in told
    assert "loss drifts upwards" in told


def test_an_example_leaves_the_rules_of_a_log_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text('off = ["disk-low"]\n')
    command = [sys.executable, str(EXAMPLES / "watched.py"), "--log", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert f"{tmp_path / 'alerts.toml'} is another's" in done.stderr
    assert (tmp_path / "alerts.toml").read_text() == 'off = ["disk-low"]\n'


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"own_model.py", "watched.py"}
