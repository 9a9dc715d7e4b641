"""Of two copies of a run one is shipped, whatever the order in which they begin, sleep, wake up, and fail."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.envelope import Record
from esper.kafka.clients import FencedError, explain_errors, outgoing, producing
from esper.kafka.cluster_topics import CLAIMS, INPUTS
from esper.kafka.copying import shipping
from esper.kafka.copying.claims import CLAIM_FILE, own_claim, take_over, transactional_id
from esper.kafka.copying.shipping import Bridge
from esper.kafka.transactions import transact
from esper.oona.directory import Directory
from esper.oona.file import fenced_by
from tests.kafka.made_cluster import Cluster, in_order
from tests.kafka.recorded import INTERRUPTED_EPOCH, LAST_EPOCH, go_on, log_of, run_of
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

RUN = run_of(2)
WITHIN_S = 60.0


@pytest.fixture
def here(tmp_path: Path) -> Directory:
    """A run that was interrupted."""
    directory = Directory(tmp_path / "here", create=True)
    write_run(directory, run=RUN, until_epoch=INTERRUPTED_EPOCH, finish=False)
    return directory


@pytest.fixture
def elsewhere(tmp_path: Path) -> Directory:
    """An empty directory."""
    return Directory(tmp_path / "elsewhere", create=True)


def drain(directory: Directory, cluster: Cluster) -> Bridge:
    """A bridge that has shipped what it may."""
    bridge = Bridge(directory, cluster.settings, jitter=lambda: 0.0)
    asyncio.run(asyncio.wait_for(bridge.run(asyncio.Event(), drain=True), WITHIN_S))
    return bridge


def by_topic(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    return {key: list(found) for key, found in in_order(records).items()}


def on_kafka(cluster: Cluster) -> dict[tuple[str, str], list[Record]]:
    return by_topic(asyncio.run(cluster.records(*INPUTS)))


def logged(directory: Directory) -> dict[tuple[str, str], list[Record]]:
    return by_topic(log_of(directory, RUN))


def test_a_producer_that_was_fenced_proves_nothing(cluster: Cluster, here: Directory) -> None:
    async def ship() -> Bridge:
        stop, bridge = asyncio.Event(), Bridge(here, cluster.settings, jitter=lambda: 0.0)
        running = asyncio.create_task(bridge.run(stop))
        async with asyncio.timeout(WITHIN_S):
            while bridge.state.shipped < len(log_of(here, RUN)):
                await asyncio.sleep(0.02)
            async with producing(cluster.settings, transactional_id(RUN)):
                await asyncio.to_thread(go_on, here, RUN, LAST_EPOCH, resumed=True)
                while bridge.state.shipped < len(log_of(here, RUN)):
                    await asyncio.sleep(0.02)
        stop.set()
        await running
        return bridge

    assert asyncio.run(ship()).state.fenced == set()
    assert on_kafka(cluster) == logged(here)


def test_of_two_copies_with_one_token_the_first_to_ship_goes_on(cluster: Cluster, here: Directory, elsewhere: Directory) -> None:
    drain(here, cluster)
    shutil.copytree(here.path / RUN, elsewhere.path / RUN)
    assert drain(elsewhere, cluster).state.shipped == 0
    go_on(elsewhere, RUN, LAST_EPOCH, resumed=True)
    go_on(here, RUN, LAST_EPOCH + 2, resumed=False)
    drain(elsewhere, cluster)
    assert drain(here, cluster).state.fenced == {RUN}
    assert "went on in another copy of its directory" in (fenced_by(here.path / RUN) or "")
    assert on_kafka(cluster) == logged(elsewhere)


def test_a_copy_that_was_restored_from_a_backup_does_not_contradict_what_is_shipped(
    cluster: Cluster, here: Directory, elsewhere: Directory
) -> None:
    drain(here, cluster)
    shutil.copytree(here.path / RUN, elsewhere.path / RUN)
    go_on(here, RUN, LAST_EPOCH, resumed=True)
    drain(here, cluster)
    go_on(elsewhere, RUN, INTERRUPTED_EPOCH + 1, resumed=True)
    assert drain(elsewhere, cluster).state.fenced == {RUN}
    assert on_kafka(cluster) == logged(here)


def test_a_directory_that_moved_goes_on(cluster: Cluster, here: Directory, elsewhere: Directory) -> None:
    drain(here, cluster)
    (here.path / RUN).rename(elsewhere.path / RUN)
    go_on(elsewhere, RUN, LAST_EPOCH, resumed=True)
    assert drain(elsewhere, cluster).state.fenced == set()
    assert on_kafka(cluster) == logged(elsewhere)


def test_a_copy_without_its_token_is_another_one(cluster: Cluster, here: Directory) -> None:
    drain(here, cluster)
    (here.path / RUN / CLAIM_FILE).unlink()
    go_on(here, RUN, LAST_EPOCH, resumed=True)
    assert drain(here, cluster).state.fenced == {RUN}


def test_a_cluster_that_lacks_the_run_gets_all_of_it(kafka: str, cluster: Cluster, here: Directory) -> None:
    drain(here, cluster)
    other = Cluster.make(kafka)
    go_on(here, RUN, LAST_EPOCH, resumed=True)
    drain(here, other)
    assert on_kafka(other) == logged(here)


def test_a_claim_that_another_runs_transaction_hides_is_waited_for(cluster: Cluster, here: Directory, elsewhere: Directory) -> None:
    """The last stable offset stands before the claim: a reader that took it for the end would find its own, older claim."""
    drain(here, cluster)
    before = on_kafka(cluster)
    go_on(here, RUN, LAST_EPOCH, resumed=False)
    topic = cluster.settings.topic(CLAIMS)

    async def race() -> Bridge:
        async with asyncio.timeout(WITHIN_S), producing(cluster.settings, "another") as another:
            await another.begin_transaction()
            for partition in range(cluster.settings.partitions):
                await another.send_and_wait(topic, b"another", key=b"another", partition=partition)
            await take_over(cluster.settings, elsewhere, RUN)
            bridge = Bridge(here, cluster.settings, jitter=lambda: 0.0)
            running = asyncio.create_task(bridge.run(asyncio.Event(), drain=True))
            while RUN not in bridge.state.waiting:
                await asyncio.sleep(0.02)
            done, _ = await asyncio.wait([running], timeout=2.0)
            assert not done
            assert bridge.state.shipped == 0
            await another.abort_transaction()
            await running
            return bridge

    assert asyncio.run(race()).state.fenced == {RUN}
    assert on_kafka(cluster) == before


@pytest.mark.parametrize("asleep", ["after its start", "after it read the claim", "within a transaction"])
def test_a_bridge_that_sleeps_through_a_takeover_writes_nothing(
    cluster: Cluster, here: Directory, elsewhere: Directory, asleep: str
) -> None:
    drain(here, cluster)
    before = on_kafka(cluster)
    go_on(here, RUN, LAST_EPOCH, resumed=False)
    settings, message = cluster.settings, outgoing(cluster.settings, log_of(here, RUN)[-1])

    async def sleep() -> None:
        async with producing(settings, transactional_id(RUN)) as producer:
            if asleep != "after its start":
                await own_claim(producer, settings, here, RUN)
            if asleep == "within a transaction":
                await producer.begin_transaction()
                await producer.send_and_wait(message.topic, message.value, key=message.key, headers=message.headers)
            await take_over(settings, elsewhere, RUN)
            if asleep == "after its start":
                await own_claim(producer, settings, here, RUN)
            elif asleep == "within a transaction":
                with explain_errors(settings):
                    await producer.commit_transaction()
            await transact(producer, settings, [message])

    with pytest.raises(FencedError):
        asyncio.run(asyncio.wait_for(sleep(), WITHIN_S))
    assert drain(here, cluster).state.fenced == {RUN}
    assert on_kafka(cluster) == before


def test_a_commit_that_was_done_but_reported_lost_is_not_shipped_again(
    cluster: Cluster, here: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def lose(*arguments: object) -> None:
        nonlocal tries
        tries += 1
        await transact(*arguments)  # type: ignore[arg-type]
        if tries == 1:
            raise LogError("the answer was lost")

    monkeypatch.setattr(shipping, "transact", lose)
    bridge = drain(here, cluster)
    assert (tries, bridge.state.shipped) == (1, 0)
    assert on_kafka(cluster) == logged(here)


def test_a_run_that_nobody_shipped_cannot_be_taken_over(cluster: Cluster, elsewhere: Directory) -> None:
    with pytest.raises(LogError, match=r"expected run .* which a bridge has shipped, got none"):
        asyncio.run(take_over(cluster.settings, elsewhere, RUN))
