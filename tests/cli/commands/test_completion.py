"""`esper completion` in the shells themselves: a key is pressed, and what could follow is there."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from esper.cli.parsing import build_parser, parsers_of
from tests.cli.conftest import Esper
from tests.programs import program

RUN, OTHER = "01a22cd4-6516-7a80-8eae-522343a24f69", "01a22cd4-6516-7a80-8eae-5223431b2c3d"
FIRST = sorted(words[0] for words, _ in parsers_of(build_parser()) if len(words) == 1)

COMPLETED = [
    ("esper ", FIRST),
    ("esper sho", ["show"]),
    ("esper alerts r", ["rules"]),
    ("esper show ", ["1b2c3d", "a24f69", "latest"]),
    ("esper show a2", ["a24f69"]),
    ("esper show 01a22cd4-6516-7a80-8eae-522343a", [RUN]),
    ("esper show --log other ", ["ffff00", "latest"]),
    ("esper show a24f69 --ep", ["--epoch"]),
    ("esper log latest --format ", ["jsonl", "table"]),
    ("esper train dig", ["digits"]),
    ("esper train own", ["own.toml"]),
    ("esper alerts rules --rules own", ["own.toml"]),
    ("esper topics ch", ["check"]),
    ("esper completion ", ["bash", "fish", "zsh"]),
]


@pytest.fixture
def folder(tmp_path: Path, esper: Esper) -> Path:
    """A folder with the scripts, two logs and a task of the user's own."""
    for shell in ("bash", "zsh", "fish"):
        (tmp_path / f"script.{shell}").write_text(esper("completion", shell).out)
    for place in (f"runs/{RUN}", f"runs/{OTHER}", "runs/machine:host:2026", "other/01a22cd4-6516-7a80-8eae-522343ffff00"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "own.toml").touch()
    return tmp_path


def _run(folder: Path, *words: str) -> list[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(line.partition("\t")[0] for line in done.stdout.splitlines() if line)


@pytest.mark.parametrize(("typed", "completed"), COMPLETED)
def test_bash_completes(folder: Path, typed: str, completed: list[str]) -> None:
    *before, last = typed.split(" ")
    words = " ".join(f"'{word}'" for word in (*before, last))
    program = f"source script.bash; COMP_WORDS=({words}); COMP_CWORD={len(before)}; _esper; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    assert _run(folder, "bash", "--norc", "-c", program) == completed


@pytest.mark.parametrize(("typed", "completed"), COMPLETED)
def test_fish_completes(pytestconfig: pytest.Config, folder: Path, typed: str, completed: list[str]) -> None:
    program(pytestconfig, "fish")
    assert _run(folder, "fish", "--no-config", "-c", f"source script.fish; complete -C '{typed}'") == completed


ALONE = [(typed, *completed) for typed, completed in COMPLETED if len(completed) == 1]


@pytest.mark.whole
@pytest.mark.parametrize(("typed", "completed"), ALONE)
def test_zsh_completes_what_is_typed_at_its_prompt(pytestconfig: pytest.Config, folder: Path, typed: str, completed: str) -> None:
    program(pytestconfig, "zsh")
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe("zsh", ("zsh", "-f", "-i"), {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb"})  # noqa: S606 - a shell
    os.write(terminal, b"source ./script.zsh; print rea''dy\n")
    _read(terminal, "ready\r")
    os.write(terminal, f"{typed}\t".encode())
    whole = f"{typed.rpartition(' ')[0]} {completed}"
    assert whole in _read(terminal, whole)
    os.write(terminal, b"\x03exit\n")
    os.close(terminal)
    os.waitpid(child, 0)


def _read(terminal: int, until: str) -> str:
    """All that the shell wrote up to `until`; what it had written after 20 s where that did not come."""
    written, ends = "", time.monotonic() + 20
    while until not in written and time.monotonic() < ends:
        if select.select([terminal], [], [], 0.2)[0]:
            written += os.read(terminal, 4096).decode(errors="replace")
    return written
