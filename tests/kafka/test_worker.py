"""Workers as users start them: they share the partitions, take over from one that is killed, and stop when they are asked to."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.kafka.bridging import Bridge
from esper.observer.build import watching_of
from esper.oona.directory import Directory
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import run_of
from tests.kafka.test_ledger import DERIVED, assert_same, expected, is_own
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

_WITHIN_S = 120.0
_STOP_S = 25.0


@contextmanager
def worker(cluster: Cluster, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A worker whose settings stand in `folder`; killed at the end where it still runs."""
    settings = cluster.settings
    (folder / "kafka.toml").write_text(f'prefix = "{settings.prefix}"\npartitions = {settings.partitions}\nreplication = 1\n')
    words = ["worker", "--kafka", f"kafka://{settings.bootstrap}", "--log", os.fspath(folder), "--state-every", "1"]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "esper.cli", *words], text=True, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(cluster: Cluster, directory: Directory) -> None:
    """Returns when everything that follows from the directory's runs is derived."""
    deadline, wanted = time.monotonic() + _WITHIN_S, expected(directory, directory.names()).keys()
    while not wanted <= {record.id for record in asyncio.run(cluster.records(*DERIVED))}:
        assert time.monotonic() < deadline, "not everything was derived"
        time.sleep(0.5)


def test_two_workers_share_the_work_and_one_takes_over_when_the_other_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    assert watching_of(directory).rules
    for number in (1, 2):
        write_run(directory, run=run_of(number))
    asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))
    folder = tmp_path / "settings"
    folder.mkdir()
    with worker(cluster, folder) as first, worker(cluster, folder) as second:
        wait_for(cluster, directory)
        os.killpg(first.pid, signal.SIGKILL)
        for number in (3, 4):
            write_run(directory, run=run_of(number))
        asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))
        wait_for(cluster, directory)
        second.terminate()
        assert second.wait(_STOP_S) == 0
    found = asyncio.run(cluster.records(*DERIVED))
    assert_same(found, expected(directory, directory.names()))
    assert sum(map(is_own, found)) == 4


def test_a_cluster_without_the_topics_is_refused_with_what_to_do(kafka: str, tmp_path: Path) -> None:
    (tmp_path / "kafka.toml").write_text('prefix = "nothing."\n')
    command = [sys.executable, "-m", "esper.cli", "worker", "--kafka", f"kafka://{kafka}", "--log", os.fspath(tmp_path)]
    ended = subprocess.run(command, text=True, capture_output=True, timeout=_WITHIN_S, check=False)
    assert ended.returncode == 1
    assert "topic nothing.system.events.run: expected it, got none" in ended.stderr
    assert "esper topics create" in ended.stderr
