"""A worker for `chaos.py` as Faust's documents write one, without Esper's ledgers: an agent over the input topics, a table of the runs'
states, and `send` for what is derived. What it gets wrong is what the ledgers are for.

    python benchmarks/chaos_faust.py KAFKA FOLDER PORT
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faust

from esper.events.cloudevents import headers, record_from
from esper.events.envelope import RunId
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.kafka.cluster import KafkaSettings, kafka_settings
from esper.kafka.cluster_topics import INPUTS
from esper.observer.build import watching_of
from esper.oona.directory import Directory

_SESSION_S = 8.0


def changelog_of(settings: KafkaSettings) -> str:
    """The topic of the table's changes, as Faust names it."""
    return f"{settings.topic('plain')}-runs-changelog"


def parts_of(state: bytes) -> Mapping[str, bytes]:
    """The parts of a run's monitor in a value of the table."""
    return {name: part.encode() for name, part in json.loads(state).items()}


def build_app(kafka: str, folder: Path, port: int) -> Any:  # Any, here and below: Faust's types.
    """The application, with positions at `port` in the shape of a worker's status page."""
    settings, watching = kafka_settings(kafka, folder), watching_of(Directory(folder))
    app: Any = faust.App(
        settings.topic("plain"),
        broker=kafka,
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        topic_partitions=settings.partitions,
        topic_replication_factor=1,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=_SESSION_S,
        broker_heartbeat_interval=_SESSION_S / 4,
        web_bind="127.0.0.1",
        web_port=port,
    )
    table = app.Table("runs", default=bytes, partitions=settings.partitions, key_type=bytes, value_type=bytes)
    outputs: dict[str, Any] = {}
    positions: dict[int, dict[str, int]] = {}

    @app.agent(app.topic(*map(settings.topic, INPUTS), key_type=bytes, value_type=bytes))
    async def fold(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            topic = message.topic.removeprefix(settings.prefix)
            record = record_from(message.headers, message.key, message.value, topic)
            state = table[message.key]
            monitor = RunMonitor.load(record.run, parts_of(state)) if state else RunMonitor(record.run, watching)
            for made in monitor.take(record):
                if made.topic not in outputs:
                    outputs[made.topic] = app.topic(settings.topic(made.topic), key_type=bytes, value_type=bytes)
                await outputs[made.topic].send(key=made.run.encode(), value=made.data, headers=headers(made), partition=message.partition)
            table[message.key] = json.dumps({name: part.decode() for name, part in monitor.save(whole=True).items()}).encode()
            positions.setdefault(message.partition, {})[topic] = message.offset + 1

    @app.on_partitions_assigned.connect
    async def assigned(*arguments: Any, **_: Any) -> None:
        owned = {place.partition for place in arguments[-1] if place.topic.removeprefix(settings.prefix) in INPUTS}
        for partition in positions.keys() - owned:
            del positions[partition]
        for partition in owned:
            positions.setdefault(partition, {})

    @app.page("/")
    async def status(view: Any, _: Any) -> Any:
        return view.json({str(partition): {"positions": found} for partition, found in positions.items()})

    return app


def states(changes: Mapping[bytes, bytes]) -> dict[RunId, dict[str, bytes]]:
    """The parts of each run's state, of the last changes by key."""
    return {RunId(key.decode()): dict(parts_of(value)) for key, value in changes.items()}


if __name__ == "__main__":
    worker = faust.Worker(
        build_app(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])), loglevel="WARNING", redirect_stdouts=False, quiet=True
    )
    worker.spinner = None
    worker.execute_from_commandline()
