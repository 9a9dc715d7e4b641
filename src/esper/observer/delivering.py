"""Whom a log's alerts reach: the handlers that `delivery.toml` in its directory names, and the deliverer that an observer hosts."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

from esper.events.envelope import RunId
from esper.history.resume import log_flag
from esper.observer.delivery.deliverer import Deliverer
from esper.observer.delivery.handlers.build import build_handlers
from esper.observer.delivery.notices import linker
from esper.observer.delivery.settings import DEFAULT, DeliverySettings, parse_delivery
from esper.observer.delivery.trial import Trial, try_out
from esper.observer.observer import Outcomes
from esper.oona.directory import Directory
from esper.settings import read_text

DELIVERY = "delivery.toml"


def delivery_settings(directory: Directory, path: Path | None = None) -> DeliverySettings:
    """What `path`, or `delivery.toml` in the directory, says; where there is no such file, alerts are lines on standard error.

    Raises SettingsError, with the line, for the first mistake.
    """
    found = read_text("delivery settings", path, directory.path / DELIVERY)
    return DEFAULT if found is None else parse_delivery(*found)


def make_deliverer(directory: Directory, settings: DeliverySettings) -> tuple[Deliverer, Outcomes]:
    """A deliverer that is not started yet, and the queue that its outcomes come through.

    Raises SettingsError for a secret that is missing.
    """

    def lives(run: RunId) -> bool | None:
        entry = directory.entry(run)
        return None if entry is None else entry.live

    outcomes: Outcomes = SimpleQueue()
    deliverer = Deliverer(
        build_handlers(settings),
        record=lambda run, event: outcomes.put((run, event)),
        now=lambda: datetime.now(UTC),
        link_to=linker(options=log_flag(directory.path.absolute()), base_url=settings.base_url),
        lives=lives,
    )
    return deliverer, outcomes


def try_handlers(directory: Directory, path: Path | None = None) -> Iterator[Trial]:
    """Sends one message through every handler, and says what came of it."""
    yield from try_out(build_handlers(delivery_settings(directory, path)), lambda: datetime.now(UTC))
