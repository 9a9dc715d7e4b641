"""One run of `chaos.py`: a broker, a directory that is written and shipped, and workers, until all is read and judged."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))
sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1] / "deploy" / "kafka"))

from aiokafka import AIOKafkaConsumer, TopicPartition
from chaos_faust import changelog_of, states
from chaos_runs import Feeder, Logs
from local_kafka import LocalKafka

from esper.events.envelope import Record, RunId
from esper.events.topics import AGGREGATES, ALERTS, ANOMALIES, OBSERVERS
from esper.kafka.cluster import KafkaSettings, kafka_settings
from esper.kafka.cluster_topics import CHANGELOG, INPUTS, create_topics
from esper.kafka.copying.shipping import bridged_to
from esper.observer.build import watching_of
from esper.oona.contract import START
from esper.oona.directory import Directory
from tests.kafka.made_cluster import Cluster
from tests.kafka.plain_loop import Verdict, judge

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 8
UNFENCED, ONE_POSITION, FAUST_TABLE = "without fencing", "one position", "a plain Faust table"
_GUARDS = {UNFENCED: ("--without", "fencing"), ONE_POSITION: ("--without", "refold")}
_DERIVED = (AGGREGATES, ANOMALIES, ALERTS, OBSERVERS)
# Windows of a second: there is something to derive all the time, and not only when a training ends.
_WATCHING = "[windows]\nlength_s = 1\n"
_WITHIN_S, _STOP_S, _OPEN_S = 150.0, 25.0, 90.0
_POLL_S = 0.05
_FEED_S = 10.0
_SOME = 20
_PYTHON = (sys.executable, "-W", "ignore")
_ESPER = (*_PYTHON, "-m", "esper.cli")


class StalledError(Exception):
    """Something that must happen did not happen in time."""


@dataclass
class Process:
    """A process that is started again when it ends, as long as it is `wanted`. `commands` take turns."""

    name: str
    commands: Iterator[Sequence[str]]
    log: Path
    port: int | None = None
    wanted: bool = True
    frozen: bool = False
    starts: int = 0
    exits: list[int] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Starts the next command."""
        self.starts += 1
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts} at {time.time():.1f}\n".encode())
            self.process = subprocess.Popen(
                next(self.commands), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def ended(self) -> bool:
        """True where no process runs."""
        return self.process is None or self.process.poll() is not None

    def tend(self) -> None:
        """Starts it again where it ended."""
        if self.process is not None and self.ended:
            self.exits.append(self.process.returncode)
            self.process = None
            if self.wanted:
                self.start()

    def send(self, number: int) -> None:
        """Sends a signal to the process and its children."""
        if not self.ended:
            assert self.process is not None, "it runs"
            os.killpg(self.process.pid, number)

    def positions(self) -> dict[int, dict[str, int]]:
        """The positions of the ledgers that it has open, by partition; empty while it does not answer."""
        if self.port is None or self.ended or self.frozen:
            return {}
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2) as answer:
                return {int(partition): ledger["positions"] for partition, ledger in json.load(answer).items()}
        except (OSError, ValueError):
            return {}

    def read(self) -> int:
        """The sum of its positions."""
        return sum(position for positions in self.positions().values() for position in positions.values())


class Trial:
    """One run: broker, directory, feeder, bridge and workers in `folder`."""

    def __init__(self, folder: Path, logs: Logs, *, state_every_s: float, rng: Random, host: str, control: str | None = None) -> None:
        self.folder, self.logs, self.state_every_s, self.rng, self.host, self.control = folder, logs, state_every_s, rng, host, control
        self.workers: list[Process] = []
        self.slowest_s = 0.0
        """The longest time from the death of an owner inside a commit to the start of the second one after it."""
        self.broker = LocalKafka(folder)
        self.broker.start()
        self.address = f"kafka://{self.broker.bootstrap}"
        self.directory = Directory(folder / "log", create=True)
        (self.directory.path / "kafka.toml").write_text(f"replication = 1\npartitions = {PARTITIONS}\n")
        (self.directory.path / "alerts.toml").write_text(_WATCHING)
        self.settings: KafkaSettings = kafka_settings(self.address, self.directory.path)
        asyncio.run(create_topics(self.settings))
        self.shipping = [*_ESPER, "bridge", "--kafka", self.address, "--log", os.fspath(self.directory.path)]
        self.bridge = Process("bridge", cycle([self.shipping]), folder / "bridge.log")

    def driver(self, what: str, *more: str) -> list[str]:
        """The command of a process of `chaos_processes.py`."""
        return [*_PYTHON, os.fspath(ROOT / "benchmarks" / "chaos_processes.py"), what, self.address, os.fspath(self.directory.path), *more]

    def feed(self, *, limit: float) -> None:
        """Begins to write and ship the records, up to the share `limit`."""
        self.feeder = Feeder(self.directory, self.logs, _FEED_S, self.rng)
        self.feeder.limit = limit
        self.feeder.start()
        self.bridge.start()

    # Workers

    def worker(self, *, supervised: bool = False) -> Process:
        """A new worker of the group."""
        port = _free_port()
        more = ["--state-every", f"{self.state_every_s:g}", "--port", str(port)]
        if self.control == FAUST_TABLE:
            command = [*_PYTHON, os.fspath(ROOT / "benchmarks" / "chaos_faust.py"), self.address, os.fspath(self.directory.path), str(port)]
        elif self.control is not None or self.host == "plain":
            command = self.driver("worker", "--group", *more, *self._guards())
        elif supervised:
            command = [*_ESPER, "worker", "--kafka", self.address, "--log", os.fspath(self.directory.path), *more]
        else:
            command = [*_PYTHON, "-m", "streams", self.address, "--settings", os.fspath(self.directory.path), *more]
        return self._started(Process(f"worker {len(self.workers)}", cycle([command]), self._log(), port))

    def owner(self, *more: str) -> Process:
        """A worker that owns every partition, and is not started again."""
        port = _free_port()
        command = self.driver("worker", "--state-every", f"{self.state_every_s:g}", "--port", str(port), *more, *self._guards())
        return self._started(Process(f"owner {len(self.workers)}", cycle([command]), self._log(), port, wanted=False))

    def _guards(self) -> list[str]:
        return [*_GUARDS.get(self.control or "", ())]

    def _log(self) -> Path:
        return self.folder / f"worker-{len(self.workers)}.log"

    def _started(self, process: Process) -> Process:
        process.start()
        self.workers.append(process)
        return process

    # Waiting

    def wait(self, what: str, condition: Callable[[], object], seconds: float = _WITHIN_S) -> None:
        """Returns when `condition` holds; processes that end meanwhile are started again. Raises StalledError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StalledError(f"{what}: not within {seconds:.0f} s")
            self.tend()
            time.sleep(_POLL_S)

    def tend(self) -> None:
        """Starts again what ended and is wanted."""
        for process in (self.bridge, *self.workers):
            process.tend()

    def at_work(self, limit: float, *workers: Process) -> None:
        """Writes on, up to the share `limit`, and returns in the middle of it: every partition has an owner, and `workers` fold on.

        Together: which runs go on is chance, and one worker of several may have none of them.
        """
        self.wait("every partition owned", lambda: sorted(part for one in workers for part in one.positions()) == [*range(PARTITIONS)])
        before = sum(worker.read() for worker in workers)
        self.feeder.limit = limit
        self.wait("folding", lambda: sum(worker.read() for worker in workers) > before + _SOME * len(workers))
        time.sleep(self.rng.random() / 2)

    def stop(self, process: Process) -> None:
        """Stops a worker for good. Raises StalledError where it does not stop in time, or with an error."""
        process.wanted = False
        process.send(signal.SIGTERM)
        self.wait(f"{process.name} stopped", lambda: process.ended, _STOP_S)
        status = process.process.returncode if process.process is not None else 0
        if status not in {0, -signal.SIGTERM} and self.control is None:  # -SIGTERM: it was asked while it began.
            raise StalledError(f"{process.name} stopped with {status}")

    # The end

    def finish(self) -> Verdict:
        """Waits until everything is shipped and read, stops the workers, and judges what is there."""
        self.wait("everything written", lambda: self.feeder.progress >= 1 and not self.feeder.is_alive())
        self.wait("everything shipped", self._is_shipped)
        self.bridge.wanted = False
        self.bridge.send(signal.SIGTERM)
        self.wait("bridge stopped", lambda: self.bridge.ended, _STOP_S)
        ends = asyncio.run(self._ends())
        self.wait("everything read", lambda: self._is_read(ends))
        for worker in self.workers:
            worker.wanted = False
            worker.send(signal.SIGTERM)
        for worker in self.workers:
            self.stop(worker)
        found, parts = asyncio.run(self._found())
        return judge(self.logs, watching_of(self.directory), found, parts)

    def _is_shipped(self) -> bool:
        for run in self.logs:
            with self.directory.open(run) as log:
                if log.end().records_since(bridged_to(self.directory.path / run) or START):
                    return False
        return True

    def _is_read(self, ends: dict[tuple[int, str], int]) -> bool:
        """True once each partition has one owner, whose positions are behind the last records."""
        owners: dict[int, list[dict[str, int]]] = {}
        for worker in self.workers:
            for partition, positions in worker.positions().items():
                owners.setdefault(partition, []).append(positions)
        alone = {partition: found[0] for partition, found in owners.items() if len(found) == 1}
        return all(alone.get(partition, {}).get(topic, 0) >= end for (partition, topic), end in ends.items())

    async def _ends(self) -> dict[tuple[int, str], int]:
        """The offset behind the last record, by partition and topic."""
        ends: dict[tuple[int, str], int] = {}
        for message in await Cluster(self.settings).messages(*INPUTS):
            ends[message.partition, message.topic] = message.offset + 1
        return ends

    async def _found(self) -> tuple[list[Record], dict[RunId, dict[str, bytes]]]:
        await self._all_ended(*_DERIVED, CHANGELOG)
        cluster = Cluster(self.settings)
        records = await cluster.records(*_DERIVED)
        if self.control == FAUST_TABLE:
            topic = changelog_of(self.settings).removeprefix(self.settings.prefix)
            return records, states({one.key or b"": one.value or b"" for one in await cluster.messages(topic)})
        return records, (await cluster.changelog()).states

    async def _all_ended(self, *topics: str) -> None:
        """Returns when no transaction is open: a `read_committed` reader's end lies before an open one."""
        places = [TopicPartition(self.settings.topic(topic), part) for topic in topics for part in range(PARTITIONS)]
        async with (
            AIOKafkaConsumer(**self.settings.client()) as everything,
            AIOKafkaConsumer(**self.settings.client(), isolation_level="read_committed") as committed,
        ):
            deadline = time.monotonic() + _OPEN_S
            while await everything.end_offsets(places) != await committed.end_offsets(places):
                if time.monotonic() > deadline:
                    raise StalledError(f"a transaction is open after {_OPEN_S:.0f} s")
                await asyncio.sleep(0.2)

    def close(self) -> None:
        """Ends every process."""
        for process in (self.bridge, *self.workers):
            process.wanted = False
            process.send(signal.SIGKILL)
            if process.process is not None:
                process.process.wait()
        self.broker.kill()


def _free_port() -> int:
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
