"""The service itself: whether it is up and follows the log, its metrics, and the users' own metrics that it takes."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request, Response
from fastapi.responses import PlainTextResponse

from esper.nissa.api.answers import sent
from esper.nissa.collectors.collector import Collectors
from esper.nissa.custom import CustomBatch, CustomMetrics
from esper.nissa.metrics.exposition import Exposition
from esper.nissa.problems import responses
from esper.nissa.source import Source
from esper.nissa.views import Accepted, CollectorView, Health, Ready, StatusView

_FORMATS = {"text/plain": {"schema": {"type": "string"}}, "application/openmetrics-text": {"schema": {"type": "string"}}}
_METRICS: dict[int | str, dict[str, Any]] = {200: {"description": "Metrics.", "content": _FORMATS}}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not following the log, or too far behind.", "model": Ready}}


def service_router(source: Source, collectors: Collectors, exposition: Exposition, custom: CustomMetrics, lag_limit_s: float) -> APIRouter:
    """The routes of the service over its parts."""
    router = APIRouter(tags=["service"])

    def healthy() -> Response:
        """The process is up."""
        return sent(Health(status="ok"))

    def ready() -> Response:
        """Whether the service follows the log closely enough."""
        view = _ready(source, lag_limit_s)
        return sent(view, 200 if view.status == "ready" else 503)

    for path in ("/healthz", "/-/healthy"):
        router.add_api_route(path, healthy, response_model=Health, responses=_without(401), operation_id=_named(path))
    for path in ("/readyz", "/-/ready"):
        router.add_api_route(path, ready, response_model=Ready, responses=_without(401) | _NOT_READY, operation_id=_named(path))

    @router.get("/metrics", response_class=PlainTextResponse, responses=_METRICS | responses())
    def metrics(accept: Annotated[str, Header(max_length=1000)] = "") -> Response:
        """All metrics, as Prometheus text or OpenMetrics."""
        body, content_type = exposition.write(accept)
        return Response(body, media_type=None, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    @router.get("/api/v1/status", response_model=StatusView, responses=responses(503))
    def status(request: Request) -> Response:
        """How the service does: freshness, collectors, and which metrics have no value now."""
        measured = {sample.family.name for sample in collectors.samples()}
        view = StatusView(
            version=request.app.version,
            now=datetime.now(UTC),
            ready=_ready(source, lag_limit_s),
            collectors=tuple(
                CollectorView(name=one.collector.name, ok=one.ok, failed=one.failed, hung=one.hung, error=one.error)
                for one in collectors.standings()
            ),
            absent=tuple(family.name for family in collectors.families if family.name not in measured),
        )
        return sent(view)

    @router.post("/api/v1/metrics/custom", response_model=Accepted, responses=responses(409, 413, 503))
    def record_custom(batch: Annotated[CustomBatch, Body()]) -> Response:
        """Records samples of metrics of the user's own, all or none; they are events, durable when the answer comes."""
        return sent(Accepted(accepted=custom.accept(batch.samples)))

    return router


def _ready(source: Source, lag_limit_s: float) -> Ready:
    fresh = source.freshness()
    # Written so that an unknown lag is not ready.
    near = fresh.lag_s is not None and fresh.lag_s <= lag_limit_s
    return Ready(
        status="ready" if near else "not ready",
        lag_s=fresh.lag_s,
        lag_limit_s=lag_limit_s,
        following=fresh.following,
        live=fresh.live,
        observed_by=fresh.observed_by,
    )


def _without(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: described for status, described in responses().items() if status not in statuses}


def _named(path: str) -> str:
    return path.strip("/").replace("/", "_").replace("-_", "alias_")
