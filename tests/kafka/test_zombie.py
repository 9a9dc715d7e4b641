"""A run that was resumed elsewhere while its old process still lived: what the old one goes on saying changes nothing, and shows."""

import asyncio
import shutil
import uuid
from dataclasses import dataclass
from random import Random

import pytest
from aiokafka.errors import ProducerFenced

from esper.events.envelope import Record
from esper.folds.gaps_and_duplicates import Reason
from esper.oona.directory import Directory
from tests.folds.readers import Reader, local_digests
from tests.kafka.delivery import interleaved, mixed, queues_of
from tests.kafka.recorded import INTERRUPTED_EPOCH, LAST_EPOCH, go_on, log_of, run_of
from tests.kafka.wire import Wire
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

RUN = run_of(2)


@dataclass(frozen=True, repr=False)
class Lives:
    """What both processes said before, and what each said after."""

    before: tuple[Record, ...]
    zombie: tuple[Record, ...]
    resumed: tuple[Record, ...]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    here, elsewhere = Directory(tmp_path_factory.mktemp("here")), Directory(tmp_path_factory.mktemp("elsewhere"))
    write_run(here, run=RUN, until_epoch=INTERRUPTED_EPOCH, finish=False)
    before = log_of(here, RUN)
    shutil.copytree(here.path / RUN, elsewhere.path / RUN)
    go_on(here, RUN, LAST_EPOCH + 2, resumed=False)
    go_on(elsewhere, RUN, LAST_EPOCH, resumed=True)
    return Lives(before, log_of(here, RUN)[len(before) :], log_of(elsewhere, RUN)[len(before) :])


@pytest.mark.parametrize("seed", range(4))
def test_a_zombie_that_nobody_fenced_off_is_one_conflict_after_the_other(lives: Lives, kafka: str, seed: int) -> None:
    every = (*lives.before, *lives.resumed)
    rng = Random(seed)

    async def travel() -> list[Record]:
        wire = await Wire.lay(kafka, {record.topic for record in every})
        await wire.commit(mixed(every, rng), mixed(lives.zombie, rng))
        return [wire.record(message) for message in interleaved(queues_of(await wire.read()), rng)]

    reader = Reader().take_all(asyncio.run(travel()))
    assert len(reader.conflicts) == len(lives.zombie)
    assert {drop.reason for drop in reader.drops} == {Reason.CONFLICT}
    assert reader.digests(RUN) == local_digests(every)


def test_a_zombie_is_fenced_off_by_the_bridge_of_the_resumed_run(lives: Lives, kafka: str) -> None:
    every = (*lives.before, *lives.resumed)
    name = f"bridge-{RUN}-{uuid.uuid4()}"

    async def travel() -> tuple[list[Record], list[Record]]:
        wire = await Wire.lay(kafka, {record.topic for record in every})
        async with wire.bridge(name) as zombie:
            await zombie.begin_transaction()
            await wire.send(zombie, lives.zombie)
            async with wire.bridge(name) as bridge, bridge.transaction():
                await wire.send(bridge, every)
            with pytest.raises(ProducerFenced):
                await zombie.commit_transaction()
        return [wire.record(one) for one in await wire.read()], [wire.record(one) for one in await wire.read("read_uncommitted")]

    committed, everything_there = asyncio.run(travel())
    reader = Reader().take_all(committed)
    assert reader.drops == []
    assert reader.digests(RUN) == local_digests(every)
    assert len(everything_there) == len(every) + len(lives.zombie)
