"""The doorbell: readers are woken, and neither a missing nor a dead reader ever disturbs a writer."""

import os
import socket
from pathlib import Path

import pytest

from esper.oona.doorbell import Bell, Ear, bell_folder
from tests.oona.samples import OTHER, RUN


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own; short, for the path of a socket has 108 bytes."""
    short = Path("/tmp") / f"esper-test-{os.getpid()}"  # noqa: S108
    short.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(short))
    return short


def test_every_reader_hears_which_run_rang(tmp_path: Path) -> None:
    ears = [Ear.open(tmp_path), Ear.open(tmp_path)]
    bells = [Bell(tmp_path, RUN), Bell(tmp_path, OTHER)]
    for bell in bells:
        bell.ring()
    assert [ear.listen(60.0) for ear in ears] == [{RUN, OTHER}, {RUN, OTHER}]
    for ear in ears:
        ear.close()
    for bell in bells:
        bell.close()


def test_a_reader_that_came_later_hears_the_next_ring(tmp_path: Path) -> None:
    bell = Bell(tmp_path, RUN)
    bell.ring()
    ear = Ear.open(tmp_path)
    bell.ring()
    assert ear.listen(60.0) == {RUN}
    ear.close()
    bell.close()


def test_silence_ends_after_the_timeout(tmp_path: Path) -> None:
    ear = Ear.open(tmp_path)
    assert ear.listen(0.001) == frozenset()
    ear.close()


def test_another_log_is_not_heard(tmp_path: Path) -> None:
    ear = Ear.open(tmp_path / "a")
    bell = Bell(tmp_path / "b", RUN)
    bell.ring()
    assert ear.listen(0.001) == frozenset()
    ear.close()
    bell.close()


def test_a_full_queue_does_not_hold_the_writer(tmp_path: Path) -> None:
    ear = Ear.open(tmp_path)
    bell = Bell(tmp_path, RUN)
    for _ in range(2000):
        bell.ring()
    assert ear.listen(60.0) == {RUN}
    ear.close()
    bell.close()


def test_the_socket_of_a_killed_reader_is_swept_away(tmp_path: Path) -> None:
    folder = bell_folder(tmp_path)
    assert folder is not None
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(os.fspath(folder / "99999-1"))
    dead.close()
    bell = Bell(tmp_path, RUN)
    bell.ring()
    assert list(folder.iterdir()) == []
    bell.close()


def test_a_closed_ear_leaves_nothing_behind(tmp_path: Path) -> None:
    ear = Ear.open(tmp_path)
    ear.close()
    ear.close()
    folder = bell_folder(tmp_path)
    assert folder is not None
    assert list(folder.iterdir()) == []


def test_a_folder_open_to_others_is_not_used(tmp_path: Path, runtime: Path) -> None:
    folder = bell_folder(tmp_path)
    assert folder is not None
    assert folder.is_relative_to(runtime)
    folder.chmod(0o777)
    assert bell_folder(tmp_path) is None
    folder.chmod(0o700)


def test_without_a_runtime_folder_a_private_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    folder = bell_folder(tmp_path)
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.name == f"esper-{os.getuid()}"


def test_without_any_folder_readers_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(long))
    bell, ear = Bell(tmp_path, RUN), Ear.open(tmp_path)
    bell.ring()
    assert ear.listen(0.001) == frozenset()
    bell.close()
    ear.close()
