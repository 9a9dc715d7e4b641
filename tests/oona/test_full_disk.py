"""A full disk: what was acknowledged is readable, the error is clear, and the reserve has room for the last words."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.codec import decode
from esper.events.envelope import EventId
from esper.events.kinds.run import RunFailed
from esper.oona.daily_run import DailyRun
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.run_log import RunLog
from tests.nissa.samples import resources
from tests.oona.samples import RUN, everything, measure, pruned, steps, ticking

BIG = pruned(0).model_copy(update={"reason": "x" * 40_000})


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of four MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(emitter: Emitter) -> list[EventId]:
    """Emits until the disk is full; the ids that were acknowledged."""
    acknowledged: list[EventId] = []
    for step in range(1000):
        measure(emitter, steps(step), epoch=0, step=step)
        said = emitter.emit(BIG, epoch=0, step=step)
        emitter.commit()
        acknowledged.append(said)
    return acknowledged


def filled(log: RunLog) -> Emitter:
    emitter = Emitter(log, RUN, clock=ticking(), heartbeat_s=1e6)
    with pytest.raises(LogError, match="the disk is full"):
        fill(emitter)
    return emitter


def test_a_full_disk_is_said_with_the_file_it_is_about(small: Path) -> None:
    with Directory(small).create(RUN) as log:
        emitter = filled(log)
        with pytest.raises(LogError, match="the disk is full") as raised:
            emitter.commit()
        assert os.fspath(log.path) in str(raised.value)
        with pytest.raises(LogError):
            emitter.close()


def test_the_last_words_find_room_on_a_full_disk(small: Path) -> None:
    directory = Directory(small)
    with directory.create(RUN) as log:
        filled(log).fail("log", "the disk is full", where="epoch 0", epoch=0, step=1000)
        durable = everything(log)
    with directory.open(RUN) as log:
        records = everything(log)
        assert log.heads().moment == len(records)
    assert records == durable
    failed = decode(records[-1])
    assert isinstance(failed, RunFailed)
    assert (failed.kind, len(records) > 50) == ("log", True)


def test_the_last_words_find_room_where_something_else_has_filled_the_disk(small: Path) -> None:
    directory = Directory(small)
    with directory.create(RUN) as log:
        emitter = Emitter(log, RUN, clock=ticking(), heartbeat_s=1e6)
        emitter.emit(pruned(0), epoch=0, step=0)
        emitter.commit()
        with pytest.raises(OSError, match="No space left"):
            (small / "ballast").write_bytes(bytes(4 << 20))
        emitter.fail("error", "no room for a checkpoint", where="epoch 0", epoch=0, step=0)
        assert decode(everything(log)[-1]).KIND == RunFailed.KIND


def test_a_run_goes_on_once_there_is_room_again(small: Path) -> None:
    directory = Directory(small)
    with directory.create(RUN) as log:
        filled(log).fail("log", "the disk is full", where="epoch 0", epoch=0, step=1000)
        before = len(everything(log))
    subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
    with directory.resume(RUN) as log:
        with Emitter(log, RUN, clock=ticking(), heartbeat_s=1e6) as emitter:
            emitter.emit(pruned(1), epoch=0, step=1000)
        assert len(everything(log)) == before + 1


def test_a_disk_without_room_for_the_reserve_takes_no_run(small: Path) -> None:
    (small / "ballast").write_bytes(b"\0" * (3500 << 10))
    with pytest.raises(LogError, match="No space left on device") as raised:
        Directory(small).create(RUN)
    assert os.fspath(small) in str(raised.value)
    assert not list(small.rglob("reserve"))


def test_last_words_are_written_though_the_reserve_cannot_be_freed(tmp_path: Path) -> None:
    with Directory(tmp_path).create(RUN) as log:
        (tmp_path / RUN / "reserve").unlink()
        (tmp_path / RUN / "reserve").mkdir()  # As where a permission was lost.
        emitter = Emitter(log, RUN, clock=ticking())
        emitter.emit(pruned(1), epoch=0, step=0)
        emitter.fail("error", "permission lost", where="epoch 0", epoch=0, step=0)
    with Directory(tmp_path).open(RUN) as log:
        assert everything(log)[-1].type == RunFailed.KIND


def test_a_daily_run_that_finds_no_room_tries_no_other(small: Path) -> None:
    directory = Directory(small)
    with pytest.raises(OSError, match="No space left"):
        (small / "ballast").write_bytes(bytes(5 << 20))
    run = DailyRun(directory, "machine", "agent", ticking(), instances=9)
    with pytest.raises(LogError, match=r"disk is full|No space left"):
        run.append([resources()])
    assert len([path for path in small.iterdir() if path.is_dir()]) < 2
