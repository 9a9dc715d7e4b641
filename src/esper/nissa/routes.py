"""The routes of the API, but for the live tail. Plain functions: they wait for the disk, so each runs on a thread of the server's pool."""

import hashlib
import json
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder
from pydantic import AfterValidator, BaseModel, Field, create_model
from pydantic_core import PydanticCustomError

from esper.errors import UnknownRunError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId, written_time
from esper.events.fields import Event
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.observability import (
    AlertFiring,
    AlertPending,
    AlertResolved,
    AnomalyDetected,
    TrendDetected,
    WindowAggregated,
)
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.events.topics import TOPICS, TopicClass
from esper.folds.monitoring.measurements import is_series_of
from esper.folds.run_state import digest
from esper.history.open_runs import OpenRuns
from esper.history.run_list import RunList, RunStatus
from esper.nissa import views
from esper.nissa.collectors import Collectors
from esper.nissa.custom import CustomBatch
from esper.nissa.metrics import LogMetrics
from esper.nissa.problems import ProblemError, responses
from esper.nissa.settings import NissaSettings
from esper.nissa.views import View, view_of

_View = TypeVar("_View", bound=View)

CURSOR = r"^[0-9]{1,18}\.[0-9]{1,18}$"
_RUN_REF = r"^[0-9A-Za-z][0-9A-Za-z:._-]*$"
_ABOUT_REF = "A run's id, what only one id begins or ends with, or latest."
RunRef = Annotated[str, Path(pattern=_RUN_REF, max_length=128, description=_ABOUT_REF)]
Cursor = Annotated[str | None, Query(pattern=CURSOR, description="Goes on after what an answer's cursor says.")]
_Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
_Moment = Annotated[int, Query(ge=0, le=2**53)]


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts that routes answer from."""

    run_list: RunList
    runs: OpenRuns
    metrics: LogMetrics
    collectors: Collectors
    settings: NissaSettings
    observed_by: Callable[[], int | None]
    """The process that observes the log now."""


async def _backend_of(request: Request) -> Backend:
    backend = request.app.state.backend
    assert isinstance(backend, Backend)
    return backend


ByBackend = Annotated[Backend, Depends(_backend_of)]


def send(view: BaseModel | bytes, status: int = 200) -> Response:
    """The answer `view`, good now and not to be kept."""
    body = view if isinstance(view, bytes) else view.__pydantic_serializer__.to_json(view)
    return Response(body, status, media_type="application/json")


class AskedRun:
    """A question about one run. It is asked of the log on the route's own thread: `run` and `answer` read the disk."""

    def __init__(self, request: Request, backend: Backend, ref: str) -> None:
        self.runs = backend.runs
        self.run_list = backend.run_list
        self._request = request
        self._ref = ref

    @cached_property
    def run(self) -> RunId:
        """The run that is meant. Raises UnknownRunError, AmbiguousRunError."""
        return self.run_list.resolve(self._ref)

    def answer(self, view: Callable[[], BaseModel | bytes]) -> Response:
        """The answer that `view` makes, once the run is sealed with an ETag; 304, without making it, for a client that has it already.

        For what the run itself wrote alone: what was derived may grow after the seal.
        """
        tag = self._tag()
        if tag is None:
            return send(view())
        lasting = "private, max-age=31536000, immutable" if self._ref == self.run else "private, no-cache"
        kept = {"ETag": tag, "Cache-Control": lasting}
        if tag in (one.strip().removeprefix("W/") for one in self._request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=kept)
        response = send(view())
        response.headers.update(kept)
        return response

    def _tag(self) -> str | None:
        """A digest of the run's seal, the request and the version; None while the run may change."""
        sealed = self.runs.seal_digest(self.run)
        if sealed is None:
            return None
        url, version = self._request.url, self._request.app.version
        tag = hashlib.sha256(f"{version}\x1f{sealed}\x1f{self.run}\x1f{url.path}\x1f{url.query}".encode())
        return f'"{tag.hexdigest()[:32]}"'


async def _asked(request: Request, backend: ByBackend, run: RunRef) -> AskedRun:
    return AskedRun(request, backend, run)


_OfRun = Annotated[AskedRun, Depends(_asked)]
_OF_RUN = responses(404, 409, 503)
_service = APIRouter(tags=["service"])
_runs = APIRouter(prefix="/api/v1/runs", tags=["runs"])
_events = APIRouter(prefix="/api/v1/runs", tags=["events"])
_derived = APIRouter(prefix="/api/v1", tags=["watching"])
ROUTERS = (_service, _runs, _events, _derived)

_FORMATS = {"text/plain": {"schema": {"type": "string"}}, "application/openmetrics-text": {"schema": {"type": "string"}}}
_METRICS: dict[int | str, dict[str, Any]] = {200: {"description": "Metrics.", "content": _FORMATS}}
_OPEN: dict[int | str, dict[str, Any]] = {status: described for status, described in responses().items() if status != 401}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not following the log, or too far behind.", "model": views.Ready}}


@_service.get("/-/healthy", response_model=views.Healthy, responses=_OPEN, operation_id="healthy_alias")
@_service.get("/healthz", response_model=views.Healthy, responses=_OPEN, operation_id="healthy")
def healthy() -> Response:
    """The process is up."""
    return send(views.Healthy(status="ok"))


@_service.get("/-/ready", response_model=views.Ready, responses=_OPEN | _NOT_READY, operation_id="ready_alias")
@_service.get("/readyz", response_model=views.Ready, responses=_OPEN | _NOT_READY, operation_id="ready")
def ready(backend: ByBackend) -> Response:
    """State of the following: 503 where it is too far behind."""
    view = _ready(backend)
    return send(view, 200 if view.status == "ready" else 503)


@_service.get("/metrics", response_class=PlainTextResponse, responses=_METRICS | responses())
def metrics(backend: ByBackend, accept: Annotated[str, Header(max_length=1000)] = "") -> Response:
    """All metrics, as Prometheus text or OpenMetrics."""
    encode, content_type = choose_encoder(accept)
    return Response(encode(backend.metrics.registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})


@_service.get("/api/v1/status", response_model=views.StatusView, responses=responses(503))
def status(request: Request, backend: ByBackend) -> Response:
    """State of the service: freshness, collectors, and which metrics have no value now."""
    absent = tuple(backend.collectors.absent())
    status = views.StatusView(
        version=request.app.version,
        now=datetime.now(UTC),
        ready=_ready(backend),
        collectors=tuple(backend.collectors.status()),
        absent=absent,
    )
    return send(status)


@_service.post("/api/v1/metrics/custom", response_model=views.Accepted, responses=responses(409, 413, 503))
def record_custom(backend: ByBackend, batch: Annotated[CustomBatch, Body()]) -> Response:
    """Records samples of metrics of the user's own, all or none; they are events, durable when the answer comes."""
    return send(views.Accepted(accepted=backend.metrics.custom.accept(batch.samples)))


def _ready(backend: Backend) -> views.Ready:
    follow, limit_s = backend.metrics.status, backend.settings.lag_limit_s
    lag_s = None if follow.caught_up_at is None else max(0.0, time.time() - follow.caught_up_at)
    return views.Ready(
        status="ready" if lag_s is not None and lag_s <= limit_s else "not ready",
        lag_s=lag_s,
        lag_limit_s=limit_s,
        following=follow.following,
        live=len(follow.live),
        observed_by=backend.observed_by(),
    )


@_runs.get("", response_model=views.RunPage, responses=responses(503))
def list_runs(
    backend: ByBackend,
    limit: _Limit = 100,
    cursor: Annotated[str | None, Query(max_length=128, description="The last run of the page before.")] = None,
    standing: Annotated[RunStatus | None, Query(description="Only runs that stand so.")] = None,
) -> Response:
    """Every run, the newest first."""
    found = [run for run in backend.run_list.lines() if standing is None or run.standing == standing]
    # Ids begin with their time, so the order is that of the names, newest first, whatever came since the page before.
    rest = [run for run in found if cursor is None or run.run < cursor]
    chosen = tuple(view_of(views.RunLine, run) for run in rest[:limit])
    return send(views.RunPage.model_construct(runs=chosen, cursor=chosen[-1].run if len(rest) > limit else None, total=len(found)))


@_runs.get("/{run}", response_model=views.RunView, responses=_OF_RUN)
def show_run(asked: _OfRun) -> Response:
    """A run: how it began, where it stands, what happened to it."""

    def view() -> views.RunView:
        line = asked.run_list.line(asked.run)
        if line is None:
            raise UnknownRunError(f"expected run {asked.run} in the log")
        with asked.runs.use(asked.run) as run:
            known, summary = run.history.known, view_of(views.RunLine, line)
            blocked = None if known.blocked is None else str(known.blocked)
            notes, started = tuple(known.timeline.notes), known.state.started
            return view_of(views.RunView, known.state, started, summary=summary, digest=run.digest(), blocked=blocked, notes=notes)

    return asked.answer(view)


@_runs.get("/{run}/state", response_model=views.StateView, responses=_OF_RUN)
def show_state(asked: _OfRun, at: Annotated[_Moment | None, Query(description="A moment; without it the last.")] = None) -> Response:
    """The state at a moment, by the fold that made it live, with its digest."""

    def view() -> views.StateView:
        with asked.runs.use(asked.run) as run:
            if at is not None and at > run.history.end:
                raise ProblemError(404, "moment-not-reached", f"expected a moment from 0 to {run.history.end}, the last on disk")
            state = run.history.known.state if at is None else run.history.at(moment=at)
            digest_ = run.digest() if at is None else digest(state)
        return view_of(
            views.StateView,
            state,
            state.control,
            at=state.moment if at is None else at,
            digest=digest_,
            seeds=tuple(state.slots.values()),
            decisions=tuple(view_of(views.DecisionView, row, row.decision) for row in state.decisions),
            open_commands=tuple(state.control.open_commands.values()),
            dropped=dict(state.dropped),
        )

    return asked.answer(view)


@_runs.get("/{run}/seeds", response_model=views.SeedsView, responses=_OF_RUN)
def show_seeds(asked: _OfRun) -> Response:
    """The seed table as it stands, and every life there was with its stages."""

    def view() -> views.SeedsView:
        with asked.runs.use(asked.run) as run:
            state, lives = run.history.known.state, run.history.known.timeline.lives
        slots = tuple(state.slots.values())
        return view_of(views.SeedsView, state, slots=slots, lives=tuple(view_of(views.LifeView, life) for life in lives))

    return asked.answer(view)


@_runs.get("/{run}/decisions", response_model=views.DecisionPage, responses=_OF_RUN)
def list_decisions(
    asked: _OfRun, after: Annotated[_Moment, Query(description="Only decisions after this moment.")] = 0, limit: _Limit = 1000
) -> Response:
    """Every decision with its numbers and what became of it, oldest first."""

    def view() -> views.DecisionPage:
        with asked.runs.use(asked.run) as run:
            decisions = run.history.known.timeline.decisions
        first = bisect_right(decisions, after, key=lambda decided: decided.moment)
        chosen = tuple(view_of(views.DecisionView, one, one.decision) for one in decisions[first : first + limit])
        more = first + limit < len(decisions)
        return views.DecisionPage.model_construct(run=asked.run, decisions=chosen, after=chosen[-1].moment if more else None)

    return asked.answer(view)


@_runs.get("/{run}/health", response_model=views.HealthPage, responses=_OF_RUN)
def show_health(asked: _OfRun, limit: Annotated[int, Query(ge=1, le=200, description="At most so many measurements.")] = 1) -> Response:
    """The newest measurements of the health of sites and seeds, oldest first."""

    def view() -> views.HealthPage:
        records = asked.runs.latest(asked.run, SeedHealthMeasured, limit)
        found = tuple(view_of(views.HealthView, decode(record), record) for record in records)
        return views.HealthPage.model_construct(run=asked.run, measurements=found)

    return asked.answer(view)


def _known(topic: str) -> str:
    if topic not in TOPICS:
        raise PydanticCustomError("unknown_topic", "expected a topic of the catalogue")
    return topic


NamedTopics = list[Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(TOPICS)})]] | None
_ABOUT_TOPICS = "Only these topics. Without it all that the run's own process wrote."
_Topics = Annotated[NamedTopics, Query(alias="topic", max_length=len(TOPICS), description=_ABOUT_TOPICS)]


@_events.get("/{run}/events", response_model=views.EventPage, responses=_OF_RUN)
def list_events(asked: _OfRun, cursor: Cursor = None, limit: _Limit = 100, topics: _Topics = None) -> Response:
    """Records of a run as they stand in the log, in its order; derived ones come after the run's own of the same page."""

    def view() -> bytes:
        page = asked.runs.page(asked.run, cursor, limit, None if topics is None else frozenset(topics))
        more = b"true" if page.more else b"false"
        return b'{"events":[%b],"cursor":"%b","more":%b}' % (b",".join(map(event_json, page.records)), page.cursor.encode(), more)

    return send(view()) if any(_is_derived(topic) for topic in topics or ()) else asked.answer(view)


def event_json(record: Record) -> bytes:
    """`record` as one JSON object: the envelope's fields by name, and in `data` the payload byte for byte."""
    chain = None if record.chain is None else record.chain.hex()
    envelope = record._asdict() | {"time": written_time(record.time), "chain": chain}
    del envelope["data"]
    return json.dumps(envelope, separators=(",", ":")).encode()[:-1] + b',"data":' + record.data + b"}"


def _is_derived(topic: str) -> bool:
    return TOPICS[topic].kind is TopicClass.DERIVED


_STATES = {AlertPending.KIND: "pending", AlertFiring.KIND: "firing", AlertResolved.KIND: "resolved"}


def _row(view: type[_View], event: Event, record: Record) -> _View:
    """`view` of one record: fields of its event, then of its envelope."""
    return view_of(view, event, record, kind=record.type, state=_STATES.get(record.type))


def _add_record_route(router: APIRouter, path: str, about: str, view: type[View], *kinds: type[Event], limit: int = 100) -> None:
    """Adds a route that pages through the records of `kinds`, all of one topic, of a run, each as `view`."""
    name, topic, written = path.rpartition("/")[2], kinds[0].TOPIC, {kind.KIND for kind in kinds}
    rows: Any = (tuple[view, ...], ...)  # type: ignore[valid-type] # pydantic's own form of a field.
    title = view.__name__.removesuffix("View") + "Page"
    page_view = create_model(title, __base__=View, __doc__=about, run=(str, ...), cursor=(str, ...), more=(bool, ...), **{name: rows})

    def list_records(asked: _OfRun, cursor: Cursor = None, limit: _Limit = limit) -> Response:
        def answer() -> View:
            page = asked.runs.page(asked.run, cursor, limit, frozenset({topic}))
            found = tuple(_row(view, decode(record), record) for record in page.records if record.type in written)
            return view_of(page_view, page, run=asked.run, **{name: found})

        return send(answer()) if _is_derived(topic) else asked.answer(answer)

    router.add_api_route(path, list_records, response_model=page_view, responses=_OF_RUN, name=f"list_{name}", description=about)


_add_record_route(
    _runs, "/{run}/transitions", "Every stage that a seed entered, oldest first.", views.TransitionView, SeedTransitioned, limit=1000
)
_add_record_route(
    _derived,
    "/runs/{run}/alerts",
    "Every change of an alert of a run, oldest first.",
    views.AlertView,
    *(AlertPending, AlertFiring, AlertResolved),
)
_add_record_route(
    _derived,
    "/runs/{run}/anomalies",
    "Values and trends of a run that were not expected, oldest first.",
    views.AnomalyView,
    *(AnomalyDetected, TrendDetected),
)
_add_record_route(_derived, "/runs/{run}/aggregates", "Windows of a run's metrics, oldest first.", views.AggregateView, WindowAggregated)


@_derived.get("/alerts", response_model=views.FiringView, responses=responses(503))
def list_firing(backend: ByBackend) -> Response:
    """Alerts that fire now, over all runs that are followed."""
    return send(
        views.FiringView.model_construct(
            alerts=tuple(_row(views.AlertView, alert.event, alert.record) for alert in backend.metrics.firing())
        )
    )


@_derived.get("/metrics/history", response_model=views.HistoryView, responses=_OF_RUN)
def show_history(
    backend: ByBackend,
    run: Annotated[str, Query(pattern=_RUN_REF, max_length=128, description="A run; without it the newest.")] = "latest",
    metric: Annotated[str | None, Query(max_length=1000, description="Only this metric, or one series of it.")] = None,
) -> Response:
    """The last 100 windows of every metric of a run, from the log."""
    name = backend.run_list.resolve(run)
    found = [
        views.MetricHistory.model_construct(
            run=name,
            topic=topic,
            metric=known,
            windows=tuple(view_of(views.AggregateView, event, moment=moment) for event, moment in windows),
        )
        for (topic, known), windows in sorted(backend.runs.windows(name).items())
        if metric is None or is_series_of(known, metric)
    ]
    return send(views.HistoryView.model_construct(metrics=tuple(found)))
