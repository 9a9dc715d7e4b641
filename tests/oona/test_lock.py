"""The lock of a run: held by one process, dies with it, and is asked about without being disturbed."""

import os
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.oona.lock import Lock, holder_of

FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def forked(action: object) -> int:
    """The exit code of a forked child that runs `action`."""
    assert callable(action)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(int(action()))
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_refused(path: Path) -> int:
    try:
        Lock(path, "run x").release()
    except LogError as error:
        return 1 if f"process {os.getppid()}" in str(error) else 2
    return 0


def test_nobody_holds_what_does_not_exist(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "lock") is None


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", "run x")
    assert holder_of(tmp_path / "lock") == os.getpid()
    lock.release()
    lock.release()
    assert holder_of(tmp_path / "lock") is None
    Lock(tmp_path / "lock", "run x").release()


def test_the_same_process_is_refused_a_second_time(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", "run x")
    with pytest.raises(LogError, match="run x is being written by this process"):
        Lock(tmp_path / "lock", "run x")
    lock.release()


@FORKS
def test_another_process_is_refused_with_the_pid_of_the_holder(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", "run x")
    assert forked(lambda: is_refused(tmp_path / "lock")) == 1
    lock.release()
    assert forked(lambda: is_refused(tmp_path / "lock")) == 0


@FORKS
def test_asking_about_a_lock_does_not_lose_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", "run x")
    holder_of(tmp_path / "lock")
    with pytest.raises(LogError):
        Lock(tmp_path / "lock", "run x")
    assert forked(lambda: is_refused(tmp_path / "lock")) == 1
    lock.release()


@FORKS
def test_a_forked_child_neither_holds_nor_releases_the_lock(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", "run x")

    def child() -> int:
        lock.release()
        return 1 if holder_of(tmp_path / "lock") == os.getppid() else 0

    assert forked(child) == 1
    assert forked(lambda: is_refused(tmp_path / "lock")) == 1
    lock.release()


@FORKS
def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def trainer() -> int:
        Lock(tmp_path / "lock", "run x")
        if os.fork() == 0:
            os.close(writing)
            os.read(reading, 1)  # A DataLoader worker that goes on after its trainer.
            os._exit(0)
        os.kill(os.getpid(), 9)
        return 0

    assert forked(trainer) == -9
    assert holder_of(tmp_path / "lock") is None
    Lock(tmp_path / "lock", "run x").release()
    os.close(writing)
    os.close(reading)
