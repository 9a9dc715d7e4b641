"""How fast the log on Kafka is: records a second through a bridge and through a worker, and how soon a training's record is derived from.

    python benchmarks/kafka.py [--runs N] [--seconds N] [--backlog N] [--alerts N] [--json]

Everything is real: a broker of this machine, `esper bridge`, `esper worker` and `esper nissa` as processes of their own, and a process that
emits what small trainings emit.

bridge_records_per_s, worker_records_per_cpu_s     over a backlog of 20 runs
end_to_end_p50_ms, end_to_end_p99_ms               from `emit` in a trainer to an event that a worker derived from the record, at a
                                                   read_committed reader; 200 records/s over 100 runs, each of 2 a second
alert_p50_ms, alert_p99_ms                         from a NaN in a training to a webhook's receiver, by bridge, worker and Nissa
aiokafka_..., confluent_...                        the same messages by a plain loop: transactions of 500 as a bridge makes them, a consumer
                                                   that reads and decodes nothing, and one message at a time from send to receipt
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Consumer, Producer

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [os.fspath(CHECKOUT / "deploy" / "kafka"), os.fspath(CHECKOUT)]

from local_kafka import LocalKafka, free_ports  # noqa: E402

from esper.events.cloudevents import headers  # noqa: E402
from esper.events.envelope import Record, RunId  # noqa: E402
from esper.events.kinds.telemetry import StepsMeasured  # noqa: E402
from esper.events.topics import AGGREGATES, ALERTS, ANOMALIES, STEPS  # noqa: E402
from esper.kafka.clients import consuming  # noqa: E402
from esper.kafka.cluster import KafkaSettings  # noqa: E402
from esper.kafka.cluster_topics import create_topics  # noqa: E402
from esper.oona.directory import Directory, new_run_id  # noqa: E402
from esper.oona.emitter import Emitter  # noqa: E402

PARTITIONS, BACKLOG_RUNS, PAGE = 8, 20, 500
RATE_PER_S = 200
STEPS_A_RECORD = 10
_WITHIN_S = 120.0


def steps(first: int) -> StepsMeasured:
    """Telemetry of STEPS_A_RECORD optimizer steps from `first` on."""
    from esper.events.kinds.telemetry import StepColumns

    numbers, count = tuple(range(first, first + STEPS_A_RECORD)), STEPS_A_RECORD
    return StepsMeasured(
        steps=StepColumns(
            step=numbers,
            loss=tuple(1.0 + 0.1 * math.sin(number) for number in numbers),
            gradient_norm=(1.0,) * count,
            step_latency_ms=(5.0,) * count,
            data_wait_ms=(0.5,) * count,
        ),
        metrics={},
        learning_rates=(0.1,),
        live_seeds=0,
        last_adaptation_step=None,
        samples_per_s=None,
        memory_bytes=None,
    )


@contextlib.contextmanager
def emitters(folder: Path, count: int) -> Iterator[list[Emitter]]:
    """Emitters of `count` new runs in `folder`."""
    directory = Directory(folder, create=True)
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            run = new_run_id(datetime.now(UTC), os.urandom(9) + bytes([number]))
            log = stack.enter_context(directory.create(run))
            made.append(stack.enter_context(Emitter(log, run, clock=lambda: datetime.now(UTC))))
        yield made


def emit(made: list[Emitter], turns: int, pause_s: float) -> None:
    """Each emitter measures once in each of `turns` turns, `pause_s` between two records."""
    began_at, done = time.monotonic(), 0
    for turn in range(turns):
        for emitter in made:
            last = (turn + 1) * STEPS_A_RECORD
            emitter.measure(StepsMeasured, partial(steps, last - STEPS_A_RECORD + 1), epoch=1, step=last)
            done += 1
            time.sleep(max(0.0, began_at + done * pause_s - time.monotonic()))
        if not pause_s:
            for emitter in made:
                emitter.commit()


@contextlib.contextmanager
def process(*command: str) -> Iterator[psutil.Process]:
    """A process for as long as this lasts, ended by SIGTERM."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True) as started:
        try:
            yield psutil.Process(started.pid)
        finally:
            started.terminate()
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)


def worker_command(settings: KafkaSettings, folder: Path) -> tuple[str, ...]:
    """The command of a worker."""
    return (*esper("worker"), "--kafka", f"kafka://{settings.bootstrap}", "--log", os.fspath(folder))


def esper(*words: str) -> tuple[str, ...]:
    """The command line of an `esper` command."""
    return (sys.executable, "-m", "esper.cli", *words)


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU that a process and its children have used."""
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def new_cluster(node: LocalKafka, folder: Path, prefix: str) -> KafkaSettings:
    """New topics on the broker, and their settings in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kafka.toml").write_text(f'bootstrap = "{node.bootstrap}"\nprefix = "{prefix}"\npartitions = {PARTITIONS}\nreplication = 1\n')
    settings = KafkaSettings(bootstrap=node.bootstrap, prefix=prefix, partitions=PARTITIONS, replication=1)
    asyncio.run(create_topics(settings))
    return settings


def drain(settings: KafkaSettings, folder: Path) -> float:
    """Seconds of an `esper bridge --drain`."""
    began_at = time.monotonic()
    command = esper("bridge", "--drain", "--kafka", f"kafka://{settings.bootstrap}", "--log", os.fspath(folder))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began_at


def places(settings: KafkaSettings, topics: Iterable[str]) -> list[TopicPartition]:
    """Every partition of `topics`."""
    return [TopicPartition(settings.topic(topic), part) for topic in topics for part in range(settings.partitions)]


def cpu_until_applied(worker: psutil.Process, port: int, records: int) -> float:
    """Seconds of CPU that the worker had used when it had applied `records` records."""
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        if sum(ledger["counts"].get("applied", 0) for ledger in ledgers_at(port).values()) >= records:
            return cpu_s(worker)
        time.sleep(0.1)
    raise TimeoutError(f"the worker did not apply {records} records")


def ledgers_at(port: int) -> dict[str, Any]:
    """The status page of the worker at `port`: its ledgers by partition; empty while it does not answer."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return dict(json.load(answer))
    return {}


def throughput(node: LocalKafka, folder: Path, backlog: int) -> dict[str, float]:
    """Records a second through a bridge and a worker, over a backlog; beside them plain loops with the same records."""
    settings = new_cluster(node, folder, "backlog.")
    started_s = drain(settings, folder)
    with emitters(folder, BACKLOG_RUNS) as made:
        emit(made, backlog // BACKLOG_RUNS, 0.0)
    directory = Directory(folder)
    records = [record for run in directory.names() for record in records_of(directory, run)]
    drained_s = drain(settings, folder)
    port, other = free_ports(2)
    with process(*worker_command(settings, folder), "--port", str(port)) as worker:
        used_s = cpu_until_applied(worker, port, len(records))
    with process(*worker_command(settings, folder), "--port", str(other)) as worker:  # What a start alone costs.
        wait_for_worker(other)
        idle_s = cpu_s(worker)
    return {
        "backlog_records": len(records),
        "bridge_records_per_s": len(records) / max(1e-3, drained_s - started_s),
        "worker_records_per_cpu_s": len(records) / max(1e-3, used_s - idle_s),
        **plain_throughput(settings, records),
    }


def records_of(directory: Directory, run: RunId) -> tuple[Record, ...]:
    """The records of `run`."""
    with directory.open(run) as log:
        return log.read(limit=10_000_000).records


def plain_throughput(settings: KafkaSettings, records: list[Record]) -> dict[str, float]:
    """Records a second of loops that do nothing else, in transactions as a bridge makes them, and of consumers."""
    messages = [(settings.topic(record.topic), record.run.encode(), record.data, headers(record)) for record in records]
    pages = [messages[at : at + PAGE] for at in range(0, len(messages), PAGE)]

    async def produce() -> float:
        producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id="plain", acks="all", compression_type="gzip")
        async with producer:
            began_at = time.monotonic()
            for page in pages:
                async with producer.transaction():
                    sent = [await producer.send(topic, value, key=key, headers=told) for topic, key, value, told in page]
                    await asyncio.gather(*sent)
            return len(messages) / (time.monotonic() - began_at)

    async def consume() -> float:
        topics = {topic for topic, *_ in messages}
        consumer = AIOKafkaConsumer(*topics, bootstrap_servers=settings.bootstrap, auto_offset_reset="earliest")
        async with consumer:
            count, used_s = 0, time.process_time()
            while count < len(messages):
                count += sum(map(len, (await consumer.getmany(timeout_ms=100)).values()))
            return count / (time.process_time() - used_s)

    def produce_confluent() -> float:
        producer = Producer(
            {"bootstrap.servers": settings.bootstrap, "transactional.id": "plain-c", "compression.type": "gzip", "linger.ms": 2}
        )
        producer.init_transactions(30)
        began_at = time.monotonic()
        for page in pages:
            producer.begin_transaction()
            for topic, key, value, told in page:
                producer.produce(topic, value, key, headers=told)
            producer.commit_transaction(30)
        return len(messages) / (time.monotonic() - began_at)

    def consume_confluent() -> float:
        consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "plain-c", "auto.offset.reset": "earliest"})
        consumer.subscribe(sorted({topic for topic, *_ in messages}))
        count, used_s = 0, time.process_time()
        while count < len(messages):
            count += len(consumer.consume(PAGE, 0.1))
        consumer.close()
        return count / (time.process_time() - used_s)

    return {
        "aiokafka_produced_per_s": asyncio.run(produce()),
        "confluent_produced_per_s": produce_confluent(),
        "aiokafka_consumed_per_cpu_s": asyncio.run(consume()),
        "confluent_consumed_per_cpu_s": consume_confluent(),
    }


def end_to_end(node: LocalKafka, folder: Path, runs: int, seconds: float) -> dict[str, float]:
    """Milliseconds from `emit` in a trainer to a derived event at a reader, and of single messages by plain clients at the same rate."""
    settings = new_cluster(node, folder, "live.")
    address = ("--kafka", f"kafka://{settings.bootstrap}", "--log", os.fspath(folder))
    trainer = (sys.executable, __file__, "--trainer", os.fspath(folder), "--runs", str(runs), "--seconds", str(seconds))
    (port,) = free_ports(1)
    with process(*esper("bridge", *address)), process(*worker_command(settings, folder), "--port", str(port)):
        wait_for_worker(port)
        with process(*trainer) as training:
            found = asyncio.run(read_derived(settings, training))
    directory = Directory(folder)
    emitted = {record.id: record.time.timestamp() for run in directory.names() for record in records_of(directory, run)}
    began_at = min(emitted.values())
    # The first seconds are those in which processes start and runs begin.
    late = [(at - emitted[cause]) * 1e3 for cause, at in found if emitted[cause] > began_at + seconds / 4]
    return {"end_to_end_events": len(late), **percentiles("end_to_end", late), **asyncio.run(plain_latency(settings, min(seconds, 10.0)))}


def wait_for_worker(port: int) -> None:
    """Returns when the worker with its status page at `port` owns every partition."""
    deadline = time.monotonic() + _WITHIN_S
    while len(ledgers_at(port)) < PARTITIONS:
        if time.monotonic() > deadline:
            raise TimeoutError("the worker owns nothing yet")
        time.sleep(0.2)


async def read_derived(settings: KafkaSettings, training: psutil.Process) -> list[tuple[str, float]]:
    """The cause of each event that was derived from a trainer's record, and when a reader had it; until the trainer has ended."""
    found: list[tuple[str, float]] = []
    derived: set[bytes] = set()
    async with consuming(settings, fetch_wait_ms=100) as consumer:
        wanted = places(settings, (AGGREGATES, ANOMALIES, ALERTS))
        consumer.assign(wanted)
        for place in wanted:
            consumer.seek(place, 0)
        quiet_at = time.monotonic() + _WITHIN_S
        while training.is_running() and training.status() != psutil.STATUS_ZOMBIE and time.monotonic() < quiet_at:
            for messages in (await consumer.getmany(timeout_ms=100)).values():
                now = time.time()
                for message in messages:
                    told = dict(message.headers)
                    derived.add(told["ce_id"])
                    if told.get("ce_generation") == b"1" and "ce_causationid" in told:
                        found.append((told["ce_causationid"].decode(), now))
    return found


async def plain_latency(settings: KafkaSettings, seconds: float) -> dict[str, float]:
    """One hop of plain clients: a message of 1 kB from send to receipt, at RATE_PER_S."""
    place, late = TopicPartition(settings.topic(STEPS), 0), list[float]()
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, fetch_max_wait_ms=100)
    count = int(RATE_PER_S * seconds)
    async with consumer, AIOKafkaProducer(bootstrap_servers=settings.bootstrap, acks="all") as producer:
        consumer.assign([place])
        await consumer.seek_to_end(place)

        async def send() -> None:
            for number in range(count):
                await producer.send(place.topic, json.dumps(time.time()).ljust(1000).encode(), partition=0)
                await asyncio.sleep(1 / RATE_PER_S if number else 0.5)

        sending = asyncio.create_task(send())
        while len(late) < count:
            late += [(time.time() - json.loads(message.value)) * 1e3 for message in [await consumer.getone()]]
        await sending
    return {
        **percentiles("aiokafka_one_hop", late),
        **percentiles("confluent_one_hop", await asyncio.to_thread(_confluent_latency, settings, count)),
    }


def _confluent_latency(settings: KafkaSettings, count: int) -> list[float]:
    topic, late = settings.topic(STEPS), list[float]()
    options: dict[str, Any] = {"bootstrap.servers": settings.bootstrap}
    consumer = Consumer(options | {"group.id": "hop-c", "auto.offset.reset": "latest"})
    ready = threading.Event()
    consumer.subscribe([topic], on_assign=lambda *_: ready.set())
    while not ready.is_set():
        consumer.poll(0.1)
    consumer.poll(1.0)

    def send() -> None:
        producer = Producer(options | {"acks": "all", "linger.ms": 0})
        for _ in range(count):
            producer.produce(topic, json.dumps(time.time()).ljust(1000).encode(), partition=1)
            producer.poll(0)
            time.sleep(1 / RATE_PER_S)
        producer.flush(10)

    sending = threading.Thread(target=send)
    sending.start()
    deadline = time.monotonic() + _WITHIN_S
    while len(late) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            late.append((time.time() - json.loads(message.value())) * 1e3)
    sending.join()
    consumer.close()
    return late


def alert_latency(node: LocalKafka, folder: Path, count: int) -> dict[str, float]:
    """Milliseconds from a NaN in a training to a webhook's receiver, by way of Kafka."""
    from alert_latency import Receiver, train_with_a_nan, waited_for

    settings, receiver = new_cluster(node, folder, "alerts."), Receiver()
    handler = f'[[handlers]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\nrate_per_minute = 6000\nburst = 1000\n'
    (folder / "delivery.toml").write_text(handler)
    address = f"kafka://{settings.bootstrap}"
    log = ("--log", os.fspath(folder))
    late: list[float] = []
    mirror = ("--mirror", os.fspath(folder.with_name("mirror")), "--port", "9194")
    nissa = esper("nissa", "--log", address, *mirror, "--open")
    settings_of_nissa = {"kafka.toml": (folder / "kafka.toml").read_text(), "delivery.toml": handler}
    folder.with_name("mirror").mkdir()
    for name, text in settings_of_nissa.items():
        (folder.with_name("mirror") / name).write_text(text)
    with process(*esper("bridge", "--kafka", address, *log)), process(*worker_command(settings, folder)), process(*nissa):
        for number in range(count + 1):
            run, happened_at = train_with_a_nan(folder, None)
            try:
                waited_for(lambda run=run: run in receiver.told_at)
            except TimeoutError as error:
                raise TimeoutError(f"training {number} of {count}: {error}") from error
            if number:  # The first one waits until all have started.
                late.append((receiver.told_at[run] - happened_at) * 1e3)
    return percentiles("alert", late)


def percentiles(name: str, late: list[float]) -> dict[str, float]:
    """The median and the 99th percentile, under names that begin with `name`."""
    ordered = sorted(late)
    return {f"{name}_p50_ms": statistics.median(ordered), f"{name}_p99_ms": ordered[math.ceil(0.99 * len(ordered)) - 1]}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--runs", type=int, default=100, help="trainings that emit at once (default: 100)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long they emit (default: 60)")
    parser.add_argument("--backlog", type=int, default=40_000, help="records of the backlog (default: 40000)")
    parser.add_argument("--alerts", type=int, default=0, metavar="N", help="trainings with a NaN (default: 0, which leaves alerts out)")
    parser.add_argument("--only", choices=("throughput", "latency", "alerts"))
    parser.add_argument("--trainer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trainer is not None:
        with emitters(options.trainer, options.runs) as made:
            emit(made, math.ceil(RATE_PER_S * options.seconds / options.runs), 1 / RATE_PER_S)
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="esper-kafka-") as temporary:
        folder = Path(temporary)
        (folder / "broker").mkdir()
        node = LocalKafka(folder / "broker")
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "throughput": lambda: throughput(node, folder / "backlog", options.backlog),
            "latency": lambda: end_to_end(node, folder / "live", options.runs, options.seconds),
            "alerts": lambda: alert_latency(node, folder / "alerts", options.alerts) if options.alerts else {},
        }
        try:
            node.start()
            for part in [options.only] if options.only else parts:
                figures |= parts[part]()
        finally:
            node.kill()
    figures = {name: round(value, 1) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps(figures) if options.json else "\n".join(f"{name:32} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
