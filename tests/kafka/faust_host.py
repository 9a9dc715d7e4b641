"""`python faust_host.py SCENARIO BROKER GROUP TOPIC...`: an application as Faust's documents write it, without Esper's guards.

It prints a line for each thing that happens, and goes on until it is stopped. The scenarios `worker` and `unguarded` are Esper's worker
over the topics of prefix GROUP, without ledgers; closing them takes until there is a file `go`.
"""

import asyncio
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import faust

from esper.kafka.cluster import KafkaSettings
from esper.kafka.ledgers.ledger import LedgerSettings
from esper.kafka.ledgers.owned_ledgers import OwnedLedgers

sys.path.append(str(Path(__file__).parents[2]))  # streams


def say(*words: object) -> None:
    """Prints one line."""
    print(*words, flush=True)  # noqa: T201


async def read(stream: Any) -> None:  # Any, here and below: Faust's types, which mypy knows only where it is installed.
    """Takes the records. It raises at `bad`, and never ends with `open`."""
    async for event in stream.events():
        say("took", event.value.decode())
        if event.value == b"bad":
            raise ValueError("a fold raised")
        if event.value == b"open":
            await asyncio.Event().wait()


def worker(scenario: str, broker: str, prefix: str) -> Any:
    """Esper's application; `unguarded`, it does not close its ledgers when it is to stop."""
    from streams.app import build_app

    owned: list[int] = []

    def own(_: OwnedLedgers, partitions: Collection[int]) -> None:
        owned[:] = partitions

    async def close(_: OwnedLedgers) -> None:
        if owned:
            say("closing")
            while not Path("go").exists():
                await asyncio.sleep(0.05)
            say("closed")

    setattr(OwnedLedgers, "own", own)  # noqa: B010
    setattr(OwnedLedgers, "close", close)  # noqa: B010
    app: Any = build_app(KafkaSettings(bootstrap=broker, prefix=prefix, partitions=2), LedgerSettings(), port=None)
    if scenario == "unguarded":
        app.on_before_shutdown._filter_receivers.clear()
    return app


def application(scenario: str, broker: str, group: str, *topics: str) -> Any:
    """The application of `scenario`."""
    app: Any = faust.App(
        group,
        broker=f"kafka://{broker}",
        store="memory://",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=scenario != "leader",
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=0.2,
        broker_session_timeout=6,
        broker_heartbeat_interval=1.5,
    )
    app.agent(app.topic(topics[0]), concurrency=2 if scenario == "open" else 1)(read)
    if scenario == "table":
        app.Table("counts", default=bytes, changelog_topic=app.topic(topics[1], value_type=bytes, compacting=True), partitions=1)
    return app


def main(scenario: str, *arguments: str) -> None:
    """Runs the application of `scenario`."""
    build = worker if scenario in ("worker", "unguarded") else application
    app = build(scenario, *arguments)
    telling: list[asyncio.Task[None]] = []

    async def tell() -> None:
        while True:
            await asyncio.sleep(0.5)
            if app.tables.recovery.active_highwaters:
                say("left", app.tables.recovery.active_remaining_total())

    async def assigned(*arguments: Any, **_: Any) -> None:
        say("assigned", *sorted(f"{place.topic}/{place.partition}" for place in arguments[-1]))
        telling.append(asyncio.create_task(tell()))  # Faust starts its own tasks when tables are ready.

    app.on_partitions_assigned.connect(assigned)
    faust.Worker(app, loglevel="ERROR", redirect_stdouts=False, stdout=sys.stderr).execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
