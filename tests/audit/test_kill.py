"""A projector that is killed at any moment loses no row and doubles none."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esper.audit.conflicts import compare_with_log
from esper.audit.ownership import owned
from esper.audit.projection import Projection
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.oona.samples import RUN, command, finished, measure, started, steps, ticking

ROOT = Path(__file__).parents[2]
KILLS = 50


def write(directory: Directory) -> None:
    """A finished run of some ten thousand records."""
    with directory.create(RUN) as log, Emitter(log, RUN, clock=ticking(), capacity=20_000) as emitter:
        emitter.emit(started(), epoch=0, step=0)
        for number in range(1, 5_001):
            measure(emitter, steps(number), epoch=0, step=number)
            emitter.emit(command(number), epoch=0, step=number)
        emitter.emit(finished(), epoch=0, step=5_000)


@pytest.mark.whole
def test_fifty_kills_at_any_moment_lose_no_row_and_double_none(directory: Directory, tmp_path: Path) -> None:
    write(directory)
    chance = random.Random(7)
    for _ in range(KILLS):
        with subprocess.Popen([sys.executable, "-m", "tests.audit.projector", directory.path], stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 1.0))
            process.kill()
    with Projection(directory, tmp_path / "afresh.duckdb") as afresh:
        assert afresh.refresh().records == 10_002
        expected = afresh.digests()
    with owned(directory) as survived:
        survived.refresh()
        assert survived.digests() == expected
        assert compare_with_log(survived, [RUN]) == 0
