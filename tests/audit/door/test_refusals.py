"""The words for a query that gave no rows."""

import json
import signal

import pytest

from esper.audit.door.query import QueryLimits
from esper.audit.door.refusals import refusal
from esper.errors import DataError, EsperError, LimitError, RuleError

COLUMNS = {"epochs": ["epoch", "train_loss"], "seeds": ["site", "seed"]}
LIMITS = QueryLimits().model_dump()


def told(kind: str, words: object, sql: str = "SELECT 1") -> EsperError:
    report = b"a library's line\n" + json.dumps({"kind": kind, "words": words}).encode() + b"\n"
    return refusal(1, report, sql.encode(), LIMITS, "x.duckdb")


def query_error(message: str, sql: str = "SELECT 1", named: tuple[str, ...] = (), **more: str) -> str:
    error = {"exception_type": "Binder", "exception_message": message, **more}
    raised = told("query", {"error": error, "columns": COLUMNS, "named": list(named)}, sql)
    assert isinstance(raised, RuleError)
    return str(raised)


def test_a_mistake_of_syntax_is_shown_where_it_stands() -> None:
    message = query_error('syntax error at or near "x"', "SELECT 1\n  'é' x", exception_type="Parser", position="16")
    assert message == "syntax error at or near \"x\" (line 2, column 7)\n    'é' x\n        ^"


def test_a_missing_column_is_looked_for_in_the_tables_of_the_query() -> None:
    message = query_error('Referenced column "sede" not found in FROM clause!', named=("seeds",))
    assert message == "there is no column sede, perhaps seed; seeds has site, seed"


def test_a_missing_column_of_a_table_is_looked_for_there() -> None:
    message = query_error('Table "epochs" does not have a column named "los"', named=("epochs",))
    assert message == "there is no column los, perhaps train_loss; epochs has epoch, train_loss"


def test_a_file_is_named_as_what_lies_outside() -> None:
    message = query_error("File system LocalFileSystem has been disabled by configuration", exception_type="Permission")
    assert message == "expected tables of this file, got what lies outside: a query cannot reach files or networks"


def test_a_long_chain_is_not_answered_with_a_setting_that_cannot_be_changed() -> None:
    assert "SET" not in query_error('Max expression depth limit of 1000 exceeded. Use "SET max_expression_depth TO x" to increase it.')


def test_other_words_of_duckdb_are_kept() -> None:
    assert query_error("division by zero\n") == "division by zero"


def test_a_position_that_is_none_is_left_out() -> None:
    assert query_error("x", position="-8") == "x"


def test_damage_names_the_file() -> None:
    raised = told("DataError", "it is damaged")
    assert (type(raised), str(raised)) == (DataError, "x.duckdb: it is damaged")


@pytest.mark.parametrize("limit", ["time_s", "memory_mb", "rows", "result_mb"])
def test_a_limit_says_how_it_is_raised(limit: str) -> None:
    raised = told("LimitError", limit)
    assert isinstance(raised, LimitError)
    assert f"--limit {limit}=NUMBER" in str(raised)


@pytest.mark.parametrize(
    ("code", "report", "words"),
    [
        (-signal.SIGALRM, b"", "ends within 30 s"),
        (-signal.SIGKILL, b"", "memory limit reached"),
        (-signal.SIGABRT, b"terminate called after throwing an instance of 'std::bad_alloc'\n", "memory limit reached"),
        (1, b"Traceback\nMemoryError\n", "memory limit reached"),
    ],
)
def test_an_end_without_a_report_is_understood(code: int, report: bytes, words: str) -> None:
    raised = refusal(code, report, b"SELECT 1", LIMITS, "x.duckdb")
    assert isinstance(raised, LimitError)
    assert words in str(raised)


def test_a_crash_says_how_it_ended() -> None:
    raised = refusal(-signal.SIGSEGV, b"\n", b"SELECT 1", LIMITS, "x.duckdb")
    assert (type(raised), str(raised)) == (RuleError, "expected a query that DuckDB can run, it ended with signal 11")
