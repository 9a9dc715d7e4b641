"""Handlers made from their settings: secrets are read and URLs checked once. Lines of text are sent here, the rest by its module."""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from esper.errors import SettingsError
from esper.events.envelope import RunId, written_time
from esper.history.resume import log_flag
from esper.observer.delivery.deliverer import Deliverer, Handler, Recorder, Send, attempt, run_in_loop
from esper.observer.delivery.delivery_file import (
    AlertmanagerSettings,
    DeliverySettings,
    HandlerSettings,
    LogSettings,
    WebhookSettings,
    readable,
)
from esper.observer.delivery.notices import Notice, handler_test_notice, linker
from esper.observer.delivery.outbox import AttemptResult, Limits
from esper.oona.directory import Directory

_LONGEST_LINE = 1000


class _HandlerTest(NamedTuple):
    """The answer of one handler to a test message, and how long it took."""

    handler: str
    answer: AttemptResult
    took_s: float


def build_handlers(settings: DeliverySettings) -> tuple[Handler, ...]:
    """The handlers of `settings`, ready to send. Raises SettingsError that names the handler, never a secret."""
    return tuple(_handler(handler, settings.deliver_within_s) for handler in settings.handlers)


def _handler(settings: HandlerSettings, deliver_within_s: float) -> Handler:
    given = settings.model_dump(include={"severity", "rate_per_minute", "burst", "attempts", "resend_s"})
    try:
        return Handler(settings.name, Limits(**given, deliver_within_s=deliver_within_s), _send(settings))
    except SettingsError as error:
        raise SettingsError(f"handler {settings.name}: {error}") from error


def _send(settings: HandlerSettings) -> Send:
    # httpx and apprise take long to import: only an observer with such a handler pays for them.
    match settings:
        case LogSettings():
            return lines_to(None if settings.path is None else Path(settings.path))
        case WebhookSettings():
            from esper.observer.delivery.http_handlers import webhook

            return webhook(settings)
        case AlertmanagerSettings():
            from esper.observer.delivery.http_handlers import alertmanager

            return alertmanager(settings)
        case _:
            from esper.observer.delivery.apprise_handler import through_apprise

            return through_apprise(settings)


def line(notice: Notice, now: datetime) -> str:
    """A line with time, alert, link and key. Foreign text cannot break it or move the cursor."""
    text = f"{written_time(now)} {notice.severity} {notice.status} {notice.name}: {notice.summary}"
    return f"{readable(text, limit=_LONGEST_LINE)} | {readable(notice.link.url or notice.link.command)} | {notice.key}"


def lines_to(path: Path | None) -> Send:
    """Writes a line per notice to the end of `path`, opened anew each time so that it may be rotated, else to standard error."""

    def write(text: str) -> AttemptResult:
        try:
            if path is None:
                sys.stderr.write(text)
                sys.stderr.flush()
            else:
                with path.open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            return AttemptResult(delivered=False, error=f"cannot write to {path or 'standard error'}: {error.strerror}")
        return AttemptResult(delivered=True)

    async def send(notices: Sequence[Notice], now: datetime) -> AttemptResult:
        # A full pipe or a lost file system holds this handler's thread, not the loop.
        return await asyncio.to_thread(write, "".join(f"{line(notice, now)}\n" for notice in notices))

    return send


def make_deliverer(directory: Directory, settings: DeliverySettings, record: Recorder) -> Deliverer:
    """A deliverer of a log's alerts that is not started yet. Raises SettingsError for a missing secret."""

    def lives(run: RunId) -> bool | None:
        entry = directory.entry(run)
        return None if entry is None else entry.live

    return Deliverer(
        build_handlers(settings),
        record=record,
        now=lambda: datetime.now(UTC),
        link_to=linker(options=log_flag(directory.path.absolute()), base_url=settings.base_url),
        lives=lives,
    )


def run_handler_tests(handlers: Sequence[Handler]) -> Iterator[_HandlerTest]:
    """Sends a test message through each handler in turn, whatever its severity and limits. Blocks up to a handler's time limit.

    Nothing of it is in a log; at Alertmanager it is an alert that ends by itself after a few minutes.
    """
    for handler in handlers:
        begun_s, now = time.monotonic(), datetime.now(UTC)
        answer = run_in_loop(attempt(handler, (handler_test_notice(handler.name, now),), now))
        yield _HandlerTest(handler.name, answer, time.monotonic() - begun_s)
