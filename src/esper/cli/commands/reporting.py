"""`esper report`: what an auditor asks of a run, answered from its log, as a page to read and print and as JSON."""

import argparse
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from esper.cli.arguments import Subcommands, day, directory_of, new_command
from esper.cli.commands.audit_tables import require_duckdb, wait_for
from esper.cli.output import Output
from esper.cli.text import hanging, short_id
from esper.durable import replace_durably
from esper.errors import DataError, SettingsError
from esper.events.envelope import RunId
from esper.history.run_list import resolve_run
from esper.oona.directory import Directory

if TYPE_CHECKING:
    from esper.audit.report.making import Report


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "answer what an auditor asks of a run: a page to read and print, and JSON"
    parser = new_command(commands, "report", run, words, run=True, json="the report as one JSON object, and no file", kafka=True)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page; JSON stands beside it (default: report-<end of the run's id>.html)"
    )
    parser.add_argument("--on", metavar="DATE", help="the day at whose end (UTC) the state is asked for, like 2026-05-01")
    parser.add_argument("--model", type=Path, metavar="FILE", help="a model file, or the folder of one, to be compared with what came out")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Makes the report, and says its answers."""
    require_duckdb()
    on = None if arguments.on is None else day("--on", arguments.on)
    if arguments.model is not None and not arguments.model.exists():
        raise SettingsError(f"--model: expected a file or a folder, got nothing at {arguments.model}")
    if arguments.out is not None and (arguments.out.suffix == ".json" or arguments.out.is_dir()):
        raise SettingsError(f"--out: expected a page's name, like report.html, beside which report.json is put; got {arguments.out}")
    # The whole log: holds and acceptances stand in runs of their own.
    directory = directory_of(arguments)
    name = resolve_run(directory, arguments.run)
    report = _made(directory, name, on, arguments.model)
    from esper.audit.report.render import html_of, json_of

    if arguments.json:
        out.raw(json_of(report))
        return 0
    page: Path = arguments.out or Path(f"report-{name[-6:]}.html")
    for path, text in ((page, html_of(report)), (page.with_suffix(".json"), json_of(report))):
        try:
            replace_durably(path, text.encode())
        except OSError as error:
            raise DataError(f"cannot write the report to {path}: {error.strerror or error}") from error
    out.line(f"run {short_id(name)}: {page} and {page.with_suffix('.json')}")
    for section in report.sections:
        out.print(Text(""), hanging("   ", section.title, style="dim"), hanging(f"{section.number:>2} ", section.answer))
    return 0


def _made(directory: Directory, name: RunId, on: date | None, model: Path | None) -> "Report":
    from esper.audit.compliance.catalogue import every_check
    from esper.audit.compliance.running import run_checks
    from esper.audit.ownership import snapshot_of
    from esper.audit.report.making import make_report
    from esper.audit.snapshot import opened

    with opened(snapshot_of(directory, compare=[name], waiting=wait_for).path) as connection:
        results = list(run_checks(connection, every_check(), [name]))
        return make_report(connection, name, results, now=datetime.now(UTC), on=on, model=model)
