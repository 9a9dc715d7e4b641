"""The report of a run, made from a read-only connection to the projection: every row is asked for here, and every sentence made.

The statements stand in `sql/`. They run with their values written into them, and stand in the report just so: whoever runs one again with
`esper sql` gets all of its rows.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from esper.audit.compliance.running import CheckResult
from esper.audit.report.clauses import CLAUSES, Clause
from esper.audit.report.model_file import ComparedModel, compare_model, digest_at_end
from esper.audit.report.questions import QUESTIONS, Question, Statement
from esper.audit.report.sentences import Material
from esper.audit.report.timeline_drawing import PlacedViolation, TimelineDrawing, draw
from esper.audit.table_sql import sql_text
from esper.events.topics import TOPICS

VERSION = 1
"""Of the report's shape as JSON."""
MOST_ROWS = 50
"""Of a table; the statement beside it gives all."""
_BESIDE_THE_ANSWERS = ("heading", "losses", "spans", "marks")
_NAMED = re.compile(r"\$(run|moment|then|topics)\b")
CellValue = Any  # Whatever DuckDB returns: numbers, texts, times, lists, maps, None.


@dataclass(frozen=True)
class AnswerTable:
    """Rows behind an answer, at most MOST_ROWS of `total`; `sql` gives all of them."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[CellValue, ...], ...]
    total: int
    sql: str


@dataclass(frozen=True)
class Checked:
    """A check and its result: PASS, FAIL, INCONCLUSIVE or `not run`; the first violations of `total`."""

    name: str
    title: str
    result: str
    population: int | None
    total: int
    violations: tuple[PlacedViolation, ...]


@dataclass(frozen=True)
class Section:
    """A question with its answer."""

    number: int
    anchor: str
    title: str
    answer: str
    tables: tuple[AnswerTable, ...]
    checks: tuple[Checked, ...]
    cannot_show: str


@dataclass(frozen=True)
class Mapped:
    """A clause with the results of the checks that are evidence for it."""

    clause: Clause
    checks: tuple[Checked, ...]


@dataclass(frozen=True)
class Report:
    """Everything that the report says, in the order in which it says it. `moment`: the last record of the run that it knows."""

    run: str
    made_at: datetime
    moment: int
    on: date | None
    model: ComparedModel | None
    heading: tuple[tuple[str, CellValue], ...]
    checks: tuple[Checked, ...]
    timeline: TimelineDrawing | None
    violations: tuple[PlacedViolation, ...]
    sections: tuple[Section, ...]
    clauses: tuple[Mapped, ...]
    version: int = VERSION


def make_report(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    results: Iterable[CheckResult] = (),
    *,
    now: datetime,
    on: date | None = None,
    model: Path | None = None,
) -> Report:
    """The report of `run`. `results` are those of its compliance checks; `now` is the time of the report, with its zone.

    `on` is the day whose end question 11 asks for, `model` the file that question 8 compares.
    """
    moment = _last_moment(connection, run, None)
    values = {"run": run, "moment": moment, "then": _last_moment(connection, run, on), "topics": _kept()}
    names = (*_BESIDE_THE_ANSWERS, *(query.name for question in QUESTIONS for query in question.queries))
    asked = {name: _Asked(connection, statement(name, values)) for name in names}
    known = {result.check.name: result for result in results if result.run == run}
    compared = None if model is None else compare_model(connection, run, model)
    rows = {name: one.as_rows() for name, one in asked.items()}
    material = Material(rows, known, now, on, compared, digest_at_end(connection, run))
    epochs = _epochs_of(connection, run, known.values())
    checked = {name: _checked(result, epochs) for name, result in known.items()}
    violations = tuple(one for check in checked.values() for one in check.violations)
    sections = tuple(_section(question, material, asked, checked) for question in QUESTIONS)
    clauses = tuple(Mapped(clause, _checks(clause.checks, checked)) for clause in CLAUSES)
    heading, drawn = tuple(material.run.items()), draw(rows["losses"], rows["spans"], rows["marks"], violations)
    return Report(run, now, moment, on, compared, heading, tuple(checked.values()), drawn, violations, sections, clauses)


class _Asked:
    """The columns and rows that a statement gave."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, sql: str) -> None:
        self.sql = sql
        connection.execute(sql)
        self.columns = tuple(column[0] for column in connection.description or ())
        self.rows: list[tuple[CellValue, ...]] = connection.fetchall()

    def as_rows(self) -> list[Mapping[str, CellValue]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def statement(name: str, values: Mapping[str, CellValue]) -> str:
    """The statement `name` with its values written into it, without the comment that describes it."""
    lines = _text(name).splitlines()
    body = "\n".join(line for line in lines if not line.startswith("--"))
    return _NAMED.sub(lambda found: _literal(values[found[1]]), body)


@cache
def _text(name: str) -> str:
    return (files("esper.audit.report") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def _literal(value: CellValue) -> str:
    """A value as SQL writes it."""
    match value:
        case None:
            return "NULL"
        case int():
            return str(value)
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case dict():
            return f"{{{', '.join(f'{_literal(key)}: {_literal(inner)}' for key, inner in value.items())}}}"
        case _:
            return sql_text(str(value))


def _last_moment(connection: duckdb.DuckDBPyConnection, run: str, day: date | None) -> int:
    """The moment of the last record of `run` up to the end of `day` (None: of all); 0 where there is none."""
    end = None if day is None else datetime.combine(day + timedelta(days=1), time())
    found = connection.execute(
        "SELECT coalesce(max(moment), 0) FROM events WHERE run = $run AND file = 'run' AND ($day IS NULL OR time < $day)",
        {"run": run, "day": end},
    ).fetchall()
    return int(found[0][0])


def _kept() -> list[dict[str, CellValue]]:
    """The topics with what they hold and how long Kafka keeps it."""
    return [{"topic": topic.name, "kind": topic.kind.value, "hours": topic.retention_h} for topic in TOPICS.values()]


def _section(question: Question, material: Material, asked: Mapping[str, _Asked], checked: Mapping[str, Checked]) -> Section:
    tables = tuple(_table(query, asked[query.name]) for query in question.queries)
    checks = _checks(question.checks, checked)
    return Section(question.number, question.anchor, question.title, question.answer(material), tables, checks, question.cannot_show)


def _table(query: Statement, asked: _Asked) -> AnswerTable:
    return AnswerTable(query.name, query.caption, asked.columns, tuple(asked.rows[:MOST_ROWS]), len(asked.rows), asked.sql)


def _checks(names: Iterable[str], checked: Mapping[str, Checked]) -> tuple[Checked, ...]:
    return tuple(checked.get(name) or Checked(name, "", "not run", None, 0, ()) for name in names)


def _checked(result: CheckResult, epochs: Mapping[int, int]) -> Checked:
    found = (PlacedViolation(result.check.name, one.moment, epochs.get(one.moment), one.what) for one in result.shown)
    title = result.check.header.title
    return Checked(result.check.name, title, str(result.verdict), result.population, result.violations, tuple(found))


def _epochs_of(connection: duckdb.DuckDBPyConnection, run: str, results: Iterable[CheckResult]) -> dict[int, int]:
    """The epoch of each record that a violation stands at."""
    moments = sorted({one.moment for result in results for one in result.shown})
    found = connection.execute(
        "SELECT moment, min(epoch) FROM events WHERE run = ? AND moment IN (SELECT unnest(?)) GROUP BY moment", [run, moments]
    ).fetchall()
    return {int(moment): int(epoch) for moment, epoch in found}
