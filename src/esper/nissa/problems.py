"""Errors as RFC 9457 problem documents. None of them repeats what was sent: neither values nor names that are not the API's own."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from esper.errors import AmbiguousRunError, EsperError, UnknownRunError
from esper.nissa.backend import View
from esper.nissa.custom_metrics import InvalidPart, RefusedSamplesError

_MEDIA_TYPE = "application/problem+json"
# Names by which a mistake is located: they are in the API's description. Any other is the sender's, and is shown as `?`.
_PLACES = ("path", "query", "header", "body")
_PARAMETERS = ("run", "at", "limit", "cursor", "after", "topic", "standing", "metric", "last-event-id", "accept")
_FIELDS = ("samples", "name", "type", "labels", "value", "about", "sql", "parameters", "moment", "epoch")
_NAMES = frozenset((*_PLACES, *_PARAMETERS, *_FIELDS))
_BRANCHES = frozenset(("gauge", "counter"))  # pydantic's word for the branch that it took; no place in the body.
_PLAIN = frozenset(
    (
        "missing", "int_type", "int_parsing", "int_from_float", "float_type", "finite_number", "string_type", "list_type", "dict_type",
        "greater_than_equal", "less_than_equal", "too_long", "too_short", "string_too_long", "string_too_short", "literal_error", "enum",
        "string_pattern_mismatch", "union_tag_not_found",
    )
)  # fmt: skip
"""Pydantic's errors whose message has what was expected and nothing that was sent. No other message is passed on."""
_OWN_WORDS = {
    "extra_forbidden": "unknown field",
    "union_tag_invalid": "expected a gauge or a counter",
    "string_unicode": "expected valid Unicode",
    "unknown_topic": "expected a topic, named whole, like telemetry.training.steps; the API's description lists them",
    "model_attributes_type": "expected an object of JSON, and the header content-type: application/json",
}
_HTTP = {
    400: ("bad-request", "the body could not be read"),
    404: ("not-found", "there is nothing at this path"),
    405: ("method-not-allowed", "the path has no such method"),
    413: ("too-large", "the body is larger than this service reads"),
}
_REFUSED_SAMPLES = {
    "metric-redefined": "a metric keeps its type and its label names",
    "too-many-series": "nothing was recorded: there would be more metrics or series than may be",
}


class Problem(View):
    """A refusal or a fault (RFC 9457). It never repeats what was sent."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: tuple[InvalidPart, ...] = ()


class ProblemError(EsperError):
    """A refusal or a fault that becomes the problem document of these fields."""

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.headers = headers
        self.status = status
        self.kind = kind
        self.detail = detail


def problem(
    status: int, kind: str, detail: str | None = None, errors: Sequence[InvalidPart] = (), headers: dict[str, str] | None = None
) -> Response:
    """The response for one problem; `kind` is its stable name."""
    body = Problem(type=f"urn:esper:problem:{kind}", title=HTTPStatus(status).phrase, status=status, detail=detail, errors=tuple(errors))
    return Response(body.model_dump_json(), status, {"Cache-Control": "no-store", **(headers or {})}, _MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:  # Any: OpenAPI's own form, made for FastAPI.
    """The descriptions of error responses for OpenAPI; those that every route may give are among them."""
    schema = {"$ref": "#/components/schemas/Problem"}
    found = sorted({400, 401, 403, 422, 500, *statuses})
    return {status: {"description": HTTPStatus(status).phrase, "content": {_MEDIA_TYPE: {"schema": schema}}} for status in found}


def install_handlers(app: FastAPI) -> None:
    """Makes every error of `app` a problem document."""
    for kind in (RequestValidationError, HTTPException, EsperError, Exception):
        app.add_exception_handler(kind, _problem_of)


async def _problem_of(_request: Request, error: Exception) -> Response:
    match error:
        case RequestValidationError() if any(one["type"] == "json_invalid" for one in error.errors()):
            answer = problem(400, "not-json", "expected a body of JSON")
        case RequestValidationError():
            answer = problem(422, "invalid", "the request breaks the API's description", tuple(_parts(error.errors())))
        case HTTPException():
            kind, detail = _HTTP.get(error.status_code, ("http", None))
            answer = problem(error.status_code, kind, detail, headers=dict(error.headers or {}))
        case ProblemError():
            answer = problem(error.status, error.kind, error.detail, headers=error.headers)
        case RefusedSamplesError():
            answer = problem(409, error.problem, _REFUSED_SAMPLES[error.problem], error.parts)
        case UnknownRunError():
            answer = problem(404, "unknown-run", "no run begins or ends with this; GET /api/v1/runs lists those there are")
        case AmbiguousRunError():
            answer = problem(409, "ambiguous-run", "several runs begin or end with this: name more of its digits")
        case EsperError():
            answer = problem(503, "log-unreadable", "the log could not be read; `esper doctor` says what is wrong with it")
        case _:
            answer = problem(500, "unexpected", "a fault of Esper's own; the service's own output has the traceback")
    return answer


def _parts(errors: Iterable[Any]) -> Iterable[InvalidPart]:  # Any: pydantic's error records; only type, place and message are used.
    for one in list(errors)[:20]:
        place = [str(part) if isinstance(part, int) or part in _NAMES else "?" for part in one["loc"] if part not in _BRANCHES]
        detail = _OWN_WORDS.get(one["type"]) or (str(one["msg"]) if one["type"] in _PLAIN else "not acceptable")
        yield InvalidPart(pointer="/" + "/".join(place), detail=detail)
