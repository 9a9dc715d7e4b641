"""`esper alerts`."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.history.trail import acknowledgements_of, until_of
from esper.oona.directory import Directory
from tests.cli.conftest import Esper, Said
from tests.synthetic import RUN


def test_what_fires_is_listed_with_the_moment_to_look_at(esper: Esper, observed_log: Path) -> None:
    said = esper("alerts", "list", "--log", str(observed_log))
    assert said.code == 0
    assert "firing   warning  run-rolled-back" in said.out
    assert "activation_variance of layer hidden.0 (host) does not change any more" in said.out
    assert f"esper show 7c21ab --at 189 --log {observed_log}" in said.out


def test_a_run_whose_alerts_cannot_be_read_is_named_and_hides_no_other(esper: Esper, observed_log: Path) -> None:
    newer = observed_log / "z-newer"
    newer.mkdir()
    (newer / "run.sqlite").touch()
    (newer / "observed.sqlite").touch()
    said = esper("alerts", "list", "--log", str(observed_log))
    assert said.code == 1
    assert f"esper: cannot open {newer / 'observed.sqlite'}" in said.err
    assert "firing   warning  run-rolled-back" in said.out


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


# Taking one over


def ids(esper: Esper, log: Path) -> dict[str, str]:
    """The ids of the alerts that fire, as the list has them, by rule."""
    lines = [line for line in esper("alerts", "list", "--log", str(log)).lines if line.startswith(("firing ", "    id "))]
    return {rule.split()[2]: name.split()[1] for rule, name in zip(lines[::2], lines[1::2], strict=True)}


def ack(esper: Esper, log: Path, alert: str, *more: str, lasting: str = "2h") -> Said:
    return esper("alerts", "ack", alert, "--for", lasting, "--by", "Ada", "--note", "the rate is lowered", "--log", str(log), *more)


def test_an_alert_is_taken_over_by_the_id_that_the_list_has(esper: Esper, observed_log: Path) -> None:
    alert = ids(esper, observed_log)["run-rolled-back"]
    said = ack(esper, observed_log, alert)
    assert re.fullmatch(
        r"run-rolled-back of run …7c21ab is silent until \d{4}-\d\d-\d\d \d\d:\d\d UTC, as Ada said: the rate is lowered\n", said.out
    )
    assert "acknowledged until" in esper("alerts", "list", "--log", str(observed_log)).out
    [row] = [
        row for line in esper("alerts", "list", "--json", "--log", str(observed_log)).lines if (row := json.loads(line))["acknowledged"]
    ]
    assert (row["rule"], row["acknowledged"]["by"], row["acknowledged"]["note"]) == ("run-rolled-back", "Ada", "the rate is lowered")


def test_what_was_recorded_is_a_fact_of_the_trail(esper: Esper, observed_log: Path) -> None:
    alert = ids(esper, observed_log)["run-rolled-back"]
    written = json.loads(ack(esper, observed_log, alert, "--json", lasting="30m").out)
    directory = Directory(observed_log)
    [event] = acknowledgements_of(directory).values()
    assert written == {"type": "esper.alert.acknowledged.v1", "data": json.loads(event.model_dump_json())}
    lasts = until_of(event) - datetime.now(UTC)
    assert timedelta(minutes=29) < lasts <= timedelta(minutes=30)


def test_an_alert_that_does_not_fire_is_refused_with_those_that_do(esper: Esper, observed_log: Path) -> None:
    alert = ids(esper, observed_log)["run-rolled-back"]
    said = ack(esper, observed_log, f"{alert[:-1]}z")
    assert (said.code, said.out) == (1, "")
    assert f"expected the id of an alert that fires, got '{alert[:-1]}z', perhaps {alert}; there are: " in said.err


@pytest.mark.parametrize("lasting", ["2", "2x", "0m", "400d", ""])
def test_a_time_that_is_none_is_refused(esper: Esper, observed_log: Path, lasting: str) -> None:
    said = ack(esper, observed_log, "any", lasting=lasting)
    assert (said.code, said.out) == (1, "")
    assert f"--for: expected a time like 30m, 2h or 1d, a year at most, got {lasting!r}" in said.err
