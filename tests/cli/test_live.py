"""The live display: it shows what is on disk, and nothing that happens to it reaches the training."""

import threading
from io import StringIO
from pathlib import Path

import pytest

from esper.cli.live import live_display
from esper.cli.output import Output
from esper.oona.directory import Directory
from tests.cli.conftest import Terminal
from tests.synthetic import EPOCHS, RUN, write_run


def test_elsewhere_than_on_a_terminal_each_epoch_and_decision_is_a_line(tmp_path: Path) -> None:
    file = StringIO()
    with live_display(Directory(tmp_path), RUN, Output(file)):
        write_run(Directory(tmp_path))
    lines = file.getvalue().splitlines()
    epochs = [line for line in lines if "  train " in line]
    assert len(epochs) == EPOCHS - 1
    assert any("graft hidden.0 s0" in line and line.endswith("applied") for line in lines)
    assert any(line.endswith("refused: cap") for line in lines)
    assert lines[-1].startswith("  14  finished")


def test_a_long_run_has_a_line_every_ten_epochs(tmp_path: Path) -> None:
    file = StringIO()
    with live_display(Directory(tmp_path), RUN, Output(file)):
        write_run(Directory(tmp_path), planned=80)
    epochs = [int(line.split("/")[0]) for line in file.getvalue().splitlines() if "  train " in line]
    assert epochs == [1, 10]


def test_on_a_terminal_the_last_panel_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    file = Terminal()
    with live_display(Directory(tmp_path), RUN, Output(file)):
        write_run(Directory(tmp_path))
    last = file.getvalue().rpartition("esper · digits")[2]
    assert "finished" in last
    assert "14/14" in last
    assert "refused: finite" in last


def test_what_was_in_the_log_before_is_not_told_again(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=5, finish=False)
    file = StringIO()
    with live_display(Directory(tmp_path), RUN, Output(file)):
        pass
    assert file.getvalue() == ""


def test_a_run_that_never_begins_shows_nothing(tmp_path: Path) -> None:
    file = StringIO()
    with live_display(Directory(tmp_path), RUN, Output(file)):
        pass
    assert file.getvalue() == ""


def test_the_run_is_sealed_in_spite_of_its_reader(tmp_path: Path) -> None:
    with live_display(Directory(tmp_path), RUN, Output(StringIO())):
        write_run(Directory(tmp_path))
    entry = Directory(tmp_path).entry(RUN)
    assert entry is not None
    assert entry.sealed


def test_a_display_that_fails_says_so_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(StringIO):
        def write(self, _text: str) -> int:
            raise OSError("no space left")

    with live_display(Directory(tmp_path), RUN, Output(Full())):
        write_run(Directory(tmp_path))
    assert "esper: the display has ended, training goes on: no space left" in capsys.readouterr().err
    assert Directory(tmp_path).entry(RUN) is not None


def test_the_display_s_thread_ends_with_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), live_display(Directory(tmp_path), RUN, Output(StringIO())):
        raise ZeroDivisionError
    assert "live display" not in {thread.name for thread in threading.enumerate()}


def test_what_ended_in_an_error_is_shown_up_to_it(tmp_path: Path) -> None:
    file = StringIO()

    def break_off() -> None:
        write_run(Directory(tmp_path), until_epoch=3, finish=False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), live_display(Directory(tmp_path), RUN, Output(file)):
        break_off()
    assert "   3/14  train" in file.getvalue()
