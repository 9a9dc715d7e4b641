"""Whole runs that several tests look at: each is trained once in a session."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.processes.training import Trained
from tests.whole.runs import Told, Watch, digits, told, trained

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Grown:
    """A run of digits that grew: its log, what a bystander noted, and the digests that another process folded while it trained."""

    told: Told
    watch: Watch
    trained: Trained
    digests: dict[int, str]
    digests_while_training: int


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Sixty epochs of digits with Tamiyo's own policy, telemetry on, and a reader attached."""
    path = tmp_path_factory.mktemp("grown")
    directory, settings = Directory(path), digits()
    lines: list[str] = []
    reader = subprocess.Popen((sys.executable, "-m", "tests.whole.follow", path), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "following\n"
        output = reader.stdout
        # Reading waits for the other process: it is known to have folded this much before training goes on.
        watch = Watch(at_end=lambda _watch, epoch: lines.append(output.readline()) if epoch % 10 == 0 else None)
        result = trained(directory, settings, watch)
        early = len(lines)
        lines += output.readlines()
        assert reader.wait(timeout=60) == 0
    finally:
        reader.kill()
        reader.wait()
        if reader.stdout is not None:
            reader.stdout.close()
    digests = {int(moment): digest for moment, digest in (line.split() for line in lines)}
    return Grown(told(directory, result.run, settings), watch, result, digests, early)
