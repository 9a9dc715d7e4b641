"""Who observes: one process at a time, and what a training says of the observer that it starts."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Self, cast

import pytest

from esper.observer import leader
from esper.observer.observing import Observer
from esper.oona.directory import Directory


class Alone:
    """An observer that sees the lock removed at its first turn."""

    idle = False

    def __init__(self, lock: Path) -> None:
        self._lock = lock

    def turn(self, _timeout_s: float) -> int:
        self._lock.unlink(missing_ok=True)
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


def test_an_observer_whose_lock_was_removed_takes_it_again_and_begins_anew(tmp_path: Path) -> None:
    made: list[Alone] = []

    def make() -> Observer:
        made.append(Alone(tmp_path / leader._LOCK))
        assert leader.observer_of(Directory(tmp_path)) == os.getpid()
        return cast("Observer", made[-1])

    leader.lead(Directory(tmp_path), make, stop=lambda: len(made) == 3, leave_after_s=None, waiting=lambda _pid: None)
    assert len(made) == 3


@contextmanager
def holding(path: Path) -> Iterator[int]:
    """The pid of another process that holds the lock at `path`."""
    program = "import sys; from pathlib import Path; from esper.oona.lock import Lock; Lock(Path(sys.argv[1]), 'it'); print(); input()"
    with Popen([sys.executable, "-uc", program, path], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
        process.communicate(b"\n")


def test_of_those_that_leave_by_themselves_one_waits(tmp_path: Path) -> None:
    directory, waited = Directory(tmp_path), list[int]()
    with holding(tmp_path / leader._LOCK) as present:
        with holding(tmp_path / leader._NEXT_LOCK):
            leader.lead(directory, _never, stop=lambda: False, leave_after_s=60.0, waiting=waited.append)
        assert waited == []
        leader.lead(directory, _never, stop=lambda: bool(waited), leave_after_s=60.0, waiting=waited.append)
        assert waited == [present]


def _never() -> Observer:
    raise AssertionError("another observes")


@pytest.mark.whole
def test_a_training_whose_observer_cannot_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(leader.OBSERVE_VARIABLE, raising=False)
    monkeypatch.setattr(leader, "find_spec", lambda _name: None)  # No agent, which would stay for a minute.
    (tmp_path / "alerts.toml").write_text("[[rule]\n")
    leader.start_watchers(Directory(tmp_path))
    (waiting,) = (thread for thread in threading.enumerate() if thread.name == "esper-observe")
    waiting.join(30)
    log = tmp_path / "observer.log"
    assert capsys.readouterr().err == f"esper: the observer that this training started ended with 1; the training goes on. Why: {log}\n"
    assert "alerts.toml:1:" in log.read_text()
