"""A real Kafka on this machine, without Docker: the jars that pom.xml beside this file names, one Java process and folder a broker.

    python deploy/kafka/local_kafka.py [--port N] [--directory DIR] [--brokers 3] [--fetch]

starts it, prints its address, and stops it at Ctrl-C. It needs Java 17 or newer, and Maven the first time. Tests use `LocalKafka`, and
`LocalCluster` for several brokers. Every wait has a deadline, and a broker that does not start shows the end of its log.
"""

import argparse
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from string import Template

DEPLOY = Path(__file__).resolve().parent

# Below the kernel's range for outgoing connections (32768 and up): while a broker is down, no client's socket takes its port.
_PORTS = range(20000, 32000)
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"  # any 16 bytes in base64
_READY, _FENCED = "Kafka Server started", "because its session has timed out"
_FETCH_S, _FORMAT_S, _START_S, _STOP_S, _KILL_S = 300, 30, 60, 30, 10  # measured: 17, 0.5, 2.1, 0.3, 0.02 at most
_FENCE_S = 5
_POLL_S = 0.02
_LOG_TAIL_CHARS = 4000

# 150 MB instead of a gigabyte, ready in 1 s: measured against the defaults, and a CDS archive gains nothing worth its 49 MB.
_JVM = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:MaxDirectMemorySize=64m",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    f"-Dlog4j2.configurationFile={DEPLOY / 'log4j2.yaml'}",
)


class BrokerError(Exception):
    """The broker, or its jars, cannot be had; the message ends with what Java or Maven said last."""


def can_run() -> bool:
    """Whether this machine can run a broker: Java, and the jars in the cache or Maven to fetch them."""
    return shutil.which("java") is not None and (_cached_jars().is_dir() or shutil.which("mvn") is not None)


def jars() -> Path:
    """The folder with the broker's jars, fetched by Maven when the cache does not hold this version yet.

    May block for minutes the first time. Any number of processes may call it at once: each fetches into a folder of its own and
    renames it into place, the first one wins, and nobody ever sees half of it.
    """
    cached = _cached_jars()
    if cached.is_dir():
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix="fetching-", dir=cached.parent))
    try:
        _fetch_jars(fetched)
        _publish(fetched, cached)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return cached


def _cached_jars() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "esper" / "kafka" / _kafka_version() / "lib"


def _kafka_version() -> str:
    version = re.search(r"<kafka\.version>([\w.]+)</kafka\.version>", (DEPLOY / "pom.xml").read_text())
    assert version, "pom.xml names the version of Kafka"
    return version[1]


def _fetch_jars(folder: Path) -> None:
    goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}")
    _run_to_end(("mvn", "-q", "-B", "-f", str(DEPLOY / "pom.xml"), *goal), _FETCH_S)
    if not any(folder.glob("kafka_*.jar")):
        raise BrokerError(f"expected Maven to put the jars of Kafka into {folder}, found {sorted(path.name for path in folder.iterdir())}")


def _publish(fetched: Path, cached: Path) -> None:
    """The fetched folder becomes the cached one, unless another process was first: a rename does not replace a folder that has files."""
    try:
        fetched.rename(cached)
    except OSError:
        if not cached.is_dir():
            raise


def _run_to_end(command: tuple[str, ...], within_s: float) -> None:
    try:
        subprocess.run(
            command, check=True, timeout=within_s, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except FileNotFoundError as error:
        raise BrokerError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"{command[0]} did not end within {within_s} s: {' '.join(command)}") from error
    except subprocess.CalledProcessError as error:
        raise BrokerError(f"{' '.join(command)} ended with {error.returncode}:\n{error.stdout[-_LOG_TAIL_CHARS:]}") from error


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that nobody held a moment ago, all different: each stays bound until the last one is found."""
    with ExitStack() as held:
        return tuple(_bind_somewhere(held) for _ in range(count))


def _bind_somewhere(held: ExitStack) -> int:
    # SystemRandom: a test run that seeds `random` the same way everywhere must not send all its workers to the same port.
    for port in random.SystemRandom().sample(_PORTS, 100):
        listener = held.enter_context(socket.socket())
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
    raise BrokerError(f"100 ports tried between {_PORTS.start} and {_PORTS.stop}, none is free")


class LocalKafka:
    """One broker on this machine, its data and its log in `folder`; only the thread that made it may use it.

    The ports are chosen once: after `stop` or `kill`, `start` brings the same broker back on the same folder under the same address.
    Whoever makes it ends it in a `finally`: the process has a session of its own and outlives a killed parent.

    `listeners`: more listeners beside the plain one, as security protocol to port. `properties`: Kafka's own, which stand above those of
    server.properties. `passwords`: by user, for SCRAM-SHA-256.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        node: int = 1,
        controllers: Mapping[int, int] | None = None,
        *,
        listeners: Mapping[str, int] | None = None,
        properties: Mapping[str, str] | None = None,
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        """Of several, each knows the `controllers` of all, a port by node."""
        free, controller = free_ports(2)
        self._listeners, self._more, self._passwords = listeners or {}, properties or {}, passwords or {}
        self.port = free if port is None else port
        self._node, self._controllers = node, controllers or {node: controller}
        self.log = folder / "broker.log"
        self._folder = folder
        self._properties = folder / "server.properties"
        self._controller_properties = folder / "controller.properties"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def bootstrap(self) -> str:
        """The address for clients, the same for the whole life of this object."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """The broker answers clients when this returns: after 1 s, after a kill 2.5 s.

        Raises BrokerError, with no process left behind, when it is not ready within a minute or ends before.
        """
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Starts the process; of several brokers none is ready before most are launched."""
        if self._process is not None:
            raise BrokerError(f"the broker on {self.bootstrap} runs already, as process {self._process.pid}")
        self._format()
        if len(self._controllers) == 1 and self._was_killed():
            # Kafka 4.3.1 loses the commit markers of transactions whose end it answered just before it was killed (KAFKA-20734), and
            # readers of committed records wait for ever. The new process takes itself for the leader until its controller ends the old
            # one's session; then, for a moment, partitions have no leader, and it takes them for deleted. So a controller ends the session
            # before a broker starts.
            self._run(self._controller_properties)
            self.wait_until_ready()
            self._wait_until_fenced()
            self.stop()
        self._run(self._properties)

    def _wait_until_fenced(self) -> None:
        """Returns when the controller has written that the old session ended; after 5 s where there was none."""
        deadline, sizes = time.monotonic() + _FENCE_S, set[int]()
        # Told before it is written, with at most one other batch before it. The controller writes twice a second.
        while len(sizes) < 3 and time.monotonic() < deadline:
            if _FENCED in self._log_since(self._log_start):
                sizes.add(sum(path.stat().st_size for path in (self._folder / "data" / "__cluster_metadata-0").glob("*.log")))
            time.sleep(_POLL_S)

    def _was_killed(self) -> bool:
        data = self._folder / "data"
        return (data / "__cluster_metadata-0").exists() and not (data / ".kafka_cleanshutdown").exists()

    def _run(self, properties: Path) -> None:
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                ("java", *_JVM, "-cp", f"{jars()}/*", "kafka.Kafka", str(properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the test run, which then ends the broker in its own order
            )

    def wait_until_ready(self) -> None:
        """Returns when the process answers. Raises BrokerError, with no process left behind, when it does not within a minute."""
        assert self._process is not None, "launched"
        try:
            self._wait_for_ready_line(self._process, self._log_start)
        except BaseException:
            self.kill()
            raise

    def ask_to_stop(self) -> None:
        """The broker begins to stop; `stop` waits for it."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """The broker has ended cleanly: its leases given back, its files closed. Nothing happens when it does not run.

        Raises BrokerError when it had to be killed because it did not end within 30 s.
        """
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise BrokerError(f"the broker on {self.bootstrap} did not stop within {_STOP_S} s:\n{self._log_tail(0)}") from error
        self._process = None

    def kill(self) -> None:
        """The broker is gone as by `kill -9`, in the middle of whatever it did. Nothing happens when it does not run."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(_KILL_S)
        self._process = None

    def _format(self) -> None:
        """A data folder that Kafka accepts; one that is formatted already stays as it is."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in (self._properties, self._controller_properties):
            template = Template((DEPLOY / path.name).read_text())
            path.write_text(template.substitute(self._values()))
        with self._properties.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in self._more.items())  # Of two lines with one name, Kafka takes the last.
        if (self._folder / "data" / "meta.properties").exists():
            return
        users = [f"--add-scram=SCRAM-SHA-256=[name={user},password={password}]" for user, password in self._passwords.items()]
        arguments = ("format", "--ignore-formatted", "-t", _CLUSTER_ID, "-c", str(self._properties), *users)
        _run_to_end(("java", *_JVM, "-cp", f"{jars()}/*", "kafka.tools.StorageTool", *arguments), _FORMAT_S)

    def _values(self) -> dict[str, object]:
        copies = min(len(self._controllers), 3)
        return {
            "NODE": self._node,
            "PORT": self.port,
            "CONTROLLER_PORT": self._controllers[self._node],
            "VOTERS": ",".join(f"{node}@127.0.0.1:{port}" for node, port in self._controllers.items()),
            "COPIES": copies,
            "IN_SYNC": max(1, copies - 1),
            "DIR": self._folder,
            "LISTENERS": "".join(f",{protocol}://127.0.0.1:{port}" for protocol, port in self._listeners.items()),
        }

    def _wait_for_ready_line(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        """Waits for the line that a start ends with, looking only at what was logged since this start."""
        deadline = time.monotonic() + _START_S
        while _READY not in self._log_since(log_start):
            if process.poll() is not None:
                raise BrokerError(f"the broker on {self.bootstrap} ended with {process.returncode}:\n{self._log_tail(log_start)}")
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker on {self.bootstrap} was not ready within {_START_S} s:\n{self._log_tail(log_start)}")
            time.sleep(_POLL_S)

    def _log_since(self, start: int) -> str:
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def _log_tail(self, start: int) -> str:
        return self._log_since(start)[-_LOG_TAIL_CHARS:]


class LocalCluster:
    """Several brokers on this machine, each its own controller too, in folders of `folder`. Of three one may be killed at any time."""

    def __init__(self, folder: Path, brokers: int = 3, port: int | None = None) -> None:
        controllers = dict(enumerate(free_ports(brokers), start=1))
        self.nodes = [LocalKafka(folder / str(node), None if port is None else port + node - 1, node, controllers) for node in controllers]

    @property
    def bootstrap(self) -> str:
        """The addresses of all brokers."""
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> None:
        """All brokers answer clients when this returns. Raises BrokerError, with no process left behind, when one does not."""
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """All brokers have ended. The last ones have no controller left to leave cleanly, and may be killed after 30 s."""
        for node in self.nodes:
            node.ask_to_stop()
        for node in self.nodes:
            with suppress(BrokerError):
                node.stop()

    def kill(self) -> None:
        """All brokers are gone as by `kill -9`."""
        for node in self.nodes:
            node.kill()


def main() -> None:
    """Runs a broker until it is interrupted."""
    parser = argparse.ArgumentParser(description="Run a Kafka broker on this machine until Ctrl-C.")
    parser.add_argument("--port", type=int, default=9092, help="the port to listen at, on 127.0.0.1 (default: 9092)")
    parser.add_argument("--brokers", type=int, default=1, metavar="N", help="brokers, at this port and the next ones (default: 1)")
    parser.add_argument("--directory", type=Path, help="where its data are kept (default: a folder that is removed at the end)")
    parser.add_argument("--fetch", action="store_true", help="fetch the jars where they are missing, and start nothing")
    chosen = parser.parse_args()
    if chosen.fetch:
        try:
            print(f"the jars of Kafka are in {jars()}")
        except BrokerError as error:
            sys.exit(f"local_kafka: {error}")
        return
    with tempfile.TemporaryDirectory(prefix="esper-kafka-") as temporary:
        folder = chosen.directory or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        kafka = LocalKafka(folder, chosen.port) if chosen.brokers == 1 else LocalCluster(folder, chosen.brokers, chosen.port)
        # SIGTERM ends it as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            kafka.start()
            print(f"Kafka answers at {kafka.bootstrap}; its data and logs are in {folder}; Ctrl-C stops it", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("stopping", flush=True)
        except BrokerError as error:
            sys.exit(f"local_kafka: {error}")
        finally:
            kafka.stop()


if __name__ == "__main__":
    main()
