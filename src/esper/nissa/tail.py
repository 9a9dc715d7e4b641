"""The live tail: server-sent events of a run's records as they are written, resumed by Last-Event-ID.

The thread that follows the log notifies, tails wait on the event loop. Notifications are put together: however many records were written, a
tail is woken at most once in `EVERY_S`.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from esper.errors import EsperError
from esper.events.envelope import RunId
from esper.events.topics import TOPICS
from esper.history.open_runs import OpenRuns
from esper.nissa.problems import problem, responses
from esper.nissa.routes import CURSOR, ByBackend, Cursor, NamedTopics, RunRef, event_json

_EVERY_S = 0.02
_PING_S = 15
_END_S = 0.5  # Longest wait before a tail notices that the server ends.
_PAGE = 500


class Tails:
    """Notifies the tails of a run that it grew. At most `limit` tails may listen at one time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grown: set[RunId] = set()
        self._listening: dict[asyncio.Event, RunId] = {}

    @property
    def full(self) -> bool:
        """True when no more tails may listen."""
        return len(self._listening) >= self._limit

    @contextmanager
    def listening(self, run: RunId) -> Iterator[asyncio.Event]:
        """An event that is set when `run` grew; the tail that waits on it clears it. On the event loop alone."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._listening[event] = run
        try:
            yield event
        finally:
            del self._listening[event]

    def notify(self, runs: Iterable[RunId]) -> None:
        """Tells the tails of `runs` that these grew. From any thread; never waits."""
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                return  # No tail listens: the first thing that one does is to read the log.
            first = not self._grown
            self._grown.update(runs)
            if first and self._grown:
                self._loop.call_soon_threadsafe(self._loop.call_later, _EVERY_S, self._wake)

    def _wake(self) -> None:
        with self._lock:
            grown, self._grown = self._grown, set()
        for event, run in self._listening.items():
            if run in grown:
                event.set()


_ABOUT_TOPICS = "Only these topics. Without it all, what is derived of the run included."
_Topics = Annotated[NamedTopics, Query(alias="topic", max_length=len(TOPICS), description=_ABOUT_TOPICS)]
_ABOUT_ID = "The id of the last event that came: goes on after it."
_LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=CURSOR, description=_ABOUT_ID)]
_ABOUT_STREAM = "Events `record` (data: a record) and `gap` (data: from, to, missed)."
_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": _ABOUT_STREAM, "content": {"text/event-stream": {}}}}
router = APIRouter(prefix="/api/v1/runs", tags=["events"])


@router.get("/{run}/tail", response_class=EventSourceResponse, responses=_STREAM | responses(404, 409, 503))
async def tail(
    request: Request, backend: ByBackend, run: RunRef, *, topics: _Topics = None, cursor: Cursor = None, last_event_id: _LastEventId = None
) -> Response:
    """Server-sent events: the records of a run as they come; the id of the last of a group is a cursor.

    Without a cursor it begins at the end of the log. A reader that is too far behind gets a `gap` and goes on nearer to the end.
    """
    tails: Tails = request.app.state.tails
    if tails.full:
        return problem(503, "too-many-tails", "as many live tails are open as may be: try again later", headers={"Retry-After": "5"})
    name = await asyncio.to_thread(backend.run_list.resolve, run)
    after, behind = last_event_id or cursor, backend.settings.tail_records
    start = await asyncio.to_thread(backend.runs.skip, name, after, behind if after else 0)
    ending = anyio.Event()
    chosen = frozenset(topics or TOPICS)
    stream = _stream(backend.runs, tails, name, after=after, start=start, topics=chosen, behind=behind, ending=ending)
    # The server tells `ending`, and waits for the stream to end by itself: a stream that is cancelled has no proper end.
    return EventSourceResponse(stream, ping=_PING_S, sep="\n", shutdown_event=ending, shutdown_grace_period=4 * _END_S)


async def _stream(
    runs: OpenRuns,
    tails: Tails,
    run: RunId,
    *,
    after: str | None,
    start: tuple[str, int],
    topics: frozenset[str],
    behind: int,
    ending: anyio.Event,
) -> AsyncIterator[bytes]:
    """The messages of a tail that goes on at `start`: a cursor, and the number of records that it skipped since `after`."""
    cursor, missed = start
    yield _message(id=cursor, retry=2000)
    with tails.listening(run) as grown:
        while not ending.is_set():
            if missed:
                gap = json.dumps({"from": after, "to": cursor, "missed": missed}, separators=(",", ":"))
                yield _message(gap, event="gap", id=cursor)
            # Cleared before the log is read: what is written in between sets it again.
            grown.clear()
            try:
                page = await asyncio.to_thread(runs.page, run, cursor, _PAGE, topics)
            except EsperError:
                return  # The run is gone or cannot be read: the next request is answered with the reason.
            if page.records:
                last = len(page.records) - 1
                # Only the last has an id: a reader that resumes after it gets no record twice.
                ids = (page.cursor if number == last else None for number in range(last + 1))
                yield b"".join(
                    _message(event_json(record).decode(), event="record", id=id_) for record, id_ in zip(page.records, ids, strict=True)
                )
            after, cursor, missed = page.cursor, page.cursor, 0
            if page.more:
                cursor, missed = await asyncio.to_thread(runs.skip, run, cursor, behind)
            else:
                await _either(grown, ending)


async def _either(grown: asyncio.Event, ending: anyio.Event) -> None:
    while not grown.is_set() and not ending.is_set():
        with anyio.move_on_after(_END_S):
            await grown.wait()


def _message(data: str | None = None, *, event: str | None = None, id: str | None = None, retry: int | None = None) -> bytes:  # noqa: A002
    return ServerSentEvent(data, event=event, id=id, retry=retry, sep="\n").encode()
