"""Who observes: one process at a time, and what a training says of the observer that it starts."""

import os
import threading
from pathlib import Path
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
