"""kill -9 at any moment: what was acknowledged is there, dense and chained, and the run goes on."""

import random
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events import topics
from esper.events.envelope import moment_of
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.file import ONE_HOST, RUN_FILE, WRITER_LOCK
from tests.oona.processes import child, line
from tests.oona.samples import RUN, command, everything, ticking


def kill_after(directory: Path, acknowledged: int) -> str:
    """The id of the last record that a writer had acknowledged when it was killed: it goes on writing until the signal arrives."""
    last = ""
    with child("write", directory) as process:
        for _ in range(acknowledged):
            last = line(process)
        process.kill()
        said = process.output.read().splitlines()
    return said[-1] if said and said[-1].startswith(RUN) else last


@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("acknowledged", [1, 20])
def test_everything_acknowledged_survives_a_kill(directory: Directory, acknowledged: int, shared_memory: bool) -> None:
    if not shared_memory:
        (directory.path / ONE_HOST).touch()
    last = kill_after(directory.path, acknowledged)
    with directory.open(RUN) as log:
        records = everything(log)
        heads = log.heads()
    assert last in {record.id for record in records}
    assert heads.moment == len(records) >= moment_of(records[-1].id)


def test_a_killed_run_goes_on_with_the_next_number(directory: Directory) -> None:
    kill_after(directory.path, 3)
    with directory.resume(RUN) as log:
        before = log.heads()
        with Emitter(log, RUN, clock=ticking()) as emitter:
            emitter.emit(command(1), epoch=0, step=before.step)
        after = everything(log)[-1]
    assert after.moment == before.moment + 1
    assert after.sequence == before.topic(topics.COMMANDS).sequence + 1
    assert after.time == before.time


def test_a_reader_alone_recovers_what_a_killed_writer_left(directory: Directory) -> None:
    kill_after(directory.path, 5)
    assert (directory.path / RUN / (RUN_FILE + "-wal")).stat().st_size > 0
    with directory.open(RUN) as log:
        assert len(everything(log)) >= 40


@pytest.mark.whole
def test_many_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)
    for attempt in range(25):
        directory = Directory(tmp_path / str(attempt), create=True)
        last = kill_after(directory.path, chance.randrange(1, 60))
        with directory.resume(RUN) as log:
            assert moment_of(log.heads().anchor or everything(log)[0].id) == 1
            assert last in {record.id for record in everything(log, frozenset({topics.COMMANDS}))}


def test_a_wal_that_was_cut_off_is_said_and_costs_only_what_was_cut(directory: Directory) -> None:
    kill_after(directory.path, 10)
    wal = directory.path / RUN / (RUN_FILE + "-wal")
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 1000)
    with pytest.raises(LogError, match="records before the one that was written last"):
        directory.resume(RUN)
    (directory.path / RUN / WRITER_LOCK).unlink()
    with directory.resume(RUN) as log:
        records = everything(log)
    assert [record.moment for record in records] == list(range(1, len(records) + 1))


def test_a_file_under_its_wal_that_was_damaged_is_refused(directory: Directory) -> None:
    kill_after(directory.path, 2)
    path = directory.path / RUN / RUN_FILE
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(LogError, match="expected a run's SQLite file"):
        directory.resume(RUN)
