"""`esper export`: a run as files for other programs."""

import argparse
from pathlib import Path

from esper.cli.arguments import Subcommands, add_json, add_run, history_of
from esper.cli.output import Output
from esper.cli.text import count
from esper.history.export import export


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    parser = commands.add_parser("export", help="a run as JSON lines, a file per topic and date")
    add_run(parser)
    parser.add_argument("--format", choices=("jsonl",), required=True, help="jsonl: one JSON object a line, payloads as they were written")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (default: export-<run> in the current directory)")
    add_json(parser, "what was written as one JSON object")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Exports the run."""
    with history_of(arguments) as history:
        exported = export(history, arguments.out or Path(f"export-{history.run[-6:]}"))
    if arguments.json:
        out.json(exported)
        return 0
    out.lines(f"{records:>8}  {exported.folder / name}" for name, records in sorted(exported.files.items()))
    out.line(f"{count(exported.records)} records of run {exported.run}, up to moment {exported.moment}")
    return 0
