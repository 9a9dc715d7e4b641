"""`esper doctor`: what may be wrong with this machine or this log."""

import argparse

from esper.cli.arguments import Subcommands, log_of, new_command
from esper.cli.output import Output
from esper.history.checks import examine

_STYLES = {"ok": "green", "warning": "yellow", "bad": "bold red", "unknown": "yellow"}


def add(commands: Subcommands) -> None:
    """Adds the command."""
    parser = new_command(commands, "doctor", run, "what may be wrong with this machine or this log", json="one JSON object per check")
    parser.add_argument("--all", action="store_true", help="check every run, not the newest twenty alone")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Runs every check. Returns 1 where one is bad."""
    checks = out.rows(
        examine(log_of(arguments), every_run=arguments.all),
        lambda check: out.item(check.verdict, _STYLES[check.verdict], f"{check.name:<12}", check.answer),
        json=arguments.json,
    )
    return 1 if any(check.verdict == "bad" for check in checks) else 0
