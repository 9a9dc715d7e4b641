"""How an answer is sent: as the model writes itself, with an ETag and for good where it can never change."""

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel

from esper.events.envelope import Record, RunId
from esper.events.times import written_time
from esper.nissa.parts import Served
from esper.nissa.source import Cut, Source

RUN_REF = r"^[0-9A-Za-z][0-9A-Za-z:._-]*$"
CURSOR = r"^[0-9]{1,18}\.[0-9]{1,18}$"
IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"

_ABOUT_REF = "A run's id, what only one id begins or ends with, or latest."
RunRef = Annotated[str, Path(pattern=RUN_REF, max_length=128, description=_ABOUT_REF)]
Cursor = Annotated[str | None, Query(pattern=CURSOR, description="Goes on after what an answer's cursor says.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
Moment = Annotated[int, Query(ge=0, le=2**53)]


def sent(view: BaseModel | bytes, status: int = 200) -> Response:
    """The answer `view`, good now and not to be kept."""
    body = view if isinstance(view, bytes) else view.__pydantic_serializer__.to_json(view)
    return Response(body, status, media_type="application/json")


class AskedRun:
    """A question about one run. It is asked of the log on the route's own thread: `run` and `answer` read the disk."""

    def __init__(self, request: Request, source: Source, ref: str) -> None:
        self.source = source
        self._request = request
        self._ref = ref

    @cached_property
    def run(self) -> RunId:
        """The run that is meant. Raises UnknownRunError, AmbiguousRunError."""
        return self.source.resolve(self._ref)

    def answer(self, view: Callable[[], BaseModel | bytes]) -> Response:
        """The answer that `view` makes, once the run is sealed with an ETag; 304, without making it, for who has it already.

        For what the run itself wrote alone: what was derived may grow after the seal.
        """
        tag = self._tag()
        if tag is None:
            return sent(view())
        kept = {"ETag": tag, "Cache-Control": IMMUTABLE if self._ref == self.run else REVALIDATE}
        asked = self._request.headers.get("if-none-match", "")
        if tag in (one.strip().removeprefix("W/") for one in asked.split(",")):
            return Response(status_code=304, headers=kept)
        response = sent(view())
        response.headers.update(kept)
        return response

    def _tag(self) -> str | None:
        """Of the run's seal, the request and the version; None while the run may change."""
        mark = self.source.mark(self.run)
        if mark is None:
            return None
        url, version = self._request.url, self._request.app.version
        digest = hashlib.sha256(f"{version}\x1f{mark}\x1f{self.run}\x1f{url.path}\x1f{url.query}".encode())
        return f'"{digest.hexdigest()[:32]}"'


async def _asked(request: Request, served: Served, run: RunRef) -> AskedRun:
    return AskedRun(request, served.source, run)


OfRun = Annotated[AskedRun, Depends(_asked)]


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
