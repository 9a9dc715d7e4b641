"""`esper log`: a run's records, as a table or as JSON lines, once or as they come."""

import argparse
import sys

from esper.cli.arguments import Subcommands, add_run, history_of, onward, topic
from esper.cli.drawing.summary import headings, line
from esper.cli.output import Output
from esper.history.export import line_of


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    parser = commands.add_parser("log", help="a run's records, oldest first")
    add_run(parser)
    parser.add_argument(
        "--topic", action="append", default=[], metavar="T", help="only this topic, or the one with this in its name; repeatable"
    )
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until the run ends")
    parser.add_argument("--format", choices=("table", "jsonl"), default="table", help="for people, or payloads as they were written")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Writes the records."""
    topics = frozenset(topic(name) for name in arguments.topic) or None
    table, alone = arguments.format == "table", False
    width = out.console.width if out.interactive else None

    def waiting() -> None:
        nonlocal alone
        how = onward(history, arguments)
        if how is not None and not alone:
            print(f"esper: no process writes this run now, and it has not ended: {how}; waiting until it goes on", file=sys.stderr)
        alone = how is not None

    with history_of(arguments) as history:
        if table:
            out.lines((headings(width),))
        records = history.follow(topics, waiting=waiting) if arguments.follow else history.records(topics)
        for record in records:
            if table:
                out.lines((line(record, width),))
            else:
                out.raw(line_of(record).decode())
            if arguments.follow:
                out.flush()
    return 0
