"""A question in SQL to a log as anyone may ask it: of everything that is there, of one run, or of a run as it stood at a moment."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import JsonValue

from esper.audit.door.answer import Answer
from esper.audit.door.query import QueryLimits, query
from esper.audit.ownership import ProjectionSnapshot, snapshot_of
from esper.audit.snapshot import opened
from esper.audit.table_sql import described, sql_text
from esper.errors import RuleError
from esper.events.envelope import RunId
from esper.oona.directory import Directory


class Scope(NamedTuple):
    """The part of a log that a question sees: all, or one `run`; of that all, or what stood at `moment`, or when `epoch` was over."""

    run: RunId | None = None
    moment: int | None = None
    epoch: int | None = None


EVERYTHING = Scope()


class Asked(NamedTuple):
    """The answer, and the time up to which everything in the log is in it."""

    answer: Answer
    as_of: datetime


def ask(
    directory: Directory,
    sql: str,
    *,
    parameters: Mapping[str, JsonValue] | None = None,
    scope: Scope = EVERYTHING,
    limits: QueryLimits = QueryLimits(),  # noqa: B008 - it is frozen.
    waiting: Callable[[int], None] = lambda _: None,
) -> Asked:
    """The answer to `sql` from the log in `directory`, its tables brought up to date before.

    Raises RuleError for a statement that does not only read, that DuckDB does not take, or for a scope that the log does not have;
    LimitError for one that costs too much; LogError where the tables cannot be made.
    """
    snapshot = snapshot_of(directory, waiting=waiting)
    return Asked(query(snapshot.path, sql, limits=limits, parameters=parameters, before=_views(snapshot, scope)), snapshot.as_of)


def _views(snapshot: ProjectionSnapshot, scope: Scope) -> tuple[str, ...]:
    """Statements that put views of what is in `scope` before the tables, whose names they have; every view and macro reads those too."""
    if scope.run is None:
        if scope.moment is not None or scope.epoch is not None:
            raise RuleError("expected a run whose moment or epoch is meant, got none: name it with --run")
        return ()
    moment = _moment(snapshot, scope.run, scope)
    return tuple(
        f'CREATE TEMP VIEW "{name}" AS FROM audit.main."{name}" WHERE run = {sql_text(scope.run)}'
        + ("" if moment is None or "moment" not in {column.name for column in columns} else f" AND moment <= {moment}")
        for name, _, columns in described()
    )


def _moment(snapshot: ProjectionSnapshot, run: RunId, scope: Scope) -> int | None:
    """The moment that the scope means; None for all of the run. Raises RuleError where the run has not got there."""
    if scope.moment is not None and scope.epoch is not None:
        raise RuleError("expected a moment or an epoch, got both")
    with opened(snapshot.path) as connection:
        [(last, last_epoch)] = connection.execute("SELECT max(moment), max(epoch) FROM events WHERE run = ?", [run]).fetchall()
        if last is None:
            raise RuleError(f"run {run}: expected records of it in the tables, got none")
        if scope.moment is not None and not 0 <= scope.moment <= last:
            raise RuleError(f"run {run}: expected a moment from 0 to {last}, the last there is, got {scope.moment}")
        if scope.epoch is None:
            return scope.moment
        if not 0 <= scope.epoch <= last_epoch:
            raise RuleError(f"run {run}: expected an epoch from 0 to {last_epoch}, got {scope.epoch}")
        [(moment,)] = connection.execute("SELECT moment_of_epoch(?, ?)", [run, scope.epoch]).fetchall()
        return int(moment or 0)
