"""How an answer is sent: as the model writes itself, with an ETag and for good where it can never change."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel

from esper.events.envelope import Record, RunId
from esper.events.times import written_time
from esper.nissa.source import Cut, Source

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"

CURSOR = r"^[0-9]{1,18}\.[0-9]{1,18}$"

RunRef = Annotated[
    str,
    Path(
        pattern=r"^[0-9A-Za-z][0-9A-Za-z:._-]*$", max_length=128, description="A run's id, what only one id begins or ends with, or latest."
    ),
]
Cursor = Annotated[str | None, Query(pattern=CURSOR, description="Goes on after what an answer's cursor says.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]


def sent(view: BaseModel | bytes, status: int = 200) -> Response:
    """The answer `view`, good now and not to be kept."""
    body = view if isinstance(view, bytes) else view.__pydantic_serializer__.to_json(view)
    return Response(body, status, media_type="application/json")


def tagged(request: Request, source: Source, run: RunId, ref: str, view: BaseModel | bytes) -> Response:
    """The answer `view` about `run`: with an ETag once the run is sealed, and for good where `ref` is its whole id."""
    response = sent(view)
    tag = tag_of(request, source, run)
    if tag is not None:
        response.headers["ETag"] = tag
        response.headers["Cache-Control"] = IMMUTABLE if ref == run else REVALIDATE
    return response


def unchanged(request: Request, source: Source, run: RunId, ref: str) -> Response | None:
    """304 where who asks has the answer already; None where it has to be made."""
    tag = tag_of(request, source, run)
    asked = request.headers.get("if-none-match", "")
    if tag is None or tag not in (one.strip().removeprefix("W/") for one in asked.split(",")):
        return None
    return Response(status_code=304, headers={"ETag": tag, "Cache-Control": IMMUTABLE if ref == run else REVALIDATE})


def tag_of(request: Request, source: Source, run: RunId) -> str | None:
    """The ETag of this request's answer: of the run's seal, the request and the version; None while the run may change."""
    mark = source.mark(run)
    if mark is None:
        return None
    digest = hashlib.sha256(f"{request.app.version}\x1f{mark}\x1f{run}\x1f{request.url.path}\x1f{request.url.query}".encode())
    return f'"{digest.hexdigest()[:32]}"'


def event_json(record: Record) -> bytes:
    """`record` as one JSON object: the envelope's fields by name, and in `data` the payload byte for byte."""
    chain = None if record.chain is None else record.chain.hex()
    envelope = record._asdict() | {"time": written_time(record.time), "chain": chain}
    del envelope["data"]
    return json.dumps(envelope, separators=(",", ":")).encode()[:-1] + b',"data":' + record.data + b"}"


def events_json(cut: Cut) -> bytes:
    """A page of records as one JSON object."""
    more = b"true" if cut.more else b"false"
    return b'{"events":[' + b",".join(map(event_json, cut.records)) + b'],"cursor":"' + cut.cursor.encode() + b'","more":' + more + b"}"


def stamp(record: Record) -> dict[str, Any]:  # Any: fields of a view, which checks them.
    """Where `record` stands, as the fields of a view."""
    return {name: getattr(record, name) for name in ("id", "moment", "epoch", "step", "time")}
