"""A writer whose files are removed, moved or replaced under it: it stops, says which, and what was acknowledged is there."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE, RUN_FILE
from esper.oona.mirrored import MirroredRun
from esper.oona.observed import Observed, read_observed
from esper.oona.run_log import RunLog
from tests.oona.samples import RUN, everything, mixed
from tests.oona.test_observed import derived

RECORDS = mixed(300)


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def link(path: Path) -> None:
    path.rename(path.with_name("target"))
    path.symlink_to("target")


HARMS = (remove, move, replace, link)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", [RUN_FILE, RUN_FILE + "-wal", RUN_FILE + "-shm", "lock"])
def test_a_run_whose_file_is_not_in_its_place_takes_nothing_more(directory: Directory, name: str, harm: Callable[[Path], None]) -> None:
    with directory.create(RUN) as log:
        log.append(RECORDS[:100])
        harm(directory.path / RUN / name)
        for _ in range(2):
            with pytest.raises(LogError, match=f"cannot append to .*/{name} was removed, moved or replaced while it was written"):
                log.append(RECORDS[100:200])
        assert log.heads().row == 100


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", [RUN_FILE + "-wal", RUN_FILE + "-shm", "lock"])
def test_what_was_acknowledged_is_there_when_a_file_beside_it_was_lost(
    directory: Directory, name: str, harm: Callable[[Path], None]
) -> None:
    with directory.create(RUN) as log:
        log.append(RECORDS[:100])
        harm(directory.path / RUN / name)
        with pytest.raises(LogError):
            log.append(RECORDS[100:200])
    (directory.path / RUN / name).unlink(missing_ok=True)
    with directory.resume(RUN) as log:
        assert everything(log) == RECORDS[:100]
        log.append(RECORDS[100:200])
    with directory.open(RUN) as log:
        assert everything(log) == RECORDS[:200]
        log.heads()


def test_a_run_that_was_moved_while_it_was_written_goes_on_where_it_is_now(tmp_path: Path) -> None:
    with Directory(tmp_path / "here", create=True).create(RUN) as log:
        log.append(RECORDS[:100])
        (tmp_path / "here").rename(tmp_path / "there")
        with pytest.raises(LogError, match="removed, moved or replaced"):
            log.append(RECORDS[100:200])
    with Directory(tmp_path / "there").resume(RUN) as log:
        assert log.heads().row == 100
        log.append(RECORDS[100:200])


def test_a_writer_that_was_moved_away_leaves_alone_what_stands_in_its_place(tmp_path: Path) -> None:
    here = Directory(tmp_path / "here", create=True)
    with here.create(RUN) as log:
        log.append(RECORDS[:100])
        (tmp_path / "here").rename(tmp_path / "there")
        other = Directory(tmp_path / "here", create=True).create(RUN)
        other.append(RECORDS[:50])
    assert (tmp_path / "here" / RUN / "reserve").exists()
    other.append(RECORDS[50:100])
    other.close()
    with here.open(RUN) as read:
        assert everything(read) == RECORDS[:100]


def test_of_two_writers_that_got_past_the_lock_one_writes(directory: Directory) -> None:
    first = directory.create(RUN)
    first.append(RECORDS[:100])
    (directory.path / RUN / "lock").unlink()
    with directory.resume(RUN) as second:
        (directory.path / RUN / "lock").rename(directory.path / RUN / "kept")
        with pytest.raises(LogError, match="lock was removed, moved or replaced"):
            first.append(RECORDS[100:200])
        (directory.path / RUN / "kept").rename(directory.path / RUN / "lock")
        second.append(RECORDS[100:150])
    first.close()
    with directory.open(RUN) as log:
        assert everything(log) == RECORDS[:150]
        log.heads()


def test_a_writer_that_does_not_know_the_end_of_the_log_writes_nothing(directory: Directory) -> None:
    with directory.create(RUN) as log:
        log.append(RECORDS[:100])
        before = log.heads()
        log.append(RECORDS[100:150])
        assert log._writer is not None
        log._writer.heads = before  # As after an append that was done, and reported lost.
        with pytest.raises(LogError, match="it does not end where its writer left it"):
            log.append(RECORDS[100:120])
    with directory.open(RUN) as log:
        assert everything(log) == RECORDS[:150]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", [OBSERVED_FILE, OBSERVED_FILE + "-wal", OBSERVED_FILE + "-shm"])
def test_an_observed_file_that_is_not_in_its_place_takes_nothing_more(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    with Observed(tmp_path, RUN) as observed:
        observed.save([derived("a")])
        harm(tmp_path / name)
        with pytest.raises(LogError, match=f"/{name} was removed, moved or replaced while it was written"):
            observed.save([derived("b")])


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", [OBSERVED_FILE + "-wal", OBSERVED_FILE + "-shm"])
def test_what_was_derived_is_there_when_a_file_beside_it_was_lost(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    with Observed(tmp_path, RUN) as observed:
        observed.save([derived("a")])
        harm(tmp_path / name)
        with pytest.raises(LogError):
            observed.save([derived("b")])
    (tmp_path / name).unlink(missing_ok=True)
    with Observed(tmp_path, RUN) as observed:
        observed.save([derived("c")])
    assert [record.id for record in read_observed(tmp_path, RUN).records] == ["a", "c"]


@pytest.mark.parametrize("name", [RUN_FILE, RUN_FILE + "-wal"])
def test_a_copy_from_kafka_that_is_not_in_its_place_takes_nothing_more(tmp_path: Path, name: str) -> None:
    with MirroredRun(tmp_path / RUN, RUN, "trainer") as copy:
        copy.append([(row, record) for row, record in enumerate(RECORDS[:50], start=1)])
        (tmp_path / RUN / name).unlink()
        with pytest.raises(LogError, match=f"/{name} was removed, moved or replaced"):
            copy.append([(row, record) for row, record in enumerate(RECORDS[50:60], start=51)])


def test_a_lock_that_was_replaced_as_it_was_taken_is_none(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.create(RUN).close()
    path = directory.path / RUN / "lock"
    opened = os.open

    def replaced(name: str | Path, *arguments: int) -> int:
        descriptor = opened(name, *arguments)
        if name == path:
            monkeypatch.setattr(os, "open", opened)
            path.unlink()
            path.touch()
        return descriptor

    path.unlink()
    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(LogError, match="removed or replaced at that moment"):
        RunLog.resume(directory.path / RUN)
    RunLog.resume(directory.path / RUN).close()
