"""The application: routes, guard, errors and description put together over a source."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from esper.nissa import problems
from esper.nissa.api.events import events_router
from esper.nissa.api.runs import runs_router
from esper.nissa.api.service import service_router
from esper.nissa.api.watching import watching_router
from esper.nissa.collectors.collector import Collectors
from esper.nissa.collectors.own import own_samples
from esper.nissa.custom import CustomMetrics
from esper.nissa.guard import Guard, Guarded, own_names
from esper.nissa.metrics.exposition import Exposition
from esper.nissa.metrics.model import Model
from esper.nissa.settings import NissaSettings
from esper.nissa.source import Source
from esper.nissa.views import Problem
from esper.nissa.wake import Wake

_ABOUT = (
    "Runs of Esper as their log tells them. Numbers that are not finite are the strings NaN, Infinity and -Infinity; null is not measured."
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application is made of besides its settings."""

    source: Source
    model: Model
    collectors: Collectors
    wake: Wake


def build_app(parts: Parts, settings: NissaSettings, *, version: str, token: str | None) -> FastAPI:
    """The application, ready to be served. Collectors run while it does."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        parts.collectors.start()
        yield
        parts.collectors.stop()

    app = FastAPI(
        title="Esper",
        version=version,
        description=_ABOUT,
        lifespan=lifespan,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    collectors, model = parts.collectors, parts.model
    exposition = Exposition(lambda: ([*collectors.samples(), *own_samples(collectors)], model.custom()))
    custom = CustomMetrics(model.custom, parts.source.record)
    app.include_router(service_router(parts.source, collectors, exposition, custom, settings.lag_limit_s))
    app.include_router(runs_router(parts.source))
    app.include_router(events_router(parts.source, parts.wake, settings.tail_records))
    app.include_router(watching_router(parts.source))
    problems.install(app)
    app.add_middleware(Guard, guarded=Guarded(own_names((*settings.names, settings.host)), token, settings.body_limit_bytes))
    _describe(app, secured=token is not None)
    return app


def _describe(app: FastAPI, *, secured: bool) -> None:
    """Makes the description complete: the problem document, the token, and none of FastAPI's own error models."""
    described = app.openapi()
    parts = described.setdefault("components", {}).setdefault("schemas", {})
    parts["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    parts |= parts["Problem"].pop("$defs", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        parts.pop(unused, None)
    if secured:
        described["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"bearer": []}]
    app.openapi_schema = described
