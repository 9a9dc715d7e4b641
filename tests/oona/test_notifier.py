"""Notifications: readers are woken, and neither a missing nor a dead reader ever disturbs a writer."""

import os
import socket
from pathlib import Path

import pytest

from esper.oona.notifier import Listener, Notifier, _socket_folder
from tests.oona.samples import OTHER, RUN


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own; short, for the path of a socket has 108 bytes."""
    short = Path("/tmp") / f"esper-test-{os.getpid()}"  # noqa: S108
    short.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(short))
    return short


def test_every_reader_is_notified_of_each_run(tmp_path: Path) -> None:
    listeners = [Listener(tmp_path), Listener(tmp_path)]
    notifiers = [Notifier(tmp_path, RUN), Notifier(tmp_path, OTHER)]
    for notifier in notifiers:
        notifier.notify()
    assert [listener.notified(60.0) for listener in listeners] == [{RUN, OTHER}, {RUN, OTHER}]
    for listener in listeners:
        listener.close()
    for notifier in notifiers:
        notifier.close()


def test_a_later_reader_gets_the_next_notification(tmp_path: Path) -> None:
    notifier = Notifier(tmp_path, RUN)
    notifier.notify()
    listener = Listener(tmp_path)
    notifier.notify()
    assert listener.notified(60.0) == {RUN}
    listener.close()
    notifier.close()


def test_silence_ends_after_the_timeout(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    assert listener.notified(0.001) == frozenset()
    listener.close()


def test_another_log_notifies_nobody_here(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "a")
    notifier = Notifier(tmp_path / "b", RUN)
    notifier.notify()
    assert listener.notified(0.001) == frozenset()
    listener.close()
    notifier.close()


def test_a_full_queue_does_not_hold_the_writer(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    notifier = Notifier(tmp_path, RUN)
    for _ in range(2000):
        notifier.notify()
    assert listener.notified(60.0) == {RUN}
    listener.close()
    notifier.close()


def test_the_socket_of_a_killed_reader_is_swept_away(tmp_path: Path) -> None:
    folder = _socket_folder(tmp_path)
    assert folder is not None
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(os.fspath(folder / "99999-1"))
    dead.close()
    notifier = Notifier(tmp_path, RUN)
    notifier.notify()
    assert list(folder.iterdir()) == []
    notifier.close()


def test_a_closed_listener_leaves_nothing_behind(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    listener.close()
    listener.close()
    folder = _socket_folder(tmp_path)
    assert folder is not None
    assert list(folder.iterdir()) == []


def test_a_folder_open_to_others_is_not_used(tmp_path: Path, runtime: Path) -> None:
    folder = _socket_folder(tmp_path)
    assert folder is not None
    assert folder.is_relative_to(runtime)
    folder.chmod(0o777)
    assert _socket_folder(tmp_path) is None
    folder.chmod(0o700)


def test_without_a_runtime_folder_a_private_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    folder = _socket_folder(tmp_path)
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.name == f"esper-{os.getuid()}"


def test_without_any_folder_readers_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(long))
    notifier, listener = Notifier(tmp_path, RUN), Listener(tmp_path)
    notifier.notify()
    assert listener.notified(0.001) == frozenset()
    notifier.close()
    listener.close()
