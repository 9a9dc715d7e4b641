"""Projections that tests of the report read, and some that a test may change."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from esper.audit.report.making import Report
from tests.audit.report.reports import projected, report_of


@pytest.fixture(scope="session")
def told(observed_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The synthetic run as it was observed, for tests that only read."""
    with projected(observed_log, tmp_path_factory.mktemp("told")) as made:
        yield made.connection


@pytest.fixture(scope="session")
def plain(told: duckdb.DuckDBPyConnection) -> Report:
    """The report of that run, without checks."""
    return report_of(told)


@pytest.fixture
def changed(observed_log: Path, tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same, for a test that says what else stands in the tables."""
    with projected(observed_log, tmp_path) as made:
        yield made.connection
