"""`esper audit`: the projection of a log into DuckDB, which `esper sql`, `esper compliance` and `esper report` ask."""

import argparse
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.filesize import decimal
from rich.table import Table as Drawing
from rich.text import Text

from esper.cli.arguments import Subcommands, directory_of, mirror_of, new_command
from esper.cli.commands.services import stopped_by_signals
from esper.cli.kafka_log import followed
from esper.cli.output import Output
from esper.cli.text import hanging, short_id
from esper.errors import RuleError
from esper.extras import require_installed
from esper.settings import nearest
from esper.stderr import warn
from esper.words import duration, plural

if TYPE_CHECKING:
    from esper.audit.projection import Refreshed
    from esper.audit.snapshot import State


class _Rebuilt(NamedTuple):
    """A table that was made anew: the digest of its rows, and whether it was the same before."""

    table: str
    digest: str
    same: bool


def add(commands: Subcommands) -> None:
    """Adds the commands."""
    parser = commands.add_parser("audit", help="keep a log's tables for SQL up to date; what they hold; all of them as Parquet")
    parts = parser.add_subparsers(metavar="WHAT", required=True)
    new_command(parts, "refresh", _run_refresh, "read what is new in the log into its tables", json="one JSON object", kafka=True)
    new_command(parts, "follow", _run_follow, "keep the tables up to date until Ctrl-C", kafka=True)
    new_command(parts, "status", _run_status, "the tables, their rows, and runs that cannot be read", json="one JSON object", kafka=True)
    schema = parts.add_parser("schema", help="every table and column, and what it means")
    schema.add_argument("table", metavar="TABLE", nargs="?", help="one table alone, with its columns")
    schema.add_argument("--json", action="store_true", help="write one JSON object per table")
    schema.set_defaults(command=_run_schema)
    words = "make the tables anew from the log, and compare them with those before"
    new_command(parts, "rebuild", _run_rebuild, words, json="one JSON object per table", kafka=True)
    words = "all tables as a folder of Parquet files, which any other engine can query"
    published = new_command(parts, "publish", _run_publish, words, json="what was written as one JSON object", kafka=True)
    published.add_argument("folder", metavar="DIR", type=Path, help="the folder; an earlier publication there is replaced whole")


def require_duckdb() -> None:
    """Raises SettingsError where the libraries of the audit are not installed."""
    require_installed("this", "audit", "duckdb", "pyarrow", "jinja2", "prompt_toolkit")


def wait_for(pid: int) -> None:
    """Reports on standard error that another process is waited for."""
    warn(f"process {pid} makes the tables of this log; waiting for it")


def _run_refresh(arguments: argparse.Namespace, out: Output) -> int:
    """Reads what is new. Returns 1 where a run could not be read to its end."""
    require_duckdb()
    from esper.audit.ownership import owned, owner_of, snapshot_of

    directory = directory_of(arguments)
    if (owner := owner_of(directory)) is not None:
        as_of = snapshot_of(directory, waiting=wait_for).as_of
        words = f"process {owner} keeps the tables up to date; they hold everything up to {as_of:%Y-%m-%d %H:%M:%S} UTC"
        out.json({"owner": owner, "as_of": as_of}) if arguments.json else out.line(words)
        return 0
    with owned(directory) as projection:
        if projection.made_anew is not None:
            warn(f"the tables are made anew: {projection.made_anew}")
        refreshed = projection.refresh()
    if arguments.json:
        problems = [{"run": one.run, "file": one.file, "problem": one.problem} for one in refreshed.problems]
        out.json({"owner": None, "records": refreshed.records, "files": refreshed.files, "problems": problems})
    else:
        _report(out, refreshed)
    return 1 if refreshed.problems else 0


def _report(out: Output, refreshed: "Refreshed") -> None:
    out.line(f"{plural(refreshed.records, 'record')} read from {plural(refreshed.files, 'file')} that had changed")
    for one in refreshed.problems:
        out.item("unread", "red", short_id(one.run), one.problem or "")


def _run_follow(arguments: argparse.Namespace, out: Output) -> int:
    """Owns the tables until it is interrupted."""
    require_duckdb()
    from esper.audit.ownership import follow

    mirror = mirror_of(arguments)
    directory = directory_of(arguments)
    stopped = stopped_by_signals()
    out.line(Text(f"keeping the tables of {directory.path} up to date; Ctrl-C ends it", style="dim"))
    with nullcontext() if mirror is None else followed(*mirror):
        follow(directory, stop=stopped.is_set, report=lambda refreshed: _report(out, refreshed))
    return 0


def _run_status(arguments: argparse.Namespace, out: Output) -> int:
    """Shows what the tables hold. Returns 1 where a run could not be read to its end, or its records were altered."""
    require_duckdb()
    from esper.audit.ownership import owner_of, snapshot_of
    from esper.audit.snapshot import state_of

    directory = directory_of(arguments)
    owner = owner_of(directory)
    snapshot = snapshot_of(directory, waiting=wait_for)
    state = state_of(snapshot.path)
    size_bytes = snapshot.path.stat().st_size
    if arguments.json:
        out.json({"file": snapshot.path, "as_of": snapshot.as_of, "size_bytes": size_bytes, "owner": owner, **state._asdict()})
    else:
        followed = "no process follows the log" if owner is None else f"process {owner} follows the log"
        age = duration((datetime.now(UTC) - snapshot.as_of).total_seconds())
        out.line(f"{plural(state.runs, 'run')}, {decimal(size_bytes)}, {age} old; {followed}")
        _draw(state, out)
    return 1 if state.problems or state.conflicts else 0


def _draw(state: "State", out: Output) -> None:
    drawing = Drawing("table", "rows", box=None, pad_edge=False)
    for name, rows in state.tables.items():
        drawing.add_row(name, Text(f"{rows:,}", justify="right"))
    out.print(drawing)
    for run, problem in state.problems.items():
        out.item("unread", "red", short_id(run), problem)
    for run, found in state.conflicts.items():
        out.item("altered", "red", short_id(run), f"{plural(found, 'record')} not as they were read before: FROM conflicts")


def _run_schema(arguments: argparse.Namespace, out: Output) -> int:
    """Shows the tables, or one of them with its columns."""
    require_duckdb()
    from esper.audit.sql_files import views
    from esper.audit.table_sql import described

    tables = {name: (meaning, columns) for name, meaning, columns in described()}
    made = {view.name: view for view in views()}
    if arguments.table is not None and arguments.table not in tables | made:
        raise RuleError(f"expected a table or view, got {arguments.table!r}{nearest(arguments.table, [*tables, *made])}")
    chosen = [name for name in (*tables, *made) if arguments.table in (None, name)]
    for name in chosen:
        meaning, columns = tables[name] if name in tables else (made[name].meaning, ())
        if arguments.json:
            kept = [{"name": column.name, "type": column.type, "meaning": column.meaning} for column in columns]
            out.json({"table": name, "meaning": meaning, "columns": kept, "sql": made[name].text if name in made else None})
        elif arguments.table is None:
            out.print(hanging(f"{name:<16} ", meaning))
        else:
            out.line(meaning)
            out.print(*(hanging(f"{column.name:<32} {column.type:<12.40} ", column.meaning) for column in columns))
            if name in made:
                out.line(made[name].text.rstrip())
    return 0


def _run_rebuild(arguments: argparse.Namespace, out: Output) -> int:
    """Makes the tables anew. Returns 1 where one is not the table that it was before."""
    require_duckdb()
    from esper.audit.ownership import owned

    with owned(directory_of(arguments)) as projection:
        projection.refresh()
        before = projection.digests()
        projection.rebuild("it was asked for")
        refreshed = projection.refresh()
        after = projection.digests()
    rebuilt = out.rows(
        (_Rebuilt(name, digest, before[name] == digest) for name, digest in after.items()),
        lambda made: out.line(f"{made.table:<16}  {made.digest[:16]}  {'the same' if made.same else 'differs from before'}"),
        json=arguments.json,
    )
    for one in refreshed.problems:
        warn(f"run {one.run}: {one.problem}")
    return 1 if refreshed.problems or not all(made.same for made in rebuilt) else 0


def _run_publish(arguments: argparse.Namespace, out: Output) -> int:
    """Writes every table as it stands in the log now."""
    require_duckdb()
    from esper.audit.ownership import snapshot_of
    from esper.audit.publish import publish
    from esper.audit.snapshot import opened

    with opened(snapshot_of(directory_of(arguments), waiting=wait_for).path) as connection:
        published = publish(connection, arguments.folder)
    if arguments.json:
        out.json(published)
    else:
        out.line(*(f"{rows:>10,}  {published.folder / name}" for name, rows in sorted(published.files.items())))
        out.line(
            f"{plural(published.rows, 'row')}, {decimal(published.size_bytes)}; {published.folder / 'README.md'} says how to query them"
        )
    return 0
