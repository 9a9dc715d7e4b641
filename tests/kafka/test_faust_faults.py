"""Faults of Faust 0.15.3 for which Esper takes no record from it, and the guards of a worker, with and without them.

Each process runs `faust_host.py`. A test of a fault fails when Faust is mended; its docstring says what Esper does instead.
"""

import asyncio
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from esper.kafka.clients import consuming, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import LEAD
from tests.kafka.made_cluster import Cluster
from tests.kafka.topic_factory import TopicFactory

pytestmark = pytest.mark.kafka

_WITHIN_S = 60.0
_FAUST_SESSION_S = 60.0
_HOST = Path(__file__).with_name("faust_host.py")


@dataclass
class Host:
    """A process that runs a Faust application, and the lines that it printed, as far as they were waited for."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)
    _coming: "queue.Queue[str]" = field(default_factory=queue.Queue)

    def listen(self) -> None:
        """Collects the lines until the process ends; the last one is `ended`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._coming.put(line.rstrip())
        self._coming.put("ended")

    def wait_for(self, line: str, times: int = 1) -> None:
        """Returns when `line` was printed `times`."""
        self.wait_until(lambda lines: lines.count(line) >= times, f"{line!r} {times} times")

    def wait_until(self, claim: Callable[[list[str]], bool], expected: str) -> None:
        """Returns when `claim` is true of the lines."""
        deadline = time.monotonic() + _WITHIN_S
        while not claim(self.lines):
            try:
                self.lines.append(self._coming.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"expected {expected}, got {self.lines}")


@contextmanager
def hosting(scenario: str, kafka: str, group: str, *topics: str, folder: Path) -> Iterator[Host]:
    """A process of `faust_host.py` that works in `folder`; killed at the end."""
    command = [sys.executable, "-W", "ignore", str(_HOST), scenario, kafka, group, *topics]
    with subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE) as process:
        host = Host(process)
        listener = threading.Thread(target=host.listen)
        listener.start()
        try:
            yield host
        finally:
            process.kill()
            listener.join()


async def write(kafka: str, topic: str, *values: bytes, key: bytes | None = None) -> None:
    """`values` stand in `topic`, without a transaction."""
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, key=key)


async def transact(kafka: str, topic: str, *values: bytes, key: bytes | None = None, abort: bool = False) -> None:
    """`values` stand in `topic`, in one transaction."""
    async with producing(KafkaSettings(bootstrap=kafka), f"faults-{topic}") as producer:
        await producer.begin_transaction()
        for value in values:
            await (await producer.send(topic, value, key=key))
        await (producer.abort_transaction() if abort else producer.commit_transaction())


async def cut(kafka: str, topic: str, offset: int) -> None:
    """The records of `topic` before `offset` are deleted, as retention does it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


async def committed(kafka: str, group: str, topic: str) -> int | None:
    """The offset that `group` committed for partition 0 of `topic`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        found = (await admin.list_consumer_group_offsets(group)).get(TopicPartition(topic, 0))
        return None if found is None else int(found.offset)
    finally:
        await admin.close()


def wait_for_commit(kafka: str, topic: str, offset: int) -> None:
    """Returns when the group of the topic's name committed `offset` or more."""
    deadline = time.monotonic() + _WITHIN_S
    while (found := asyncio.run(committed(kafka, topic, topic)) or 0) < offset:
        assert time.monotonic() < deadline, f"expected a commit of offset {offset}, got {found}"
        time.sleep(0.1)


async def read(kafka: str, topic: str, *, committed: bool = True) -> list[bytes | None]:
    """The values in partition 0 of `topic`, by the consumer of Esper's readers."""
    found: list[bytes | None] = []
    async with asyncio.timeout(_WITHIN_S), consuming(KafkaSettings(bootstrap=kafka), fetch_wait_ms=20, committed=committed) as consumer:
        place = TopicPartition(topic, 0)
        end = (await consumer.end_offsets([place]))[place]
        consumer.assign([place])
        consumer.seek(place, 0)
        while await consumer.position(place) < end:
            for messages in (await consumer.getmany(timeout_ms=20)).values():
                found += [message.value for message in messages]
    return found


def test_an_agent_takes_aborted_records_and_esper_s_consumer_does_not(kafka: str, topic: TopicFactory, tmp_path: Path) -> None:
    """Ledgers, mirrors and deliverers read by `consuming`, which reads committed records alone."""
    name = asyncio.run(topic())
    asyncio.run(transact(kafka, name, b"aborted", abort=True))
    asyncio.run(write(kafka, name, b"after"))
    assert asyncio.run(read(kafka, name)) == [b"after"]
    assert asyncio.run(read(kafka, name, committed=False)) == [b"aborted", b"after"]
    with hosting("read", kafka, name, name, folder=tmp_path) as host:
        host.wait_for("took after")
    assert [line for line in host.lines if line.startswith("took")] == ["took aborted", "took after"]


def test_an_agent_that_raised_goes_on_behind_the_record(kafka: str, topic: TopicFactory, tmp_path: Path) -> None:
    """A ledger ends its process at an error (`FoldError`), and the next owner begins at that record again: test_ledger.py."""
    name = asyncio.run(topic())
    asyncio.run(write(kafka, name, b"bad", b"after"))
    with hosting("read", kafka, name, name, folder=tmp_path) as host:
        host.wait_for("took after")
        wait_for_commit(kafka, name, 2)
    assert host.lines.count("took bad") == 1


def test_an_event_that_is_open_is_committed_over_and_lost_with_its_process(kafka: str, topic: TopicFactory, tmp_path: Path) -> None:
    """A ledger's positions are written with what follows from the records before them (`Ledger._due`), not by what was handed out."""
    name = asyncio.run(topic())
    asyncio.run(write(kafka, name, b"open", b"after"))
    with hosting("open", kafka, name, name, folder=tmp_path) as host:
        host.wait_for("took after")
        wait_for_commit(kafka, name, 2)
        assert "took open" in host.lines
    asyncio.run(write(kafka, name, b"last"))
    with hosting("open", kafka, name, name, folder=tmp_path) as host:
        host.wait_for("took last")
    assert "took open" not in host.lines


def test_a_range_that_retention_cut_is_committed_over(kafka: str, topic: TopicFactory, tmp_path: Path) -> None:
    """A ledger begins where its own transaction says, and says which records retention cut."""
    name = asyncio.run(topic())
    for values, last, behind in (((b"first",), "first", 1), ((b"cut", b"cut", b"after"), "after", 4)):
        asyncio.run(write(kafka, name, *values))
        asyncio.run(cut(kafka, name, behind - 1))
        with hosting("read", kafka, name, name, folder=tmp_path) as host:
            host.wait_for(f"took {last}")
            wait_for_commit(kafka, name, behind)
    assert "took cut" not in host.lines


def test_a_table_whose_changelog_has_transactions_is_never_ready(kafka: str, topic: TopicFactory, tmp_path: Path) -> None:
    """A ledger reads its states by position (`messages_between`), which passes markers, and keeps none in a table."""
    name, plain, transactional = (asyncio.run(topic()) for _ in range(3))
    asyncio.run(write(kafka, name, b"record"))
    asyncio.run(write(kafka, plain, b"1", key=b'"run"'))
    asyncio.run(transact(kafka, transactional, b"1", key=b'"run"'))
    with (
        hosting("table", kafka, f"{name}-plain", name, plain, folder=tmp_path) as first,
        hosting("table", kafka, f"{name}-transactional", name, transactional, folder=tmp_path) as second,
    ):
        first.wait_for("took record")
        second.wait_for("left 1", times=8)  # The marker, which counts as a record that never comes.
    assert "took record" not in second.lines


def is_assigned(lines: list[str]) -> bool:
    """True once the host is a member that has partitions."""
    return any(line.startswith("assigned ") for line in lines)


async def topics_with(kafka: str, prefix: str) -> set[str]:
    """The names of the topics that begin with `prefix`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        return {name for name in await admin.list_topics() if name.startswith(prefix)}
    finally:
        await admin.close()


def test_faust_makes_a_topic_to_choose_a_leader_and_a_worker_does_not(
    kafka: str, topic: TopicFactory, cluster: Cluster, tmp_path: Path
) -> None:
    """`build_app` sets `topic_disable_leader`, and `topic_allow_declare` to false."""
    name, prefix = asyncio.run(topic()), cluster.settings.prefix
    before = asyncio.run(topics_with(kafka, prefix))
    with (
        hosting("leader", kafka, name, name, folder=tmp_path) as plain,
        hosting("worker", kafka, prefix, folder=tmp_path) as worker,
    ):
        plain.wait_until(is_assigned, "partitions")
        worker.wait_until(is_assigned, "partitions")
    assert asyncio.run(topics_with(kafka, name)) == {name, f"{name}-__assignor-__leader"}
    assert asyncio.run(topics_with(kafka, prefix)) == before


async def members(kafka: str, group: str) -> int:
    """The number of members that `group` has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups([group])
        ((*_, found),) = (group[:6] for group in answer.groups)
        return len(found)
    finally:
        await admin.close()


def test_the_partitions_of_a_worker_that_was_killed_go_to_another_before_faust_s_own_session_of_60_s_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    """`build_app` sets a session of 8 s."""
    kafka, prefix = cluster.settings.bootstrap, cluster.settings.prefix
    (tmp_path / "go").touch()
    both = " ".join(["assigned", *(f"{cluster.settings.topic(LEAD)}/{part}" for part in (0, 1))])
    with hosting("worker", kafka, prefix, folder=tmp_path) as first, hosting("worker", kafka, prefix, folder=tmp_path) as second:
        for host in (first, second):
            host.wait_until(lambda lines: any(line.startswith("assigned ") and line != both for line in lines), "one partition")
        killed_at = time.monotonic()
        first.process.kill()
        taken = len(second.lines)
        second.wait_until(lambda lines: both in lines[taken:], "both partitions")
    assert time.monotonic() - killed_at < _FAUST_SESSION_S / 2


def test_a_worker_that_is_stopped_closes_its_ledgers_before_it_leaves_its_group(cluster: Cluster, tmp_path: Path) -> None:
    kafka, prefix = cluster.settings.bootstrap, cluster.settings.prefix
    with hosting("worker", kafka, prefix, folder=tmp_path) as host:
        host.wait_until(is_assigned, "partitions")
        host.process.terminate()
        host.wait_for("closing")
        assert asyncio.run(members(kafka, cluster.settings.topic("worker"))) == 1
        (tmp_path / "go").touch()
        host.wait_for("ended")
    assert "closed" in host.lines


def test_a_worker_without_the_guard_leaves_its_group_with_its_ledgers_open(cluster: Cluster, tmp_path: Path) -> None:
    kafka, prefix = cluster.settings.bootstrap, cluster.settings.prefix
    with hosting("unguarded", kafka, prefix, folder=tmp_path) as host:
        host.wait_until(is_assigned, "partitions")
        host.process.terminate()
        host.wait_for("ended")
    assert asyncio.run(members(kafka, cluster.settings.topic("worker"))) == 0
    assert "closing" not in host.lines
