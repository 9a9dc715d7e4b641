"""The synthetic run, open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.processes.history import History, open_run


@pytest.fixture
def history(synthetic_log: Path) -> Iterator[History]:
    """The synthetic run, open."""
    with open_run("latest", synthetic_log) as opened:
        yield opened
