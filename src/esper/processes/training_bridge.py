"""The bridge that a training starts: `esper bridge` for its directory, in the background, unless one runs there already.

Training never waits for Kafka. The bridge is started again while the training goes on, and outlives it: it leaves a minute after everything
is shipped. Whoever starts a bridge later ships what a bridge that died has left.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from esper.durable import appended
from esper.errors import LogError, SettingsError
from esper.events.envelope import RunId
from esper.kafka.cluster import SCHEME, KafkaSettings, kafka_settings
from esper.kafka.cluster_topics import BRIDGE, check_needs
from esper.kafka.probing import RefusedError
from esper.oona.directory import Directory
from esper.oona.file import explained
from esper.processes.bridge import BRIDGE_LOG, bridge_of, waiting_records
from esper.processes.child import ChildProcess
from esper.state_files import BRIDGE_STATE, read_state
from esper.stderr import warn

_CHECK_S = 5.0
_GRACE_S, _POLL_S = 2.0, 0.05


def checked_cluster(address: str, path: Path) -> KafkaSettings:
    """The cluster to which a training in the directory at `path` is shipped, for `bridged`.

    Raises SettingsError for a mistake in the address or in kafka.toml, for a cluster that does not serve a bridge, and for a directory
    whose bridge ships to another cluster. One that does not answer is no mistake: the records wait for it.
    """
    settings = kafka_settings(address, path)
    settings.client()  # Secrets and certificates are read now.
    _check(settings)
    process, other = bridge_of(path), read_state(path / BRIDGE_STATE).get("kafka", "a cluster that it has not named yet")
    if process is not None and other != settings.bootstrap:
        raise SettingsError(f"expected {path} to be shipped to {settings.bootstrap}, got a bridge to {other}: end process {process} first")
    return settings


def _check(settings: KafkaSettings) -> None:
    """Raises SettingsError where a broker answers that does not serve a bridge; one that does not answer in time is waited for later."""

    async def check() -> None:
        async with asyncio.timeout(_CHECK_S):
            await check_needs(settings, BRIDGE)

    drawn = random.getstate()  # aiokafka draws from it: a training must draw the same numbers with Kafka as without.
    try:
        # On a thread of its own: a notebook's thread has a loop that runs already.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(check())).result()
    except RefusedError as error:
        raise SettingsError(str(error)) from error
    except (LogError, TimeoutError):
        return
    finally:
        random.setstate(drawn)


@contextmanager
def bridged(directory: Directory, settings: KafkaSettings, run: RunId) -> Iterator[None]:
    """Within, a bridge ships `directory`; it goes on until all is shipped. How much of `run` waits at the end is on standard error."""
    words = ["bridge", "--kafka", SCHEME + settings.bootstrap, "--log", os.fspath(directory.path.absolute()), "--background"]
    with _bridge_log(directory) as output:
        bridge = ChildProcess(
            "bridge", words, warn, output=output.fileno(), wanted=lambda: bridge_of(directory.path) is None, outlives=True
        )
        bridge.start()
        try:
            yield
        finally:
            bridge.stop()
            if waiting := _waiting(directory, run):
                process = bridge_of(directory.path) or bridge.pid
                bridge_line = (
                    "esper bridge ships them" if process is None else f"the bridge, process {process}, goes on until they are there"
                )
                warn(f"{waiting:,} records of the run wait for Kafka at {settings.bootstrap}; {bridge_line}")


def _waiting(directory: Directory, run: RunId) -> int:
    """The number of records of `run` that are not on Kafka; those of its last second are given some time."""
    deadline = time.monotonic() + _GRACE_S
    while waiting := waiting_records(directory, run):
        if time.monotonic() > deadline or read_state(directory.path / BRIDGE_STATE).get("away_since") is not None:
            break
        time.sleep(_POLL_S)
    return waiting


def _bridge_log(directory: Directory) -> BinaryIO:
    path = directory.path / BRIDGE_LOG
    with explained(path, "write"):
        return appended(path)
