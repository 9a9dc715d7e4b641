"""The service itself, and what went wrong."""

from datetime import datetime
from typing import Literal

from esper.events.fields import Count, NonNegative
from esper.nissa.views.view import View


class Accepted(View):
    """How many samples are durable."""

    accepted: Count


class Health(View):
    """The process is up."""

    status: Literal["ok"]


class CollectorView(View):
    """How a collector does."""

    name: str
    ok: Count
    failed: Count
    hung: Count
    error: str | None


class Ready(View):
    """Whether the service follows the log, and how closely."""

    status: Literal["ready", "not ready"]
    lag_s: NonNegative | None
    """Seconds since everything on disk had been read; null: never yet."""
    lag_limit_s: NonNegative
    following: Count
    live: Count
    observed_by: int | None
    """The process that observes and delivers; null: nobody does."""


class StatusView(View):
    """The service itself."""

    version: str
    now: datetime
    ready: Ready
    collectors: tuple[CollectorView, ...]
    absent: tuple[str, ...]
    """Metrics without a value now: never measured, or no longer."""


class InvalidPart(View):
    """What is wrong where."""

    pointer: str
    detail: str


class Problem(View):
    """What went wrong (RFC 9457). It never repeats what was sent."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: tuple[InvalidPart, ...] = ()
