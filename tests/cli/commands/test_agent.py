"""`esper agent` beside another one."""

from pathlib import Path

import pytest

from esper.cli.main import main
from esper.oona.directory import Directory
from esper.oona.lock import Lock
from esper.processes.resource_agent import AGENT_LOCK


def test_of_the_agents_that_trainings_start_none_waits_beside_one_that_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stay(*_: object) -> None:
        raise AssertionError("a second agent measures")

    monkeypatch.setattr("esper.processes.resource_agent.run_agent", stay)
    lock = Lock(Directory(tmp_path, create=True).path / AGENT_LOCK, "the machine")
    assert main(["agent", "--log", str(tmp_path), "--background"]) == 0
    lock.release()
    assert capsys.readouterr() == ("", "")
