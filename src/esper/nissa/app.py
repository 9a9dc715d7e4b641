"""The application: routes, guard, errors and description put together over a source."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from esper.nissa import problems
from esper.nissa.api import events, runs, service, watching
from esper.nissa.guard import OPEN, Guard, Guarded, own_names
from esper.nissa.parts import Parts
from esper.nissa.views.service import Problem

_ABOUT = (
    "Runs of Esper as their log tells them. Numbers that are not finite are the strings NaN, Infinity and -Infinity; null is not measured."
)


def build_app(parts: Parts, *, version: str, token: str | None) -> FastAPI:
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
    settings = parts.settings
    app.state.parts = parts
    for part in (service, runs, events, watching):
        app.include_router(part.router)
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
        for path in OPEN:
            described["paths"][path]["get"]["security"] = []
    app.openapi_schema = described
