"""A worker or a bridge for `chaos.py`: the product's code with one part wrapped, to die at a step of a transaction, or to lack a guard.

    python benchmarks/chaos_processes.py worker KAFKA FOLDER [--die STEP] [--after N] [--without GUARD] [--group] [--port N]
    python benchmarks/chaos_processes.py bridge KAFKA FOLDER [--die STEP] [--after N] [--abort]

The worker hosts `OwnedLedgers` as `streams` does, without Faust: it owns every partition, or with --group those that a consumer group gives
it. STEP is `begin`, `queued`, `sent-N` (the Nth group of messages of one topic is acknowledged), `flushed`, `committing` (EndTxn is on its
way, its answer is not read) or `committed` (nobody learned of it); the process dies there in the first suitable transaction after N others.
--abort takes back every third transaction of a bridge after half of it is sent.

GUARD: `fencing`, with a transactional id of its own for every process, which waits for no other's transaction; `refold`, with one position
for outputs and states.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import ConsumerRebalanceListener

from esper.errors import LogError
from esper.kafka import transactions
from esper.kafka.clients import Outgoing
from esper.kafka.cluster import KafkaSettings, kafka_settings
from esper.kafka.cluster_topics import LEAD
from esper.kafka.copying import shipping
from esper.kafka.event_loop import without_repeats
from esper.kafka.ledgers import ledger as ledgers
from esper.kafka.ledgers.ledger import Ledger, LedgerSettings
from esper.kafka.ledgers.owned_ledgers import OwnedLedgers, end_process
from esper.observer.build import watching_of
from esper.oona.directory import Directory
from esper.processes.bridge import run_bridge

STEPS = ("begin", "queued", "sent-1", "sent-2", "sent-3", "flushed", "committing", "committed")
_SESSION_MS = 8000
_transact = transactions.transact


def die() -> None:
    """Ends this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Dying:
    """`transact` that dies at `step` of the first suitable transaction after `after` others."""

    def __init__(self, step: str, after: int) -> None:
        self.step, self.left = step, after

    async def __call__(self, producer: AIOKafkaProducer, settings: KafkaSettings, messages: Iterable[Outgoing]) -> None:
        """Commits `messages`, or dies on the way."""
        groups = [list(group) for _, group in groupby(messages, key=lambda one: (one.topic, one.key == b"meta"))]
        self.left -= 1
        if self.left >= 0 or len(groups) < 2:
            await _transact(producer, settings, [one for group in groups for one in group])
            return
        await producer.begin_transaction()
        if self.step == "begin":
            die()
        for number, group in enumerate(groups, start=1):
            sent = [await producer.send(one.topic, one.value, key=one.key, partition=one.partition, headers=one.headers) for one in group]
            if self.step == "queued":
                continue
            await asyncio.gather(*sent)
            if self.step == f"sent-{min(number, 3)}" or (self.step.startswith("sent-") and number == len(groups)):
                die()
        if self.step == "queued":
            die()
        await producer.flush()
        if self.step == "flushed":
            die()
        if self.step == "committing":
            _die_when_ending(producer)
        await producer.commit_transaction()
        die()


def _die_when_ending(producer: AIOKafkaProducer) -> None:
    """Dies once EndTxn is written to the socket, 5 ms before anybody reads the answer."""
    send = producer.client.send

    async def sending(node: int, request: object, **options: object) -> object:
        if type(request).__name__.startswith("EndTxn"):
            threading.Timer(0.005, die).start()
        return await send(node, request, **options)

    producer.client.send = sending


def aborting() -> None:
    """Makes every third transaction of this process's bridge end half-way, taken back, as an error."""
    count = 0

    async def transact(producer: AIOKafkaProducer, settings: KafkaSettings, messages: Iterable[Outgoing]) -> None:
        nonlocal count
        count += 1
        if count % 3:
            await _transact(producer, settings, messages)
            return
        listed = list(messages)
        await producer.begin_transaction()
        for one in listed[: (len(listed) + 1) // 2]:
            await producer.send_and_wait(one.topic, one.value, key=one.key, partition=one.partition, headers=one.headers)
        await producer.abort_transaction()
        raise LogError("taken back")

    shipping.transact = transact


def remove_guard(name: str) -> None:
    """Removes fencing, or the second position, from the ledgers of this process."""
    if name == "fencing":
        producing = ledgers.producing

        async def do_not_wait(*_: object) -> None:
            """A dead owner's transaction stays open, and hides what is behind it."""

        ledgers.ended = do_not_wait
        ledgers.producing = lambda settings, identity: producing(settings, f"{identity}-{uuid.uuid4()}")
        return
    load = Ledger._load

    async def load_one_position(self: Ledger) -> object:
        parts = await load(self)
        self._meta = self._meta.model_copy(update={"refold_from": {}})
        return parts

    Ledger._load = load_one_position


async def worker(settings: KafkaSettings, ledger: LedgerSettings, *, group: bool, port: int | None) -> None:
    """Owns ledgers until SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(without_repeats)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    owned = OwnedLedgers(settings, ledger, lambda problem: print(f"worker {os.getpid()}: {problem}", file=sys.stderr, flush=True))

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(owned.status()).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    if group:
        member = asyncio.create_task(_member(settings, owned, stop))
    else:
        owned.own(range(settings.partitions))
        member = None
    began_at = time.monotonic()
    while not (stop.is_set() or owned.failed or owned.is_stuck(60, began_at) or (member and member.done())):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await stop.wait()
    if not stop.is_set():
        end_process()
    await (member or owned.close())
    server.close()


async def _member(settings: KafkaSettings, owned: OwnedLedgers, stop: asyncio.Event) -> None:
    class Listener(ConsumerRebalanceListener):
        async def on_partitions_revoked(self, _: object) -> None:
            await owned.close()

        async def on_partitions_assigned(self, places: Iterable[object]) -> None:
            owned.own([place.partition for place in places])

    consumer = AIOKafkaConsumer(
        **settings.client(),
        group_id=settings.topic("worker"),
        enable_auto_commit=False,
        session_timeout_ms=_SESSION_MS,
        heartbeat_interval_ms=_SESSION_MS // 4,
    )
    consumer.subscribe([settings.topic(LEAD)], listener=Listener())
    await consumer.start()
    try:
        while not stop.is_set():
            await consumer.getmany(timeout_ms=200)
        await owned.close()
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await consumer.stop()


def main() -> None:
    """Runs one process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("worker", "bridge"))
    parser.add_argument("kafka")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", metavar="STEP", choices=STEPS)
    parser.add_argument("--after", type=int, default=0, metavar="N")
    parser.add_argument("--without", choices=("fencing", "refold"))
    parser.add_argument("--abort", action="store_true")
    parser.add_argument("--group", action="store_true")
    parser.add_argument("--state-every", type=float, default=30.0)
    parser.add_argument("--port", type=int)
    chosen = parser.parse_args()
    directory = Directory(chosen.folder)
    settings = kafka_settings(chosen.kafka, chosen.folder)
    if chosen.without:
        remove_guard(chosen.without)
    if chosen.die:
        shipping.transact = ledgers.transact = Dying(chosen.die, chosen.after)
    if chosen.abort:
        aborting()
    if chosen.what == "worker":
        asyncio.run(worker(settings, LedgerSettings(watching_of(directory), chosen.state_every), group=chosen.group, port=chosen.port))
        return
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run_bridge(directory, settings, stop, lambda line: print(line, file=sys.stderr, flush=True))


if __name__ == "__main__":
    main()
