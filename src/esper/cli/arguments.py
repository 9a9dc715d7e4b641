"""Arguments that several commands share: the log, the run, JSON; and the values that they are parsed to."""

import argparse
import math
import os
import re
import shlex
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TypeAlias

from esper.cli import kafka_log
from esper.cli.output import Output
from esper.errors import LogError, SettingsError
from esper.events.envelope import RunId
from esper.events.topics import TOPICS
from esper.history.resume import log_flag, resume_hint
from esper.history.run_history import History
from esper.history.run_list import resolve_run
from esper.kafka.cluster import SCHEME, KafkaSettings, is_kafka
from esper.oona.directory import Directory

_LOG_VARIABLE = "ESPER_LOG"
_DEFAULT_LOG = "runs"
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
RUN_HELP = "a run's id, what only one id begins or ends with, or `latest`"

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def new_command(
    commands: Subcommands,
    name: str,
    command: Callable[[argparse.Namespace, Output], int],
    words: str,
    *,
    run: bool = False,
    json: str = "",
    kafka: bool = False,
) -> argparse.ArgumentParser:
    """Adds `name`, described in `words`: `command` returns its exit code. It takes RUN if `run`, `--log`, and `--json` to write `json`.

    With `kafka` the log may also be one on Kafka, which is read through a mirror.
    """
    parser = commands.add_parser(name, help=words)
    if run:
        parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    where = "the log's directory, or kafka://host:port,host:port" if kafka else "the log's directory"
    parser.add_argument("--log", metavar="LOG" if kafka else "DIR", help=f"{where} (default: ${_LOG_VARIABLE}, else {_DEFAULT_LOG})")
    if kafka:
        words = "where what is read from Kafka is kept (default: in the user's cache, by the cluster)"
        parser.add_argument("--mirror", type=Path, metavar="DIR", help=words)
    if json:
        parser.add_argument("--json", action="store_true", help=f"write {json}")
    parser.set_defaults(command=command)
    return parser


def log_name(arguments: argparse.Namespace) -> str:
    """The log: the option's, else the environment's, else the default."""
    typed: str | None = arguments.log
    return typed if typed is not None else os.environ.get(_LOG_VARIABLE) or _DEFAULT_LOG


def log_of(arguments: argparse.Namespace) -> Path:
    """The log's directory, of a command that writes. Raises SettingsError for a log on Kafka."""
    name = log_name(arguments)
    if is_kafka(name):
        raise SettingsError(f"expected a directory as the log, got {name}: this command writes; a bridge ships what it writes to Kafka")
    return Path(name)


def log_option(arguments: argparse.Namespace) -> str:
    """The options for a next command on the same log: empty where this one has none, else ` --log DIR`."""
    mirror: Path | None = getattr(arguments, "mirror", None)
    told = "" if arguments.log is None else log_flag(arguments.log)
    return told if mirror is None else f"{told} --mirror {shlex.quote(os.fspath(mirror))}"


def mirror_of(arguments: argparse.Namespace) -> tuple[Directory, KafkaSettings] | None:
    """The mirror of a log on Kafka and the cluster's settings; None for a directory."""
    name = log_name(arguments)
    if not is_kafka(name):
        if getattr(arguments, "mirror", None) is not None:
            raise SettingsError(f"--mirror: expected a log on Kafka, {SCHEME}host:port, got {name}")
        return None
    return kafka_log.mirror_at(arguments.mirror, name, Path(_DEFAULT_LOG))


def settings_folder(arguments: argparse.Namespace, file: str) -> Path:
    """The directory in which the settings `file` stands, for a log on Kafka."""
    return kafka_log.folder_of(file, arguments.mirror, Path(_DEFAULT_LOG))


def directory_of(arguments: argparse.Namespace, *, create: bool = False) -> Directory:
    """The log's directory. Where there is none, it is made if `create`; else raises LogError, saying how to name another.

    That of a log on Kafka is its mirror, with everything that is on Kafka now.
    """
    mirror = mirror_of(arguments) if hasattr(arguments, "mirror") else None
    if mirror is not None:
        kafka_log.caught_up(*mirror)
        return mirror[0]
    path = log_of(arguments)
    if not create and not path.exists():
        raise LogError(f"expected a log at {path}, got nothing: name it with --log or ${_LOG_VARIABLE}, or make one: esper train digits")
    return Directory(path, create=create)


def run_of(arguments: argparse.Namespace) -> tuple[Directory, RunId]:
    """The log's directory and the run RUN; of a log on Kafka that run alone is read. Raises LogError, or RuleError for no one run."""
    mirror = mirror_of(arguments)
    if mirror is not None:
        return mirror[0], kafka_log.caught_up_run(*mirror, arguments.run)
    directory = directory_of(arguments)
    return directory, resolve_run(directory, arguments.run)


def history_of(arguments: argparse.Namespace) -> tuple[Directory, History]:
    """The log's directory and the history of the run RUN. Raises LogError or RuleError where there is none, or more than one."""
    directory, run = run_of(arguments)
    return directory, History(directory.open(run), run)


def resume_hint_of(directory: Directory, history: History, arguments: argparse.Namespace) -> str | None:
    """The hint at how the interrupted run goes on; None where a process writes it, or it has ended."""
    entry = directory.entry(history.run)
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


def day(name: str, text: str) -> date:
    """The day that `text` names, for the option `name`. Raises SettingsError."""
    try:
        found = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        raise SettingsError(f"{name}: expected a day like 2036-12-31, got {text!r}")
    return found


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
