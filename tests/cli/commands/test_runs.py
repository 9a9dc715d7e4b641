"""`esper runs`."""

import json
from pathlib import Path

import pytest

from esper.cli.commands.runs import _line
from esper.history.resume import variant_task
from esper.history.run_list import RunSummary
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.beginnings import run_started
from tests.cli.conftest import Esper
from tests.synthetic import RUN, ticking, write_run


def test_a_finished_run_is_a_line(esper: Esper) -> None:
    lines = esper("runs").lines
    assert lines[1].split() == ["7c21ab", "2026-03-01", "12:00", "finished", "14/14", "0.2285", "1,030", "digits"]


def test_json_is_one_object_per_run(esper: Esper) -> None:
    [line] = esper("runs", "--json").lines
    assert (json.loads(line)["run"], json.loads(line)["standing"]) == (RUN, "finished")


def test_an_empty_log_says_how_to_begin(esper: Esper, tmp_path: Path) -> None:
    said = esper("runs", "--log", str(tmp_path))
    assert (said.code, said.out) == (0, f"no runs in {tmp_path} yet: esper train digits --log {tmp_path}\n")


def test_what_is_unknown_is_called_unknown(esper: Esper, tmp_path: Path) -> None:
    Directory(tmp_path).create(RUN).close()
    assert esper("runs", "--log", str(tmp_path)).lines[1].split()[3:] == ["interrupted", "0", "unknown", "unknown", "unknown"]


def test_the_runs_of_a_comparison_can_be_told_apart_also_where_room_is_short() -> None:
    runs = [RunSummary(RUN, "finished", task=variant_task("digits", way), epoch=80, epochs=80) for way in ("static_same", "static_wider")]
    assert [_line(one, 100).plain.split()[-2:] for one in runs] == [["digits", "(static_same)"], ["digits", "(static_wider)"]]
    assert [_line(one, 80).plain[-7:] for one in runs] == ["t…same)", "t…ider)"]
    assert {_line(one, 80).cell_len for one in runs} == {80}


def test_an_unreadable_run_is_listed_and_the_exit_code_says_so(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=1, finish=False)
    (tmp_path / RUN / "run.sqlite").write_bytes(b"no database" * 20)
    said = esper("runs", "--log", str(tmp_path))
    assert (said.code, "unreadable" in said.out, "expected a run's SQLite file" in said.out) == (1, True, True)


def test_runs_are_picked_by_tag_and_condition(esper: Esper, labelled: Path) -> None:
    log = str(labelled)
    assert [line.split()[0] for line in esper("runs", "--tag", "good", "--log", log).lines[1:]] == [RUN[-6:]]
    assert esper("runs", "--where", "config.lr < 0.1", "--log", log).lines[1].endswith("tiny  baseline  #good")
    assert esper("runs", "--where", "config.lr > 0.1", "--log", log).out == f"no run in {log} that was asked for\n"


def test_condition_that_is_none_is_refused_in_a_line(esper: Esper) -> None:
    said = esper("runs", "--where", "speed > 1")
    assert (said.code, said.err.startswith("esper: where: expected one of epoch, ")) == (1, True)


def test_run_is_shown_by_its_name_with_its_labels(esper: Esper, labelled: Path) -> None:
    said = esper("show", "baseline", "--log", str(labelled))
    assert said.code == 0
    assert "  baseline · #good\n" in said.out
    assert "  note: as agreed\n" in said.out


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A log with a run that has labels."""
    directory = Directory(tmp_path)
    with directory.create(RUN) as log, Emitter(log, RUN, clock=ticking()) as emitter:
        emitter.emit(run_started(name="baseline", tags=("good",), notes="as agreed", config={"lr": 0.01}), epoch=0, step=0)
    return tmp_path
