"""Checks run over a projection: one query a check for all runs that are asked about, one result for each check and run.

The tables that a check reads hold the runs asked about and no others: temporary views of the tables' own names stand before them, and views
and macros of the projection read those too. So no check names a run.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum

import duckdb

from esper.audit.compliance.check_files import Check
from esper.audit.table_sql import sql_text
from esper.audit.tables import OWN, TABLES
from esper.errors import DataError
from esper.events.envelope import RunId
from esper.folds.transitions import LIVE, edges

MOST_SHOWN = 100
_QUERY = """
WITH population AS (
{population}
),
found AS (SELECT run, moment, what FROM (
{violations}
)),
ranked AS (
    SELECT run, moment, what::VARCHAR AS what, count(*) OVER (PARTITION BY run) AS total,
        row_number() OVER (PARTITION BY run ORDER BY moment, what) AS place
    FROM found
)
SELECT run, count(*) AS total, NULL AS moment, NULL AS what FROM population GROUP BY run
UNION ALL SELECT run, total, moment, coalesce(what, '') FROM ranked WHERE place <= {most}
ORDER BY run, moment, what
"""


class Verdict(StrEnum):
    """PASS: nothing that was asked about is a violation. INCONCLUSIVE: there was nothing to ask about."""

    PASS = "PASS"  # noqa: S105 - no password.
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Violation:
    """A record that breaks the rule, or before which something is missing: its moment, and what was expected and found."""

    moment: int
    what: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The answer of one check about one run. `population` counts what was asked about; of many `violations` the first are shown.

    `up_to` is the last moment of the run that was there to be asked about.
    """

    check: Check
    run: RunId
    up_to: int
    population: int
    violations: int
    shown: tuple[Violation, ...]

    @property
    def verdict(self) -> Verdict:
        """The answer in a word."""
        if self.violations:
            return Verdict.FAIL
        return Verdict.PASS if self.population else Verdict.INCONCLUSIVE


def run_checks(
    connection: duckdb.DuckDBPyConnection, checks: Sequence[Check], runs: Collection[RunId], *, most: int = MOST_SHOWN
) -> Iterator[CheckResult]:
    """The results of `checks` about `runs`, by check, then by run, each as it is known; at most `most` violations of each are shown.

    `connection` is to a projection of `runs`, and may be read-only. Raises DataError for a check that cannot be run, with DuckDB's reason.
    """
    with _about(connection, runs) as own:
        ends = {RunId(run): int(moment) for run, moment in own.execute("SELECT run, max(moment) FROM events GROUP BY run").fetchall()}
        kinds = {kind for (kind,) in own.execute("SELECT DISTINCT type FROM events").fetchall()}
        for check in checks:
            yield from _results(own, check, kinds, {run: ends.get(run, 0) for run in sorted(runs)}, most)


@contextmanager
def _about(connection: duckdb.DuckDBPyConnection, runs: Collection[RunId]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose tables hold `runs` alone, with the lifecycle's table beside them."""
    ((database,),) = connection.execute("SELECT current_database()").fetchall()
    with closing(connection.cursor()) as own:
        if own.execute("SELECT current_database()").fetchall() != [(database,)]:
            own.execute(f'USE "{database}"')  # The owner's file is attached, which another cursor does not know.
        ((others,),) = own.execute("SELECT count(*) FROM positions WHERE NOT list_contains(?, run)", [list(runs)]).fetchall()
        # A filter on every run would only mislead the planner about how many rows there are.
        for name in (*OWN, *(table.name for table in TABLES)) if others else ():
            # What people say of a run stands in the trail, which is another run.
            column = "about" if name == "acknowledgements" else "run"
            own.execute(
                f'CREATE TEMP VIEW "{name}" AS FROM "{database}".main."{name}" WHERE {column} IN ({", ".join(map(sql_text, runs))})'
            )
        _fill(own, "legal_edges", ("from_stage", "command", "to_stage"), edges())
        _fill(own, "live_stages", ("stage",), ((stage,) for stage in sorted(LIVE)))
        yield own


def _fill(connection: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    connection.execute(f"CREATE TEMP TABLE {name} ({', '.join(f'{column} VARCHAR' for column in columns)})")
    connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", [list(map(str, row)) for row in rows])


def _results(
    connection: duckdb.DuckDBPyConnection, check: Check, kinds: Collection[str], ends: Mapping[RunId, int], most: int
) -> Iterator[CheckResult]:
    """The results of `check`; `ends` are the runs that are asked about, with their last moments, `kinds` are theirs."""
    violations = "\nUNION ALL\n".join((check.violations, *(select for kind, select in check.by_kind.items() if kind in kinds)))
    try:
        query = _QUERY.format(population=check.population, violations=violations, most=most)
        rows = connection.execute(query).fetchall()
    except duckdb.Error as error:
        expected = "expected population to give run, and violations to give run, moment and what"
        raise DataError(f"check {check.name}, {check.source}: {expected}; DuckDB says: {' '.join(str(error).split())}") from error
    population = {run: total for run, total, _, what in rows if what is None}
    totals = {run: total for run, total, _, what in rows if what is not None}
    shown: dict[str, list[Violation]] = {}
    for run, _, moment, what in rows:
        if what is not None:
            if run not in ends or not isinstance(moment, int):
                got = f"run {run}, moment {moment!r}"
                expected = "expected each violation to have a run asked about and a moment, a whole number"
                raise DataError(f"check {check.name}, {check.source}: {expected}, got {got}")
            # One NULL in a sentence that is put together makes all of it NULL.
            shown.setdefault(run, []).append(Violation(moment, what or f"expected: {check.header.title}"))
    for run, up_to in ends.items():
        yield CheckResult(check, run, up_to, population.get(run, 0), totals.get(run, 0), tuple(shown.get(run, ())))
