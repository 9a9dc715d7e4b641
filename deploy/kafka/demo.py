"""Kafka in a minute: a broker, two trainings with their bridge, two workers and a Nissa, all real processes of this machine.

    make demo-kafka

shows records as they arrive, topic by topic; an alert that a worker derives and Nissa delivers; and a worker that is killed, whose
partitions the other one takes over. Everything is stopped and removed at the end, and at Ctrl-C.
"""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

from local_kafka import BrokerError, LocalKafka, free_ports

PARTITIONS = 4
TRAINING_S, NAN_AFTER_S = 45.0, 12.0
_WITHIN_S, _STOP_S = 120.0, 25.0
_SHOWN_EVERY_S = 4.0


class DemoError(Exception):
    """A step of the demo did not happen in time."""


def say(text: str) -> None:
    """Prints a line now."""
    print(text, flush=True)


def worker_command(address: str, folder: Path, port: int) -> list[str]:
    """The command of a worker with a status page."""
    return [*esper("worker"), "--kafka", address, "--log", os.fspath(folder), "--port", str(port)]


def esper(*words: str) -> list[str]:
    """The command line of an `esper` command."""
    return [sys.executable, "-W", "ignore", "-m", "esper.cli", *words]


@contextmanager
def process(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of a group of its own, whose output goes to `log`; its group has ended when this returns."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            kill_group(started)


def kill_group(started: "subprocess.Popen[bytes]") -> None:
    """Ends a process and those of its group as `kill -9` does."""
    try:
        os.killpg(started.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    started.wait(_STOP_S)


class Receiver:
    """An HTTP server on loopback that keeps the alerts that it is sent."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.alerts += [alert["labels"] | {"status": alert.get("status", "firing")} for alert in body["alerts"]]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


def wait_for(what: str, condition: Callable[[], bool], show: Callable[[], None] = lambda: None) -> None:
    """Returns when `condition` holds, calling `show` now and then. Raises DemoError, naming `what`, after two minutes."""
    deadline, shown_at = time.monotonic() + _WITHIN_S, time.monotonic()
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"expected {what} within {_WITHIN_S:.0f} s")
        if time.monotonic() > shown_at + _SHOWN_EVERY_S:
            show()
            shown_at = time.monotonic()
        time.sleep(0.1)


def owned(port: int) -> frozenset[int]:
    """The partitions of the worker with its status page at `port`; none while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return frozenset(int(name) for name in json.load(answer) if name.isdigit())
    except (OSError, ValueError):
        return frozenset()


class Sharing:
    """The partitions of each of two workers, as they were when the two shared all of them."""

    def __init__(self, ports: tuple[int, ...]) -> None:
        self._ports = ports
        self.partitions: list[frozenset[int]] = []

    def is_complete(self) -> bool:
        """True where each worker has some partitions now, and no partition has none."""
        self.partitions = [owned(port) for port in self._ports]
        return all(self.partitions) and frozenset().union(*self.partitions) == frozenset(range(PARTITIONS))


def is_ready(port: int) -> bool:
    """True where the Nissa at `port` has caught up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


class Topics:
    """The records that arrived since they were shown last, by topic."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._known: dict[str, int] = {}

    def show(self) -> None:
        """Prints the topics that grew."""
        ends = asyncio.run(self._ends())
        grown = {name: count - self._known.get(name, 0) for name, count in ends.items() if count > self._known.get(name, 0)}
        self._known = ends
        if grown:
            say("    " + "  ".join(f"{name} +{count}" for name, count in sorted(grown.items())))

    async def _ends(self) -> dict[str, int]:
        from aiokafka import TopicPartition

        from esper.events.topics import TOPICS
        from esper.kafka.clients import consuming
        from esper.kafka.cluster import KafkaSettings

        places = [TopicPartition(name, part) for name in TOPICS for part in range(PARTITIONS)]
        async with consuming(KafkaSettings(bootstrap=self._bootstrap, partitions=PARTITIONS)) as consumer:
            ends = await consumer.end_offsets(places)
        return {name: sum(end for place, end in ends.items() if place.topic == name) for name in TOPICS}


def train(log: Path, address: str, *, nan: bool) -> None:
    """A training that takes its time; with `nan` one of its losses is not a number."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    import esper

    os.environ["ESPER_OBSERVE"] = "0"  # An agent, which measures the machine, would outlive the demo by seconds.
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(int(nan))
    data = [(torch.randn(16, 8, generator=generator), torch.randint(3, (16,), generator=generator)) for _ in range(40)]
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    began_at, spoilt = time.monotonic(), False
    epochs = 20

    def objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal spoilt
        loss = F.cross_entropy(model(batch[0]), batch[1])
        if model.training:
            time.sleep(TRAINING_S / (epochs * len(data)))
            if nan and not spoilt and time.monotonic() > began_at + NAN_AFTER_S:
                spoilt = True
                return loss * math.nan
        return loss

    esper.fit(model, data, data[:2], epochs=epochs, objective=objective, grow=None, log=log, kafka=address)


def demonstrate(folder: Path, stack: ExitStack) -> None:
    """Shows what there is to show. Every process is ended by `stack`."""
    from esper.processes.bridge import bridge_of

    say("1. A Kafka broker, with Esper's topics")
    broker = LocalKafka(folder / "broker")
    stack.callback(broker.kill)
    broker.start()
    address, runs, mirror = f"kafka://{broker.bootstrap}", folder / "runs", folder / "mirror"
    receiver = Receiver()
    stack.callback(receiver.close)
    for directory in (runs, mirror):
        directory.mkdir()
        (directory / "kafka.toml").write_text(f"partitions = {PARTITIONS}\nreplication = 1\n")
    (mirror / "delivery.toml").write_text(f'[[handlers]]\nname = "demo"\nkind = "webhook"\nurl = "{receiver.url}"\n')
    made = subprocess.run(
        [*esper("topics", "create"), "--kafka", address, "--log", os.fspath(runs)], check=True, capture_output=True, text=True
    )
    say(f"    {made.stdout.splitlines()[-1]}")

    say("2. Two workers share the partitions, Nissa serves and delivers")
    ports = free_ports(3)
    workers = [stack.enter_context(process(worker_command(address, runs, port), folder / f"worker-{port}.log")) for port in ports[:2]]
    words = ("nissa", "--log", address, "--mirror", os.fspath(mirror), "--port", str(ports[2]))
    stack.enter_context(process(esper(*words), folder / "nissa.log"))
    sharing = Sharing(ports[:2])
    wait_for("two workers to share the partitions", sharing.is_complete)
    for port, partitions in zip(ports[:2], sharing.partitions, strict=True):
        say(f"    worker at http://127.0.0.1:{port}/ has partitions {', '.join(map(str, sorted(partitions)))}")
    wait_for("Nissa to be ready", lambda: is_ready(ports[2]))
    say(f"    Nissa is ready at http://127.0.0.1:{ports[2]}/api/v1")

    say("3. Two trainings; a bridge ships their records as they are written. One of them will compute a loss that is not a number")
    stack.callback(end_bridge, runs)
    for number in (0, 1):
        command = [sys.executable, os.fspath(Path(__file__).resolve()), "--train", os.fspath(runs), address, str(number)]
        stack.enter_context(process(command, folder / f"training-{number}.log"))
    topics = Topics(broker.bootstrap)
    wait_for("a bridge", lambda: bridge_of(runs) is not None, topics.show)
    wait_for("an alert to be delivered", lambda: bool(receiver.alerts), topics.show)
    alert = receiver.alerts[0]
    say(f"4. An alert: a worker derived it, Nissa delivered it to a webhook of this demo: {alert.get('alertname')}, run {alert.get('run')}")

    wait_for("two workers to share the partitions", sharing.is_complete, topics.show)
    say(f"5. kill -9 of the worker at http://127.0.0.1:{ports[0]}/, with partitions {', '.join(map(str, sorted(sharing.partitions[0])))}")
    killed_at = time.monotonic()
    kill_group(workers[0])
    wait_for("the other worker to take over", lambda: len(owned(ports[1])) == PARTITIONS, topics.show)
    say(f"    the other one has all {PARTITIONS} partitions after {time.monotonic() - killed_at:.0f} s, and nothing is derived twice")
    topics.show()
    say("Try next: docs/distributed.md, `esper topics create` on a cluster of yours, `esper train digits --kafka kafka://host:port`,")
    say("`esper show latest --log kafka://host:port`, and deploy/compose.yml for three brokers with Prometheus and Grafana.")


def end_bridge(runs: Path) -> None:
    """Ends the bridge, which outlives the trainings that started it."""
    from esper.processes.bridge import bridge_of

    if (pid := bridge_of(runs)) is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while bridge_of(runs) is not None and time.monotonic() < deadline:
            time.sleep(0.1)


def main() -> int:
    """Runs the demo; its exit status."""
    if sys.argv[1:2] == ["--train"]:
        train(Path(sys.argv[2]), sys.argv[3], nan=sys.argv[4] == "1")
        return 0
    for name in ("aiokafka", "faust", "torch", "fastapi"):
        if find_spec(name) is None:
            say(f"demo-kafka: expected {name}, got none: pip install -e '.[train,nissa,kafka]'")
            return 1
    return run()


def run() -> int:
    """Runs it, and cleans up; 130 after Ctrl-C, 1 where something did not happen."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 0
    with tempfile.TemporaryDirectory(prefix="esper-demo-kafka-") as temporary:
        folder = Path(temporary)
        with ExitStack() as stack:
            try:
                demonstrate(folder, stack)
                say("Everything is stopped now, and removed.")
            except KeyboardInterrupt:
                say("stopping")
                status = 130
            except (DemoError, BrokerError, subprocess.CalledProcessError) as error:
                say(f"demo-kafka: {error}")
                for log in sorted([*folder.glob("*.log"), *folder.glob("mirror/*.log"), *folder.glob("runs/*.log")]):
                    say(f"--- {log.name}: {log.read_text(errors='replace')[-1500:]}")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
