"""What the tests of `esper.fit` share."""

from pathlib import Path

import pytest

from esper.processes.train import Result
from tests.api.fitted import fit


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A log with one finished run, as `fit` makes it; for tests that only look at it."""
    log = tmp_path_factory.mktemp("log")
    return log, fit(log)
