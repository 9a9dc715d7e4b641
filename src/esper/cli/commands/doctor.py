"""`esper doctor`: what may be wrong with this machine or this log."""

import argparse

from esper.cli.arguments import Subcommands, add_json, add_log, log_of
from esper.cli.output import Output
from esper.history.doctor import examine

_STYLES = {"ok": "green", "warning": "yellow", "bad": "bold red", "unknown": "yellow"}


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    parser = commands.add_parser("doctor", help="what may be wrong with this machine or this log")
    add_log(parser)
    parser.add_argument("--all", action="store_true", help="check every run, not the newest twenty alone")
    add_json(parser, "one JSON object per check")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Asks everything. Returns 1 where an answer is bad."""
    bad = False
    for check in examine(log_of(arguments), every_run=arguments.all):
        bad = bad or check.verdict == "bad"
        if arguments.json:
            out.json(check)
        else:
            out.item(check.verdict, _STYLES[check.verdict], f"{check.name:<12}", check.answer)
    return 1 if bad else 0
