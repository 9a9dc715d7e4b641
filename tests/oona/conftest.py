"""Logs to test against: each test that asks for `log` runs against the one on disk and the one in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.oona.contract import RunWriter
from esper.oona.directory import Directory
from tests.oona.memory import MemoryLog
from tests.oona.samples import RUN


@pytest.fixture(params=["disk", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunWriter]:
    opened: RunWriter = Directory(tmp_path).create(RUN) if request.param == "disk" else MemoryLog(RUN)
    with opened:
        yield opened


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)
