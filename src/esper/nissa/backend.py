"""The common parts of the routes: the objects that they answer from, models of answers, and a question about one run.

Routes are plain functions: they wait for the disk, so each runs on a thread of the server's pool.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial, wraps
from threading import Lock, Semaphore
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, create_model

from esper.errors import EsperError
from esper.events.envelope import RunId
from esper.events.kinds.accountability import AlertAcknowledged
from esper.folds.monitoring.open_alerts import OpenAlert
from esper.history.open_runs import OpenRuns
from esper.history.run_list import RunList
from esper.history.trail import Acknowledgements
from esper.nissa.custom_collectors import Collectors
from esper.nissa.metrics import LogMetrics
from esper.nissa.service_settings import NissaSettings

if TYPE_CHECKING:
    from esper.audit.asking import Asked

_View = TypeVar("_View", bound="View")

RUN_REF = r"^[0-9A-Za-z][0-9A-Za-z:._-]*$"
_ABOUT_REF = "A run's id, what only one id begins or ends with, or latest."
RunRef = Annotated[str, Path(pattern=RUN_REF, max_length=128, description=_ABOUT_REF)]
PageSize = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]


class View(BaseModel):
    """A frozen answer. Numbers that are not finite are the log's words for them, and null is not measured."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", allow_inf_nan=True, json_schema_serialization_defaults_required=True
    )

    def __init_subclass__(cls, **settings: Any) -> None:  # Any: pydantic's.
        """Names the model in the API's description, where no name is private."""
        super().__init_subclass__(**settings)
        cls.__name__ = cls.__qualname__ = cls.__name__.lstrip("_")


def view_model(name: str, about: str, /, **fields: Any) -> type[View]:  # Any: types, which pydantic reads.
    """The model of an answer, described by `about`, with `fields`, all required, of the given types."""
    required: dict[str, Any] = {field: (kind, ...) for field, kind in fields.items()}
    return create_model(name, __base__=View, __doc__=about, **required)


def view_of(model: type[_View], /, *sources: object, **given: object) -> _View:
    """A `model` with the fields `given`, and each other from the first of `sources` that has an attribute of its name.

    Nothing is validated: sources are rows and events, which were checked when they were read.
    """
    values: dict[str, Any] = {}  # Any: of the types of the model's fields.
    for name in model.model_fields:
        source = next((source for source in sources if hasattr(source, name)), None)
        if name in given:
            values[name] = given[name]
        elif source is not None:
            values[name] = getattr(source, name)
    return model.model_construct(**values)  # type: ignore[return-value] # pydantic's plugin loses the type variable.


def send(view: BaseModel | bytes, status: int = 200) -> Response:
    """The answer `view`, good now and not to be kept."""
    body = view if isinstance(view, bytes) else view.__pydantic_serializer__.to_json(view)
    return Response(body, status, media_type="application/json")


class Tails:
    """Notifies the tails of a run that it grew. At most `limit` tails may be open at one time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._open = 0
        self._listening: dict[asyncio.Event, tuple[RunId, asyncio.AbstractEventLoop]] = {}

    def enter(self) -> bool:
        """True for one more tail, which leaves when it has ended; False when no more may be open."""
        with self._lock:
            self._open += (entered := self._open < self._limit)
        return entered

    def leave(self) -> None:
        """Counts a tail that has ended."""
        with self._lock:
            self._open -= 1

    @contextmanager
    def listening(self, run: RunId) -> Iterator[asyncio.Event]:
        """An event that is set when `run` grew; the tail that waits on it clears it. On the event loop alone."""
        event = asyncio.Event()
        with self._lock:
            self._listening[event] = run, asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self._lock:
                del self._listening[event]

    def notify(self, runs: Collection[RunId]) -> None:
        """Notifies the tails of `runs` that these grew. From any thread; never waits for a tail."""
        with self._lock:
            for event, (run, loop) in self._listening.items():
                if run in runs and not event.is_set() and not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)


@dataclass(frozen=True, slots=True)
class Backend:
    """The objects that routes answer from."""

    run_list: RunList
    runs: OpenRuns
    metrics: LogMetrics
    collectors: Collectors
    settings: NissaSettings
    tails: Tails
    observed_by: Callable[[], int | None]
    """The process that observes the log now."""
    ask: "Callable[..., Asked]"
    """`esper.audit.asking.ask` of the log."""
    acknowledgements: Acknowledgements
    queries: Semaphore
    """Questions in SQL that may be answered at one time."""
    has_token: bool

    def acknowledged(self, alert: OpenAlert) -> AlertAcknowledged | None:
        """The acknowledgement that silences `alert` now; None also where the trail cannot be read: it keeps no alert from people."""
        with suppress(EsperError):
            self.acknowledgements.refresh()
        return self.acknowledgements.in_force((alert.record.run, alert.event.fingerprint), datetime.now(UTC))


async def _backend_of(request: Request) -> Backend:
    backend = request.app.state.backend
    assert isinstance(backend, Backend)
    return backend


ByBackend = Annotated[Backend, Depends(_backend_of)]


@dataclass(frozen=True)
class _RunRequest:
    """A request for the run that `ref` names. `run` and `answer` read the disk, so they are for the route's own thread."""

    request: Request
    backend: Backend
    ref: str

    @cached_property
    def run(self) -> RunId:
        """The run that is meant. Raises UnknownRunError, AmbiguousRunError."""
        return self.backend.run_list.resolve(self.ref)

    def answer(self, view: Callable[[], BaseModel | bytes], *, lasting: bool = True) -> Response:
        """The answer that `view` makes, once the run is sealed with an ETag; 304, without making it, for a client that has it already.

        `lasting`: it is of what the run itself wrote alone; what was derived may grow after the seal, and its answer has no ETag.
        """
        sealed = self.backend.runs.seal_digest(self.run) if lasting else None
        if sealed is None:
            return send(view())
        url, version = self.request.url, self.request.app.version
        tag = hashlib.sha256(f"{version}\x1f{sealed}\x1f{self.run}\x1f{url.path}\x1f{url.query}".encode()).hexdigest()
        kept = "private, max-age=31536000, immutable" if self.ref == self.run else "private, no-cache"
        headers = {"ETag": f'"{tag[:32]}"', "Cache-Control": kept}
        known = self.request.headers.get("if-none-match", "").split(",")
        if headers["ETag"] in (one.strip().removeprefix("W/") for one in known):
            return Response(status_code=304, headers=headers)
        response = send(view())
        response.headers.update(headers)
        return response


async def _asked(request: Request, backend: ByBackend, run: RunRef) -> _RunRequest:
    return _RunRequest(request, backend, run)


OfRun = Annotated[_RunRequest, Depends(_asked)]


def about_run(view: Callable[..., View], *, lasting: bool = True) -> Callable[..., Response]:
    """The route that answers a request for a run, its parameter `asked`, with `view`, whose parameters and annotations describe it."""

    @wraps(view)
    def route(asked: _RunRequest, **parameters: Any) -> Response:  # Any: FastAPI checks them.
        return asked.answer(partial(view, asked, **parameters), lasting=lasting)

    return route
