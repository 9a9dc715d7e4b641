"""What holds for all tests.

Properties are asked the same examples every time, and none of them by the clock: few where long tests are left out, more where all run.
The half million objects that torch and the tests themselves are made of stay for good, so the garbage collector is told to leave them be.
"""

import atexit
import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from esper.events.envelope import Record
from esper.history.run_history import History, open_run
from esper.oona.directory import Directory
from tests.observer.observed_runs import Growing
from tests.synthetic import RUN

settings.register_profile("thorough", derandomize=True, deadline=None, max_examples=100, database=None)
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=10)
HERE = Path(__file__).parent
LONG = ("whole", "kafka")
gc.disable()
if "PYTEST_XDIST_WORKER" in os.environ:
    atexit.register(os._exit, 0)  # It has told all that it knows. Taking apart what it imported would take two seconds.


def leaves_out(config: pytest.Config, marker: str) -> bool:
    """True where tests of `marker` are not asked for: `-m "not whole and not kafka"`."""
    return f"not {marker}" in config.getoption("markexpr")


def pytest_configure(config: pytest.Config) -> None:
    """Whoever leaves whole runs out is in a hurry."""
    # A shell that starts tests in the background has them ignore Ctrl-C; the processes that tests start must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["ESPER_OBSERVE"] = "0"  # No run of a test is observed unless the test asks for it.
    settings.load_profile("quick" if leaves_out(config, "whole") else "thorough")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A folder of long tests alone is not even imported where they are left out."""
    return True if collection_path.parent == HERE and collection_path.name in LONG and leaves_out(config, collection_path.name) else None


def pytest_collection_finish() -> None:
    """Everything is imported: from here on only what the tests make is collected."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # Torch's own libraries take what is frozen at the very end for leaked.


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the test's own; in memory where there is one, but for long tests, which write more.

    These tests commit a lot, and how long a disk takes is not what they are about.
    """
    memory = Path("/dev/shm")  # noqa: S108
    small = memory.is_dir() and not any(request.node.get_closest_marker(name) for name in LONG)
    with tempfile.TemporaryDirectory(prefix="esper-", dir=memory if small else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def synthetic_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that holds the finished synthetic run, written once for all tests that only read."""
    from esper.oona.directory import Directory  # Who only hands out tests to others need not know the log.
    from tests.synthetic import write_run

    path = tmp_path_factory.mktemp("log")
    write_run(Directory(path))
    return path


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
