"""The synthetic run, open; and an empty log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.processes.history import History, open_run


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """An empty log."""
    return Directory(tmp_path / "runs", create=True)


@pytest.fixture
def history(synthetic_log: Path) -> Iterator[History]:
    """The synthetic run, open."""
    with open_run("latest", synthetic_log) as opened:
        yield opened
