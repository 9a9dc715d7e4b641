"""What the tests of the report share: a projection, results of checks, and a report of it."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb

from esper.audit.compliance.check_files import Check, Header
from esper.audit.compliance.running import CheckResult, Violation
from esper.audit.conflicts import compare_with_log
from esper.audit.projection import Projection
from esper.audit.report.making import Report, make_report
from esper.events.envelope import RunId
from esper.oona.directory import Directory
from tests.synthetic import RUN

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DIGEST = "ab" * 32


def _result(name: str, violations: int, shown: Sequence[Violation] = ()) -> CheckResult:
    """The result of a check about the synthetic run."""
    header = Header(name=name, version=1, title="Something holds.", proves="That.", cannot_show="All else.", clauses=("none",))
    return CheckResult(Check(header, "", "", DIGEST, name), RunId(RUN), 0, 7, violations, tuple(shown))


def passed(*names: str) -> list[CheckResult]:
    """A PASS of each check."""
    return [_result(name, 0) for name in names]


def failed(name: str, moment: int, what: str, violations: int = 1) -> CheckResult:
    """A FAIL of which one violation is shown."""
    return _result(name, violations, [Violation(moment, what)])


def more_failures(connection: duckdb.DuckDBPyConnection, amount: int) -> None:
    """Adds so many kernels that failed to the tables."""
    columns = "(run, moment, epoch, status, site, seed, error)"
    rows = "SELECT run, 300, 14, 'failed', 'x', 0, 'no' FROM runs, range(?)"
    connection.execute(f"INSERT INTO kernels {columns} {rows}", [amount])


def projected(log: Path, folder: Path) -> Projection:
    """A projection of the log in `folder`, compared."""
    directory = Directory(log)
    made = Projection(directory, folder / "audit.duckdb")
    made.refresh()
    compare_with_log(made, directory.names())
    return made


def report_of(
    connection: duckdb.DuckDBPyConnection,
    results: Sequence[CheckResult] = (),
    *,
    run: str = RUN,
    on: date | None = None,
    model: Path | None = None,
    now: datetime = NOW,
) -> Report:
    """The report of the synthetic run on the morning after."""
    return make_report(connection, run, results, now=now, on=on, model=model)


def answers(report: Report) -> dict[int, str]:
    """The sentence of each question by its number."""
    return {section.number: section.answer for section in report.sections}
