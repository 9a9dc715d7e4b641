"""Logs to test against: each test that asks for `log` runs against the one on disk and the one in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.oona.contract import RunWriter
from esper.oona.directory import Directory
from esper.oona.memory import MemoryLog
from tests.oona.samples import RUN


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: these tests commit a lot, and how long a disk takes is not what they are about."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="esper-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(params=["disk", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunWriter]:
    opened: RunWriter = Directory(tmp_path).create(RUN) if request.param == "disk" else MemoryLog(RUN)
    with opened:
        yield opened


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)
