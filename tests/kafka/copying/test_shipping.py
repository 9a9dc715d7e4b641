"""The bridge ships every record once and in order, whatever the broker and the bridge itself go through."""

import asyncio
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from local_kafka import LocalKafka

from esper.errors import LogError
from esper.events.topics import DERIVED
from esper.kafka.clients import Outgoing, row_number_of
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import INPUTS, create_topics
from esper.kafka.copying import shipping
from esper.kafka.copying.claims import take_over
from esper.kafka.copying.shipping import BRIDGED_FILE, Bridge
from esper.kafka.event_loop import run_kafka_loop
from esper.kafka.transactions import transact
from esper.oona.directory import Directory
from esper.oona.file import fenced_by
from esper.oona.follower import Follower
from esper.processes.bridge import run_bridge
from esper.state_files import BRIDGE_STATE
from tests.kafka.made_cluster import Cluster, in_order
from tests.kafka.recorded import LAST_EPOCH, go_on, log_of, run_of, write_resumed_run
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

FIRST, SECOND = run_of(1), run_of(2)
SHORT_S = 1.0
WITHIN_S = 60.0


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """A finished run, and one that was resumed and goes on."""
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=FIRST)
    write_resumed_run(directory, SECOND)
    return directory


def drain(bridge: Bridge) -> None:
    """Ships what there is."""
    asyncio.run(bridge.run(asyncio.Event(), drain=True))


def shipped(cluster: Cluster) -> dict[tuple[str, str], list[object]]:
    """The records on Kafka, by run and topic."""
    return {key: list(records) for key, records in in_order(asyncio.run(cluster.records(*INPUTS))).items()}


def logged(directory: Directory) -> dict[tuple[str, str], list[object]]:
    """The records of the directory, by run and topic."""
    return {
        key: list(records) for key, records in in_order(record for run in directory.names() for record in log_of(directory, run)).items()
    }


def test_every_record_is_on_kafka_in_its_order_with_its_bytes(cluster: Cluster, directory: Directory) -> None:
    bridge = Bridge(directory, cluster.settings)
    drain(bridge)
    assert shipped(cluster) == logged(directory)
    assert bridge.state.shipped == sum(len(log_of(directory, run)) for run in (FIRST, SECOND))
    assert (bridge.state.waiting, bridge.state.error) == ({}, None)


def test_the_rows_put_a_run_together_again_in_its_writers_order(cluster: Cluster, directory: Directory) -> None:
    drain(Bridge(directory, cluster.settings))
    messages = asyncio.run(cluster.messages(*INPUTS))
    for run in (FIRST, SECOND):
        by_row = {row_number_of(message): cluster.record(message) for message in messages if message.key == run.encode()}
        assert tuple(by_row[row] for row in range(1, len(by_row) + 1)) == log_of(directory, run)


def test_a_bridge_that_is_started_again_ships_nothing_twice(cluster: Cluster, directory: Directory) -> None:
    drain(Bridge(directory, cluster.settings))
    again = Bridge(directory, cluster.settings)
    drain(again)
    assert again.state.shipped == 0


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_text(""), lambda path: path.write_bytes(b"\xff\xfe")]
)
def test_a_lost_position_ships_nothing_twice(cluster: Cluster, directory: Directory, damage: object) -> None:
    drain(Bridge(directory, cluster.settings))
    damage(directory.path / FIRST / BRIDGED_FILE)  # type: ignore[operator]
    again = Bridge(directory, cluster.settings)
    drain(again)
    assert again.state.shipped == 0
    assert shipped(cluster) == logged(directory)


def test_records_that_are_written_meanwhile_are_shipped(cluster: Cluster, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)

    async def ship() -> None:
        stop = asyncio.Event()
        bridge = Bridge(directory, cluster.settings)
        running = asyncio.create_task(bridge.run(stop))
        writing = threading.Thread(target=write_run, args=(directory,), kwargs={"run": FIRST})
        writing.start()
        await asyncio.to_thread(writing.join)
        async with asyncio.timeout(60):
            while bridge.state.shipped < len(log_of(directory, FIRST)):
                await asyncio.sleep(0.05)
        stop.set()
        await running

    asyncio.run(ship())
    assert shipped(cluster) == logged(directory)


def test_a_run_whose_partition_has_no_leader_holds_up_no_other(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(tmp_path / "log", create=True)
    monkeypatch.setattr(shipping, "_PAGE", 20)
    write_run(directory, run=FIRST)

    async def ship() -> None:
        stop, led, reached = asyncio.Event(), asyncio.Event(), asyncio.Event()
        bridge = Bridge(directory, cluster.settings)

        async def wait_for_leader(producer: AIOKafkaProducer, settings: KafkaSettings, messages: list[Outgoing]) -> None:
            if messages[0].key == FIRST.encode():
                reached.set()
                await led.wait()
            await transact(producer, settings, messages)

        monkeypatch.setattr(shipping, "transact", wait_for_leader)
        running = asyncio.create_task(bridge.run(stop))
        async with asyncio.timeout(WITHIN_S):
            await reached.wait()
            await asyncio.to_thread(write_run, directory, run=SECOND)
            while bridge.state.shipped < len(log_of(directory, SECOND)):
                await asyncio.sleep(0.05)
            assert {record.run for record in await cluster.records(*INPUTS)} == {SECOND}
            led.set()
            while bridge.state.shipped < len(log_of(directory, FIRST)) + len(log_of(directory, SECOND)):
                await asyncio.sleep(0.05)
        stop.set()
        await running

    asyncio.run(ship())
    assert shipped(cluster) == logged(directory)


def test_a_directory_that_cannot_be_read_is_an_error_and_no_group_of_errors(
    cluster: Cluster, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_be_read(*_: object) -> None:
        raise LogError("the directory cannot be read")

    monkeypatch.setattr(Follower, "poll", cannot_be_read)
    with pytest.raises(LogError, match="cannot be read"):
        drain(Bridge(directory, cluster.settings))


def test_a_run_that_is_resumed_elsewhere_is_fenced_and_the_others_go_on(cluster: Cluster, directory: Directory, tmp_path: Path) -> None:
    elsewhere = Directory(tmp_path / "elsewhere", create=True)

    async def fence() -> Bridge:
        stop = asyncio.Event()
        bridge = Bridge(directory, cluster.settings)
        running = asyncio.create_task(bridge.run(stop))
        async with asyncio.timeout(60):
            while bridge.state.shipped < len(log_of(directory, FIRST)) + len(log_of(directory, SECOND)):
                await asyncio.sleep(0.05)
            await take_over(cluster.settings, elsewhere, SECOND)
            await asyncio.to_thread(go_on, directory, SECOND, LAST_EPOCH + 1, resumed=False)
            await asyncio.to_thread(write_run, directory, run=run_of(3))
            while fenced_by(directory.path / SECOND) is None or not (directory.path / run_of(3) / BRIDGED_FILE).exists():
                await asyncio.sleep(0.05)
        stop.set()
        await running
        return bridge

    before = logged(directory)
    bridge = run_kafka_loop(fence())
    assert bridge.state.fenced == {SECOND}
    assert {key: records for key, records in shipped(cluster).items() if key[0] == SECOND} == {
        key: records for key, records in before.items() if key[0] == SECOND
    }
    with pytest.raises(LogError, match=f"run {SECOND} was taken over by .*:{elsewhere.path}"):
        directory.resume(SECOND)


@pytest.mark.chaos
@pytest.mark.long
def test_an_outage_longer_than_every_timeout_loses_nothing(own_kafka: LocalKafka, tmp_path: Path) -> None:
    settings = KafkaSettings(bootstrap=own_kafka.bootstrap, partitions=2, replication=1, request_timeout_s=SHORT_S)
    asyncio.run(create_topics(settings))
    directory = Directory(tmp_path / "log", create=True)

    async def ship() -> Bridge:
        stop = asyncio.Event()
        bridge = Bridge(directory, settings, jitter=lambda: 0.0)
        running = asyncio.create_task(bridge.run(stop))
        write_run(directory, run=FIRST)
        async with asyncio.timeout(120):
            while not bridge.state.shipped:
                await asyncio.sleep(0.02)
            own_kafka.kill()
            write_run(directory, run=SECOND)
            began = time.monotonic()
            while bridge.state.away_since is None or time.monotonic() < began + 4 * SHORT_S:
                await asyncio.sleep(0.05)
            assert bridge.state.error is not None
            await asyncio.to_thread(own_kafka.start)
            while bridge.state.waiting or bridge.state.shipped < len(log_of(directory, FIRST)) + len(log_of(directory, SECOND)):
                await asyncio.sleep(0.05)
        stop.set()
        await running
        return bridge

    bridge = asyncio.run(ship())
    assert bridge.state.away_since is None
    patient = Cluster(settings.model_copy(update={"request_timeout_s": 40.0}))
    # A broker that was killed writes the markers of transactions that were committed just before only some time after it is back.
    deadline = time.monotonic() + WITHIN_S
    while shipped(patient) != logged(directory) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert shipped(patient) == logged(directory)


def test_a_bridge_stops_while_a_broker_does_not_answer(tmp_path: Path) -> None:
    """A frozen broker takes connections and says nothing."""
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, run=FIRST)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        settings = KafkaSettings(bootstrap=f"127.0.0.1:{frozen.getsockname()[1]}", replication=1)
        stop = threading.Event()
        bridge = threading.Thread(target=run_bridge, args=(directory, settings, stop, list[str]().append), daemon=True)
        bridge.start()
        deadline = time.monotonic() + WITHIN_S
        while not (directory.path / BRIDGE_STATE).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        bridge.join(settings.request_timeout_s / 2)
        assert not bridge.is_alive()
    assert json.loads((directory.path / BRIDGE_STATE).read_text())["waiting"] == {FIRST: len(log_of(directory, FIRST))}


def test_derived_records_of_the_machine_are_not_shipped() -> None:
    assert not DERIVED & set(INPUTS)
