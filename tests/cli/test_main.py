"""Exit codes, errors, pipes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from esper.cli.main import main
from tests.cli.conftest import Esper

PYTHON = (sys.executable, "-m", "esper.cli")


def test_the_version_is_the_distribution_s(esper: Esper) -> None:
    said = esper("--version")
    assert (said.code, said.out.split()[0]) == (0, "esper")


def test_nothing_typed_is_a_usage_error(esper: Esper) -> None:
    said = esper()
    assert (said.code, "COMMAND" in said.err) == (2, True)


@pytest.mark.parametrize(
    "typed",
    [
        ("grow",),
        ("show",),
        ("show", "latest", "--at", "soon"),
        ("show", "latest", "--at", "3", "--epoch", "2"),
        ("replay", "latest", "--speed", "nan"),
        ("replay", "latest", "--speed", "0"),
        ("log", "latest", "--format", "xml"),
        ("export", "latest"),
    ],
)
def test_what_is_not_understood_is_a_usage_error(esper: Esper, typed: tuple[str, ...]) -> None:
    said = esper(*typed)
    assert (said.code, said.out) == (2, "")
    assert "usage: esper" in said.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("show", "ffffff"), "no run begins or ends with 'ffffff'"),
        (("show", "latest", "--at", "999"), "expected a moment from 0 to 233, the last on disk, got 999"),
        (("show", "latest", "--epoch", "99"), "expected an epoch from 0 to 14, the last that is over, got 99"),
        (("log", "latest", "--topic", "telemetry"), "4 topics have it"),
        (("replay", "latest", "--from", "999"), "expected --from to be a moment from 1 to 233, got 999"),
        (("runs", "--log", "/nowhere"), "expected a log at /nowhere, got nothing: name it with --log"),
    ],
)
def test_an_error_is_a_line_on_standard_error_and_1(esper: Esper, typed: tuple[str, ...], message: str) -> None:
    said = esper(*typed)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("esper: ")
    assert message in said.err
    assert len(said.err.splitlines()) == 1


def test_an_option_names_the_log_and_the_environment_is_asked_after_it(esper: Esper, tmp_path: Path) -> None:
    assert "no runs in" in esper("runs", "--log", str(tmp_path)).out
    assert "7c21ab" in esper("runs").out


def test_an_interrupted_command_exits_with_130(esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("esper.cli.commands.runs.summaries", interrupted)
    assert esper("runs").code == 130


@pytest.mark.whole
def test_a_pipe_whose_reader_goes_away_ends_quietly(synthetic_log: Path) -> None:
    command = (*PYTHON, "log", "latest", "--format", "jsonl", "--log", str(synthetic_log))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


READING = (("show", "latest"), ("replay", "latest"), ("runs",), ("log", "latest"))
PROGRAM = """
import sys
from esper.cli.main import main
for typed in {typed}:
    print("esper", *typed)
    assert main([*typed, "--log", sys.argv[1]]) == 0
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


@pytest.fixture(scope="module")
def piped(synthetic_log: Path) -> "subprocess.CompletedProcess[str]":
    """What every command that reads says into a pipe, one after another, in a process of its own."""
    command = (sys.executable, "-c", PROGRAM.format(typed=READING), str(synthetic_log))
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.whole
def test_a_pipe_gets_no_colours_and_no_cursor_movements(piped: "subprocess.CompletedProcess[str]") -> None:
    _, *said = re.split("^esper .*\n", piped.stdout, flags=re.MULTILINE)
    assert (len(said), all(said), "\x1b" in piped.stdout) == (len(READING), True, False)


@pytest.mark.whole
def test_reading_a_log_imports_no_torch(piped: "subprocess.CompletedProcess[str]") -> None:
    assert (piped.stderr, piped.returncode) == ("", 0)


def test_a_fault_of_esper_s_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, synthetic_log: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("esper.cli.commands.runs.summaries", broken)
    with pytest.raises(ZeroDivisionError):
        main(["runs", "--log", str(synthetic_log)])
