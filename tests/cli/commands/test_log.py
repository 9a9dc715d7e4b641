"""`esper log` and `esper export`."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from esper.events.topics import DECISIONS
from esper.history.run_history import open_run
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.run_log import RunLog
from tests.cli.conftest import Esper
from tests.synthetic import RUN, started, ticking, write_run


def test_every_record_is_a_line(esper: Esper) -> None:
    said = esper("log", "latest")
    assert len(said.lines) == 1 + 233
    assert said.lines[0].split()[:3] == ["moment", "epoch", "step"]


def test_a_part_of_a_topic_s_name_is_enough(esper: Esper) -> None:
    said = esper("log", "latest", "--topic", "decisions")
    assert {line.split()[4] for line in said.lines[1:]} == {"decision.made", "stream.ended"}


def test_the_last_word_of_a_topic_s_name_is_enough_though_another_has_it_within(esper: Esper) -> None:
    assert {line.split()[4].partition(".")[0] for line in esper("log", "latest", "--topic", "run").lines[1:]} > {"run", "checkpoint"}
    assert esper("log", "latest", "--topic", "heart").lines[0].split()[0] == "moment"


def test_several_topics_come_in_the_order_of_the_log(esper: Esper) -> None:
    said = esper("log", "latest", "--topic", "decisions", "--topic", "outcomes")
    moments = [int(line.split()[0]) for line in said.lines[1:]]
    assert moments == sorted(moments)
    assert {line.split()[4].partition(".")[0] for line in said.lines[1:]} == {"decision", "command", "stream"}


def test_a_pipe_gets_the_whole_of_what_was_said(esper: Esper) -> None:
    assert "0.2715 against 0.2733 (-0.7 %), n 350, z 4.1 [@32, @31]" in esper("log", "latest", "--topic", "decisions").out


def test_json_lines_are_the_payloads_as_they_were_written(esper: Esper, synthetic_log: Path) -> None:
    said = esper("log", "latest", "--topic", DECISIONS, "--format", "jsonl")
    with open_run("latest", synthetic_log) as history:
        written = [record.data.decode() for record in history.records(frozenset({DECISIONS}))]
    assert [line.partition(',"data":')[2][:-1] for line in said.lines] == written
    assert json.loads(said.lines[0])["topic"] == DECISIONS


def test_following_a_run_that_ended_ends(esper: Esper) -> None:
    assert len(esper("log", "latest", "--follow").lines) == 1 + 233


def test_following_a_run_that_nobody_writes_says_so(esper: Esper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "wait", interrupted)
    write_run(Directory(tmp_path), until_epoch=1, finish=False)
    said = esper("log", RUN, "--follow", "--log", str(tmp_path))
    advice = f"esper resume 7c21ab --log {tmp_path}"
    assert said.code == 130
    assert said.err == f"esper: no process writes this run now, and it has not ended: {advice}; waiting until it goes on\n"
    with Directory(tmp_path).resume(RUN):
        assert esper("log", RUN, "--follow", "--log", str(tmp_path)).err == ""


@pytest.mark.whole
def test_following_shows_a_record_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with Directory(tmp_path).create(RUN) as log:
        emitter = Emitter(log, RUN, clock=ticking())
        command = (sys.executable, "-m", "esper.cli", "log", RUN, "--follow", "--format", "jsonl", "--log", str(tmp_path))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            emitter.emit(started(), epoch=0, step=0)
            emitter.commit()
            assert json.loads(process.stdout.readline())["moment"] == 1
            process.terminate()
        emitter.close()


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


def test_the_tables_of_a_run_are_named_and_counted(esper: Esper, tmp_path: Path) -> None:
    said = esper("export", "latest", "--format", "parquet", "--out", str(tmp_path / "out"))
    assert said.code == 0
    assert f"      34  {tmp_path}/out/decisions.parquet" in said.lines
    assert re.fullmatch(rf"[\d,]+ rows in \d+ tables of run {RUN}, [\d.]+ kB", said.lines[-1])


def test_the_tables_of_a_run_take_the_place_of_those_of_an_earlier_export(esper: Esper, tmp_path: Path) -> None:
    esper("export", "latest", "--format", "parquet", "--out", str(tmp_path / "out"))
    written = json.loads(esper("export", "latest", "--format", "parquet", "--out", str(tmp_path / "out"), "--json").out)
    assert (written["files"]["events.parquet"], written["rows"]) == (233, sum(written["files"].values()))


def test_without_what_tables_need_it_says_what_to_install(esper: Esper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = esper("export", "latest", "--format", "parquet", "--out", str(tmp_path / "out"))
    assert (said.code, said.err) == (1, "esper: this needs pyarrow: pip install 'esper-training[audit]'\n")


def test_the_tables_of_a_run_are_written_as_csv(esper: Esper, tmp_path: Path) -> None:
    said = esper("export", "latest", "--format", "csv", "--out", str(tmp_path / "out"))
    assert said.code == 0
    with (tmp_path / "out" / "steps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    assert (steps[0]["run"], steps[0]["step"], float(steps[0]["loss"]) > 0) == (RUN, "1", True)
    assert any(row["loss"] == "nan" for row in steps)
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        [run] = csv.DictReader(file)
    assert json.loads(run["settings"])["gate.cooldown"] == 3
    assert (run["rng_seed"], run["notes"], json.loads(run["tags"])) == ("0", "", [])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {table["file"] for table in manifest["tables"]} == {path.name for path in (tmp_path / "out").glob("*.csv")}
    assert "pandas.read_csv" in (tmp_path / "out" / "README.md").read_text()
