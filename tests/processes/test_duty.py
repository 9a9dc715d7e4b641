"""Who observes: what a training says of the observer that it starts."""

import threading
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.processes import duty

pytestmark = pytest.mark.whole


def test_a_training_whose_observer_cannot_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(duty.OBSERVE_VARIABLE, raising=False)
    monkeypatch.setattr(duty, "find_spec", lambda _name: None)  # No agent, which would stay for a minute.
    (tmp_path / "alerts.toml").write_text("[[rule]\n")
    duty.start_watchers(Directory(tmp_path))
    (waiting,) = (thread for thread in threading.enumerate() if thread.name == "esper-observe")
    waiting.join(30)
    log = tmp_path / "observer.log"
    assert capsys.readouterr().err == f"esper: the observer that this training started ended with 1; the training goes on. Why: {log}\n"
    assert "alerts.toml:1:" in log.read_text()
