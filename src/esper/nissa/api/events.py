"""Records as they stand in the log: paged by cursor, and as a live tail."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Header, Query, Response
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import StreamingResponse

from esper.errors import EsperError
from esper.events.envelope import RunId
from esper.events.topics import TOPICS, TopicClass
from esper.nissa.api.answers import CURSOR, Cursor, Limit, OfRun, RunRef, event_json, events_json, sent
from esper.nissa.parts import Served
from esper.nissa.problems import problem, responses
from esper.nissa.source import Cut, Source
from esper.nissa.views.records import EventPage
from esper.nissa.wake import Wake

KEEP_ALIVE_S = 15.0
_PAGE = 500


def _known(topic: str) -> str:
    if topic not in TOPICS:
        raise PydanticCustomError("unknown_topic", "expected a topic of the catalogue")
    return topic


_Named = list[Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(TOPICS)})]] | None
Topics = Annotated[
    _Named,
    Query(alias="topic", max_length=len(TOPICS), description="Only these topics. Without it all that the run's own process wrote."),
]
LiveTopics = Annotated[
    _Named,
    Query(alias="topic", max_length=len(TOPICS), description="Only these topics. Without it all, what is derived of the run included."),
]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", pattern=CURSOR, description="The id of the last event that came: goes on after it."),
]
_ABOUT_STREAM = "Events `record` (data: a record) and `gap` (data: from, to, missed)."
_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": _ABOUT_STREAM, "content": {"text/event-stream": {}}}}


router = APIRouter(prefix="/api/v1/runs", tags=["events"])


@router.get("/{run}/events", response_model=EventPage, responses=responses(404, 409, 503))
def list_events(asked: OfRun, cursor: Cursor = None, limit: Limit = 100, topics: Topics = None) -> Response:
    """Records of a run as they stand in the log, in its order; derived ones come after the run's own of the same page."""
    chosen = None if topics is None else frozenset(topics)

    def view() -> bytes:
        return events_json(asked.source.page(asked.run, cursor, limit, chosen))

    derived = chosen is not None and any(TOPICS[topic].kind is TopicClass.DERIVED for topic in chosen)
    return sent(view()) if derived else asked.answer(view)


@router.get("/{run}/tail", response_class=StreamingResponse, responses=_STREAM | responses(404, 409, 503))
async def tail(
    served: Served, run: RunRef, topics: LiveTopics = None, cursor: Cursor = None, last_event_id: LastEventId = None
) -> Response:
    """Server-sent events: the records of a run as they come; the id of the last of a group is a cursor.

    Without a cursor it begins at the end of the log. A reader that is too far behind gets a `gap` and goes on nearer to the end.
    """
    source, wake, behind = served.source, served.wake, served.settings.tail_records
    if wake.full or wake.closing:
        return problem(503, "too-many-tails", "as many live tails are open as may be: try again later", headers={"Retry-After": "5"})
    name = await asyncio.to_thread(source.resolve, run)
    after = last_event_id or cursor
    began = await asyncio.to_thread(source.near_end, name, after, behind if after else 0)
    reading = _Reading(name, after, *began, frozenset(topics) if topics else frozenset(TOPICS), behind)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(source, wake, reading), media_type="text/event-stream", headers=headers)


class _Reading(NamedTuple):
    """Where a tail goes on: at `cursor`, which is `missed` records after `after`."""

    run: RunId
    after: str | None
    cursor: str
    missed: int
    topics: frozenset[str]
    behind: int


async def _stream(source: Source, wake: Wake, reading: _Reading) -> AsyncIterator[bytes]:
    run, after, cursor, missed, topics, behind = reading
    yield b"retry: 2000\nid: %s\n\n" % cursor.encode()
    with wake.listening(run) as grown:
        while not wake.closing:
            if missed:
                yield _gap(after, cursor, missed)
            # Cleared before the log is read: what comes in between sets it again.
            grown.clear()
            try:
                cut = await asyncio.to_thread(source.page, run, cursor, _PAGE, topics)
            except EsperError:
                return  # The run is gone or cannot be read: who comes again is told so.
            if cut.records:
                yield _messages(cut)
            after, cursor, missed = cut.cursor, cut.cursor, 0
            if cut.more:
                cursor, missed = await asyncio.to_thread(source.near_end, run, cursor, behind)
            elif not await _rang(grown):
                yield b": still here\n\n"


async def _rang(grown: asyncio.Event) -> bool:
    """True as soon as the run grew; False when it did not for a while."""
    try:
        async with asyncio.timeout(KEEP_ALIVE_S):
            await grown.wait()
    except TimeoutError:
        return False
    return True


def _messages(cut: Cut) -> bytes:
    """The records of a page. The cursor is the last one's id: who resumes from an earlier one gets no record twice that had an id."""
    parts = [b"event: record\ndata: %s\n" % event_json(record) for record in cut.records]
    return b"\n".join(parts) + b"id: %s\n\n" % cut.cursor.encode()


def _gap(after: str | None, cursor: str, missed: int) -> bytes:
    said = json.dumps({"from": after, "to": cursor, "missed": missed}, separators=(",", ":")).encode()
    return b"event: gap\nid: %s\ndata: %s\n\n" % (cursor.encode(), said)
