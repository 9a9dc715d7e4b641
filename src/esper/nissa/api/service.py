"""The service itself: whether it is up and follows the log, its metrics, and the users' own metrics that it takes."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder

from esper.nissa.api.answers import sent
from esper.nissa.custom import CustomBatch
from esper.nissa.parts import Parts, Served
from esper.nissa.problems import responses
from esper.nissa.views.service import Accepted, CollectorView, Health, Ready, StatusView

_FORMATS = {"text/plain": {"schema": {"type": "string"}}, "application/openmetrics-text": {"schema": {"type": "string"}}}
_METRICS: dict[int | str, dict[str, Any]] = {200: {"description": "Metrics.", "content": _FORMATS}}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not following the log, or too far behind.", "model": Ready}}


router = APIRouter(tags=["service"])
_OPEN = {status: described for status, described in responses().items() if status != 401}


@router.get("/-/healthy", response_model=Health, responses=_OPEN, operation_id="healthy_alias")
@router.get("/healthz", response_model=Health, responses=_OPEN, operation_id="healthy")
def healthy() -> Response:
    """The process is up."""
    return sent(Health(status="ok"))


@router.get("/-/ready", response_model=Ready, responses=_OPEN | _NOT_READY, operation_id="ready_alias")
@router.get("/readyz", response_model=Ready, responses=_OPEN | _NOT_READY, operation_id="ready")
def ready(served: Served) -> Response:
    """Whether the service follows the log closely enough."""
    view = _ready(served)
    return sent(view, 200 if view.status == "ready" else 503)


@router.get("/metrics", response_class=PlainTextResponse, responses=_METRICS | responses())
def metrics(served: Served, accept: Annotated[str, Header(max_length=1000)] = "") -> Response:
    """All metrics, as Prometheus text or OpenMetrics."""
    encode, content_type = choose_encoder(accept)
    return Response(encode(served.metrics.registry), media_type=None, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


@router.get("/api/v1/status", response_model=StatusView, responses=responses(503))
def status(request: Request, served: Served) -> Response:
    """How the service does: freshness, collectors, and which metrics have no value now."""
    view = StatusView(
        version=request.app.version,
        now=datetime.now(UTC),
        ready=_ready(served),
        collectors=tuple(map(CollectorView.model_validate, served.collectors.status())),
        absent=tuple(served.collectors.absent()),
    )
    return sent(view)


@router.post("/api/v1/metrics/custom", response_model=Accepted, responses=responses(409, 413, 503))
def record_custom(served: Served, batch: Annotated[CustomBatch, Body()]) -> Response:
    """Records samples of metrics of the user's own, all or none; they are events, durable when the answer comes."""
    return sent(Accepted(accepted=served.metrics.custom.accept(batch.samples)))


def _ready(served: Parts) -> Ready:
    fresh, lag_limit_s = served.source.freshness(), served.settings.lag_limit_s
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
