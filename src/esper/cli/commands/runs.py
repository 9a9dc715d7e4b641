"""`esper runs`: the runs of a log."""

import argparse
from collections.abc import Iterator

from rich.text import Text

from esper.cli.arguments import Subcommands, add_json, add_log, directory_of
from esper.cli.drawing.text import UNKNOWN, clipped, clock, count, number
from esper.cli.output import Output
from esper.processes.listing import Listed, listed

_STYLES = {"live": "bold green", "finished": "", "failed": "red", "interrupted": "yellow", "unreadable": "bold red"}


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    parser = commands.add_parser("runs", help="the runs of a log, the newest first")
    add_log(parser)
    add_json(parser, "one JSON object per run")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Lists the runs. Returns 1 where one of them cannot be read."""
    directory = directory_of(arguments)
    found = unreadable = 0
    for one in listed(directory):
        if arguments.json:
            out.json(one)
        else:
            out.lines(_lines(one, heading=not found))
        found += 1
        unreadable += one.standing == "unreadable"
    if not found and not arguments.json:
        out.lines((f"no runs in {directory.path} yet: esper train digits --log {directory.path}",))
    return 1 if unreadable else 0


def _lines(one: Listed, *, heading: bool) -> Iterator[Text]:
    if heading:
        yield Text(
            f"{'run':<7} {'began (UTC)':<19}  {'standing':<16} {'task':<14} {'epoch':>9}  {'valid':>9}  {'parameters':>10}", style="bold"
        )
    standing = f"live (pid {one.holder})" if one.holder is not None else one.standing
    text = Text(f"{one.run[-6:]:<7} {clock(one.began):<19}  ").append(f"{standing:<16} ", style=_STYLES[one.standing])
    if one.problem is not None:
        yield text.append(one.problem, style="red")
        return
    epoch = "-" if one.epoch is None else str(one.epoch) if one.epochs is None else f"{one.epoch}/{one.epochs}"
    text.append(f"{clipped(one.task or UNKNOWN, 14):<14} {epoch:>9}  {number(one.validation_loss, 4):>9}  {count(one.parameters):>10}")
    yield text
