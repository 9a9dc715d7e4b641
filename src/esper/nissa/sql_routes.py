"""The route for questions in SQL. It is open only where the service asks for a token: an answer may hold anything that is in the log.

Here alone a problem repeats what was sent: the statement's own line, with the place of its mistake.
"""

from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import to_json

from esper.errors import LimitError, RuleError
from esper.nissa.backend import RUN_REF, ByBackend, View, send
from esper.nissa.problems import ProblemError, responses

_LONGEST_SQL = 100_000
_Whole = Annotated[int, Field(ge=0, strict=False)]  # To JSON Schema 3.0 is a whole number.
sql_routes = APIRouter(tags=["sql"])


class _Question(BaseModel):
    """A statement that reads, and what of the log it is to see: everything; one run; that run at a moment, or when an epoch was over."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sql: Annotated[str, Field(min_length=1, max_length=_LONGEST_SQL, examples=["SELECT count(*) AS runs FROM runs"])]
    parameters: dict[str, JsonValue] = Field({})
    """Values of the statement's `$name`s."""
    run: Annotated[str | None, Field(pattern=RUN_REF, max_length=128, examples=["latest"])] = None
    moment: _Whole | None = None
    epoch: _Whole | None = None


class _AnswerColumn(View):
    """A column of the answer: its name, and Arrow's type."""

    name: str
    type: str


class _SqlAnswer(View):
    """All rows that the statement read, each a list in the order of the columns."""

    columns: tuple[_AnswerColumn, ...]
    rows: tuple[tuple[JsonValue, ...], ...]
    as_of: str
    """The time, in UTC, up to which everything in the log is in the answer."""


@sql_routes.post("/api/v1/sql", response_model=_SqlAnswer, responses=responses(404, 409, 413, 429, 501, 503))
def ask_sql(backend: ByBackend, question: Annotated[_Question, Body()]) -> Response:
    """The rows that a statement reads from the log's tables, in a process that can read nothing else, within limits."""
    if not backend.has_token:
        raise ProblemError(403, "no-token", "SQL is answered only where the service asks for a token: start it without --open")
    if find_spec("duckdb") is None or find_spec("pyarrow") is None:
        raise ProblemError(501, "not-installed", "SQL needs duckdb and pyarrow where the service runs: pip install 'esper-training[audit]'")
    from esper.audit.asking import Scope

    run = None if question.run is None else backend.run_list.resolve(question.run)
    if not backend.queries.acquire(blocking=False):
        raise ProblemError(429, "busy", "as many questions as the service allows are being answered: ask again, or raise nissa.queries")
    try:
        asked = backend.ask(question.sql, parameters=question.parameters, scope=Scope(run, question.moment, question.epoch))
    except LimitError as error:
        raise ProblemError(409, "sql-limit", str(error)) from error
    except RuleError as error:
        raise ProblemError(409, "sql-refused", str(error)) from error
    finally:
        backend.queries.release()
    columns = [{"name": field.name, "type": str(field.type)} for field in asked.answer.arrow.schema]
    answer: dict[str, Any] = {"columns": columns, "rows": asked.answer.rows(), "as_of": asked.as_of.isoformat()}
    # A decimal or a time of day has no form of its own in JSON.
    return send(to_json(answer, inf_nan_mode="strings", bytes_mode="hex", fallback=str))
