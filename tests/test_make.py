"""What a newcomer and a pipeline start with: the Makefile and `.ci/run`, on machines that lack something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole
ROOT = Path(__file__).parents[1]
NO_ENSUREPIP = """
case "$1" in
    --version) echo Python 3.11.2 ;;
    -m) mkdir -p "$3/bin"; touch "$3/bin/python"; echo 'ensurepip is not available' >&2; exit 1 ;;
esac
"""


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make ARGUMENTS` in a checkout at `folder`."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(("make", *arguments), cwd=folder, capture_output=True, text=True, check=False)


def test_an_environment_that_could_not_be_made_is_not_left_half_made(tmp_path: Path) -> None:
    python = script(tmp_path / "python-without-ensurepip", NO_ENSUREPIP)
    made = make(tmp_path, "demo", f"PYTHON={python}")
    assert made.returncode != 0
    assert "ensurepip is not available" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_without_pip_is_made_again(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert "-m venv .venv" in make(tmp_path, "-n", "demo").stdout


def pipeline(folder: Path, *, packages: str) -> list[str]:
    """What `.ci/run` does on a machine without Java whose package archive has `packages`."""
    tools, did = folder / "bin", folder / "did"
    tools.mkdir()
    for name in ("bash", "sh", "dirname"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "python3").symlink_to(sys.executable)
    script(tools / "apt-cache", f'case " {packages} " in *" $2 "*) exit 0 ;; *) exit 100 ;; esac')
    for name in ("apt-get", "make"):
        script(tools / name, f'echo "CI=$CI {name} $*" >> {did}')
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    subprocess.run((ROOT / ".ci" / "run",), env={**environment, "PATH": str(tools)}, check=True, capture_output=True)
    return did.read_text().splitlines()


def test_a_pipeline_runs_the_gate_and_the_tests_where_what_is_missing_fails(tmp_path: Path) -> None:
    assert pipeline(tmp_path, packages="openjdk-17-jre-headless")[-2:] == ["CI=1 make check", "CI=1 make test ALL=1"]


def test_a_pipeline_takes_the_java_that_the_archive_has(tmp_path: Path) -> None:
    newer, older = tmp_path / "newer", tmp_path / "older"
    newer.mkdir()
    older.mkdir()
    assert any(
        "install" in line and " openjdk-21-jre-headless maven" in line for line in pipeline(newer, packages="openjdk-21-jre-headless")
    )
    assert any("install" in line and " default-jre-headless maven" in line for line in pipeline(older, packages="unrelated"))
