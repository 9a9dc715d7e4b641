"""`esper sql`: a question in SQL to a log, or a shell for many."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.arguments import RUN_HELP, Subcommands, directory_of, new_command, whole_number
from esper.cli.commands.audit_tables import require_duckdb, wait_for
from esper.cli.output import Output
from esper.cli.sql_answers import FORMATS, format_of, lines, show, summary, write
from esper.cli.sql_shell import run_shell
from esper.errors import RuleError, SettingsError
from esper.history.run_list import resolve_run
from esper.settings import settings_of
from esper.words import plural

if TYPE_CHECKING:
    from esper.audit.asking import Asked
    from esper.audit.door.query import QueryLimits


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "ask a log in SQL; without a statement, a shell that asks many"
    parser = new_command(commands, "sql", run, words, kafka=True)
    parser.add_argument("statement", metavar="STATEMENT", nargs="?", help="a statement that reads; without one, they are typed or piped")
    parser.add_argument("--run", metavar="RUN", help=f"leave one run in every table: {RUN_HELP}")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", type=whole_number, metavar="MOMENT", help="leave of that run what stood at a moment")
    when.add_argument("--epoch", type=whole_number, metavar="N", help="leave of that run what stood when an epoch was over")
    parser.add_argument("--format", choices=FORMATS, help="how the answer is written (default: as --out ends, else a table)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the answer into a file")
    add_limit(parser, "a query")
    parser.add_argument("--examples", action="store_true", help="print questions with their SQL")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Answers the statement, or those that are typed. Returns 1 where one that came from a pipe failed."""
    require_duckdb()
    from esper.audit.asking import Scope, ask
    from esper.audit.sql_files import examples

    if arguments.examples:
        out.line(*(line for one in examples() for line in (f"-- {one.question}", f"{one.sql};", "")))
        return 0
    limits = limits_of(arguments)
    chosen = format_of(arguments.format, arguments.out)
    directory = directory_of(arguments)
    scope = Scope(None if arguments.run is None else resolve_run(directory, arguments.run), arguments.at, arguments.epoch)

    def asked(statement: str) -> "Asked":
        return ask(directory, statement, scope=scope, limits=limits, waiting=wait_for)

    if arguments.statement is None and arguments.out is None and chosen == "table":
        return run_shell(lambda statement: asked(statement).answer, out, examples=examples())
    if arguments.statement is None and sys.stdin.isatty():
        raise RuleError(f"expected a statement to write as {chosen}, got none: esper sql 'SELECT ...' --format {chosen}")
    found = asked(arguments.statement if arguments.statement is not None else sys.stdin.read())
    _write(found, chosen, arguments.out, out)
    return 0


def _write(found: "Asked", chosen: str, file: Path | None, out: Output) -> None:
    if file is not None:
        write(found.answer, chosen, file)
        out.line(f"{plural(found.answer.arrow.num_rows, 'row')} in {file}")
    elif chosen == "table":
        show(found.answer, out)
        out.line(summary(found.answer, found.as_of))
    else:
        for line in lines(found.answer, chosen):
            out.raw(line)


def add_limit(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the option that limits what `what` costs."""
    words = f"raise or lower what {what} may cost: time_s, memory_mb, threads, rows, result_mb; repeatable"
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER", help=words)


def limits_of(arguments: argparse.Namespace) -> "QueryLimits":
    """The limits that were asked for. Raises SettingsError for one that there is not."""
    from esper.audit.door.query import QueryLimits

    return settings_of(QueryLimits, dict(map(_limit, arguments.limit)), "limit")


def _limit(typed: str) -> tuple[str, object]:
    name, equals, number = typed.partition("=")
    try:
        value: object = json.loads(number)
    except json.JSONDecodeError:
        value = number
    if not equals or isinstance(value, str):
        raise SettingsError(f"--limit: expected NAME=NUMBER, like rows=5000000, got {typed!r}")
    return name, value
