"""What every test of this folder ends with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tolaria.worlds import OPEN


@pytest.fixture(autouse=True)
def _ended_compilers(tmp_path: Path) -> Iterator[None]:  # noqa: ARG001 - the folder goes after this.
    """No compiler writes into a test's folder any more when that is removed."""
    yield
    while OPEN:
        OPEN.pop().close()
