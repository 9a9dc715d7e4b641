"""What the doctor says about a machine and a log."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.processes.doctor import Check, examine
from tests.synthetic import RUN, write_run


def named(log: Path, name: str) -> Check:
    """The one answer about `name`."""
    [found] = [check for check in examine(log) if check.name == name]
    return found


def test_a_sound_log_has_no_bad_answer(synthetic_log: Path) -> None:
    assert {check.verdict for check in examine(synthetic_log)} == {"ok"}


def test_torch_is_found_without_being_imported(synthetic_log: Path) -> None:
    before = "torch" in sys.modules
    assert named(synthetic_log, "torch").verdict == "ok"
    assert ("torch" in sys.modules) == before


def test_a_log_that_does_not_exist_yet_is_no_fault(tmp_path: Path) -> None:
    check = named(tmp_path / "runs", "log")
    assert (check.verdict, "the first run makes it" in check.answer) == ("ok", True)
    assert not (tmp_path / "runs").exists()


def test_a_file_where_the_log_should_be_is_bad(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert named(tmp_path / "runs", "log").verdict == "bad"


def test_an_empty_log_has_no_runs(tmp_path: Path) -> None:
    assert named(tmp_path, "runs").answer == "none yet"


def test_a_flipped_bit_is_found_and_the_place_is_named(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=3, finish=False)
    with closing(sqlite3.connect(tmp_path / RUN / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE records SET data = CAST(replace(data, '1.4', '1.3') AS BLOB) WHERE type = 'esper.epoch.completed.v1'")
    check = named(tmp_path, "run 7c21ab")
    assert check.verdict == "bad"
    assert "topic system.events.epoch, sequence 1" in check.answer
    assert "restore the file" in check.answer


def test_a_file_that_was_cut_off_is_bad(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory)
    path = tmp_path / RUN / "run.sqlite"
    path.write_bytes(path.read_bytes()[:20_000])
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "damaged" in check.answer) == ("bad", True)


def test_an_interrupted_run_comes_with_the_command_that_resumes_it(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    check = named(tmp_path, "run 7c21ab")
    assert check.verdict == "warning"
    assert check.answer.endswith(f"interrupted in epoch 3: esper resume 7c21ab --log {tmp_path}")


def test_a_live_run_names_the_process_that_writes_it(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=1, finish=False)
    with directory.resume(RUN):
        check = named(tmp_path, "run 7c21ab")
    assert check.verdict == "ok"
    assert "writes it" in check.answer


def test_runs_that_were_not_checked_are_unknown_never_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.processes.doctor.NEWEST", 0)
    write_run(Directory(tmp_path), until_epoch=1, finish=False)
    check = named(tmp_path, "runs")
    assert (check.verdict, check.answer) == ("unknown", "0 of 1 were checked, the newest: --all checks every one")
