"""Errors as RFC 9457 problem documents. None of them repeats what was sent: neither values nor names that are not the API's own."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from esper.errors import EsperError
from esper.nissa.custom import RedefinedError, RefusedSamplesError, TooManyError
from esper.nissa.source import AmbiguousRunError, NotReachedError, NotRecordedError, UnknownRunError
from esper.nissa.views.service import InvalidPart, Problem

MEDIA_TYPE = "application/problem+json"
# The names that a fault may be told by: they are in the API's description. Any other is the sender's, and is shown as `?`.
_PLACES = ("path", "query", "header", "body")
_PARAMETERS = ("run", "at", "limit", "cursor", "after", "topic", "standing", "metric", "last-event-id", "accept")
_FIELDS = ("samples", "name", "type", "labels", "value", "about")
_CHOICES = frozenset(("gauge", "counter"))  # pydantic's word for the branch that it took; no place in the body.
NAMES = frozenset((*_PLACES, *_PARAMETERS, *_FIELDS))


class ProblemResponse(Response):
    """A problem document."""

    media_type = MEDIA_TYPE


def problem(
    status: int, kind: str, detail: str | None = None, errors: Sequence[InvalidPart] = (), headers: dict[str, str] | None = None
) -> ProblemResponse:
    """The response for one problem; `kind` is its stable name."""
    body = Problem(type=f"urn:esper:problem:{kind}", title=HTTPStatus(status).phrase, status=status, detail=detail, errors=tuple(errors))
    return ProblemResponse(body.model_dump_json(), status_code=status, headers={"Cache-Control": "no-store", **(headers or {})})


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:  # Any: OpenAPI's own form, made for FastAPI.
    """The descriptions of error responses for OpenAPI; those that every route may give are among them."""
    schema = {"$ref": "#/components/schemas/Problem"}
    found = sorted({400, 401, 403, 422, 500, *statuses})
    return {status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}} for status in found}


def install(app: FastAPI) -> None:
    """Makes every error of `app` a problem document."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(EsperError, _esper)
    app.add_exception_handler(Exception, _unexpected)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if any(one["type"] == "json_invalid" for one in errors):
        return problem(400, "not-json", "expected a body of JSON")
    return problem(422, "invalid", "the request breaks the API's description", tuple(_parts(errors)))


def _parts(errors: Iterable[Any]) -> Iterable[InvalidPart]:  # Any: pydantic's error records; only type, place and message are used.
    for one in list(errors)[:20]:
        place = [str(part) if isinstance(part, int) or part in NAMES else "?" for part in one["loc"] if part not in _CHOICES]
        yield InvalidPart(pointer="/" + "/".join(place), detail=_told(one["type"], str(one["msg"])))


# pydantic's messages that tell what was expected and nothing of what came. Any other is not passed on.
_PLAIN = frozenset(
    (
        "missing",
        "int_type",
        "int_parsing",
        "int_from_float",
        "float_type",
        "finite_number",
        "string_type",
        "list_type",
        "dict_type",
        "greater_than_equal",
        "less_than_equal",
        "too_long",
        "too_short",
        "string_too_long",
        "string_too_short",
        "literal_error",
        "enum",
        "string_pattern_mismatch",
        "union_tag_not_found",
    )
)
_OWN = {
    "extra_forbidden": "unknown field",
    "union_tag_invalid": "expected a gauge or a counter",
    "string_unicode": "expected valid Unicode",
    "unknown_topic": "expected a topic, named whole, like telemetry.training.steps; the API's description lists them",
    "model_attributes_type": "expected an object of JSON, and the header content-type: application/json",
}


def _told(kind: str, message: str) -> str:
    return _OWN.get(kind) or (message if kind in _PLAIN else "not acceptable")


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    names = {400: "bad-request", 401: "unauthorized", 403: "forbidden", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, names.get(error.status_code, "http"), _OWN_WORDS.get(error.status_code), headers=headers)


_OWN_WORDS = {
    400: "the body could not be read",
    404: "there is nothing at this path",
    405: "the path has no such method",
    413: "the body is larger than this service reads",
}


_KNOWN: tuple[tuple[type[EsperError], int, str, str], ...] = (
    (UnknownRunError, 404, "unknown-run", "no run begins or ends with this; GET /api/v1/runs lists those there are"),
    (AmbiguousRunError, 409, "ambiguous-run", "several runs begin or end with this: name more of its digits"),
    (RedefinedError, 409, "metric-redefined", "a metric keeps its type and its label names"),
    (TooManyError, 409, "too-many-series", "nothing was recorded: there would be more metrics or series than may be"),
    (NotRecordedError, 503, "not-recorded", "the log could not be written: nothing was recorded"),
    (EsperError, 503, "log-unreadable", "the log could not be read; `esper doctor` says what is wrong with it"),
)


async def _esper(_request: Request, error: Exception) -> Response:
    if isinstance(error, NotReachedError):
        return problem(404, "moment-not-reached", f"expected a moment from 0 to {error.last}, the last on disk")
    _, status, kind, detail = next(known for known in _KNOWN if isinstance(error, known[0]))
    return problem(status, kind, detail, error.parts if isinstance(error, RefusedSamplesError) else ())


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return problem(500, "unexpected", "a fault of Esper's own; the service's own output has the traceback")
