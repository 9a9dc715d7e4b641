"""`esper doctor`: what may be wrong with this machine or this log."""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from esper.audit.door.confinement import landlock_version
from esper.cli.arguments import Subcommands, log_name, log_option, mirror_of, new_command
from esper.cli.kafka_log import caught_up
from esper.cli.output import Output
from esper.errors import EsperError
from esper.history.checks import examine
from esper.history.run_checks import Diagnosis
from esper.kafka.cluster import KafkaSettings
from esper.oona.directory import Directory

_OPEN_S = 5.0
_STYLES = {"ok": "green", "warning": "yellow", "bad": "bold red", "unknown": "yellow"}


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "what may be wrong with this machine or this log"
    parser = new_command(commands, "doctor", run, words, json="one JSON object per check", kafka=True)
    parser.add_argument("--all", action="store_true", help="check every run, not the newest twenty alone")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Runs every check. Returns 1 where one is bad."""
    mirror = mirror_of(arguments)
    examined = (
        examine(Path(log_name(arguments)), every_run=arguments.all)
        if mirror is None
        else _examine_kafka(*mirror, every_run=arguments.all, option=log_option(arguments))
    )
    checks = out.rows(
        chain([_door()], examined),
        lambda check: out.item(check.verdict, _STYLES[check.verdict], f"{check.name:<12}", check.answer),
        json=arguments.json,
    )
    return 1 if any(check.verdict == "bad" for check in checks) else 0


def _examine_kafka(directory: Directory, settings: KafkaSettings, *, every_run: bool, option: str) -> Iterator[Diagnosis]:
    """The checks of the cluster, then of its mirror: what cannot be read of the cluster leaves what was mirrored before."""
    from esper.kafka.cluster_topics import check_topics
    from esper.kafka.transactions import open_transactions

    try:
        problems = asyncio.run(check_topics(settings))
        yield Diagnosis("cluster", "ok", f"{settings.bootstrap} answers")
        yield from _answers("topics", problems, "all are as they must be")
        yield from _answers("transactions", asyncio.run(open_transactions(settings, _OPEN_S)), "all have ended")
        caught_up(directory, settings)
        yield Diagnosis("mirror", "ok", f"everything that is on Kafka is in {directory.path}")
    except EsperError as error:
        yield Diagnosis("cluster", "bad", str(error))
    yield from examine(directory.path, every_run=every_run, option=option)


def _door() -> Diagnosis:
    """Confinement by the kernel of what `esper sql` runs, or that there is none."""
    version = landlock_version()
    words = (
        f"a query is confined by Landlock {version}" if version else "this kernel has no Landlock: DuckDB and limits alone confine a query"
    )
    return Diagnosis("sql", "ok" if version else "warning", words)


def _answers(name: str, problems: Sequence[str], fine: str) -> Iterator[Diagnosis]:
    yield from (Diagnosis(name, "bad", problem) for problem in problems) if problems else (Diagnosis(name, "ok", fine),)
