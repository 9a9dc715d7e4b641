"""One server over the finished synthetic run, for all tests that only ask."""

from collections.abc import Iterator

import pytest

from esper.oona.directory import Directory
from tests.nissa.server import Client, serving
from tests.synthetic import write_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server over a log with one finished run. Nothing may be posted to it."""
    path = tmp_path_factory.mktemp("finished")
    write_run(Directory(path))
    with serving(path) as client:
        yield client
