"""Who and what a run of `esper.fit` is labelled with, and what is left out of its log."""

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from esper.errors import SettingsError
from esper.events.kinds.run import RunResumed, RunStarted
from esper.events.kinds.training_description import TrainingDescribed
from esper.oona.directory import Directory
from esper.processes.train import Result
from esper.tolaria.trainer import Interrupted
from tests.api.fitted import fit
from tests.recipes import Acting, events
from tests.tolaria.worlds import STEPS


def test_who_started_a_run_who_approved_its_limits_and_its_account_stand_in_the_log(tmp_path: Path) -> None:
    result = fit(tmp_path, epochs=1, by=" Ada  Example ", approved_by="Grace")
    (started,) = events(Directory(tmp_path), result.run, RunStarted)
    assert (started.by, started.approved_by) == ("Ada Example", "Grace")
    assert started.account == psutil.Process().username()


def test_who_is_not_named_is_not_made_up(finished: tuple[Path, Result]) -> None:
    log, result = finished
    (started,) = events(Directory(log), result.run, RunStarted)
    assert (started.by, started.approved_by) == (None, None)


@pytest.mark.parametrize("given", [{"by": "  "}, {"approved_by": "  "}])
def test_a_blank_names_nobody(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="by=: expected the name of a person, got '  '"):
        fit(tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()


def test_a_resumed_run_keeps_who_started_it_and_says_who_resumed_it(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(tmp_path, train=Acting(STEPS + 1, lambda: signal.raise_signal(signal.SIGINT)), by="ada")
    resumed = fit(tmp_path, train=Acting(0, lambda: None), resume="latest", by="grace")
    directory = Directory(tmp_path)
    assert [event.by for event in events(directory, resumed.run, RunStarted)] == ["ada"]
    assert [event.environment_changes for event in events(directory, resumed.run, RunResumed)] == [("by was 'ada', is 'grace'",)]


def test_labels_and_source_stand_in_the_log_with_secrets_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--token", "abc", "--lr=0.1"])
    labels: dict[str, Any] = {"name": "baseline", "tags": ["a"], "notes": "n", "config": {"lr": 0.1, "api_key": "abc"}}
    result = fit(tmp_path, epochs=1, grow=None, record_source=False, **labels)
    [started] = events(Directory(tmp_path), result.run, RunStarted)
    assert (started.name, started.tags, started.notes, started.config) == ("baseline", ("a",), "n", {"lr": 0.1, "api_key": "***"})
    assert started.code.argv == ("train.py", "--token", "***", "--lr=0.1")
    assert [one.sources for one in events(Directory(tmp_path), result.run, TrainingDescribed)] == [None]


def test_command_line_is_left_out_where_that_is_asked(tmp_path: Path) -> None:
    result = fit(tmp_path, epochs=1, grow=None, record_argv=False)
    assert [one.code.argv for one in events(Directory(tmp_path), result.run, RunStarted)] == [None]


def test_label_that_cannot_be_kept_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="config: expected a mapping"):
        fit(tmp_path / "log", config=[1])
    assert not (tmp_path / "log").exists()
