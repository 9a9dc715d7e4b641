"""In 80 columns, on a terminal and in a pipe, no number is cut, and none loses its unit."""

import re
import sys
from io import StringIO
from pathlib import Path

import pytest

from esper.cli.live import transcript
from esper.cli.main import main
from esper.history.run_history import FoldedRun
from esper.oona.directory import Directory
from tests.cli.conftest import Terminal, rendered

CUT = re.compile(r"(?<!\w)[-+]?\d[\d.,e+-]*( ?[A-Za-z%/]+)?…")
"""A number, or one and a part of a unit, before an ellipsis; a name may be cut."""

COMMANDS = [
    "runs",
    "show latest",
    "show latest --all",
    "show latest --epoch 4",
    "log latest",
    "log latest --topic telemetry.training.steps",
    "log latest --topic decisions",
    "replay latest --speed 1000000",
    "alerts list",
    "alerts rules",
    "doctor",
]


def test_the_pattern_finds_what_was_cut() -> None:
    assert [bool(CUT.search(line)) for line in ("valid 0.8…", "460 par…", "3.2 ms/st…", "…7c21ab", "0.806  …", "site hid…n")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_unit_is_cut(command: str, *, terminal: bool, observed_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    file = Terminal() if terminal else StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    main([*command.split(), "--log", str(observed_log)])
    assert file.getvalue().strip()
    assert [line for line in file.getvalue().splitlines() if CUT.search(line)] == []


def test_a_training_as_it_goes_on_cuts_none(synthetic_log: Path) -> None:
    directory = Directory(synthetic_log)
    run = directory.resolve("latest")
    folded, lines = FoldedRun(run), list[str]()
    with directory.open(run) as log:
        while records := folded.read(log, 1):
            lines += rendered(*transcript(records[0], folded, 80), width=80)
    assert any("valid" in line for line in lines)
    assert [line for line in lines if CUT.search(line) or len(line) > 80] == []
