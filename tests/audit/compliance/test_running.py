"""How checks are run: what they see, what counts, and what becomes of one that cannot be run."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from esper.audit.compliance.check_files import Check, parse_check
from esper.audit.compliance.running import CheckResult, Verdict, run_checks, run_own_checks
from esper.audit.door.query import QueryLimits
from esper.audit.projection import Projection
from esper.audit.snapshot import opened
from esper.errors import DataError, LimitError, RuleError
from esper.events.envelope import RunId
from esper.oona.directory import Directory
from tests.audit.compliance.test_check_files import HEADER
from tests.synthetic import RUN, write_run

OTHER, ABSENT = RunId("other"), RunId("absent")
COUNTED = "SELECT run, moment, concat('expected ', count(*)) AS what FROM epochs GROUP BY run, moment"


def check(population: str, violations: str = "SELECT run, 0 AS moment, 'x' AS what FROM population WHERE false") -> Check:
    """A check of two queries."""
    return parse_check(f"{HEADER}-- population\n{population}\n-- violations\n{violations}\n", "house.rule.sql")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a projection with a finished run, and another of two epochs."""
    directory = Directory(tmp_path_factory.mktemp("two"))
    write_run(directory)
    write_run(directory, run=OTHER, until_epoch=2, finish=False)
    with Projection(directory) as projection:
        projection.refresh()
        projection.checkpoint()
        return projection.path


@pytest.fixture
def connection(two_runs: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that may only read."""
    with opened(two_runs) as connection:
        yield connection


def asked(connection: duckdb.DuckDBPyConnection, one: Check, *runs: RunId, most: int = 100) -> list[CheckResult]:
    """The results about `runs`."""
    return list(run_checks(connection, [one], runs, most=most))


def test_a_check_sees_the_run_that_is_asked_about_and_no_other(connection: duckdb.DuckDBPyConnection) -> None:
    [result] = asked(connection, check("SELECT run FROM epochs"), OTHER)
    assert (result.run, result.population, result.verdict) == (OTHER, 2, Verdict.PASS)


def test_views_and_macros_show_that_run_alone_too(connection: duckdb.DuckDBPyConnection) -> None:
    [result] = asked(connection, check(f"SELECT run FROM run_overview UNION ALL SELECT run FROM run_at('{RUN}', 9)"), OTHER)  # noqa: S608 - of our own.
    assert result.population == 1


def test_each_run_has_a_result_of_its_own(connection: duckdb.DuckDBPyConnection) -> None:
    results = asked(connection, check("SELECT run FROM epochs WHERE epoch > 2"), RUN, OTHER, ABSENT)
    assert {result.run: result.verdict for result in results} == {
        RUN: Verdict.PASS,
        OTHER: Verdict.INCONCLUSIVE,
        ABSENT: Verdict.INCONCLUSIVE,
    }
    assert {result.run: result.up_to for result in results} == {RUN: 233, OTHER: 23, ABSENT: 0}


def test_violations_are_shown_in_order_and_counted_beyond_those_that_are_shown(connection: duckdb.DuckDBPyConnection) -> None:
    [result] = asked(connection, check("SELECT run FROM epochs", COUNTED), RUN, most=2)
    assert (result.verdict, result.violations) == (Verdict.FAIL, 13)
    assert [(one.moment, one.what) for one in result.shown] == [(5, "expected 1"), (15, "expected 1")]


def test_a_violation_is_one_even_where_nothing_was_asked_about(connection: duckdb.DuckDBPyConnection) -> None:
    [result] = asked(connection, check("SELECT run FROM epochs WHERE false", COUNTED), RUN)
    assert (result.population, result.verdict) == (0, Verdict.FAIL)


def test_a_sentence_that_a_null_has_swallowed_is_the_rule(connection: duckdb.DuckDBPyConnection) -> None:
    [result] = asked(connection, check("SELECT run FROM epochs", "SELECT run, moment, 'seed ' || NULL AS what FROM epochs"), OTHER)
    assert {one.what for one in result.shown} == {"expected: a rule"}


def test_what_was_found_is_a_text_whatever_the_check_gives(connection: duckdb.DuckDBPyConnection) -> None:
    [result] = asked(connection, check("SELECT run FROM epochs", "SELECT DISTINCT run, 3 AS moment, 7 AS what FROM population"), OTHER)
    assert [(one.moment, one.what) for one in result.shown] == [(3, "7")]


def test_the_lifecycle_s_edges_are_there(connection: duckdb.DuckDBPyConnection) -> None:
    known = "SELECT run FROM epochs, legal_edges WHERE (from_stage, command, to_stage) = ('TRAINING', 'graft', 'GRAFTING')"
    [result] = asked(connection, check(f"{known} AND 'TRAINING' IN (FROM live_stages)"), OTHER)
    assert result.population == 2


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (check("SELECT moment FROM epochs"), 'Referenced column "run" not found'),
        (check("SELECT run FROM epochs", "SELECT run, moment FROM epochs"), 'Referenced column "what" not found'),
        (check("SELECT run FROM epoch"), "Did you mean"),
        (check("SELECT run FROM epochs", "SELECT run, NULL AS moment, 'x' AS what FROM epochs"), "got run .*, moment None"),
        (check("SELECT run FROM epochs", "SELECT run, 'x' AS moment, 'x' AS what FROM epochs"), "a whole number, got run .*, moment 'x'"),
        (check("SELECT run FROM epochs", "SELECT 'elsewhere' AS run, 1 AS moment, 'x' AS what"), "got run elsewhere, moment 1"),
        (check("SELECT run FROM read_csv('/etc/passwd')"), "LocalFileSystem has been disabled"),
        (check("WITH x AS (COPY (SELECT 1) TO '/tmp/esper-check') SELECT 1 AS run FROM x"), "must be at the top level"),
    ],
)
def test_a_check_that_cannot_be_run_is_named_with_the_reason(connection: duckdb.DuckDBPyConnection, one: Check, said: str) -> None:
    with pytest.raises(DataError, match=rf"check house\.rule, house\.rule\.sql: .*{said}"):
        asked(connection, one, OTHER)


def test_a_check_of_ones_own_sees_what_a_check_of_esper_s_sees(two_runs: Path) -> None:
    known = "SELECT run FROM epochs, legal_edges WHERE from_stage = 'TRAINING' AND 'TRAINING' IN (FROM live_stages)"
    one = check(known, COUNTED)
    runs = [RUN, OTHER, ABSENT]
    with opened(two_runs) as connection:
        expected = asked(connection, one, *runs, most=2)
    assert list(run_own_checks(two_runs, [one], runs, most=2)) == expected
    assert [result.run for result in run_own_checks(two_runs, [one], [OTHER])] == [OTHER]


def test_a_check_of_ones_own_that_has_no_end_is_ended(two_runs: Path) -> None:
    endless = check("SELECT run FROM epochs, range(1_000_000_000_000) AS numbers")
    with pytest.raises(LimitError, match=r"check house\.rule, house\.rule\.sql: .* ends within 1 s"):
        list(run_own_checks(two_runs, [endless], [OTHER], limits=QueryLimits(time_s=1)))


def test_a_check_of_ones_own_that_leaves_its_brackets_is_refused(two_runs: Path) -> None:
    copies = check("WITH x AS (COPY (SELECT 1) TO '/tmp/esper-check') SELECT 'other' AS run FROM x")
    with pytest.raises(RuleError, match=r"check house\.rule, house\.rule\.sql: "):
        list(run_own_checks(two_runs, [copies], [OTHER]))


def test_a_moment_is_a_whole_number_of_any_type(two_runs: Path) -> None:
    summed = check("SELECT run FROM epochs", "SELECT run, sum(1) AS moment, 'x' AS what FROM epochs GROUP BY run")
    with opened(two_runs) as connection:
        [expected] = asked(connection, summed, OTHER)
    assert [one.moment for one in expected.shown] == [2]
    assert list(run_own_checks(two_runs, [summed], [OTHER])) == [expected]
    for moment in ("1.5::DECIMAL(3, 1)", "1.0::DOUBLE"):
        part = check("SELECT run FROM epochs", f"SELECT run, {moment} AS moment, 'x' AS what FROM epochs")  # noqa: S608 - of our own.
        with pytest.raises(DataError, match="a moment, a whole number, got run other, moment "):
            list(run_own_checks(two_runs, [part], [OTHER]))


def test_where_no_run_is_asked_about_there_is_no_result(two_runs: Path) -> None:
    one = check("SELECT run FROM epochs", COUNTED)
    with opened(two_runs) as connection:
        assert asked(connection, one) == []
    assert list(run_own_checks(two_runs, [one], [])) == []
