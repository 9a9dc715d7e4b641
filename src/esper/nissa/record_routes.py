"""The routes about records: pages of a run's records and of what was derived from them, the live tail, alerts, histories of metrics.

The live tail is a stream of server-sent events, resumed by Last-Event-ID. It reads the log, so nothing is lost between two connections.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any, get_args

import anyio
from fastapi import APIRouter, Header, Query, Response
from pydantic import AfterValidator, Field, JsonValue
from pydantic_core import PydanticCustomError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from esper.errors import EsperError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.fields import Count, Event, Float
from esper.events.kinds.accountability import AlertAcknowledged
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.observability import AlertFiring, AnomalyDetected, TrendDetected, WindowAggregated
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.events.topics import DERIVED, TOPICS
from esper.folds.monitoring.measurements import is_series_of
from esper.folds.monitoring.open_alerts import AlertChange, AlertStatus, OpenAlert, status_of
from esper.history.export import line_of
from esper.nissa.backend import RUN_REF, Backend, ByBackend, OfRun, PageSize, RunRef, Tails, View, about_run, send, view_model, view_of
from esper.nissa.problems import problem, responses

_PING_S = 15
_EVERY_S = 0.02  # What is written within this time is sent together.
_END_S = 0.5  # Longest wait before a tail notices that the server ends.
_PAGE = 100
_PART_BYTES = 65_536  # What a tail has in memory beside its page, and sends at once.
_OF_RUN = responses(404, 409, 503)
_CURSOR = r"^[0-9]{1,18}\.[0-9]{1,18}$"
_Cursor = Annotated[str | None, Query(pattern=_CURSOR, description="Goes on after what an answer's cursor says.")]
record_routes = APIRouter(prefix="/api/v1")


def _known(topic: str) -> str:
    if topic not in TOPICS:
        raise PydanticCustomError("unknown_topic", "expected a topic of the catalogue")
    return topic


_Topics = list[Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(TOPICS)})]] | None


def _topics_query(description: str) -> Any:  # Any: FastAPI's own.
    return Query(alias="topic", max_length=len(TOPICS), description=description)


class _Stamp(View):
    """Coordinates of a record."""

    id: str
    moment: Count
    epoch: Count
    step: Count
    time: datetime


class _TransitionView(_Stamp, SeedTransitioned):
    """A seed went from one stage to the next."""

    cause: str | None


class _HealthView(_Stamp, SeedHealthMeasured):
    """The health of every site and live seed at one step."""


class _AlertView(_Stamp, AlertFiring):
    """A change of an alert."""

    run: str
    state: AlertStatus


class _AcknowledgementView(View):
    """A person's word that an alert is in hand: nobody is told of it until then."""

    by: str
    note: str
    until: str


class _FiringAlertView(_AlertView):
    """An alert that fires; `acknowledged` is null where nobody has taken it over, or that is over."""

    acknowledged: _AcknowledgementView | None


class _AnomalyView(_Stamp):
    """A value or a trend that was not expected."""

    kind: str
    topic: str
    metric: str
    detector: str | None = None
    site: str | None = None
    seed: Count | None = None
    value: Float | None = None
    expected: Float | None = None
    score: Float | None = None
    finding: str | None = None
    slope_per_s: Float | None = None


class _AggregateView(View, WindowAggregated):
    """Statistics of one metric over one window."""

    moment: Count


class _EventView(_Stamp):
    """A record as it stands in the log; `data` is its payload byte for byte, its schema is that of `type`."""

    run: str
    topic: str
    writer: str
    sequence: Count | None
    fact: Count | None
    generation: Count
    incarnation: Count
    type: str
    cause: str | None
    trace: str | None
    chain: str | None
    data: dict[str, JsonValue]


_EventPage = view_model("EventPage", "Records, oldest first.", events=tuple[_EventView, ...], cursor=str, more=bool)
_HealthPage = view_model("HealthPage", "The newest measurements of health, oldest first.", run=str, measurements=tuple[_HealthView, ...])
_FiringView = view_model("FiringView", "The alerts that fire now, over all runs.", alerts=tuple[_FiringAlertView, ...])


class _MetricHistory(View):
    """The last 100 windows of one metric of one run, oldest first."""

    run: str
    topic: str
    metric: str
    windows: tuple[_AggregateView, ...]


_HistoryView = view_model("HistoryView", "The last 100 windows of every metric of a run, or of one.", metrics=tuple[_MetricHistory, ...])


def _row(row: type[View], event: Event, record: Record) -> View:
    """A `row` of one record: fields of its event, then of its envelope."""
    return view_of(row, event, record, kind=record.type, state=status_of(event) if isinstance(event, AlertChange) else None)


@record_routes.get("/runs/{run}/events", response_model=_EventPage, responses=_OF_RUN, tags=["events"])
def list_events(
    asked: OfRun,
    cursor: _Cursor = None,
    limit: PageSize = 100,
    topics: Annotated[_Topics, _topics_query("Only these topics. Without it all that the run's own process wrote.")] = None,
) -> Response:
    """Records of a run as they stand in the log, in its order; derived ones come after the run's own of the same page."""

    def view() -> bytes:
        page = asked.backend.runs.page(asked.run, cursor, limit, None if topics is None else frozenset(topics))
        more = b"true" if page.more else b"false"
        return b'{"events":[%b],"cursor":"%b","more":%b}' % (b",".join(map(line_of, page.records)), page.cursor.encode(), more)

    return asked.answer(view, lasting=DERIVED.isdisjoint(topics or ()))


def _add_page_route(name: str, about: str, row: type[View], *kinds: type[Event], tag: str = "watching", limit: int = 100) -> None:
    """Adds the route `name` of a run, which pages through the run's records of `kinds`, all of one topic, each as a `row`."""
    topic, written = kinds[0].TOPIC, {kind.KIND for kind in kinds}
    title = row.__name__.removesuffix("View") + "Page"
    model = view_model(title, about, run=str, cursor=str, more=bool, **{name: tuple.__class_getitem__((row, ...))})

    def list_records(asked: OfRun, cursor: _Cursor = None, limit: PageSize = limit) -> View:
        page = asked.backend.runs.page(asked.run, cursor, limit, frozenset({topic}))
        found = tuple(_row(row, decode(record), record) for record in page.records if record.type in written)
        return view_of(model, page, run=asked.run, **{name: found})

    route = about_run(list_records, lasting=topic not in DERIVED)
    described: dict[str, Any] = {"response_model": model, "responses": _OF_RUN, "description": about, "tags": [tag]}
    record_routes.add_api_route(f"/runs/{{run}}/{name}", route, name=f"list_{name}", **described)


_ABOUT_ANOMALIES = "Values and trends of a run that were not expected, oldest first."
_add_page_route("transitions", "Every stage that a seed entered, oldest first.", _TransitionView, SeedTransitioned, tag="runs", limit=1000)
_add_page_route("alerts", "Every change of an alert of a run, oldest first.", _AlertView, *get_args(AlertChange))
_add_page_route("anomalies", _ABOUT_ANOMALIES, _AnomalyView, AnomalyDetected, TrendDetected)
_add_page_route("aggregates", "Windows of a run's metrics, oldest first.", _AggregateView, WindowAggregated)


@record_routes.get("/runs/{run}/health", response_model=_HealthPage, responses=_OF_RUN, tags=["runs"])
@about_run
def show_health(asked: OfRun, limit: Annotated[int, Query(ge=1, le=200, description="At most so many measurements.")] = 1) -> View:
    """The newest measurements of the health of sites and seeds, oldest first."""
    records = asked.backend.runs.latest(asked.run, SeedHealthMeasured, limit)
    return view_of(_HealthPage, run=asked.run, measurements=tuple(_row(_HealthView, decode(record), record) for record in records))


@record_routes.get("/alerts", response_model=_FiringView, responses=responses(503), tags=["watching"])
def list_firing(backend: ByBackend) -> Response:
    """Alerts that fire now, over all runs that are followed."""
    alerts = tuple(_firing(alert, backend.acknowledged(alert)) for alert in backend.metrics.firing())
    return send(view_of(_FiringView, alerts=alerts))


def _firing(alert: OpenAlert, taken_over: AlertAcknowledged | None) -> View:
    acknowledged = None if taken_over is None else view_of(_AcknowledgementView, taken_over)
    state = status_of(alert.event)
    return view_of(_FiringAlertView, alert.event, alert.record, kind=alert.record.type, state=state, acknowledged=acknowledged)


@record_routes.get("/metrics/history", response_model=_HistoryView, responses=_OF_RUN, tags=["watching"])
def show_history(
    backend: ByBackend,
    run: Annotated[str, Query(pattern=RUN_REF, max_length=128, description="A run; without it the newest.")] = "latest",
    metric: Annotated[str | None, Query(max_length=1000, description="Only this metric, or one series of it.")] = None,
) -> Response:
    """The last 100 windows of every metric of a run, from the log."""
    name = backend.run_list.resolve(run)
    found = []
    for (topic, known), windows in sorted(backend.runs.windows(name).items()):
        if metric is None or is_series_of(known, metric):
            rows = tuple(view_of(_AggregateView, event, moment=moment) for event, moment in windows)
            found.append(view_of(_MetricHistory, run=name, topic=topic, metric=known, windows=rows))
    return send(view_of(_HistoryView, metrics=tuple(found)))


_ABOUT_STREAM = "Events `record` (data: a record) and `gap` (data: from, to, missed)."
_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": _ABOUT_STREAM, "content": {"text/event-stream": {}}}}
_ABOUT_ID = "The id of the last event that came: goes on after it."
_LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=_CURSOR, description=_ABOUT_ID)]


@record_routes.get("/runs/{run}/tail", response_class=EventSourceResponse, responses=_STREAM | _OF_RUN, tags=["events"])
async def tail(
    backend: ByBackend,
    run: RunRef,
    *,
    topics: Annotated[_Topics, _topics_query("Only these topics. Without it all, what is derived of the run included.")] = None,
    cursor: _Cursor = None,
    last_event_id: _LastEventId = None,
) -> Response:
    """Server-sent events: the records of a run as they come; the id of the last of a group is a cursor.

    Without a cursor it begins at the end of the log. A reader that is too far behind gets a `gap` and goes on nearer to the end.
    """
    if not backend.tails.enter():
        return problem(503, "too-many-tails", "as many live tails are open as may be: try again later", headers={"Retry-After": "5"})
    try:
        name = await asyncio.to_thread(backend.run_list.resolve, run)
        after = last_event_id or cursor
        start = await asyncio.to_thread(backend.runs.skip, name, after, backend.settings.tail_records if after else 0)
    except BaseException:
        backend.tails.leave()
        raise
    ending = anyio.Event()
    stream = _stream(backend, name, after, start, topics=frozenset(topics or TOPICS), ending=ending)
    # The server sets `ending`, and waits for the stream to end by itself: a stream that is cancelled has no proper end.
    return _TailResponse(backend.tails, stream, ping=_PING_S, sep="\n", shutdown_event=ending, shutdown_grace_period=4 * _END_S)


class _TailResponse(EventSourceResponse):
    """The answer that leaves `tails` when it has ended, whether or not its stream ever began."""

    def __init__(self, tails: Tails, stream: AsyncIterator[ServerSentEvent | bytes], **more: Any) -> None:  # Any: of sse-starlette.
        super().__init__(stream, **more)
        self._tails = tails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream to its end."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._tails.leave()


_message = partial(ServerSentEvent, sep="\n")


async def _stream(
    backend: Backend, run: RunId, after: str | None, start: tuple[str, int], *, topics: frozenset[str], ending: anyio.Event
) -> AsyncIterator[ServerSentEvent | bytes]:
    """The messages of a tail that goes on at `start`: a cursor, and the number of records that it skipped since `after`."""
    cursor, missed = start
    yield _message(id=cursor, retry=2000)
    with backend.tails.listening(run) as grown:
        while not ending.is_set():
            if missed:
                yield _message(json.dumps({"from": after, "to": cursor, "missed": missed}, separators=(",", ":")), event="gap", id=cursor)
            # Cleared before the log is read: what is written in between sets it again.
            grown.clear()
            try:
                end, more, parts = await asyncio.to_thread(_read, backend, run, cursor, topics)
            except EsperError:
                return  # The run is gone or cannot be read: the next request is answered with the reason.
            for part in parts:
                yield part
            after, cursor, missed = end, end, 0
            if more:
                cursor, missed = await asyncio.to_thread(backend.runs.skip, run, cursor, backend.settings.tail_records)
            else:
                await _either(grown, ending)
                await asyncio.sleep(_EVERY_S)


def _read(backend: Backend, run: RunId, cursor: str, topics: frozenset[str]) -> tuple[str, bool, list[bytes]]:
    """The cursor after the next page, whether there is more, and the messages, joined up to `_PART_BYTES`; for a thread."""
    page, parts, size = backend.runs.page(run, cursor, _PAGE, topics), list[list[bytes]](), _PART_BYTES
    for number, record in enumerate(page.records, 1):
        # Only the last has an id: a reader that resumes after it gets no record twice.
        identity = page.cursor if number == len(page.records) else None
        message = _message(line_of(record).decode(), event="record", id=identity).encode()
        if size + len(message) > _PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(message)
        size += len(message)
    return page.cursor, page.more, [b"".join(part) for part in parts]


async def _either(grown: asyncio.Event, ending: anyio.Event) -> None:
    while not grown.is_set() and not ending.is_set():
        with anyio.move_on_after(_END_S):
            await grown.wait()
