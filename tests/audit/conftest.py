"""Projections that several tests of the audit read."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esper.audit.projection import Projection
from esper.events.envelope import Record
from esper.oona.directory import Directory
from tests.observer.observed_runs import Growing

Rows = list[tuple[object, ...]]
Ask = Callable[..., Rows]


@pytest.fixture(scope="session")
def observed_log(tmp_path_factory: pytest.TempPathFactory, records: tuple[Record, ...]) -> Path:
    """A log with the finished synthetic run, and everything that an observer derives from it."""
    path = tmp_path_factory.mktemp("observed")
    growing = Growing(path, records)
    growing.write()
    with growing.observer() as observer:
        observer.turn(0.0)
    growing.log.close()
    return path


@pytest.fixture(scope="session")
def projection(observed_log: Path) -> Iterator[Projection]:
    """The projection of that log, for tests that only read."""
    with Projection(Directory(observed_log)) as made:
        made.refresh()
        yield made


@pytest.fixture
def ask(projection: Projection) -> Ask:
    """The rows that a query gives, with its parameters."""
    return lambda sql, *parameters: projection.connection.execute(sql, list(parameters)).fetchall()
