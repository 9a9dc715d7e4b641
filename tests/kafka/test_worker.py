"""Workers as users start them: they share the partitions, take over from one that is killed, and stop when they are asked to."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from local_kafka import LocalKafka, free_ports

from esper.kafka.copying.shipping import Bridge
from esper.kafka.ledgers.owned_ledgers import FAILED
from esper.observer.build import watching_of
from esper.oona.directory import Directory
from streams import process as faust_process
from tests.kafka.ledgers.test_ledger import DERIVED, assert_same, expected, is_own
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import log_of, run_of
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

_WITHIN_S = 120.0
_STOP_S = 25.0


@contextmanager
def worker(cluster: Cluster, folder: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A worker whose settings stand in `folder`; killed at the end where it still runs."""
    settings = cluster.settings
    (folder / "kafka.toml").write_text(f'prefix = "{settings.prefix}"\npartitions = {settings.partitions}\nreplication = 1\n')
    with started(settings.bootstrap, folder, *words) as process:
        yield process


@contextmanager
def started(bootstrap: str, folder: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """The same, with the kafka.toml that is in `folder`; what it says of errors is appended to the file `errors` there."""
    command = ["worker", "--kafka", f"kafka://{bootstrap}", "--log", os.fspath(folder), "--state-every", "1", *words]
    with (
        (folder / "errors").open("a") as errors,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "esper.cli", *command],
            text=True,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
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


def sample(metrics: str, name: str) -> float:
    """The sum over the series of `name`."""
    found = [line for line in metrics.splitlines() if line.partition(" ")[0].partition("{")[0] == name]
    assert found, name
    return sum(float(line.rpartition(" ")[2]) for line in found)


def metrics_at_rest(port: int) -> str:
    """The metrics of the worker at `port` once it has read everything, and has taken note of a transaction."""
    deadline = time.monotonic() + _WITHIN_S
    while (  # Between two partitions a worker has no series of its own.
        "\nesper_worker_lag_records" not in (metrics := page(port, "/metrics"))
        or sample(metrics, "esper_worker_lag_records")
        or not sample(metrics, "esper_worker_transactions_total")
    ):
        assert time.monotonic() < deadline, metrics
        time.sleep(0.2)
    return metrics


def page(port: int, path: str) -> str:
    """The page of the worker's at `port`, as soon as it owns both partitions."""
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        with suppress(URLError, ConnectionError, TimeoutError):
            with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                owned = json.load(answer).keys()
            if owned == {"0", "1"}:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                    return str(answer.read().decode())
        time.sleep(0.2)
    raise AssertionError("the worker did not own both partitions")


def test_two_workers_share_the_work_and_one_takes_over_when_the_other_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    assert watching_of(directory).rules
    for number in (1, 2):
        write_run(directory, run=run_of(number))
    asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))
    folder = tmp_path / "settings"
    folder.mkdir()
    (port,) = free_ports(1)
    with worker(cluster, folder) as first, worker(cluster, folder, "--port", str(port)) as second:
        wait_for(cluster, directory)
        os.killpg(first.pid, signal.SIGKILL)
        for number in (3, 4):
            write_run(directory, run=run_of(number))
        asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))
        wait_for(cluster, directory)
        metrics = metrics_at_rest(port)
        second.terminate()
        assert second.wait(_STOP_S) == 0
    found = asyncio.run(cluster.records(*DERIVED))
    assert_same(found, expected(directory, directory.names()))
    assert sum(map(is_own, found)) == 4
    assert sample(metrics, "esper_worker_records_applied_total") >= sum(len(log_of(directory, run_of(number))) for number in (3, 4))
    assert sample(metrics, "esper_worker_ledgers") == 2
    assert sample(metrics, "esper_worker_ledgers_opened_total") >= 2


def test_a_cluster_without_the_topics_is_refused_with_what_to_do(kafka: str, tmp_path: Path) -> None:
    (tmp_path / "kafka.toml").write_text('prefix = "nothing."\n')
    command = [sys.executable, "-m", "esper.cli", "worker", "--kafka", f"kafka://{kafka}", "--log", os.fspath(tmp_path)]
    ended = subprocess.run(command, text=True, capture_output=True, timeout=_WITHIN_S, check=False)
    assert ended.returncode == 1
    assert "topic nothing.system.events.run: expected it, got none" in ended.stderr
    assert "esper topics create" in ended.stderr


@pytest.mark.chaos
def test_a_worker_ends_in_time_where_its_broker_was_killed(own_kafka: LocalKafka, tmp_path: Path) -> None:
    cluster, (port,) = Cluster.make(own_kafka.bootstrap), free_ports(1)
    with worker(cluster, tmp_path, "--port", str(port)) as process:
        page(port, "/")
        own_kafka.kill()
        asked_at = time.monotonic()
        process.terminate()
        assert process.wait(_STOP_S) == FAILED
        assert time.monotonic() - asked_at < 20
        assert process.stdout is not None
        assert process.stdout.read() == ""
    said = (tmp_path / "errors").read_text().splitlines()
    assert "not everything was written within 12 s" in said[-1]
    assert len(said) < 30


def test_a_process_that_faust_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(faust_process, "_STOP_S", 0.01)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        faust_process.end_late(cast("Any", SimpleNamespace(should_stop=True)), None)  # Any: of Faust's worker, all that is asked.
    assert ended.value.code == FAILED
    assert "did not stop within" in capsys.readouterr().err


def test_a_process_whose_parent_has_ended_is_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust_process, "_STOP_S", 0.01)
    monkeypatch.setattr(os, "_exit", sys.exit)
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    try:
        with pytest.raises(SystemExit):
            faust_process.end_late(cast("Any", SimpleNamespace(should_stop=False)), os.getpid())  # No process is its own parent.
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [signal.SIGTERM]
