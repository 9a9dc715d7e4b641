"""The shell for questions in SQL, over tables in memory."""

import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import duckdb
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from esper.audit.door.answer import Answer
from esper.audit.sql_files import Example
from esper.cli.output import Output
from esper.cli.sql_shell import Query, answer, completer, from_terminal, history_file, is_whole, matches, run_shell, statements
from esper.errors import RuleError

EXAMPLES = (Example("How many epochs?", "SELECT count(*) AS epochs FROM epochs"),)
COLUMNS = {"epochs": ["epoch", "train_loss"], "seeds": ["site", "seed"]}


@pytest.fixture
def query() -> Iterator[Query]:
    with duckdb.connect() as connection:
        connection.execute("ATTACH ':memory:' AS audit; USE audit; CREATE TABLE epochs AS SELECT range AS epoch FROM range(3)")
        connection.execute("COMMENT ON TABLE epochs IS 'Completed epochs.'; CREATE VIEW last AS SELECT max(epoch) AS epoch FROM epochs")

        def ask(sql: str) -> Answer:
            try:
                return Answer(connection.sql(sql).to_arrow_table(), 0.1)
            except duckdb.Error as error:
                raise RuleError(str(error)) from error

        yield ask


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    """What is typed on a terminal."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the states of the user's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def said(query: Query, typed: str) -> list[str]:
    file = StringIO()
    run_shell(query, Output(file), examples=EXAMPLES, typed=StringIO(typed))
    return [line for line in file.getvalue().splitlines() if "·" not in line]


def test_statements_from_a_pipe_are_answered_one_after_another(query: Query) -> None:
    assert said(query, "SELECT 1\nAS a;\n\n.quit\nSELECT 2 AS b;") == ["a", "1"]


def test_the_last_statement_may_lack_its_semicolon(query: Query) -> None:
    assert said(query, "SELECT 1 AS a;\nSELECT 2 AS b\n") == ["a", "1", "b", "2"]


def test_a_pipe_ends_with_1_at_the_first_statement_that_fails(query: Query, capsys: pytest.CaptureFixture[str]) -> None:
    file = StringIO()
    assert run_shell(query, Output(file), typed=StringIO("SELECT x;\nSELECT 1 AS a;")) == 1
    assert file.getvalue() == ""
    assert capsys.readouterr().err.startswith("esper: Binder Error")


def test_a_semicolon_in_quotes_or_a_comment_ends_no_statement() -> None:
    typed = "SELECT ';\n' AS \"a;\n\" -- ;\n/* ;\n */ ;\n.tables\n"
    assert list(statements(StringIO(typed))) == ["SELECT ';\n' AS \"a;\n\" -- ;\n/* ;\n */ ;", ".tables"]


@pytest.mark.parametrize(("text", "whole"), [("", True), (".tables", True), ("SELECT 1", False), ("SELECT 1;", True), ("SELECT ';", False)])
def test_a_line_is_answered_when_it_is_whole(text: str, whole: bool) -> None:
    assert is_whole(text) is whole


def test_tables_are_listed_with_what_they_hold(query: Query) -> None:
    assert said(query, ".tables") == ["name    holds", "epochs  Completed epochs.", "last    NULL"]


def test_the_columns_of_a_table_are_listed(query: Query) -> None:
    assert said(query, ".schema last") == ["column  type    meaning", "epoch   BIGINT  NULL"]


def test_a_table_that_is_not_there_is_answered_with_the_nearest(query: Query) -> None:
    with pytest.raises(RuleError, match="no table epoch, perhaps epochs; there are epochs, last"):
        answer(".schema epoch", query, Output(StringIO()))


def test_examples_are_listed_and_answered(query: Query) -> None:
    assert said(query, ".examples") == [" 1  How many epochs?", "    SELECT count(*) AS epochs FROM epochs"]
    assert said(query, ".examples 1") == ["SELECT count(*) AS epochs FROM epochs", "epochs", "     3"]


def test_an_unknown_command_is_answered_with_the_nearest(query: Query) -> None:
    with pytest.raises(RuleError, match=re.escape("no command .table, perhaps .tables; there are .tables, .schema")):
        answer(".table", query, Output(StringIO()))


def test_a_statement_is_typed_over_several_lines_and_a_mistake_does_not_end_the_shell(query: Query, keys: PipeInput, home: Path) -> None:
    keys.send_text("SELECT 1\rAS a;\rSELECT x;\rSELECT 2 AS b;\r.quit\r")
    file = StringIO()
    assert from_terminal(query, Output(file)) == 0
    written = file.getvalue()
    assert [written.index(part) for part in ("a\n1", "Binder Error", "b\n2")] == sorted(map(written.index, ("a\n1", "Binder", "b\n2")))
    assert "SELECT 2 AS b;" in (home / "esper" / "sql_history").read_text()


def test_the_history_is_the_users_alone(home: Path) -> None:
    assert history_file() == home / "esper" / "sql_history"
    assert history_file().stat().st_mode & 0o777 == 0o600


def test_what_was_begun_is_completed(query: Query) -> None:
    document = Document("SELECT last.ep FROM last", cursor_position=len("SELECT last.ep"))
    [column, table] = completer(query).get_completions(document, CompleteEvent())
    assert (column.text, column.start_position, table.text) == ("epoch", -2, "epochs")


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("se", "FROM seeds SELECT se", ["seed", "seeds", "SELECT"]),
        ("train", "SELECT train", ["train_loss"]),
        (".s", ".s", [".schema"]),
        ("zz", "SELECT zz", []),
    ],
)
def test_columns_of_the_statements_tables_are_offered_first(word: str, text: str, found: list[str]) -> None:
    assert matches(word, text, COLUMNS) == found
