"""`esper runs`: the runs of a log."""

import argparse
from pathlib import Path

from rich.text import Text

from esper.cli.arguments import Subcommands, directory_of, log_name, new_command
from esper.cli.output import Output
from esper.cli.text import UNKNOWN, count, elided, rounded
from esper.history.labels import condition
from esper.history.resume import log_flag
from esper.history.run_list import VALUES, RunSummary, is_picked, summaries
from esper.kafka.cluster import is_kafka

_STYLES = {"live": "bold green", "finished": "", "failed": "red", "interrupted": "yellow", "unreadable": "bold red"}
_HEADINGS = Text(
    f"{'run':<6} {'began (UTC)':<16}  {'standing':<12} {'epoch':>9} {'valid':>8} {'parameters':>10}  task",
    style="bold",
)


def add(commands: Subcommands) -> None:
    """Adds the command."""
    parser = new_command(commands, "runs", run, "the runs of a log, the newest first", json="one JSON object per run", kafka=True)
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="only runs with this tag; repeatable")
    words = "only runs where this holds, like 'config.lr > 0.01' or 'validation_loss < 0.1'; repeatable"
    parser.add_argument("--where", action="append", default=[], metavar="CONDITION", help=words)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Lists the runs. Returns 1 where one of them cannot be read."""
    directory = directory_of(arguments)
    headings = iter((_HEADINGS,))  # Written before the first run, and spent then.
    conditions = [condition(text, VALUES) for text in arguments.where]
    runs = out.rows(
        (one for one in summaries(directory) if is_picked(one, arguments.tag, conditions)),
        lambda one: out.line(*headings, _line(one, out.width if out.interactive else None)),
        json=arguments.json,
        none=_none(arguments, directory.path),
    )
    return 1 if any(one.standing == "unreadable" for one in runs) else 0


def _none(arguments: argparse.Namespace, path: Path) -> str:
    name = log_name(arguments)
    if arguments.tag or arguments.where:
        return f"no run in {path} that was asked for"
    if is_kafka(name):
        return f"no runs on {name} yet: esper bridge --kafka {name} ships those of a directory"
    return f"no runs in {path} yet: esper train digits{log_flag(path)}"


def _line(one: RunSummary, width: int | None) -> Text:
    """A run in one line; `width` (None: as wide as it is) cuts the task in its middle, for both its ends tell it from others."""
    standing = f"live {one.holder}" if one.holder is not None else one.standing
    text = Text(f"{one.run[-6:]:<6} {f'{one.began:%Y-%m-%d %H:%M}' if one.began else UNKNOWN:<16}  ")
    text.append(f"{standing:<12} ", style=_STYLES[one.standing])
    if one.problem is not None:
        return text.append(one.problem, style="red")
    epochs = "" if one.epoch is None or one.epochs is None else f"/{one.epochs}"
    text.append(f"{count(one.epoch) + epochs:>9} {rounded(one.validation_loss, 4):>8} {count(one.parameters):>10}  ")
    task = "  ".join((one.task or UNKNOWN, *([one.name] if one.name else []), *(f"#{tag}" for tag in one.tags)))
    return text.append(task if width is None else elided(task, width - text.cell_len))
