"""`esper export`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Esper


def test_the_files_written_are_named_and_counted(esper: Esper, tmp_path: Path) -> None:
    said = esper("export", "latest", "--format", "jsonl", "--out", str(tmp_path))
    assert said.code == 0
    assert f"       7  {tmp_path}/compilation.blueprint.submitted.2026-03-01.jsonl" in said.lines
    assert said.lines[-1].startswith("233 records of run ")
    assert {line.split()[1] for line in said.lines[:-1]} == {str(path) for path in tmp_path.iterdir()}


def test_without_out_it_is_a_folder_named_after_the_run(esper: Esper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    esper("export", "latest", "--format", "jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["export-7c21ab"]


def test_json_says_what_was_written(esper: Esper, tmp_path: Path) -> None:
    written = json.loads(esper("export", "latest", "--format", "jsonl", "--out", str(tmp_path), "--json").out)
    assert (written["records"], sum(written["files"].values())) == (233, 233)


def test_a_second_export_into_the_same_folder_is_refused(esper: Esper, tmp_path: Path) -> None:
    esper("export", "latest", "--format", "jsonl", "--out", str(tmp_path))
    said = esper("export", "latest", "--format", "jsonl", "--out", str(tmp_path))
    assert (said.code, "name another folder with --out" in said.err) == (1, True)
