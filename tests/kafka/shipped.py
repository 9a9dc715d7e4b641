"""Trainings that are shipped to Kafka: their directories, their bridges, and what must be on Kafka at last."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from esper.events.envelope import RunId
from esper.kafka.cluster_topics import INPUTS
from esper.oona.directory import Directory
from esper.processes.bridge import bridge_of
from esper.state_files import BRIDGE_STATE
from tests.kafka.made_cluster import Cluster, in_order
from tests.kafka.recorded import log_of
from tests.waiting import until

WITHIN_S = 180.0
MIDDLE = 14
"""A batch in the middle of the tiny training: those that are read for RunStarted count too."""


def settle(log: Path, cluster: Cluster) -> Path:
    """The directory `log` with the settings of the cluster."""
    settings = cluster.settings
    (log / "kafka.toml").write_text(f'prefix = "{settings.prefix}"\npartitions = {settings.partitions}\nreplication = 1\n')
    return log


def end_bridge(log: Path) -> None:
    deadline = time.monotonic() + WITHIN_S
    while (process := bridge_of(log)) is not None and time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def wait_for_bridge(log: Path) -> int:
    """The pid of the bridge, as soon as there is one that has begun."""
    until(lambda: bridge_of(log) is not None and (log / BRIDGE_STATE).exists(), "no bridge began")
    process = bridge_of(log)
    assert process is not None
    return process


def address_of(cluster: Cluster) -> str:
    return f"kafka://{cluster.settings.bootstrap}"


def wait_until_shipped(cluster: Cluster, directory: Directory, run: RunId) -> None:
    """Returns when the records of `run` are on Kafka, each once and in its order."""
    wanted = in_order(log_of(directory, run))

    def found() -> object:
        return {key: records for key, records in in_order(asyncio.run(cluster.records(*INPUTS))).items() if key[0] == run}

    until(lambda: found() == wanted, "not everything was shipped")
