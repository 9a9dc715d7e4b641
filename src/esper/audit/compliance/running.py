"""Checks run over a projection: one query a check for all runs that are asked about, one result for each check and run.

The tables that a check reads hold the runs asked about and no others: temporary views of the tables' own names stand before them, and views
and macros of the projection read those too. So no check names a run. A user's check is asked at the door, as any SQL from outside.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import duckdb

from esper.audit.compliance.check_files import Check
from esper.audit.door.query import QueryLimits, query
from esper.audit.door.query_process import CATALOG
from esper.audit.snapshot import opened
from esper.audit.table_sql import sql_text
from esper.audit.tables import OWN, TABLES
from esper.errors import DataError, EsperError
from esper.events.envelope import RunId
from esper.folds.transitions import LIVE, edges

MOST_SHOWN = 100
_AT_ONCE = 2
"""Checks that run beside each other: most read too little for DuckDB to share it among cores."""
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
    with ExitStack() as stack:
        cursors = [stack.enter_context(_about(connection, runs)) for _ in range(_AT_ONCE)]
        known, idle = _known(cursors[0], runs), SimpleQueue[duckdb.DuckDBPyConnection]()
        for cursor in cursors:
            idle.put(cursor)

        def ask(question: str) -> list[Any]:  # Any: rows of values.
            cursor = idle.get()
            try:
                return cursor.execute(question).fetchall()
            finally:
                idle.put(cursor)

        pool = stack.enter_context(ThreadPoolExecutor(_AT_ONCE))
        yield from chain.from_iterable(pool.map(lambda check: list(_results(ask, check, known, most)), checks))


def run_own_checks(
    snapshot: Path,
    checks: Sequence[Check],
    runs: Collection[RunId],
    *,
    limits: QueryLimits = QueryLimits(),  # noqa: B008 - it is frozen.
    most: int = MOST_SHOWN,
) -> Iterator[CheckResult]:
    """The same for checks that a user wrote, over the projection in the file `snapshot`: each in a process of its own, within `limits`.

    Raises RuleError for a check that cannot be run, LimitError, which is one, for a check that costs too much.
    """
    if not checks:
        return
    with opened(snapshot) as connection:
        before = tuple(_before(connection, CATALOG, runs))
        with _about(connection, runs) as own:
            known = _known(own, runs)
    for check in checks:
        yield from _results(lambda asked: query(snapshot, asked, limits=limits, before=before).rows(), check, known, most)


class _Known(NamedTuple):
    """The last moment of each run that is asked about, and the kinds of event that these runs have."""

    ends: Mapping[RunId, int]
    kinds: Collection[str]


def _known(connection: duckdb.DuckDBPyConnection, runs: Collection[RunId]) -> _Known:
    ends = {RunId(run): int(moment) for run, moment in connection.execute("SELECT run, max(moment) FROM events GROUP BY run").fetchall()}
    kinds = {kind for (kind,) in connection.execute("SELECT DISTINCT type FROM events").fetchall()}
    return _Known({run: ends.get(run, 0) for run in sorted(runs)}, kinds)


@contextmanager
def _about(connection: duckdb.DuckDBPyConnection, runs: Collection[RunId]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose tables hold `runs` alone, with the lifecycle's table beside them."""
    ((database,),) = connection.execute("SELECT current_database()").fetchall()
    with closing(connection.cursor()) as own:
        if own.execute("SELECT current_database()").fetchall() != [(database,)]:
            own.execute(f'USE "{database}"')  # The owner's file is attached, which another cursor does not know.
        for statement in list(_before(own, database, runs)):
            own.execute(statement)
        yield own


def _before(connection: duckdb.DuckDBPyConnection, database: str, runs: Collection[RunId]) -> Iterator[str]:
    """Statements that leave `runs` alone in the tables of `database`, and put the lifecycle's table beside them."""
    ((others,),) = connection.execute("SELECT count(*) FROM positions WHERE NOT list_contains(?, run)", [list(runs)]).fetchall()
    # A filter on every run would only mislead the planner about how many rows there are.
    for name in (*OWN, *(table.name for table in TABLES)) if others else ():
        # What people say of a run stands in the trail, which is another run.
        column = "about" if name == "acknowledgements" else "run"
        yield f'CREATE TEMP VIEW "{name}" AS FROM "{database}".main."{name}" WHERE {column} IN ({", ".join(map(sql_text, runs))})'
    yield _table("legal_edges (from_stage, command, to_stage)", edges())
    yield _table("live_stages (stage)", ((stage,) for stage in sorted(LIVE)))


def _table(named: str, rows: Iterable[Iterable[str]]) -> str:
    values = ", ".join(f"({', '.join(sql_text(str(value)) for value in row)})" for row in rows)
    return f"CREATE TEMP VIEW {named} AS VALUES {values}"


def _results(ask: Callable[[str], list[Any]], check: Check, known: _Known, most: int) -> Iterator[CheckResult]:  # Any: rows of values.
    """The results of `check`; `ask` gives the rows of a query."""
    violations = "\nUNION ALL\n".join((check.violations, *(select for kind, select in check.by_kind.items() if kind in known.kinds)))
    try:
        asked = _QUERY.format(population=check.population, violations=violations, most=most)
        rows = ask(asked)
    except EsperError as error:
        raise type(error)(f"check {check.name}, {check.source}: {error}") from error
    except duckdb.Error as error:
        expected = "expected population to give run, and violations to give run, moment and what"
        raise DataError(f"check {check.name}, {check.source}: {expected}; DuckDB says: {' '.join(str(error).split())}") from error
    population = {run: total for run, total, _, what in rows if what is None}
    totals = {run: total for run, total, _, what in rows if what is not None}
    shown: dict[str, list[Violation]] = {}
    for run, _, moment, what in rows:
        if what is not None:
            # A sum is a HUGEINT, which comes through the door as a Decimal.
            if run not in known.ends or not isinstance(moment, int | Decimal) or moment != int(moment):
                got = f"run {run}, moment {moment!r}"
                expected = "expected each violation to have a run asked about and a moment, a whole number"
                raise DataError(f"check {check.name}, {check.source}: {expected}, got {got}")
            # One NULL in a sentence that is put together makes all of it NULL.
            shown.setdefault(run, []).append(Violation(int(moment), what or f"expected: {check.header.title}"))
    for run, up_to in known.ends.items():
        yield CheckResult(check, run, up_to, population.get(run, 0), totals.get(run, 0), tuple(shown.get(run, ())))
