"""The application: its description, security and errors, and the routes about the service itself."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, FastAPI, Header, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder

from esper.events.fields import Count, NonNegative
from esper.nissa.backend import Backend, ByBackend, View, send, view_model, view_of
from esper.nissa.custom_collectors import CollectorStatus
from esper.nissa.custom_metrics import CustomBatch
from esper.nissa.pages import page_routes
from esper.nissa.problems import Problem, install_handlers, responses
from esper.nissa.record_routes import record_routes
from esper.nissa.run_routes import run_routes
from esper.nissa.security import OPEN, SecurityMiddleware
from esper.nissa.sql_routes import sql_routes

_ABOUT = (
    "Runs of Esper as their log tells them. Numbers that are not finite are the strings NaN, Infinity and -Infinity; null is not measured."
)
_Responses = dict[int | str, dict[str, Any]]  # Any: OpenAPI's own form.

_Accepted = view_model("Accepted", "Number of samples that are durable.", accepted=Count)
_Healthy = view_model("Healthy", "The process is up.", status=Literal["ok"])


class _Ready(View):
    """Progress of the following: `ready` with a lag below the limit."""

    status: Literal["ready", "not ready"]
    reason: str | None
    """The reason why it is not ready; null: it is."""
    lag_s: NonNegative | None
    """Seconds since everything on disk had been read; null: never yet."""
    lag_limit_s: NonNegative
    mirror_lag_s: NonNegative | None
    """Seconds since everything on Kafka had been copied; null: never yet, or the log is a directory."""
    mirror_lag_limit_s: NonNegative
    following: Count
    live: Count
    observed_by: int | None
    """The process that observes and delivers, on Kafka delivers alone; null: none does."""


class _StatusView(View):
    """The service itself."""

    version: str
    now: datetime
    ready: _Ready
    collectors: tuple[CollectorStatus, ...]
    absent: tuple[str, ...]
    """Metrics without a value now: never measured, or no longer."""


_service_routes = APIRouter(tags=["service"])
_FORMATS = {"text/plain": {"schema": {"type": "string"}}, "application/openmetrics-text": {"schema": {"type": "string"}}}
_METRICS: _Responses = {200: {"description": "Metrics.", "content": _FORMATS}}
_OPEN: _Responses = {status: described for status, described in responses().items() if status != 401}
_NOT_READY: _Responses = {503: {"description": "Not following the log, or too far behind.", "model": _Ready}}


@_service_routes.get("/-/healthy", response_model=_Healthy, responses=_OPEN, operation_id="healthy_alias")
@_service_routes.get("/healthz", response_model=_Healthy, responses=_OPEN, operation_id="healthy")
def healthy() -> Response:
    """The process is up."""
    return send(view_of(_Healthy, status="ok"))


@_service_routes.get("/-/ready", response_model=_Ready, responses=_OPEN | _NOT_READY, operation_id="ready_alias")
@_service_routes.get("/readyz", response_model=_Ready, responses=_OPEN | _NOT_READY, operation_id="ready")
def ready(backend: ByBackend) -> Response:
    """State of the following: 503 where it is too far behind."""
    view = _ready(backend)
    return send(view, 200 if view.status == "ready" else 503)


@_service_routes.get("/metrics", response_class=PlainTextResponse, responses=_METRICS | responses())
def metrics(backend: ByBackend, accept: Annotated[str, Header(max_length=1000)] = "") -> Response:
    """All metrics, as Prometheus text or OpenMetrics."""
    encode, content_type = choose_encoder(accept)
    return Response(encode(backend.metrics.registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})


@_service_routes.get("/api/v1/status", response_model=_StatusView, responses=responses(503))
def status(request: Request, backend: ByBackend) -> Response:
    """State of the service: freshness, collectors, and which metrics have no value now."""
    absent = tuple(backend.collectors.absent())
    collectors = tuple(backend.collectors.status())
    now = datetime.now(UTC)
    return send(_StatusView(version=request.app.version, now=now, ready=_ready(backend), collectors=collectors, absent=absent))


@_service_routes.post("/api/v1/metrics/custom", response_model=_Accepted, responses=responses(409, 413, 429, 503))
def record_custom(backend: ByBackend, batch: Annotated[CustomBatch, Body()]) -> Response:
    """Records samples of metrics of the user's own, all or none; they are events, durable when the answer comes."""
    return send(view_of(_Accepted, accepted=backend.metrics.custom.accept(batch.samples)))


def _ready(backend: Backend) -> _Ready:
    follow, kafka, settings = backend.metrics.status, backend.metrics.kafka(), backend.settings
    lag_s, mirror_lag_s = _since(follow.caught_up_at), _since(kafka.caught_up_at)
    reason = None
    if lag_s is None or lag_s > settings.lag_limit_s:
        reason = "what is on disk has not been read yet" if lag_s is None else f"what is on disk was read {lag_s:.0f} s ago"
    if kafka.mirrored and (mirror_lag_s is None or mirror_lag_s > settings.mirror_lag_limit_s):
        late = (
            "what is on Kafka has not been copied yet" if mirror_lag_s is None else f"what is on Kafka was copied {mirror_lag_s:.0f} s ago"
        )
        behind = "" if not kafka.behind else f"; {kafka.behind:,} messages are to be copied"
        reason = f"{late}{behind}{'' if kafka.problem is None else f'; {kafka.problem}'}"
    return _Ready(
        status="ready" if reason is None else "not ready",
        reason=reason,
        lag_s=lag_s,
        lag_limit_s=settings.lag_limit_s,
        mirror_lag_s=mirror_lag_s,
        mirror_lag_limit_s=settings.mirror_lag_limit_s,
        following=follow.following,
        live=len(follow.live),
        observed_by=kafka.delivered_by if kafka.mirrored else backend.observed_by(),
    )


def _since(at: float | None) -> float | None:
    return None if at is None else max(0.0, time.time() - at)


def build_app(backend: Backend, *, version: str, token: str | None) -> FastAPI:
    """The application, ready to be served. Users' collectors run while it does."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        backend.collectors.start()
        yield
        backend.collectors.stop()

    about: dict[str, Any] = {"title": "Esper", "version": version, "description": _ABOUT, "openapi_url": "/api/v1/openapi.json"}
    app = FastAPI(**about, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.backend = backend
    for routes in (_service_routes, run_routes, record_routes, sql_routes, page_routes):
        app.include_router(routes)
    install_handlers(app)
    app.add_middleware(SecurityMiddleware, settings=backend.settings, token=token)
    describe = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(describe(), secured=token is not None)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign] # FastAPI's own way; made when it is asked for, as it takes a quarter of a second.
    return app


def _completed(described: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    """FastAPI's description with the problem document and the token."""
    schemas = described["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schemas["Problem"].pop("$defs", {})
    if secured:
        described["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"bearer": []}]
        for path in OPEN:
            described["paths"][path]["get"]["security"] = []
    return described
