"""The Faust application of a worker. An agent on the lead topic, which has no records, makes it a member of its group: its partitions of
that topic are those whose ledgers it owns.
"""

import asyncio
import os
import sys
import time
from typing import Any, NoReturn

import faust

from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import LEAD
from esper.kafka.ledger import LedgerSettings
from esper.kafka.owned_ledgers import FAILED, OwnedLedgers
from esper.kafka.worker_metrics import metrics_text

_SESSION_S = 8.0
_STUCK_S = 60.0
_STOP_S = 16.0  # Longer than ledgers take to close, shorter than `esper worker` waits before it kills.


def build_app(settings: KafkaSettings, ledger: LedgerSettings, *, port: int | None) -> faust.App:
    """A worker's application, with a status page and `/metrics` at `port` on loopback where one is given."""
    app = faust.App(
        settings.topic("worker"),
        broker=[f"kafka://{one}" for one in settings.bootstrap.split(",")],
        broker_credentials=_credentials(settings),
        broker_session_timeout=_SESSION_S,
        broker_heartbeat_interval=_SESSION_S / 4,
        store="memory://",
        topic_allow_declare=False,  # `esper topics create` makes topics.
        topic_disable_leader=True,
        stream_wait_empty=False,  # The lead topic never has a record to wait for.
        web_enabled=port is not None,
        web_bind="127.0.0.1",
        web_port=port or 6066,
    )
    lead = app.topic(settings.topic(LEAD), value_type=bytes)
    ledgers = OwnedLedgers(settings, ledger, report)

    @app.agent(lead)
    async def member(stream: faust.StreamT[bytes]) -> None:
        async for _ in stream:
            pass

    @app.on_partitions_assigned.connect
    async def assigned(*arguments: Any, **_: Any) -> None:  # Any: of a signal.
        ledgers.own([place.partition for place in arguments[-1]])

    @app.on_partitions_revoked.connect
    @app.on_before_shutdown.connect
    async def released(*_: Any, **__: Any) -> None:
        await ledgers.close()
        if ledgers.failed:
            _end()

    @app.task
    async def end_with_the_ledgers() -> None:
        began_at = time.monotonic()
        while not (ledgers.failed or ledgers.is_stuck(_STUCK_S, began_at)):
            await asyncio.sleep(1)
        _end()

    @app.page("/")
    async def status(view: faust.web.View, _: faust.web.Request) -> faust.web.Response:
        return view.json(ledgers.status())

    @app.page("/metrics")
    async def metrics(view: faust.web.View, _: faust.web.Request) -> faust.web.Response:
        return view.bytes(metrics_text(ledgers), content_type="text/plain; version=0.0.4", headers={"Cache-Control": "no-store"})

    return app


def end_late(worker: faust.Worker) -> NoReturn:
    """Ends the process `_STOP_S` after Faust began to stop: while a broker is away it may wait for ever. For a thread of its own."""
    while not worker.should_stop:
        time.sleep(0.2)
    time.sleep(_STOP_S)
    report(f"it did not stop within {_STOP_S:g} s of being asked to; the partitions' next owner aborts what is open")
    _end()


def report(problem: str) -> None:
    """Writes `problem` to standard error."""
    print(f"esper worker: {problem}", file=sys.stderr, flush=True)  # noqa: T201


def _end() -> NoReturn:
    os._exit(FAILED)  # Not by way of Faust, which may hang. The next owner aborts what is open.


def _credentials(settings: KafkaSettings) -> Any:  # Any: one of Faust's classes.
    arguments = settings.client()
    context, password = arguments.get("ssl_context"), arguments.get("sasl_plain_password")
    if password is not None:
        return faust.SASLCredentials(username=settings.username, password=password, mechanism=settings.mechanism, ssl_context=context)
    return None if context is None else faust.SSLCredentials(context)
