"""The application: routes, guard, errors and description put together over a source."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

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
    routes = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(routes(), secured=token is not None)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign] # FastAPI's own way; made when it is asked for, as it takes a quarter of a second.
    return app


def _completed(described: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    """FastAPI's description with the problem document and the token, and none of its own error models."""
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
    return described
