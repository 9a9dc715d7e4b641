"""The application: routes, security, errors and description."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from esper.nissa import tail
from esper.nissa.problems import install_handlers
from esper.nissa.routes import ROUTERS, Backend
from esper.nissa.security import OPEN, SecurityMiddleware
from esper.nissa.views import Problem

_ABOUT = (
    "Runs of Esper as their log tells them. Numbers that are not finite are the strings NaN, Infinity and -Infinity; null is not measured."
)


def build_app(backend: Backend, tails: tail.Tails, *, version: str, token: str | None) -> FastAPI:
    """The application, ready to be served. Users' collectors run while it does."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        backend.collectors.start()
        yield
        backend.collectors.stop()

    settings = backend.settings
    app = FastAPI(
        title="Esper",
        version=version,
        description=_ABOUT,
        lifespan=lifespan,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.backend = backend
    app.state.tails = tails
    for router in (*ROUTERS, tail.router):
        app.include_router(router)
    install_handlers(app)
    names = (*settings.names, settings.host)
    app.add_middleware(SecurityMiddleware, names=names, token=token, body_limit_bytes=settings.body_limit_bytes)
    describe = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(describe(), secured=token is not None)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign] # FastAPI's own way; made when it is asked for, as it takes a quarter of a second.
    return app


def _completed(described: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    """FastAPI's description with the problem document and the token, and none of its own error models."""
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schemas["Problem"].pop("$defs", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if secured:
        described["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"bearer": []}]
        for path in OPEN:
            described["paths"][path]["get"]["security"] = []
    return described
