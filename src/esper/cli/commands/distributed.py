"""`esper topics`, `bridge`, `mirror`, `worker` and `deliver`: the log on Kafka."""

import argparse
import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from esper.cli.arguments import Subcommands, directory_of, factor, log_name, mirror_of, new_command, settings_folder, whole_number
from esper.cli.commands.services import add_parent, stopped_by_signals
from esper.cli.output import Output
from esper.errors import SettingsError
from esper.extras import require_installed
from esper.kafka.cluster import KafkaSettings
from esper.oona.directory import Directory
from esper.stderr import warn

_VARIABLE = "ESPER_KAFKA"


def add(commands: Subcommands) -> None:
    """Adds the commands."""
    parser = new_command(commands, "topics", _run_topics, "make the topics of a Kafka cluster, or check them")
    parser.add_argument("action", choices=("create", "check"), help="make those that are missing, or name what differs")
    _add_cluster(parser)
    parser = new_command(commands, "bridge", _run_bridge, "ship the runs of a log to Kafka as they are written")
    parser.add_argument("--drain", action="store_true", help="end when everything is on Kafka and no process writes a run")
    words = "let training go first, and leave when nothing was left to ship for a minute; every training with --kafka starts one so"
    parser.add_argument("--background", action="store_true", help=words)
    _add_cluster(parser)
    words = "fill a directory from the log on Kafka as it grows, for the commands that read it"
    add_parent(new_command(commands, "mirror", _run_mirror, words, kafka=True))
    words = "derive aggregates, anomalies and alerts from the runs on Kafka, with as many other workers as there are"
    parser = new_command(commands, "worker", _run_worker, words)
    _add_cluster(parser)
    parser.add_argument("--port", type=whole_number, metavar="N", help="serve a status page and /metrics at this port of 127.0.0.1")
    parser.add_argument("--state-every", type=factor, default=30.0, metavar="S", help="the age at which a state is written (default: 30)")
    words = "deliver the alerts on Kafka to the handlers of delivery.toml, sharing them with as many other deliverers as there are"
    parser = new_command(commands, "deliver", _run_deliver, words, kafka=True)
    parser.add_argument("--delivery", type=Path, metavar="FILE", help="handlers (default: delivery.toml in the mirror, else in runs)")
    add_parent(parser)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    add_kafka(parser, "the cluster")


def add_kafka(parser: argparse.ArgumentParser, words: str) -> None:
    """Adds `--kafka`, described in `words`, for `kafka_of`."""
    more = f", as kafka://host:port,host:port (default: ${_VARIABLE}); kafka.toml in the log's directory says the rest"
    parser.add_argument("--kafka", metavar="URL", help=words + more)


def kafka_of(arguments: argparse.Namespace) -> str | None:
    """The address of the cluster, as it was typed or stands in the environment. Raises SettingsError where its client is not installed."""
    address: str | None = arguments.kafka or os.environ.get(_VARIABLE)
    if address:
        require_installed("Kafka", "kafka", "aiokafka")
    return address or None


def _address(arguments: argparse.Namespace) -> str:
    address = kafka_of(arguments)
    if address is None:
        raise SettingsError(f"expected a cluster as --kafka kafka://host:port, or in ${_VARIABLE}, got none")
    return address


def _run_topics(arguments: argparse.Namespace, out: Output) -> int:
    """Makes or checks topics. Returns 1 where a check finds something."""
    from esper.kafka.cluster import kafka_settings
    from esper.kafka.cluster_topics import check_topics, create_topics
    from esper.kafka.transactions import open_transactions

    settings = kafka_settings(_address(arguments), directory_of(arguments, create=True).path)
    if arguments.action == "create":
        made = asyncio.run(create_topics(settings))
        for name in made:
            out.line(f"made {name}")
        out.line(f"{len(made)} topics were made; all are as they must be, each with {settings.partitions} partitions")
        return 0
    problems = asyncio.run(check_topics(settings)) or asyncio.run(open_transactions(settings))
    for problem in problems:
        out.line(problem)
    if not problems:
        out.line("all topics are as they must be")
    return 1 if problems else 0


def _run_bridge(arguments: argparse.Namespace, out: Output) -> int:
    """Ships until it is interrupted."""
    from esper.kafka.cluster import kafka_settings
    from esper.processes.bridge import run_bridge

    address = _address(arguments)
    directory = directory_of(arguments, create=True)
    settings = kafka_settings(address, directory.path)
    if not arguments.background:
        out.line(Text(f"shipping {directory.path} to {address}; Ctrl-C ends it", style="dim"))
    run_bridge(directory, settings, stopped_by_signals(), _report(out), drain=arguments.drain, background=arguments.background)
    return 0


def _run_mirror(arguments: argparse.Namespace, out: Output) -> int:
    """Fills the mirror until it is interrupted."""
    from esper.processes.mirror import run_mirror

    directory, settings = _mirror(arguments)
    out.line(Text(f"filling {directory.path} from Kafka at {settings.bootstrap}; Ctrl-C ends it", style="dim"))
    out.flush()
    run_mirror(directory, settings, stopped_by_signals(arguments.parent), _report(out, child="mirror" if arguments.parent else ""))
    return 0


def _mirror(arguments: argparse.Namespace) -> tuple[Directory, KafkaSettings]:
    """The mirror of the log and the cluster's settings. Raises SettingsError for a log that is not on Kafka."""
    mirror = mirror_of(arguments)
    if mirror is None:
        raise SettingsError(f"expected a log on Kafka as --log kafka://host:port, got {log_name(arguments)}")
    return mirror


def _run_worker(arguments: argparse.Namespace, out: Output) -> int:
    """Keeps a worker alive until it is interrupted; its exit status."""
    from esper.kafka.cluster import kafka_settings
    from esper.kafka.cluster_topics import WORKER, check_needs
    from esper.observer.build import watching_of
    from esper.processes.worker import run_worker

    address = _address(arguments)
    directory: Directory = directory_of(arguments, create=True)
    watching_of(directory)
    asyncio.run(check_needs(kafka_settings(address, directory.path), WORKER))
    typed = ["--settings", os.fspath(directory.path.absolute()), "--state-every", str(arguments.state_every)]
    typed += [] if arguments.port is None else ["--port", str(arguments.port)]
    return run_worker([address, *typed], stopped_by_signals(), _report(out))


def _run_deliver(arguments: argparse.Namespace, out: Output) -> int:
    """Delivers until it is interrupted."""
    from esper.observer.delivery.delivery_file import DELIVERY_TOML, delivery_settings
    from esper.processes.deliver import run_delivery

    directory, settings = _mirror(arguments)
    handlers = delivery_settings(settings_folder(arguments, DELIVERY_TOML), arguments.delivery)
    names = ", ".join(handler.name for handler in handlers.handlers) or "no handler"
    out.line(Text(f"delivering the alerts on Kafka at {settings.bootstrap} to {names}; Ctrl-C ends it", style="dim"))
    out.flush()
    report = _report(out, child="deliver" if arguments.parent else "")
    run_delivery(directory, settings, handlers, stopped_by_signals(arguments.parent), report)
    return 0


def _report(out: Output, *, child: str = "") -> Callable[[str], None]:
    """Reports on standard output; as the child of another process, whose standard error this one has, there, with the name `child`."""

    def report(line: str) -> None:
        if child:
            warn(line, f"esper {child}")
        else:
            out.line(line)
            out.flush()

    return report
