"""`esper runs`: the runs of a log."""

import argparse

from rich.text import Text

from esper.cli.arguments import Subcommands, add_json, add_log, directory_of
from esper.cli.output import Output
from esper.cli.text import UNKNOWN, count, elided, number
from esper.history.catalog import Listed, listed
from esper.history.resume import log_flag

_STYLES = {"live": "bold green", "finished": "", "failed": "red", "interrupted": "yellow", "unreadable": "bold red"}
_HEADINGS = Text(
    f"{'run':<6} {'began (UTC)':<16}  {'standing':<12} {'epoch':>9} {'valid':>8} {'parameters':>10}  task",
    style="bold",
)


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
            if not found:
                out.lines((_HEADINGS,))
            out.lines((_line(one, out.width if out.interactive else None),))
        found += 1
        unreadable += one.standing == "unreadable"
    if not found and not arguments.json:
        out.line(f"no runs in {directory.path} yet: esper train digits{log_flag(directory.path)}")
    return 1 if unreadable else 0


def _line(one: Listed, width: int | None) -> Text:
    """One run in one line; `width` (None: as wide as it is) cuts the task in its middle, for both its ends tell it from others."""
    standing = f"live {one.holder}" if one.holder is not None else one.standing
    text = Text(f"{one.run[-6:]:<6} {f'{one.began:%Y-%m-%d %H:%M}' if one.began else UNKNOWN:<16}  ")
    text.append(f"{standing:<12} ", style=_STYLES[one.standing])
    if one.problem is not None:
        return text.append(one.problem, style="red")
    epochs = "" if one.epoch is None or one.epochs is None else f"/{one.epochs}"
    text.append(f"{count(one.epoch) + epochs:>9} {number(one.validation_loss, 4):>8} {count(one.parameters):>10}  ")
    task = one.task or UNKNOWN
    return text.append(task if width is None else elided(task, width - text.cell_len))
