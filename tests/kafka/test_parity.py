"""One suite for every host: the observer of a directory, ledgers, and workers under Faust come to what a plain loop comes to.

Compared are the derived records, to the ids and bytes, and the saved states. How records are grouped, who owns which partition and when a
host is stopped, killed or started again is drawn by chance; a failure names its rng seed.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from random import Random

import pytest

from esper.errors import LogError
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.windows import WindowSettings
from esper.kafka.cluster_topics import INPUTS
from esper.kafka.copying.shipping import Bridge
from esper.kafka.event_loop import without_repeats
from esper.kafka.ledgers import ledger as ledgers
from esper.kafka.ledgers.ledger import Ledger, LedgerSettings
from esper.observer.build import builtin_rules
from esper.observer.observing import Observer, ObserverSettings
from esper.oona.directory import Directory
from esper.oona.observed import Observed, observed_records
from tests.kafka.ledgers.test_ledger import DERIVED, drained
from tests.kafka.made_cluster import Cluster
from tests.kafka.plain_loop import Logs, Verdict, judge
from tests.kafka.recorded import log_of, run_of, write_resumed_run
from tests.kafka.test_worker import worker
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

RUNS = tuple(run_of(number) for number in range(1, 5))
WINDOWS = WindowSettings(length_s=2)
MONITOR = MonitorSettings(rules=builtin_rules(), windows=WINDOWS)
_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """The records of runs that finished, and of one that was resumed and goes on, whose heartbeats have no moments of their own."""
    directory = Directory(tmp_path_factory.mktemp("recorded"))
    for run in RUNS[:-1]:
        write_run(directory, run=run)
    write_resumed_run(directory, RUNS[-1])
    return {run: log_of(directory, run) for run in RUNS}


def assert_same(rng_seed: int, verdict: Verdict) -> None:
    """Nothing differs from a plain loop, and there is much to compare."""
    assert verdict.right, "\n".join((f"rng seed {rng_seed}: {verdict}", *verdict.notes))
    assert verdict.derived > 100
    assert verdict.ended > 20


def rounds(directory: Directory, logs: Logs, rng: Random, count: int) -> Iterator[None]:
    """Writes `logs` into `directory` in `count` rounds: a part of every run in each, in slices that take turns."""
    places = dict.fromkeys(logs, 0)
    for number in range(1, count + 1):
        for run in rng.sample(RUNS, len(RUNS)):
            end = len(logs[run]) * number // count if number == count else min(len(logs[run]), places[run] + rng.randint(20, 150))
            with directory.resume(run) if directory.has_log(run) else directory.create(run) as log:
                while places[run] < end:
                    begin, places[run] = places[run], min(end, places[run] + rng.randint(1, 40))
                    log.append(logs[run][begin : places[run]])
        yield


def clock(logs: Logs) -> datetime:
    """A time at which no run is silent yet."""
    return max(log[-1].time for log in logs.values())


@pytest.mark.parametrize("rng_seed", range(3))
def test_an_observer_of_a_directory_comes_to_what_a_plain_loop_comes_to(logs: Logs, tmp_path: Path, rng_seed: int) -> None:
    rng, directory = Random(rng_seed), Directory(tmp_path)
    for _ in rounds(directory, logs, rng, 5):
        with Observer(directory, ObserverSettings(MONITOR), now=lambda: clock(logs), from_start=True, report=print) as observer:
            while observer.turn(0.0):
                pass
    states = {}
    for run in RUNS:
        with Observed(directory.path / run, run) as store:
            states[run] = store.saved().parts
    found = [record for run in RUNS for topic in DERIVED for record in observed_records(directory.path / run, run, topic)]
    assert_same(rng_seed, judge(logs, MONITOR, found, states))


@pytest.mark.long
@pytest.mark.parametrize("rng_seed", range(4))
def test_ledgers_that_change_hands_come_to_what_a_plain_loop_comes_to(
    cluster: Cluster, logs: Logs, tmp_path: Path, rng_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, directory = Random(rng_seed), Directory(tmp_path)
    monkeypatch.setattr(ledgers, "_MESSAGES", rng.choice((1, 7, 500)))
    settings = LedgerSettings(MONITOR, state_every_s=rng.choice((0.1, 30.0)))

    async def owned(partition: int, *, last: bool) -> None:
        ledger = await Ledger.open(cluster.settings, partition, settings, now=lambda: clock(logs))
        for _ in range(rng.randrange(30)):
            await ledger.turn()
        if last or rng.random() < 0.5:
            await (await drained(ledger)).close()
        elif rng.random() < 0.5:
            await ledger.abandon()
        else:
            newer = await Ledger.open(cluster.settings, partition, settings, now=lambda: clock(logs))
            with contextlib.suppress(LogError):
                await ledger.close()
            await newer.close()

    async def work() -> Verdict:
        asyncio.get_running_loop().set_exception_handler(without_repeats)
        for _ in rounds(directory, logs, rng, 4):
            await Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True)
            await asyncio.gather(*(owned(partition, last=False) for partition in range(cluster.settings.partitions)))
        await asyncio.gather(*(owned(partition, last=True) for partition in range(cluster.settings.partitions)))
        return judge(logs, MONITOR, await cluster.records(*DERIVED), (await cluster.changelog()).states)

    assert_same(rng_seed, asyncio.run(work()))


@contextmanager
def two_workers(cluster: Cluster, folder: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Workers as users start them; those in the list at the end are ended."""
    with worker(cluster, folder) as first, worker(cluster, folder) as second:
        yield [first, second]


def all_is_saved(cluster: Cluster) -> bool:
    """True once every record that is on Kafka is in a saved state."""
    ends: dict[tuple[int, str], int] = {}
    for message in asyncio.run(cluster.messages(*INPUTS)):
        ends[message.partition, message.topic.removeprefix(cluster.settings.prefix)] = message.offset + 1
    derived_to = asyncio.run(cluster.changelog()).derived_to
    return all(derived_to.get(partition, {}).get(topic, 0) >= end for (partition, topic), end in ends.items())


def test_workers_that_share_partitions_come_to_what_a_plain_loop_comes_to(cluster: Cluster, logs: Logs, tmp_path: Path) -> None:
    rng_seed = 0
    rng, directory, folder = Random(rng_seed), Directory(tmp_path / "log", create=True), tmp_path / "settings"
    folder.mkdir()
    (folder / "alerts.toml").write_text(f"[windows]\nlength_s = {WINDOWS.length_s}\n")
    with two_workers(cluster, folder) as (first, second):
        for number, _ in enumerate(rounds(directory, logs, rng, 4)):
            asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))
            if number == 1:
                os.killpg(first.pid, signal.SIGKILL)
        deadline = time.monotonic() + _WITHIN_S
        while not all_is_saved(cluster):
            assert time.monotonic() < deadline, "not everything was saved"
            time.sleep(0.5)
        second.terminate()
        assert second.wait(25) == 0
    found = asyncio.run(cluster.records(*DERIVED))
    assert_same(rng_seed, judge(logs, MONITOR, found, asyncio.run(cluster.changelog()).states))
