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
from esper.nissa.collectors import CollectorStatus
from esper.nissa.custom_metrics import CustomBatch
from esper.nissa.problems import Problem, install_handlers, responses
from esper.nissa.record_routes import record_routes
from esper.nissa.run_routes import run_routes
from esper.nissa.security import OPEN, SecurityMiddleware

_ABOUT = (
    "Runs of Esper as their log tells them. Numbers that are not finite are the strings NaN, Infinity and -Infinity; null is not measured."
)
_Responses = dict[int | str, dict[str, Any]]  # Any: OpenAPI's own form.

_Accepted = view_model("Accepted", "Number of samples that are durable.", accepted=Count)
_Healthy = view_model("Healthy", "The process is up.", status=Literal["ok"])


class _Ready(View):
    """Progress of the following: `ready` with a lag below the limit."""

    status: Literal["ready", "not ready"]
    lag_s: NonNegative | None
    """Seconds since everything on disk had been read; null: never yet."""
    lag_limit_s: NonNegative
    following: Count
    live: Count
    observed_by: int | None
    """The process that observes and delivers; null: none does."""


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


@_service_routes.post("/api/v1/metrics/custom", response_model=_Accepted, responses=responses(409, 413, 503))
def record_custom(backend: ByBackend, batch: Annotated[CustomBatch, Body()]) -> Response:
    """Records samples of metrics of the user's own, all or none; they are events, durable when the answer comes."""
    return send(view_of(_Accepted, accepted=backend.metrics.custom.accept(batch.samples)))


def _ready(backend: Backend) -> _Ready:
    follow, limit_s = backend.metrics.status, backend.settings.lag_limit_s
    lag_s = None if follow.caught_up_at is None else max(0.0, time.time() - follow.caught_up_at)
    return _Ready(
        status="ready" if lag_s is not None and lag_s <= limit_s else "not ready",
        lag_s=lag_s,
        lag_limit_s=limit_s,
        following=follow.following,
        live=len(follow.live),
        observed_by=backend.observed_by(),
    )


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
    for routes in (_service_routes, run_routes, record_routes):
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
