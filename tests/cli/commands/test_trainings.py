"""`esper train` and `esper resume`: what is typed, what is refused, how a stopped run goes on, and the outcome."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from esper.cli.commands.trainings import comparison, growth_summary
from esper.demo.comparison import Compared
from esper.demo.tasks import TASKS
from esper.errors import SettingsError
from esper.events.envelope import RunId
from esper.history.run_history import FoldedRun, open_run
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.cli.conftest import Esper, rendered
from tests.synthetic import RUN, started, ticking

PYTHON = (sys.executable, "-m", "esper.cli")


@pytest.mark.whole
def test_a_trained_run_is_in_the_log_and_the_next_commands_are_named(esper: Esper, tmp_path: Path) -> None:
    who = ("--by", "ada", "--approved-by", "grace")
    said = esper(
        "train", "digits", "--epochs", "2", "--rng-seed", "7", "--threads", "2", "--no-deterministic", "--log", str(tmp_path), *who
    )
    assert said.code == 0
    assert any(line.startswith("   2/2  train ") for line in said.lines)
    with open_run("latest", tmp_path) as history:
        begun = history.state.started
        assert begun is not None
        assert (begun.task, begun.epochs, begun.rng_seed, history.state.status.value) == ("digits", 2, 7, "finished")
        assert (begun.by, begun.approved_by) == ("ada", "grace")
        assert (begun.determinism.threads, begun.determinism.deterministic_algorithms) == (2, False)
    assert f"   esper show {history.run[-6:]} --log {tmp_path}" in said.lines


@pytest.mark.whole
def test_json_is_the_outcome_alone(esper: Esper, tmp_path: Path) -> None:
    outcome = json.loads(esper("train", "digits", "--epochs", "1", "--json", "--log", str(tmp_path)).out)
    assert set(outcome) == {"run", "parameters", "metrics", "compared"}
    assert 0 < outcome["metrics"]["test_accuracy"] < 1


@pytest.mark.whole
def test_settings_come_from_the_file_then_from_what_is_typed(esper: Esper, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "digits"\n[trainer]\nepochs = 9\nrng_seed = 3\n[policy]\nwindow = 4\n')
    assert esper("train", str(file), "--epochs", "1", "--set", "gate.cooldown=6", "--json", "--log", str(tmp_path / "log")).code == 0
    with open_run("latest", tmp_path / "log") as history:
        begun = history.state.started
        assert begun is not None
        named = {name: begun.settings[name] for name in ("trainer.epochs", "trainer.rng_seed", "policy.window", "gate.cooldown")}
    assert named == {"trainer.epochs": 1, "trainer.rng_seed": 3, "policy.window": 4, "gate.cooldown": 6}


@pytest.mark.whole
def test_a_stopped_run_says_resume_hint_and_goes_on(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    command = (*PYTHON, "train", "digits", "--epochs", "40", "--log", log)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stdout if "10/40  train" in line)
        process.send_signal(signal.SIGINT)
        last = process.stderr.read().splitlines()[-1]
        assert process.wait() == 130
    assert last.startswith("esper resume ")
    resumed = subprocess.run((*PYTHON, *last.split()[1:]), capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    assert "40/40  train" in resumed.stdout
    with open_run("latest", log) as history:
        assert (history.state.status.value, history.state.epoch, history.state.incarnation) == ("finished", 40, 2)


@pytest.mark.whole
def test_interrupted_while_comparing_the_grown_result_is_shown_and_nothing_is_to_be_resumed(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    command = (*PYTHON, "train", "digits", "--epochs", "30", "--compare", "--log", log)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stdout if "now host alone" in line)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert any(line.startswith(" grown ") for line in out.splitlines())
    assert err.strip() == "esper: interrupted while comparing; the grown run is whole, and nothing has to go on"
    with open_run("latest", log) as history:
        assert (history.state.status.value, f"esper show {history.run[-6:]}" in out) == ("finished", True)


@pytest.mark.whole
def test_a_comparison_that_fails_keeps_nobody_from_the_grown_result(esper: Esper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_rng_seed: int) -> NoReturn:
        raise SettingsError("no such net")

    monkeypatch.setitem(TASKS, "digits", replace(TASKS["digits"], wider=fails))
    said = esper("train", "digits", "--epochs", "1", "--compare", "--log", str(tmp_path))
    assert (said.code, said.err) == (1, "esper: no such net\n")
    assert any(line.startswith(" grown ") for line in said.lines)


@pytest.mark.whole
def test_what_cannot_be_compared_is_not_trained(esper: Esper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "digits", replace(TASKS["digits"], metrics={}))
    said = esper("train", "digits", "--epochs", "1", "--compare", "--log", str(tmp_path / "runs"))
    assert said.code == 1
    assert "a comparison is by the metric 'accuracy', and the task's metrics are: none" in said.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.whole
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("cifar",), "expected a task, one of digits, mnist1d, or module:attribute; got 'cifar'"),
        (("nowhere:task",), "task 'nowhere:task': ModuleNotFoundError: No module named 'nowhere'"),
        (("digits", "--set", "trainer.epoch=3"), "unknown setting 'trainer.epoch', perhaps trainer.epochs; there are: "),
        (("digits", "--set", "gate.cooldown"), "--set: expected name=value, got 'gate.cooldown'"),
        (("digits", "--by", " "), "--by: expected the name of a person, got ' '"),
        (("digits", "--epochs", "0"), "setting trainer.epochs: expected a number greater than or equal to 1, got 0"),
        (("absent.toml",), "expected settings at absent.toml, got nothing"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    esper: Esper, tmp_path: Path, typed: tuple[str, ...], message: str
) -> None:
    said = esper("train", *typed, "--log", str(tmp_path / "log"))
    assert (said.code, said.out) == (1, "")
    assert message in said.err
    assert not (tmp_path / "log").exists()


@pytest.mark.whole
def test_a_run_that_the_shell_did_not_train_is_not_resumed_by_it(esper: Esper, tmp_path: Path) -> None:

    with Directory(tmp_path).create(RUN) as log:
        emitter = Emitter(log, RUN, clock=ticking())
        emitter.emit(started().model_copy(update={"task": "mine.py"}), epoch=0, step=0)
        emitter.close()
    said = esper("resume", "latest", "--log", str(tmp_path))
    assert (said.code, "it was trained by mine.py: resume it there, with esper.fit(" in said.err) == (1, True)


@pytest.mark.whole
def test_a_finished_run_is_not_resumed(esper: Esper) -> None:
    said = esper("resume", "latest")
    assert (said.code, "finished and sealed" in said.err) == (1, True)


ROWS = [
    Compared("grown", RunId("000001"), 0.9686, 2170),
    Compared("host", RunId("000002"), 0.9443, 460),
    Compared("static_same", RunId("000003"), 0.95, 2170),
    Compared("static_wider", RunId("000004"), 0.9714, 2185),
]


def test_the_best_comes_first_and_a_better_static_net_is_not_hidden() -> None:
    assert [line.split()[0] for line in rendered(comparison(ROWS))] == ["wider", "grown", "same", "host"]


def test_what_was_gained_or_lost_against_the_host_alone_is_said() -> None:
    assert any("2.4 points over the host" in line for line in rendered(comparison(ROWS)))
    worse = [Compared("grown", RunId("000001"), 0.93, 2170), ROWS[1]]
    assert any("1.4 points under the host" in line for line in rendered(comparison(worse)))


@pytest.mark.parametrize("width", [80, 100])
def test_a_row_fits_and_its_remark_is_whole(width: int) -> None:
    lines = rendered(comparison(ROWS), width=width)
    assert max(map(len, lines)) <= width
    assert lines[0].endswith("has to be known beforehand")


def test_a_bar_is_in_proportion_and_an_accuracy_that_is_not_finite_has_none() -> None:
    blocks = {
        line.split()[0]: line.count("█") for line in rendered(comparison([*ROWS[:2], Compared("static_same", RunId("x"), math.nan, 1)]))
    }
    assert blocks["same"] == 0
    assert blocks["grown"] >= blocks["host"] > 0


def told(log: Path, width: int = 100, moment: int | None = None) -> list[str]:
    """The story of the synthetic run."""
    with open_run("latest", log) as history:
        return rendered(*growth_summary(history.folded(moment=moment)), width=width)


def test_what_was_done_alike_after_one_epoch_is_one_line(synthetic_log: Path) -> None:
    lines = told(synthetic_log)
    assert lines[0] == "    1  germinated hidden.2 s0 lowrank:8: best of 5 improved 3.1 % < 15 %"
    assert "    4  germinated hidden.0 s0 mlp:24, s1 lowrank:8: best of 5 improved 3.1 % < 15 %" in lines


def test_grafts_ends_and_rollbacks_are_told_in_the_order_in_which_they_came(synthetic_log: Path) -> None:
    lines = told(synthetic_log)
    turns = [" ".join(line.split()[:2]) for line in lines if "0 to 1" not in line and "standard error" not in line]
    assert [turn for turn in turns if turn.split()[1] != "germinated"] == [
        "4 grafted", "8 grafted", "8 culled", "9 cancelled", "10 fossilized", "11 rolled", "12 fossilized", "12 cancelled", "refused by",
    ]  # fmt: skip


def test_what_was_refused_is_counted_by_rule(synthetic_log: Path) -> None:
    assert told(synthetic_log)[-1] == "       refused by the gate: cap 1, finite 1, urgency 1"


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_it_may_be(synthetic_log: Path, width: int) -> None:
    assert max(map(len, told(synthetic_log, width))) <= width


def test_a_line_without_room_loses_its_last_words_alone(synthetic_log: Path) -> None:
    assert "    4  germinated hidden.0 s0 mlp:24, s1 lowrank:8: best …" in told(synthetic_log, 60)


def test_a_long_story_is_its_end(synthetic_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.cli.commands.trainings._TURNS", 2)
    lines = told(synthetic_log)
    assert lines[0].strip() == "10 earlier turns are not told here"
    assert [line.split()[:2] for line in lines[1:3]] == [["12", "fossilized"], ["12", "cancelled"]]


def test_a_run_in_which_nothing_grew_says_so() -> None:
    assert [line.strip() for line in rendered(*growth_summary(FoldedRun(RunId("x"))))] == ["nothing grew", "refused by the gate: none"]
