"""A report says what its rows say, and hands over the statements that give them."""

import duckdb
import pytest

from esper.audit.report.clauses import CLAUSES
from esper.audit.report.making import MOST_ROWS, AnswerTable, Report
from esper.audit.report.questions import QUESTIONS
from tests.audit.report.reports import failed, more_failures, passed, report_of

pytestmark = pytest.mark.whole


def table(report: Report, name: str) -> AnswerTable:
    """The table of that name."""
    return next(one for section in report.sections for one in section.tables if one.name == name)


@pytest.mark.parametrize("name", [query.name for question in QUESTIONS for query in question.queries])
def test_every_statement_gives_the_rows_of_its_table_again(told: duckdb.DuckDBPyConnection, plain: Report, name: str) -> None:
    made = table(plain, name)
    again = told.execute(made.sql).fetchall()
    assert len(again) == made.total
    # As texts: NaN is no number that equals itself.
    assert repr(again[:MOST_ROWS]) == repr(list(made.rows))


def test_questions_are_numbered_in_order_and_have_anchors_of_their_own() -> None:
    assert [question.number for question in QUESTIONS] == list(range(1, 13))
    assert len({question.anchor for question in QUESTIONS}) == 12


def test_every_clause_names_evidence_and_what_no_log_can_show() -> None:
    assert all(clause.checks and clause.questions and clause.cannot_show for clause in CLAUSES)
    assert {number for clause in CLAUSES for number in clause.questions} <= {question.number for question in QUESTIONS}


def test_a_table_is_cut_and_says_how_many_rows_there_are(changed: duckdb.DuckDBPyConnection) -> None:
    more_failures(changed, 70)
    made = table(report_of(changed), "refusals")
    assert (len(made.rows), made.total) == (MOST_ROWS, 77)


def test_a_check_without_a_result_was_not_run(told: duckdb.DuckDBPyConnection) -> None:
    report = report_of(told, passed("decision.answered"))
    assert [(check.name, check.result) for check in report.sections[1].checks] == [
        ("decision.answered", "PASS"),
        ("decision.explained", "not run"),
        ("command.single_outcome", "not run"),
    ]


def test_a_violation_stands_at_the_epoch_of_its_record(told: duckdb.DuckDBPyConnection) -> None:
    (epoch,) = told.execute("SELECT epoch FROM rollbacks").fetchall()[0]
    (moment,) = told.execute("SELECT moment FROM rollbacks").fetchall()[0]
    (found,) = report_of(told, [failed("log.chain", moment, "it does not follow")]).violations
    assert (found.check, found.moment, found.epoch) == ("log.chain", moment, epoch)


def test_a_run_id_with_a_quote_is_a_text_in_its_statements(told: duckdb.DuckDBPyConnection) -> None:
    assert table(report_of(told, run="o'clock"), "files").rows == ()
