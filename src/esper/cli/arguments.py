"""Arguments that several commands share: the log, the run, JSON; and the values that they are parsed to."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from esper.cli.output import Output
from esper.errors import LogError, SettingsError
from esper.events.topics import TOPICS
from esper.history.resume import log_flag, resume_hint
from esper.history.run_history import History
from esper.oona.directory import Directory

_LOG_VARIABLE = "ESPER_LOG"
_DEFAULT_LOG = "runs"
RUN_HELP = "a run's id, what only one id begins or ends with, or `latest`"

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def new_command(
    commands: Subcommands, name: str, command: Callable[[argparse.Namespace, Output], int], words: str, *, run: bool = False, json: str = ""
) -> argparse.ArgumentParser:
    """Adds `name`, described in `words`: `command` returns its exit code. It takes RUN if `run`, `--log`, and `--json` to write `json`."""
    parser = commands.add_parser(name, help=words)
    if run:
        parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--log", type=Path, metavar="DIR", help=f"the log's directory (default: ${_LOG_VARIABLE}, else {_DEFAULT_LOG})")
    if json:
        parser.add_argument("--json", action="store_true", help=f"write {json}")
    parser.set_defaults(command=command)
    return parser


def log_of(arguments: argparse.Namespace) -> Path:
    """The log's directory: the option's, else the environment's, else the default."""
    typed: Path | None = arguments.log
    return typed if typed is not None else Path(os.environ.get(_LOG_VARIABLE) or _DEFAULT_LOG)


def log_option(arguments: argparse.Namespace) -> str:
    """The `--log` option for a next command: empty where this one has none, else ` --log DIR`."""
    return "" if arguments.log is None else log_flag(arguments.log)


def directory_of(arguments: argparse.Namespace, *, create: bool = False) -> Directory:
    """The log of `log_of`. Where there is none, it is made if `create`; else raises LogError, saying how to name another."""
    path = log_of(arguments)
    if not create and not path.exists():
        raise LogError(f"expected a log at {path}, got nothing: name it with --log or ${_LOG_VARIABLE}, or make one: esper train digits")
    return Directory(path, create=create)


def history_of(arguments: argparse.Namespace) -> History:
    """The history of the run RUN. Raises LogError or RuleError where there is none, or more than one."""
    directory = directory_of(arguments)
    run = directory.resolve(arguments.run)
    return History(directory.open(run), run)


def resume_hint_of(history: History, arguments: argparse.Namespace) -> str | None:
    """The hint at how the interrupted run goes on; None where a process writes it, or it has ended."""
    entry = directory_of(arguments).entry(history.run)
    if entry is None or entry.live or entry.sealed:
        return None
    # Read after the look at the lock: a run that ended in between has its end on disk.
    state = history.known.state
    task = None if state.started is None else state.started.task
    return None if state.end is not None else resume_hint(history.run, task, log_option(arguments))


def whole_number(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def factor(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Written so that NaN fails: every comparison with it is false.
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def topic(text: str) -> str:
    """The topic that `text` names: whole, by its last word, or by a part that only one topic has. Raises SettingsError naming those."""
    meant = [name for name in TOPICS if text == name or name.endswith(f".{text}")] or [name for name in TOPICS if text and text in name]
    if len(meant) == 1:
        return meant[0]
    found = f"{len(meant)} topics have it" if meant else "no topic has it"
    raise SettingsError(f"--topic: expected a topic or a part of one, got {text!r}: {found}; there are {', '.join(meant or TOPICS)}")
