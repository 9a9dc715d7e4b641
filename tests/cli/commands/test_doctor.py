"""`esper doctor`."""

import json
from pathlib import Path

from esper.oona.directory import Directory
from tests.audit.compliance.finished import save_checkpoints
from tests.cli.conftest import Esper
from tests.synthetic import RUN, write_run


def test_a_sound_log_is_ok_line_by_line(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path))
    save_checkpoints(Directory(tmp_path), RUN)
    said = esper("doctor", "--log", str(tmp_path))
    assert said.code == 0
    assert {line.split()[0] for line in said.lines} == {"ok"}
    assert [line.split()[1] for line in said.lines] == ["sql", "python", "sqlite", "torch", "disk", "log", "free", "run"]


def test_a_damaged_run_makes_the_exit_code_1(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=1, finish=False)
    (tmp_path / RUN / "run.sqlite").write_bytes(b"no database" * 20)
    said = esper("doctor", "--log", str(tmp_path))
    assert said.code == 1
    assert said.lines[-1].startswith("bad      run 7c21ab")


def test_a_run_that_cannot_be_resumed_comes_without_the_command(esper: Esper, tmp_path: Path) -> None:
    compared, new = tmp_path / "compared", tmp_path / "new"
    write_run(Directory(compared, create=True), until_epoch=1, finish=False, task="digits (host)")
    Directory(new, create=True).create(RUN).close()
    assert esper("doctor", "--log", str(compared)).lines[-2].endswith("compared with another run, and does not go on alone")
    assert esper("doctor", "--log", str(new)).lines[-1].endswith("interrupted before it began: start it again")


def test_json_is_one_object_per_check(esper: Esper) -> None:
    checks = [json.loads(line) for line in esper("doctor", "--json").lines]
    assert {"name": "log", "verdict": "ok"}.items() <= checks[5].items()


def test_a_log_that_does_not_exist_can_be_asked_about(esper: Esper, tmp_path: Path) -> None:
    assert esper("doctor", "--log", str(tmp_path / "new")).code == 0
