"""Nissa on a log on Kafka: the mirror that it serves, filled by a process beside it, and the delivery of alerts by another."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from esper.kafka.copying.mirroring import MIRROR_LOCK
from esper.oona.directory import Directory
from esper.oona.lock import holder_of
from esper.processes.child import ChildProcess


class KafkaLog(NamedTuple):
    """A log on Kafka: its address, and the folder with kafka.toml and delivery.toml."""

    address: str
    folder: Path


def kafka_processes(directory: Directory, kafka: KafkaLog, report: Callable[[str], None]) -> tuple[ChildProcess, ...]:
    """The processes that fill the mirror `directory`, unless another one does, and that deliver the alerts."""
    log = ["--log", kafka.address, "--mirror", os.fspath(directory.path.absolute())]
    mirror = ChildProcess("mirror", ["mirror", *log], report, wanted=lambda: holder_of(directory.path / MIRROR_LOCK) is None)
    return mirror, ChildProcess("deliverer", ["deliver", *log], report)
