"""The README is run: every command line in it, in order, as a newcomer would type it."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.partition("#")[0].strip()
]


UNTIL_INTERRUPTED = {"observe", "nissa", "agent"}


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ESPER_LOG": str(folder / "runs"), "COLUMNS": "100"}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_knows_every_target_in_the_readme(command: str) -> None:
    done = subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


STARTED_BY_OTHERS = {"chaos_processes.py", "mlflow_store.py"}
BENCHMARKS = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "argparse" in path.read_text()} - STARTED_BY_OTHERS


@pytest.mark.whole
@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_starts_from_anywhere(tmp_path: Path, name: str) -> None:
    done = run([sys.executable, str(ROOT / "benchmarks" / name), "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


@pytest.mark.whole
@pytest.mark.long
def test_every_esper_command_in_the_readme_works_in_order(tmp_path: Path) -> None:
    commands = [command for command in COMMANDS if command.startswith("esper ") and command.split()[1] not in UNTIL_INTERRUPTED]
    assert [command.split()[1] for command in commands][:2] == ["train", "runs"]
    for command in commands:
        arguments = [sys.executable, "-m", "esper.cli", *shlex.split(command)[1:]]
        done = run(arguments, tmp_path)
        if command.startswith("esper resume"):
            assert done.returncode == 1, "a run that ended cannot go on, and the command says so"
            assert "ended" in done.stderr or "finished" in done.stderr
        else:
            assert done.returncode == 0, f"{command}: {done.stderr}"
            assert done.stdout, f"{command} printed nothing"


@pytest.mark.whole
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[1] in UNTIL_INTERRUPTED])
def test_a_command_that_runs_until_it_is_interrupted_says_what_it_does_and_ends(tmp_path: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = str(server.getsockname()[1])  # Another program may have Nissa's own port on this machine.
    arguments = [*shlex.split(command)[1:], *(("--port", free) if command == "esper nissa" else ())]
    environment = {**os.environ, "ESPER_LOG": str(tmp_path / "runs")}
    with subprocess.Popen(
        [sys.executable, "-m", "esper.cli", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert str(tmp_path / "runs") in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode in (0, 130), err
    assert "Traceback" not in err


@pytest.mark.whole
@pytest.mark.long
def test_the_demo_compares_and_names_the_next_commands(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "esper.cli", "demo"], tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("grown", "host alone", "wider static", "what grew, told again from its log", "germinated 0 s0", "esper replay"):
        assert word in done.stdout
    [named] = set(re.findall(r"esper show (\w{6})", done.stdout))
    shown = run([sys.executable, "-m", "esper.cli", "show", "latest"], tmp_path).stdout
    assert shown.startswith(f"run …{named} "), "what the README shows after the demo is the grown run"
    assert "fossilized" in shown


def test_every_file_the_readme_points_to_exists() -> None:
    missing = [target for target in re.findall(r"\]\(([^)#:]+)\)", README) if not (ROOT / target).exists()]
    assert not missing


def test_every_benchmark_the_readme_names_exists() -> None:
    named = re.findall(r"`(benchmarks/\w+\.py)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
