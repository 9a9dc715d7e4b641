"""`esper sql`."""

import io
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Esper
from tests.synthetic import RUN

pytestmark = pytest.mark.whole


def test_a_statement_is_answered_as_a_table(esper: Esper) -> None:
    said = esper("sql", "SELECT epoch, train_loss FROM epochs ORDER BY epoch LIMIT 1")
    assert said.lines[:2] == ["epoch  train_loss", "    1       1.373"]
    assert said.lines[2].startswith("1 row · ")


def test_a_program_gets_json(esper: Esper) -> None:
    said = esper("sql", "SELECT run, max(epoch) AS epochs FROM epochs GROUP BY run", "--format", "json")
    assert list(map(json.loads, said.lines)) == [{"run": RUN, "epochs": 14}]


def test_a_run_is_asked_as_it_stood(esper: Esper) -> None:
    said = esper("sql", "SELECT max(epoch) AS epoch FROM epochs", "--run", "latest", "--epoch", "5", "--format", "csv")
    assert said.lines == ["epoch", "5"]


def test_an_answer_is_written_as_the_files_name_says(esper: Esper, tmp_path: Path) -> None:
    file = tmp_path / "epochs.parquet"
    assert esper("sql", "FROM epochs", "--out", str(file)).lines == [f"13 rows in {file}"]
    assert pq.read_table(file).num_rows == 13


def test_a_statement_comes_from_a_pipe(esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 1 AS a;\nSELECT 2 AS b;\n"))
    said = esper("sql")
    assert [line for line in said.lines if "·" not in line] == ["a", "1", "b", "2"]


def test_a_mistake_is_shown_where_it_stands(esper: Esper) -> None:
    said = esper("sql", "SELECT loss FROM epochs")
    assert said.code == 1
    assert said.err.startswith("esper: there is no column loss, perhaps train_loss; epochs has run, moment,")
    assert said.err.endswith("  SELECT loss FROM epochs\n         ^\n")


def test_a_limit_can_be_lowered(esper: Esper) -> None:
    said = esper("sql", "FROM epochs", "--limit", "rows=3")
    assert (said.code, "at most 3 rows" in said.err) == (1, True)


@pytest.mark.parametrize(("typed", "words"), [("rows", "NAME=NUMBER"), ("row=3", "perhaps rows"), ("time_s=NaN", "limit.time_s")])
def test_a_limit_that_is_none_is_refused(esper: Esper, typed: str, words: str) -> None:
    said = esper("sql", "SELECT 1", "--limit", typed)
    assert (said.code, words in said.err) == (1, True)


def test_twenty_examples_are_printed(esper: Esper) -> None:
    said = esper("sql", "--examples")
    assert sum(line.startswith("-- ") for line in said.lines) == 20
