"""`esper alerts`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Esper
from tests.synthetic import RUN


def test_what_fires_is_listed_with_the_moment_to_look_at(esper: Esper, observed_log: Path) -> None:
    said = esper("alerts", "list", "--log", str(observed_log))
    assert said.code == 0
    assert "firing   critical run-rolled-back" in said.out
    assert f"esper show 7c21ab --at 189 --log {observed_log}" in said.out


def test_a_run_whose_alerts_cannot_be_read_is_named_and_hides_no_other(esper: Esper, observed_log: Path) -> None:
    newer = observed_log / "z-newer"
    newer.mkdir()
    (newer / "run.sqlite").touch()
    (newer / "observed.sqlite").touch()
    said = esper("alerts", "list", "--log", str(observed_log))
    assert said.code == 1
    assert f"esper: cannot open {newer / 'observed.sqlite'}" in said.err
    assert "firing   critical run-rolled-back" in said.out


def test_a_run_s_alerts_include_those_that_were_resolved(esper: Esper, observed_log: Path) -> None:
    rows = [json.loads(line) for line in esper("alerts", "list", RUN, "--json", "--log", str(observed_log)).lines]
    assert {row["status"] for row in rows} == {"firing", "resolved"}
    assert all(row["run"] == RUN for row in rows)


def test_a_log_that_nobody_observed_has_no_alerts(esper: Esper) -> None:
    assert esper("alerts", "list").out == "nothing is pending or firing\n"
    assert esper("alerts", "list", "latest").out.startswith(
        "nobody observed this run; from its first record on: esper observe --from-start"
    )


def test_the_rules_in_force_are_those_of_the_log(esper: Esper, tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text('off = ["run-idle"]\n')
    names = [json.loads(line)["name"] for line in esper("alerts", "rules", "--json", "--log", str(tmp_path)).lines]
    assert "run-dead" in names
    assert "run-idle" not in names


@pytest.mark.parametrize("what", ["list", "rules", "test"])
def test_a_log_that_is_not_there_is_an_error_and_is_not_made(esper: Esper, tmp_path: Path, what: str) -> None:
    said = esper("alerts", what, "--log", str(tmp_path / "tpyo"))
    assert said.code == 1
    assert said.err.startswith(f"esper: expected a log at {tmp_path / 'tpyo'}, got nothing")
    assert not (tmp_path / "tpyo").exists()


def test_a_rule_is_a_line(esper: Esper, tmp_path: Path) -> None:
    lines = esper("alerts", "rules", "--log", str(tmp_path)).lines
    assert "critical loss-not-finite              loss is not finite  (telemetry.training.steps)" in lines


def test_a_rule_file_with_a_mistake_is_refused_with_its_line(esper: Esper, tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text('\noff = ["run-idel"]\n')
    said = esper("alerts", "rules", "--log", str(tmp_path))
    assert said.code == 1
    assert f"{tmp_path / 'alerts.toml'}:2: unknown built-in rule 'run-idel'" in said.err


def test_a_test_message_goes_through_every_handler(esper: Esper, tmp_path: Path) -> None:
    (tmp_path / "delivery.toml").write_text(f'[[handlers]]\nname = "lines"\nkind = "log"\npath = "{tmp_path / "told"}"\n')
    said = esper("alerts", "test", "--log", str(tmp_path))
    assert (said.code, said.out.split()[:2]) == (0, ["delivered", "lines"])
    assert "esper-test" in (tmp_path / "told").read_text()


def test_a_handler_that_reaches_nobody_makes_the_exit_code_1(esper: Esper, tmp_path: Path) -> None:
    (tmp_path / "delivery.toml").write_text('[[handlers]]\nname = "hook"\nkind = "webhook"\nurl = "http://127.0.0.1:9/"\n')
    said = esper("alerts", "test", "--log", str(tmp_path))
    assert said.code == 1
    assert said.out.startswith("failed    hook")
