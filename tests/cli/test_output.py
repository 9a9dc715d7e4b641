"""Where the shell writes: terminals, pipes, programs."""

import json
import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.text import Text

from esper.cli.output import Output
from esper.folds.sorted_map import SortedMap
from esper.stderr import warn
from tests.cli.conftest import Terminal


class Pair(NamedTuple):
    name: str
    value: float


@dataclass(frozen=True)
class Held:
    where: Path
    pairs: SortedMap[str, float]


def written(value: object) -> object:
    """What a program reads of `value`."""
    file = StringIO()
    Output(file).json(value)
    return json.loads(file.getvalue())


def test_dataclasses_maps_and_named_tuples_are_objects_in_json() -> None:
    assert written(Held(Path("runs"), SortedMap([("loss", 0.5)]))) == {"where": "runs", "pairs": {"loss": 0.5}}
    assert written(Pair("loss", math.nan)) == {"name": "loss", "value": "NaN"}
    assert written({"worst": -math.inf}) == {"worst": "-Infinity"}


def test_what_has_no_json_form_is_a_fault() -> None:
    with pytest.raises(Exception, match="object has no JSON form"):
        written(object())


def test_an_item_is_a_line_in_a_pipe_and_is_indented_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    pipe, terminal = StringIO(), Terminal()
    words = "15 records, every number and chain is right; interrupted in epoch 4"
    for file in (pipe, terminal):
        Output(file).item("warning", "", "run 5043d6", words)
    assert pipe.getvalue() == f"warning  run 5043d6 {words}\n"
    first, second = terminal.getvalue().splitlines()
    assert first.rstrip() == "warning  run 5043d6 15 records, every number and chain is"
    assert second.rstrip() == f"{'':20}right; interrupted in epoch 4"


def test_a_pipe_is_as_wide_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert Output(StringIO()).width == 80
    monkeypatch.delenv("COLUMNS")
    assert Output(StringIO()).width == 100


def test_no_text_steers_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    foreign, shown = "a\x1b]0;b\u202ec", "a\\x1b]0;b\\u202ec"
    for file in (StringIO(), Terminal()):
        out = Output(file)
        out.line(foreign)
        out.item("FAIL", "", "check", foreign)
        out.print(Text(foreign, style="red"))
        assert file.getvalue().count(shown) == 3
        assert foreign not in file.getvalue()
    warn(foreign)
    assert capsys.readouterr().err == f"esper: {shown}\n"


@pytest.mark.parametrize("steering", ["\x1b[31m", "\r\n", "\x9b31m", "\u202e", "\U000e0001"])
def test_json_escapes_what_a_terminal_would_obey_and_says_the_same(steering: str) -> None:
    file = StringIO()
    Output(file).json({"name": f"a{steering}b é"})
    line = file.getvalue().removesuffix("\n")
    assert line.isprintable()
    assert json.loads(line) == {"name": f"a{steering}b é"}
