"""The synthetic run, open, observed, and on its way into a log; and an empty log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.events.envelope import Record
from esper.oona.directory import Directory
from esper.processes.history import History, open_run
from tests.processes.observed_runs import Growing
from tests.synthetic import RUN


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """An empty log."""
    return Directory(tmp_path / "runs", create=True)


@pytest.fixture
def history(synthetic_log: Path) -> Iterator[History]:
    """The synthetic run, open."""
    with open_run("latest", synthetic_log) as opened:
        yield opened


@pytest.fixture(scope="session")
def records(synthetic_log: Path) -> tuple[Record, ...]:
    """The records of the synthetic run."""
    with open_run(RUN, synthetic_log) as history:
        return tuple(history.records())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, records: tuple[Record, ...]) -> tuple[Record, ...]:
    """What an observer that nobody stops derives from them."""
    growing = Growing(tmp_path_factory.mktemp("undisturbed"), records)
    growing.write()
    with growing.observer() as observer:
        observer.turn(0.0)
    growing.log.close()
    return growing.derived()


@pytest.fixture
def growing(tmp_path: Path, records: tuple[Record, ...]) -> Iterator[Growing]:
    """The synthetic run on its way into a log, nothing of it written yet."""
    made = Growing(tmp_path / "log", records)
    yield made
    made.log.close()
