"""A log with the synthetic run in it, written once for all tests that only read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.processes.history import History, open_run
from tests.synthetic import write_run


@pytest.fixture(scope="session")
def synthetic_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that holds the finished synthetic run. Not to be written to."""
    path = tmp_path_factory.mktemp("log")
    write_run(Directory(path))
    return path


@pytest.fixture
def history(synthetic_log: Path) -> Iterator[History]:
    """The synthetic run, open."""
    with open_run("latest", synthetic_log) as opened:
        yield opened
