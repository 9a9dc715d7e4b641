"""The command line: the nearest word for one that is not known, and an example in every help."""

import os
import pty
import select
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.cli.parsing import EXAMPLES, build_parser, parsers_of
from tests.cli.conftest import Esper

NEAREST = [
    (("shwo", "latest"), "argument COMMAND: unknown command 'shwo', perhaps show; there are: train, demo, "),
    (("comp",), "argument COMMAND: unknown command 'comp', perhaps compliance or completion; there are: train, "),
    (("comple", "bash"), "argument COMMAND: unknown command 'comple', perhaps completion; there are: train, "),
    (("alerts", "lst"), "argument WHAT: unknown command 'lst', perhaps list; there are: list, ack, rules, test"),
    (("log", "latest", "--format", "jsnl"), "argument --format: unknown value 'jsnl', perhaps jsonl; there are: table, jsonl"),
    (("train", "digits", "--epohcs", "3"), "esper train: error: unknown argument --epohcs, perhaps --epochs; esper train --help lists"),
    (("runs", "--jsn"), "unknown argument --jsn, perhaps --json; "),
    (("show", "latest", "more"), "esper show: error: unknown argument more; esper show --help lists those that there are"),
    (("zzz",), "argument COMMAND: unknown command 'zzz'; there are: train, "),
]


@pytest.mark.parametrize(("typed", "message"), NEAREST)
def test_a_word_that_is_not_known_is_refused_with_the_nearest_that_is(esper: Esper, typed: tuple[str, ...], message: str) -> None:
    said = esper(*typed)
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_every_command_has_an_example() -> None:
    assert set(EXAMPLES) == {" ".join(words) for words, _ in parsers_of(build_parser())}


@pytest.mark.parametrize(("command", "example"), EXAMPLES.items())
def test_an_example_is_in_its_help_and_can_be_typed(esper: Esper, command: str, example: str) -> None:
    assert f"example:\n  {example}\n" in esper(*command.split(), "--help").out
    words = shlex.split(example)
    assert words[0] == "esper" or command == "completion"
    parsed = build_parser().parse_args(words[1:] if words[0] == "esper" else ["completion", "bash"])
    assert parsed.parser.prog.startswith(f"esper {command}".strip())


READING = ["runs", "show", "log", "replay", "alerts list", "alerts rules", "audit schema", "sql"]


@pytest.mark.parametrize("command", READING)
def test_an_example_that_reads_a_log_works(esper: Esper, command: str, synthetic_log: Path) -> None:
    words = shlex.split(EXAMPLES[command].replace("--log runs", f"--log {synthetic_log}").replace("--speed 4", "--speed 1e9"))
    said = esper(*words[1:])
    assert (said.code, said.err) == (0, "")
    assert said.out


def test_whoever_waits_for_torch_sees_at_once_that_it_has_begun() -> None:
    """Nothing that takes time is imported before the line: not the commands, not rich, not pydantic."""
    program = (
        "import sys\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'rich', 'pydantic', 'apsw', 'numpy'): raise SystemExit(7)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from esper.cli.main import main\n"
        "main(['train', 'digits'])\n"
    )
    leader, follower = pty.openpty()
    done = subprocess.run((sys.executable, "-c", program), stdout=subprocess.PIPE, stderr=follower, check=False)
    os.close(follower)
    assert select.select([leader], [], [], 0)[0]
    assert (os.read(leader, 1000).splitlines(), done.returncode, done.stdout) == ([b"esper: loading torch"], 7, b"")
    os.close(leader)


@pytest.mark.parametrize("typed", [("runs",), ("train", "--help")])
def test_what_loads_no_torch_does_not_say_so(typed: tuple[str, ...], esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert esper(*typed).err == ""


def test_a_pipe_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--epohcs"])
    assert "loading torch" not in capsys.readouterr().err


def test_a_command_that_reads_does_not_import_what_watches_and_trains() -> None:
    program = "import esper.cli.parsing, sys; print({'torch', 'esper.observer', 'esper.nissa', 'esper.processes'} & set(sys.modules))"
    said = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
