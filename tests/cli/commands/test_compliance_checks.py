"""`esper compliance`."""

import csv
import json
import shutil
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from esper.events.codec import decode
from esper.events.kinds.accountability import ComplianceChecked
from esper.history.trail import trail_runs
from esper.oona.directory import Directory
from tests.audit.compliance.finished import write_finished
from tests.audit.compliance.forging import Forger
from tests.cli.conftest import Esper
from tests.synthetic import RUN

pytestmark = pytest.mark.whole

OWN = """\
-- name = "house.rule"
-- version = 1
-- title = "No epoch is the third."
-- proves = "that"
-- cannot_show = "more"
-- clauses = ["rule 4"]

-- population
SELECT run, moment, epoch FROM epochs

-- violations
SELECT run, moment, format('expected no epoch 3, got {}', epoch) AS what FROM population WHERE epoch = 3
"""
CHAIN = ("--check", "log.chain")


@pytest.fixture(autouse=True)
def own(synthetic_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, esper: Esper) -> None:
    """A copy of the log, the environment's: its tables are made beside the runs."""
    del esper  # It names another log, so it comes first.
    shutil.copytree(synthetic_log, tmp_path / "own")
    monkeypatch.setenv("ESPER_LOG", str(tmp_path / "own"))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: None) -> Directory:
    """A log of a finished run and another one, in which a confidence was lowered; the environment's."""
    del own  # It names another log, so it comes first.
    directory = Directory(tmp_path / "log", create=True)
    _, last = write_finished(directory, 2)
    with Forger(directory.path / last) as forged:
        forged.one("decision.made", adaptation="graft").change(confidence=0.5)
        forged.finish()
    monkeypatch.setenv("ESPER_LOG", str(directory.path))
    return directory


def test_without_a_run_it_says_what_is_checked(esper: Esper) -> None:
    said = esper("compliance")
    assert (said.code, len(said.lines)) == (0, 25)
    assert said.lines[0].startswith("v1       adaptation.cooldown          Germinations kept the cooldown")


@pytest.mark.usefixtures("log")
def test_a_whole_run_passes(esper: Esper) -> None:
    said = esper("compliance", "000001")
    assert (said.code, said.lines[-1]) == (0, "run …000001: 25 PASS")
    assert "PASS         log.chain" in said.out
    assert "1 run checked as of" in said.err


@pytest.mark.usefixtures("log")
def test_a_violation_is_shown_with_its_moment_and_fails(esper: Esper) -> None:
    said = esper("compliance", "latest", "--check", "decision.thresholds", *CHAIN)
    assert said.code == 1
    assert [line[:62].rstrip() for line in said.lines] == [
        "FAIL         decision.thresholds          What was germinated,",
        "    moment 41: graft of seed 0 of site hidden.2: expected a co",
        "PASS         log.chain                    The chain of every r",
        "run …000002: 1 PASS, 1 FAIL",
    ]
    assert said.lines[0].endswith(" above the limits in force. (11 asked about)")
    assert said.lines[1].endswith(": expected a confidence above 0.7, got 0.5")


@pytest.mark.usefixtures("log")
def test_of_all_runs_only_what_fails_is_shown(esper: Esper) -> None:
    said = esper("compliance", "--all", "--check", "decision.thresholds", *CHAIN)
    assert [line[:31] for line in said.lines] == [
        "run …000001: 2 PASS",
        "FAIL         decision.threshold",
        "    moment 41: graft of seed 0 ",
        "run …000002: 1 PASS, 1 FAIL",
    ]
    assert said.code == 1


def test_nothing_to_ask_about_fails_only_where_that_is_asked_for(esper: Esper) -> None:
    assert esper("compliance", "latest", "--check", "alert.handled").code == 0
    said = esper("compliance", "latest", "--check", "alert.handled", "--strict")
    assert (said.code, said.lines[-1]) == (1, "run …7c21ab: 1 INCONCLUSIVE")


def test_each_result_is_a_fact_of_the_trail_with_who_asked(esper: Esper, tmp_path: Path) -> None:
    esper("compliance", "latest", *CHAIN, "--check", "alert.handled", "--by", "Ada Example")
    directory = Directory(tmp_path / "own")
    [trail] = trail_runs(directory)
    with directory.open(trail) as log:
        found = [event for event in map(decode, log.read().records) if isinstance(event, ComplianceChecked)]
    assert [(event.about, event.check, event.result, event.population, event.up_to, event.by) for event in found] == [
        (RUN, "alert.handled", "INCONCLUSIVE", 0, 233, "Ada Example"),
        (RUN, "log.chain", "PASS", 233, 233, "Ada Example"),
    ]


def test_json_is_an_object_for_each_result(esper: Esper) -> None:
    found = [json.loads(line) for line in esper("compliance", "latest", *CHAIN, "--check", "log.tail", "--format", "json").lines]
    assert [(one["check"], one["verdict"], one["up_to"]) for one in found] == [("log.chain", "PASS", 233), ("log.tail", "PASS", 233)]


def test_csv_junit_and_html_are_documents(esper: Esper) -> None:
    [row] = csv.DictReader(StringIO(esper("compliance", "latest", *CHAIN, "--format", "csv").out))
    assert (row["check"], row["verdict"]) == ("log.chain", "PASS")
    assert ET.fromstring(esper("compliance", "latest", *CHAIN, "--format", "junit").out)[0].get("tests") == "1"  # noqa: S314
    assert "log.chain" in esper("compliance", "latest", *CHAIN, "--format", "html").out


def test_the_list_is_json_too(esper: Esper) -> None:
    found = [json.loads(line) for line in esper("compliance", "--format", "json").lines]
    assert {one["name"] for one in found} >= {"log.chain", "projection.rederivable"}
    assert all(one["cannot_show"] and one["clauses"] and one["digest"] for one in found)


def test_checks_of_one_s_own_are_made_besides(esper: Esper, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "house.rule.sql").write_text(OWN)
    said = esper("compliance", "latest", "--checks", str(tmp_path / "mine"), "--check", "house.rule")
    assert (said.code, said.lines[1]) == (1, "    moment 26: expected no epoch 3, got 3")


def test_a_mistake_in_one_s_own_check_is_named(esper: Esper, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "house.rule.sql").write_text(OWN.replace("version = 1", "version = 0"))
    said = esper("compliance", "latest", "--checks", str(tmp_path / "mine"))
    assert said.code == 1
    assert "house.rule.sql:2: version: expected a number greater than or equal to 1, got 0" in said.err


def test_a_check_that_there_is_none_of_is_refused_with_the_nearest(esper: Esper) -> None:
    said = esper("compliance", "latest", "--check", "log.chian")
    assert said.code == 1
    assert said.err.startswith("esper: --check: unknown check 'log.chian', perhaps log.chain; there are: adaptation.cooldown, ")
