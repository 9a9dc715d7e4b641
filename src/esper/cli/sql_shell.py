"""The shell for questions in SQL: reads a statement up to its semicolon, answers, and reads the next.

On a terminal there are a history, kept from one time to the next, and completion of keywords, tables and columns. From a pipe they
are read as they are: each ends at the end of a line, with a semicolon, and the first that fails ends the shell.
"""

import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.text import Text

from esper.cli.output import Output
from esper.cli.sql_answers import show, summary
from esper.errors import EsperError, RuleError
from esper.settings import nearest
from esper.stderr import warn

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer

    from esper.audit.door.answer import Answer
    from esper.audit.sql_files import Example

Query = Callable[[str], "Answer"]
"""Asks a statement. Raises EsperError where it has no answer."""

SHELL_COMMANDS: Mapping[str, str] = {
    ".tables": "every table, view and macro, and what it holds",
    ".schema": "the columns of all tables, or of one: .schema TABLE",
    ".examples": "questions with their SQL, or one of them answered: .examples 3",
    ".help": "these commands",
    ".quit": "leave, as Ctrl-D does",
}
_PROMPT, _MORE = "esper> ", "   ... "
_WORD = re.compile(r"\.?\w*$")
_KEYWORDS = [
    *(
        "SELECT",
        "FROM",
        "WHERE",
        "GROUP",
        "BY",
        "ORDER",
        "LIMIT",
        "HAVING",
        "QUALIFY",
        "WITH",
        "JOIN",
        "LEFT",
        "ASOF",
        "USING",
        "ON",
        "UNION",
    ),
    *("ALL", "DISTINCT", "CASE", "WHEN", "THEN", "ELSE", "END", "AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "ILIKE", "BETWEEN", "AS"),
    *("DESC", "ASC", "OVER", "PARTITION", "FILTER", "DESCRIBE", "SUMMARIZE", "SHOW", "EXPLAIN", "ANALYZE", "VALUES", "count", "sum", "avg"),
    *("min", "max", "median", "quantile", "arg_max", "arg_min", "any_value", "list", "string_agg", "coalesce", "date_trunc", "unnest"),
]
_TABLES = """
SELECT table_name AS name, comment AS holds FROM duckdb_tables() WHERE NOT internal AND database_name = 'audit'
UNION ALL SELECT view_name, comment FROM duckdb_views() WHERE NOT internal AND database_name = 'audit'
UNION ALL SELECT DISTINCT function_name || '(' || array_to_string(parameters, ', ') || ')', comment
FROM duckdb_functions() WHERE NOT internal AND database_name = 'audit' ORDER BY name
"""
_COLUMNS = """
SELECT table_name AS "table", column_name AS "column", data_type AS type, comment AS meaning
FROM duckdb_columns() WHERE NOT internal AND database_name = 'audit' ORDER BY table_name, column_index
"""


def run_shell(query: Query, out: Output, *, examples: Sequence["Example"] = (), typed: TextIO | None = None) -> int:
    """Answers statements until there are no more. Returns 1 where one that came from a pipe failed.

    They come from a terminal, where standard input is one, else from `typed`, which is standard input unless it is given.
    """
    if typed is None and sys.stdin.isatty() and out.interactive:
        return from_terminal(query, out, examples)
    for statement in statements(sys.stdin if typed is None else typed):
        try:
            if not answer(statement, query, out, examples):
                return 0
        except EsperError as error:
            warn(error)
            return 1
    return 0


def statements(typed: TextIO) -> Iterator[str]:
    """Statements, each up to a line that ends it with a semicolon, and commands, which are a line; the last may lack its semicolon."""
    text = ""
    for line in typed:
        text += line
        if is_whole(text):
            if text.strip():
                yield text.strip()
            text = ""
    if text.strip():
        yield text.strip()


def is_whole(text: str) -> bool:
    """True where `text` is nothing, a command, or a statement with its semicolon, which one within quotes or a comment is not."""
    return not text.strip() or text.lstrip().startswith(".") or sqlite3.complete_statement(text)


def answer(statement: str, query: Query, out: Output, examples: Sequence["Example"] = ()) -> bool:
    """Answers a statement or a command; False for the one that leaves. Raises EsperError."""
    if not statement.startswith("."):
        _ask(statement, query, out)
        return True
    command, *rest = statement.rstrip("; ").split()
    match [command, *rest]:
        case [".quit"] | [".exit"]:
            return False
        case [".tables"]:
            show(query(_TABLES), out)
        case [".schema"]:
            show(query(_COLUMNS), out)
        case [".schema", table]:
            _show_schema(table, query, out)
        case [".examples"]:
            for number, example in enumerate(examples, 1):
                out.line(Text(f"{number:>2}  {example.question}", style="bold"), *(f"    {line}" for line in example.sql.splitlines()))
        case [".examples", number] if number.isdecimal() and 0 < int(number) <= len(examples):
            out.line(Text(examples[int(number) - 1].sql, style="dim"))
            _ask(examples[int(number) - 1].sql, query, out)
        case [".help"]:
            out.line(*(f"{name:<10} {words}" for name, words in SHELL_COMMANDS.items()))
        case _:
            raise RuleError(f"there is no command {statement}{nearest(command, SHELL_COMMANDS)}; there are {', '.join(SHELL_COMMANDS)}")
    return True


def _ask(statement: str, query: Query, out: Output) -> None:
    found = query(statement)
    show(found, out)
    out.line(summary(found))


def _show_schema(table: str, query: Query, out: Output) -> None:
    found = query(_COLUMNS)
    rows = [row[0] == table for row in found.rows()]
    if not any(rows):
        known = sorted({str(row[0]) for row in found.rows()})
        raise RuleError(f"there is no table {table}{nearest(table, known)}; there are {', '.join(known)}")
    show(type(found)(found.arrow.filter(rows).drop_columns(["table"]), found.took_s), out)


def from_terminal(query: Query, out: Output, examples: Sequence["Example"] = ()) -> int:
    """Answers what is typed on a terminal until its user leaves. Returns 0."""
    session = _session(query)
    out.line(Text("A statement ends with a semicolon; .help lists commands, Ctrl-D leaves.", style="dim"))
    while True:
        try:
            text = session.prompt(_PROMPT).strip()
            if text and not answer(text, query, out, examples):
                return 0
        except KeyboardInterrupt:  # The line that was typed, or the query that was asked, is dropped.
            continue
        except EOFError:
            return 0
        except EsperError as error:
            out.line(Text(str(error), style="red"))


def _session(query: Query) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import FileHistory

    return PromptSession(
        history=FileHistory(os.fspath(history_file())),
        completer=completer(query),
        complete_while_typing=False,
        multiline=Condition(lambda: not is_whole(get_app().current_buffer.text)),
        prompt_continuation=_MORE,
    )


def history_file() -> Path:
    """The file of what was typed, in the user's folder for states; only that user may read it."""
    file = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "esper" / "sql_history"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    return file


def completer(query: Query) -> "Completer":
    """Completes keywords, commands, tables, and columns, those of tables that the statement names first; it asks for them once."""
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.document import Document

    columns: dict[str, list[str]] = {}

    class Words(Completer):
        def get_completions(self, document: Document, complete_event: Any) -> Iterator[Completion]:  # Any: not looked at.
            del complete_event
            if not columns:
                columns.update(_columns(query))
            found = _WORD.search(document.text_before_cursor)
            word = "" if found is None else found[0]
            if not document.text.lstrip().startswith("."):
                word = word.removeprefix(".")  # What stands before a column.
            for one in matches(word, document.text, columns):
                yield Completion(one, start_position=-len(word))

    return Words()


def matches(word: str, text: str, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The words that may stand where `word` is begun in `text`: columns of its tables, tables, keywords; other columns where none fits."""
    if word.startswith("."):
        return [command for command in SHELL_COMMANDS if command.startswith(word)]
    prefix = word.lower()
    named = [table for table in columns if re.search(rf"\b{re.escape(table)}\b", text)]
    near = [*(column for table in named for column in columns[table]), *columns, *_KEYWORDS]
    fitting = [one for one in dict.fromkeys(near) if one.lower().startswith(prefix)]
    return fitting or sorted({column for each in columns.values() for column in each if column.lower().startswith(prefix)})


def _columns(query: Query) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        rows = query(_COLUMNS).rows()
    except EsperError:
        rows = []
    for table, column, *_ in rows:
        found.setdefault(str(table), []).append(str(column))
    return found
