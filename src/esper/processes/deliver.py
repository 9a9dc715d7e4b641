"""`esper deliver`: delivers the alerts on Kafka, a member of the group that shares them. As many as there are machines to do it.

Its state is written to `delivery.json` in its directory every second. After an error it begins again, as a new process would.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from esper.errors import LogError
from esper.events.envelope import Record, RunId
from esper.kafka.cluster import SCHEME, KafkaSettings
from esper.kafka.delivering import AlertDelivery
from esper.kafka.event_loop import run_kafka_loop
from esper.observer.delivery.deliverer import Deliverer, DeliveryError
from esper.observer.delivery.delivery_file import DeliverySettings
from esper.observer.delivery.handlers import build_handlers
from esper.observer.delivery.notices import linker
from esper.observer.delivery.outbox import AlertOutcome, failure_of, outcome_record
from esper.oona.directory import Directory
from esper.state_files import DELIVERY_STATE, write_state

_EVERY_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0


def run_delivery(
    directory: Directory, settings: KafkaSettings, handlers: DeliverySettings, stop: threading.Event, report: Callable[[str], None]
) -> None:
    """Delivers until `stop`. Raises SettingsError for a secret that is missing, at once; Kafka's failures are reported, and waited for."""
    build_handlers(handlers)
    link_to = linker(options=f" --log {SCHEME}{settings.bootstrap}", base_url=handlers.base_url)

    def make(write: Callable[[Sequence[Record]], None], lives: Callable[[RunId], bool]) -> Deliverer:
        def record(outcomes: Sequence[AlertOutcome]) -> None:
            write([outcome_record(outcome, datetime.now(UTC)) for outcome in outcomes])
            for failure in filter(None, map(failure_of, outcomes)):
                report(failure)

        return Deliverer(build_handlers(handlers), record=record, now=lambda: datetime.now(UTC), link_to=link_to, lives=lives)

    def begin() -> AlertDelivery:
        return AlertDelivery(settings, make, report, now=lambda: datetime.now(UTC))

    run_kafka_loop(_run(directory, settings, begin, stop, report))


async def _run(
    directory: Directory, settings: KafkaSettings, begin: Callable[[], AlertDelivery], stop: threading.Event, report: Callable[[str], None]
) -> None:
    pause_s, error = _FIRST_PAUSE_S, None
    while not stop.is_set():
        stopped, delivery = asyncio.Event(), begin()
        running = asyncio.create_task(delivery.run(stopped))
        try:
            while not (stop.is_set() or running.done()):
                await asyncio.wait([running], timeout=_EVERY_S)
                state = {**asdict(delivery.state), "error": error}
                await asyncio.to_thread(write_state, directory.path / DELIVERY_STATE, settings.bootstrap, state)
                if delivery.state.ready:
                    pause_s, error = _FIRST_PAUSE_S, None
        finally:
            stopped.set()
            try:
                await running
            except (LogError, DeliveryError) as failure:
                error = str(failure)
                report(f"{error}; delivery begins again")
        if not stop.is_set():
            await asyncio.to_thread(stop.wait, pause_s * (0.5 + random.random()))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
