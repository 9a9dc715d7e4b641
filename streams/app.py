"""The Faust application of a worker. An agent on the lead topic, which has no records, makes it a member of its group: its partitions of
that topic are those whose ledgers it owns.
"""

import asyncio
import time
from typing import Any

import faust

from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import LEAD
from esper.kafka.ledgers.ledger import LedgerSettings
from esper.kafka.ledgers.owned_ledgers import OwnedLedgers, end_process
from esper.kafka.ledgers.worker_metrics import metrics_text

from .process import new_app, warn_worker

_STUCK_S = 60.0


def build_app(settings: KafkaSettings, ledger: LedgerSettings, *, port: int | None) -> faust.App:
    """A worker's application, with a status page and `/metrics` at `port` on loopback where one is given."""
    app, ledgers = new_app(settings, port=port), OwnedLedgers(settings, ledger, warn_worker)

    @app.agent(app.topic(settings.topic(LEAD), value_type=bytes))
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
            end_process()

    @app.task
    async def end_with_the_ledgers() -> None:
        began_at = time.monotonic()
        while not (ledgers.failed or ledgers.is_stuck(_STUCK_S, began_at)):
            await asyncio.sleep(1)
        end_process()

    @app.page("/")
    async def status(view: faust.web.View, _: faust.web.Request) -> faust.web.Response:
        return view.json(ledgers.status())

    @app.page("/metrics")
    async def metrics(view: faust.web.View, _: faust.web.Request) -> faust.web.Response:
        return view.bytes(metrics_text(ledgers), content_type="text/plain; version=0.0.4", headers={"Cache-Control": "no-store"})

    return app
