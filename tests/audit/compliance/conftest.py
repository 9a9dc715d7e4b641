"""Many finished runs, each broken in its own way, and what the checks find in each: written, projected and asked once for all tests."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.running import CheckResult, run_checks
from esper.audit.conflicts import compare_with_log
from esper.audit.projection import AUDIT_FILE, Projection
from esper.oona.directory import Directory
from tests.audit.compliance.broken import BROKEN, IN_TABLES, REREAD
from tests.audit.compliance.finished import memory, write_finished

Found = Mapping[tuple[str, str], CheckResult]
"""Results by what was done to a run and the name of the check."""


@pytest.fixture(scope="session")
def broken() -> Found:
    """What is found in the runs of `BROKEN`."""
    with memory() as folder:
        return _found(Directory(folder))


def _found(directory: Directory) -> Found:
    runs = dict(zip((one.name for one in BROKEN), write_finished(directory, len(BROKEN)), strict=True))
    with Projection(directory) as projection:
        projection.refresh([runs[REREAD]])
        for one in BROKEN:
            one.act(directory.path / runs[one.name])
        projection.refresh()
        compare_with_log(projection, runs.values())
        projection.connection.execute("UPDATE kernels SET flops = 1 WHERE run = ?", [runs[IN_TABLES]])
        names = {run: name for name, run in runs.items()}
        results = run_checks(projection.connection, every_check(), list(names))
        return {(names[result.run], result.check.name): result for result in results}


@pytest.fixture(scope="session")
def empty_projection() -> Iterator[Path]:
    """The file of a projection that holds nothing: copied, it is there in a moment."""
    with memory() as folder:
        with Projection(Directory(folder)) as projection:
            projection.checkpoint()
        yield folder / AUDIT_FILE
