"""Of three brokers one is killed: nothing is lost, nothing is derived twice, and everybody goes on."""

import asyncio
from pathlib import Path

import pytest
from local_kafka import LocalCluster

from esper.errors import LogError
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import create_topics
from esper.kafka.copying.shipping import Bridge
from esper.kafka.ledgers.ledger import Ledger
from esper.oona.directory import Directory
from tests.kafka.copying.test_shipping import logged, shipped
from tests.kafka.ledgers.test_ledger import DERIVED, assert_same, derived, expected, opened
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import INTERRUPTED_EPOCH, go_on, run_of
from tests.synthetic import write_run

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

RUNS = (run_of(1), run_of(2))
WITHIN_S = 200.0


async def own(cluster: Cluster, partition: int, stop: asyncio.Event) -> None:
    """Owns a partition as workers do: after an error a new ledger is opened."""
    while not stop.is_set():
        ledger: Ledger | None = None
        try:
            ledger = await opened(cluster, partition)
            while not stop.is_set():
                await ledger.turn()
            await ledger.close()
        except LogError:
            if ledger is not None:
                await ledger.abandon()
            await asyncio.sleep(0.2)


def test_a_broker_is_killed_while_two_runs_are_shipped_and_derived(three_brokers: LocalCluster, tmp_path: Path) -> None:
    settings = KafkaSettings(bootstrap=three_brokers.bootstrap, partitions=2, replication=3)
    asyncio.run(create_topics(settings))
    cluster, directory = Cluster(settings), Directory(tmp_path / "log", create=True)
    for run in RUNS:
        write_run(directory, run=run, until_epoch=INTERRUPTED_EPOCH, finish=False)

    async def live() -> None:
        stop, bridge = asyncio.Event(), Bridge(directory, settings, jitter=lambda: 0.0)
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            group.create_task(bridge.run(stop))
            for partition in range(settings.partitions):
                group.create_task(own(cluster, partition, stop))
            while not await cluster.records(*DERIVED):
                await asyncio.sleep(0.2)
            three_brokers.nodes[0].kill()
            for run in RUNS:
                await asyncio.to_thread(go_on, directory, run, INTERRUPTED_EPOCH + 3, resumed=False)
            wanted = expected(directory, directory.names()).keys()
            while not wanted <= {record.id for record in await cluster.records(*DERIVED)}:
                await asyncio.sleep(0.5)
            stop.set()

    asyncio.run(live())
    assert shipped(cluster) == logged(directory)
    assert_same(derived(cluster), expected(directory, directory.names()))
