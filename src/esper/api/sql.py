"""`esper.sql`: a question in SQL to a log."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from esper.extras import require_installed
from esper.history.run_list import resolve_run
from esper.oona.directory import Directory
from esper.settings import settings_of

if TYPE_CHECKING:
    from esper.audit.door.answer import Answer


def sql(
    statement: str,
    log: str | Path = "runs",
    *,
    run: str | None = None,
    at: int | None = None,
    epoch: int | None = None,
    parameters: Mapping[str, JsonValue] | None = None,
    time_s: float = 30.0,
) -> "Answer":
    """The rows that `statement` reads from the log in directory `log`: `.arrow`, `.rows()`, and `.df()`, `.pl()` where those are installed.

    `run` (an id, what only one id begins or ends with, or "latest") leaves that run alone in every table; `at`, a moment, or `epoch` leaves
    what stood then. `parameters` are the statement's `$name`s. It runs in a process of its own, which can read nothing but the tables; it
    may take `time_s` seconds and a gigabyte of memory. docs/tables.md has the tables.

    Raises RuleError for a statement that does not only read or that DuckDB does not take, and for a run, moment or epoch that there is not;
    LimitError, which is one, for one that costs too much; LogError where the log cannot be read; SettingsError where DuckDB is missing, and
    for a `time_s` that is no limit.
    """
    require_installed("esper.sql", "audit", "duckdb", "pyarrow")
    from esper.audit.asking import Scope, ask
    from esper.audit.door.query import QueryLimits

    directory = Directory(Path(log))
    scope = Scope(None if run is None else resolve_run(directory, run), at, epoch)
    return ask(
        directory, statement, parameters=parameters, scope=scope, limits=settings_of(QueryLimits, {"time_s": time_s}, "esper.sql")
    ).answer
