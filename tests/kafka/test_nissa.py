"""Nissa on a log on Kafka: as users start it, with the mirror and the deliverer that it keeps running."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from local_kafka import LocalKafka

from esper.events.topics import HEARTBEAT, STEPS
from esper.kafka.clients import administering
from esper.kafka.copying.mirroring import MIRROR_LOCK
from esper.kafka.copying.shipping import Bridge
from esper.oona.directory import Directory
from esper.oona.lock import holder_of
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import INTERRUPTED_EPOCH, LAST_EPOCH, go_on, run_of
from tests.kafka.test_delivering import WEBHOOK, alerts, keys, publish, received
from tests.observer.delivery.servers import http_server
from tests.synthetic import write_run
from tests.waiting import until

pytestmark = pytest.mark.kafka


def ship(cluster: Cluster, directory: Directory) -> None:
    """Ships everything in `directory`."""
    asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))


class Nissa:
    """A process of `esper nissa` and its answers."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, mirror: Path) -> None:
        self.process, self.port, self.mirror = process, port, mirror

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:  # Any: JSON, or text.
        """Status and content of the answer; status 0 where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()
        return response.status, json.loads(text) if "json" in (response.getheader("content-type") or "") else text

    def ready(self) -> bool:
        """True where it says so."""
        return self.ask("/readyz")[0] == 200

    def metric(self, name: str) -> float | None:
        """The value of a metric without labels; None where it is absent."""
        lines = str(self.ask("/metrics")[1]).splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


@contextmanager
def nissa(cluster: Cluster, mirror: Path, handlers: str = "", *, lag_limit_s: float = 60.0) -> Iterator[Nissa]:
    """Nissa over the cluster, with a mirror of its own; killed at the end where it still runs."""
    settings = cluster.settings
    mirror.mkdir(exist_ok=True)
    (mirror / "kafka.toml").write_text(f'prefix = "{settings.prefix}"\npartitions = {settings.partitions}\nreplication = 1\n')
    (mirror / "delivery.toml").write_text(handlers)
    (mirror / "nissa.toml").write_text(f"[nissa]\nmirror_lag_limit_s = {lag_limit_s}\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["nissa", "--log", f"kafka://{settings.bootstrap}", "--mirror", os.fspath(mirror), "--port", str(port), "--open"]
    words += ["--config", os.fspath(mirror / "nissa.toml")]
    command = [sys.executable, "-W", "ignore", "-m", "esper.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"ESPER_OBSERVE": "1"}) as process:
        try:
            yield Nissa(process, port, mirror)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def test_two_of_them_serve_the_runs_and_deliver_each_alert_once(cluster: Cluster, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=run_of(1), until_epoch=INTERRUPTED_EPOCH, finish=False)
    ship(cluster, directory)
    with http_server() as inbox:
        handlers = WEBHOOK.format(name="team", port=inbox.port)
        with nissa(cluster, tmp_path / "a", handlers) as first, nissa(cluster, tmp_path / "b", handlers) as second:
            until(lambda: first.ready() and second.ready())
            assert [run["run"] for run in first.ask("/api/v1/runs")[1]["runs"]] == [run_of(1)]
            before = first.ask(f"/api/v1/runs/{run_of(1)}")[1]["moment"]
            go_on(directory, run_of(1), LAST_EPOCH, resumed=True)
            ship(cluster, directory)
            until(lambda: second.ask(f"/api/v1/runs/{run_of(1)}")[1]["epoch"] == LAST_EPOCH)
            until(lambda: first.ask(f"/api/v1/runs/{run_of(1)}")[1]["moment"] > before)
            until(lambda: (first.metric("esper_delivery_partitions"), second.metric("esper_delivery_partitions")) == (1, 1))
            made = alerts(range(12))
            publish(cluster, made)
            until(lambda: set(received(inbox)) == keys(made))
            first.process.kill()
            first.process.wait()
            until(lambda: second.metric("esper_delivery_partitions") == 2)
            until(lambda: holder_of(first.mirror / MIRROR_LOCK) is None)  # Its children left with it.
            more = alerts(range(12, 16))
            publish(cluster, more)
            until(lambda: set(received(inbox)) == keys(made + more))
            assert len(received(inbox)) == len(made + more)
            status, problem = second.ask("/api/v1/metrics/custom", {"samples": [{"name": "queue", "type": "gauge", "value": 1}]})
            assert (status, problem["type"]) == (501, "urn:esper:problem:not-on-kafka")
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(60) == 0


def test_a_tail_follows_records_that_come_through_kafka(cluster: Cluster, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=run_of(1), until_epoch=INTERRUPTED_EPOCH, finish=False)
    ship(cluster, directory)
    with nissa(cluster, tmp_path / "mirror") as served:
        until(served.ready)
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("GET", f"/api/v1/runs/{run_of(1)}/tail?topic=system.events.epoch", headers={"last-event-id": cursor(served)})
        response = connection.getresponse()
        go_on(directory, run_of(1), LAST_EPOCH, resumed=True)
        ship(cluster, directory)
        epochs: list[int] = []
        while len(epochs) < LAST_EPOCH - INTERRUPTED_EPOCH:
            line = response.readline()
            if line.startswith(b"data:") and b"esper.epoch.completed" in line:
                epochs.append(json.loads(line[5:])["epoch"])
        connection.close()
    assert epochs == list(range(INTERRUPTED_EPOCH + 1, LAST_EPOCH + 1))


def cursor(served: Nissa) -> str:
    """The cursor of the end of the run's epochs."""
    found: str = served.ask(f"/api/v1/runs/{run_of(1)}/events?topic=system.events.epoch&limit=1000")[1]["cursor"]
    return found


def test_started_a_week_late_it_is_ready_and_names_what_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=run_of(1))
    ship(cluster, directory)

    async def expire() -> None:
        places = [TopicPartition(cluster.settings.topic(topic), part) for topic in (STEPS, HEARTBEAT) for part in range(2)]
        async with administering(cluster.settings) as admin:
            await admin.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})

    asyncio.run(expire())
    with nissa(cluster, tmp_path / "mirror") as served:
        until(served.ready)
        until(lambda: served.ask(f"/api/v1/runs/{run_of(1)}")[0] == 200)
        shown = served.ask(f"/api/v1/runs/{run_of(1)}")[1]
        assert shown["status"] == "finished"
        assert {gone["topic"] for gone in shown["gone"]} <= {STEPS, HEARTBEAT}
        assert shown["gone_records"] > 0
        until(lambda: served.metric("esper_follow_gone_records") == shown["gone_records"])


@pytest.mark.chaos
def test_it_is_not_ready_while_kafka_is_away_and_still_answers(own_kafka: LocalKafka, tmp_path: Path) -> None:
    cluster = Cluster.make(own_kafka.bootstrap)
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=run_of(1))
    ship(cluster, directory)
    with nissa(cluster, tmp_path / "mirror", lag_limit_s=4.0) as served:
        until(served.ready)
        own_kafka.kill()
        until(lambda: not served.ready())
        reason = served.ask("/readyz")[1]["reason"]
        assert reason.startswith("what is on Kafka was copied")
        assert served.ask(f"/api/v1/runs/{run_of(1)}")[0] == 200
        own_kafka.start()
        until(served.ready)
