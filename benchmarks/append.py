"""How fast a run is written: the log's own path from values to the disk, against an event store of the same kind and against a bare file.

    python benchmarks/append.py [--json] [--directory DIR]

Every round writes the same groups of 100 facts four times: into the log (built and validated, encoded, numbered, chained, committed with
synchronous FULL), into the SQLite recorder of the `eventsourcing` library, as bytes, all columns of every record, appended to a bare file
with one fdatasync per group, and into the log through `emit` and `commit` with the writer thread between. Figures are medians over rounds,
`ratio_eventsourcing` and `share_of_raw` are medians of each round's own ratio. Reader latency runs from the return of `append` to the
moment when a reader in another process holds the record. Decoding is of an EpochCompleted, whose table of seeds is a log's largest part.
Disks differ: put DIR where runs are to stand. Needs the development tools.

The library's recorder is `SQLiteApplicationRecorder`, which numbers the events of a whole application as the log numbers those of a run.
Both are timed on one thread from the making of an event until it is on disk. So the peer's part builds the same event, encodes it by our
codec, puts it into a `StoredEvent` of one originator, and commits every group as one transaction, in WAL mode with synchronous FULL: set on
its one connection and read back, for the library leaves it to the default of the SQLite at hand. What differs favours the peer: its own
mapper stays out, and it keeps 4 columns a record, without time, clocks, cause or chain. Each brings its own SQLite: apsw's, and Python's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from esper.events.codec import decode_payload, encode
from esper.events.digests import chain
from esper.events.envelope import EventId, RunId
from esper.events.kinds.epoch import EpochCompleted, GateSettings, Measured, StateDigests, SystemState
from esper.events.kinds.lifecycle import Evaluation, SeedRow, SeedTransitioned, Stage
from esper.oona.directory import Directory, new_run_id
from esper.oona.emitter import Emitter
from esper.oona.file import to_row
from esper.oona.heads import Draft
from esper.oona.writer import append_drafts

ROUNDS = 9
GROUPS = 40
GROUP = 100
RINGS = 400
SERIES = 200
CAUSE = EventId("01900000-0000-7000-8000-000000000001/1234")
FULL = 2  # How SQLite answers for synchronous FULL.


class Round(NamedTuple):
    """What one round gave: records per second by each way, and the caller's microseconds per emit."""

    log: float
    peer: float
    raw: float
    emitted: float
    emit_us: float


def event(number: int) -> SeedTransitioned:
    """A fact as a growing run writes it."""
    return SeedTransitioned(
        site="blocks.3.fc",
        seed=number % 4,
        from_stage=Stage.TRAINING,
        to_stage=Stage.GRAFTING,
        reason="the shadow evaluation improved in 5 of 5 chunks",
        blueprint="mlp:24",
        kernel="5f0c9d1e7a3b48266d2c",
        life=number,
        embargo_until=None,
    )


def now() -> datetime:
    """The time, aware and in UTC."""
    return datetime.now(UTC)


def new_run() -> RunId:
    """An id for one more run."""
    return new_run_id(now(), os.urandom(10))


def drafts(first: int) -> list[Draft]:
    """One group of facts, ready to be appended."""
    numbers = range(first, first + GROUP)
    return [Draft(event(number), SeedTransitioned.TOPIC, number, 1, now(), 0, number, CAUSE, None) for number in numbers]


def into_the_log(directory: Directory) -> tuple[float, list[bytes]]:
    """Records per second through build, encode, chain and commit; and the bytes of each group."""
    with directory.create(new_run()) as log:
        began = time.perf_counter()
        for group in range(GROUPS):
            append_drafts(log, drafts(group * GROUP + 1))
        took_s = time.perf_counter() - began
        records = log.read(limit=GROUPS * GROUP).records
    written = [b"".join(map(as_bytes, to_row(record))) for record in records]
    return len(records) / took_s, [b"".join(written[first : first + GROUP]) for first in range(0, len(written), GROUP)]


def into_the_peer(path: Path) -> float:
    """Records per second through build, encode, StoredEvent and commit."""
    originator = UUID(new_run())
    datastore = SQLiteDatastore(str(path), pool_size=1, max_overflow=0)  # One connection: what is set on it holds for every group.
    recorder = SQLiteApplicationRecorder(datastore)
    recorder.create_table()
    set_full(datastore)
    began = time.perf_counter()
    for group in range(GROUPS):
        recorder.insert_events(stored_events(originator, group * GROUP + 1))
    took_s = time.perf_counter() - began
    count = recorder.max_notification_id()
    assert count == GROUPS * GROUP, f"expected {GROUPS * GROUP} events in {path}, got {count}"
    datastore.close()
    path.unlink()
    return count / took_s


def stored_events(originator: UUID, first: int) -> list[StoredEvent]:
    """One group of the same facts, ready for the peer."""
    kind = SeedTransitioned.KIND
    return [StoredEvent(originator, number, kind, encode(event(number))) for number in range(first, first + GROUP)]


def set_full(datastore: SQLiteDatastore) -> None:
    """Makes the peer's commits as durable as the log's. Ends the program where its connection then answers otherwise."""
    with datastore.get_connection(commit=True) as connection, connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA journal_mode")
        [mode] = cursor.fetchone()
        cursor.execute("PRAGMA synchronous")
        [synchronous] = cursor.fetchone()
    if (mode, synchronous) != ("wal", FULL):
        raise SystemExit(f"the peer's connection: expected journal_mode wal and synchronous {FULL}, got {mode} and {synchronous}")


def as_bytes(value: object) -> bytes:
    """One column's value as a bare file would have it."""
    return value if isinstance(value, bytes) else str(value).encode()


def through_the_emitter(directory: Directory) -> tuple[float, float]:
    """Records per second through emit and commit, and the caller's microseconds per emit of an event that it has."""
    run, emitting_s = new_run(), 0.0
    with directory.create(run) as log, Emitter(log, run, clock=now) as emitter:
        began = time.perf_counter()
        for group in range(GROUPS):
            events = [event(number) for number in range(GROUP)]
            asked = time.perf_counter()
            for one in events:
                emitter.emit(one, epoch=0, step=group)
            emitting_s += time.perf_counter() - asked
            emitter.commit()
        took_s = time.perf_counter() - began
    return GROUPS * GROUP / took_s, emitting_s / (GROUPS * GROUP) * 1e6


def to_a_bare_file(path: Path, groups: list[bytes]) -> float:
    """Records per second as bytes, appended and fdatasynced by the group."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    began = time.perf_counter()
    for data in groups:
        os.write(descriptor, data)
        os.fdatasync(descriptor)
    took_s = time.perf_counter() - began
    os.close(descriptor)
    path.unlink()
    return len(groups) * GROUP / took_s


def each_us(action: Callable[[], object], series: int = SERIES) -> float:
    """Microseconds of one call: the median of `series` series of 20 calls."""
    taken: list[float] = []
    for _ in range(series):
        began = time.perf_counter()
        for _ in range(20):
            action()
        taken.append((time.perf_counter() - began) / 20 * 1e6)
    return statistics.median(taken)


def codec_and_chain_us(directory: Directory) -> tuple[float, float]:
    """Microseconds to encode one payload, and to chain one record."""
    sample = event(1)
    with directory.create(new_run()) as log:
        append_drafts(log, drafts(1))
        record = log.read(limit=1).records[0]
    return each_us(lambda: encode(sample)), each_us(lambda: chain(record, b"\0" * 32))


def epoch_completed(slots: int) -> EpochCompleted:
    """The end of an epoch with `slots` seeds in training, every third of which was evaluated."""
    measured = Measured(loss=0.4, metrics={"accuracy": 0.8}, samples=1000)
    evaluation = Evaluation(epoch=5, alpha=0.5, n=8, k=2, look=1, mean=0.01, standard_error=0.002, loss_without=0.41, loss_with=0.4)
    seed = SeedRow(
        site="blocks.3.fc", seed=0, stage=Stage.TRAINING, life=3, blueprint="mlp:24", kernel="5f0c9d1e7a3b48266d2c", alpha=0.25, ready=False
    ).model_copy(update=dict.fromkeys(("activation_variance", "gradient_variance", "dead_neuron_ratio", "health_score"), 0.3123))
    evaluated = seed.model_copy(update={"evaluation": evaluation, "evaluated": CAUSE})
    state = SystemState(
        epoch=7,
        epochs_planned=30,
        train_loss=0.4,
        train_metrics={"accuracy": 0.8},
        validation_loss=0.5,
        validation_metrics={"accuracy": 0.7},
        validation_losses=(0.6, 0.5),
        earlier_loss=None,
        best_loss=0.5,
        best_epoch=7,
        epochs_since_improvement=0,
        parameters=1000,
        parameters_limit=2000,
        germinations=slots,
        stages={Stage.TRAINING: slots},
        sites=(),
        seeds=tuple((seed if number % 3 else evaluated).model_copy(update={"seed": number}) for number in range(slots)),
        field_reports=(),
        gate=GateSettings(),
    )
    return EpochCompleted(
        train=measured,
        validation=measured,
        learning_rates=(0.001,),
        optimizer_steps=100,
        digests=StateDigests(parameters="0" * 64, optimizer="0" * 64, random="0" * 64),
        system=state,
        duration_s=1.5,
        samples_per_s=1000.0,
    )


def decode_ms(slots: int, series: int) -> float:
    """Milliseconds to decode one EpochCompleted of `slots` seeds."""
    payload = encode(epoch_completed(slots))
    return each_us(lambda: decode_payload(EpochCompleted.KIND, payload), series) / 1000


def latencies_ms(directory: Directory) -> list[float]:
    """From the return of `append` to a reader in another process; a reader that is faster than the return counts as 0."""
    run, sample = new_run(), event(1)
    with directory.create(run) as log:
        command = [sys.executable, __file__, "--reader", run, "--directory", str(directory.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            reader.stdout.readline()
            written: list[int] = []
            for number in range(1, RINGS + 1):
                append_drafts(log, [Draft(sample, sample.TOPIC, number, 1, now(), 0, number, CAUSE, None)])
                written.append(time.monotonic_ns())
                time.sleep(0.005)
            seen: list[int] = json.loads(reader.stdout.read())
    return [max(0, late - early) / 1e6 for early, late in zip(written, seen, strict=True)]


def read_along(directory: Directory, run: RunId) -> None:
    """The other process: notes when each record came."""
    seen: list[int] = []
    with directory.open(run) as log:
        position = log.end()
        log.wait(position, 0.0)  # Opens the listener's socket before the writer is told to go.
        print("ready", flush=True)
        while len(seen) < RINGS and log.wait(position, 10.0):
            page = log.read(position)
            seen += [time.monotonic_ns()] * len(page.records)
            position = page.position
    print(json.dumps(seen), flush=True)


def measure(directory: Directory) -> dict[str, float]:
    """All figures."""
    rounds: list[Round] = []
    for number in range(ROUNDS + 1):
        log, groups = into_the_log(directory)
        peer = into_the_peer(directory.path / "peer.sqlite")
        raw = to_a_bare_file(directory.path / "raw", groups)
        emitted, emit_us = through_the_emitter(directory)
        if number:  # The first round warms up.
            rounds.append(Round(log, peer, raw, emitted, emit_us))
    codec_us, chain_us = codec_and_chain_us(directory)
    late = sorted(latencies_ms(directory))
    return {
        "records_per_s": statistics.median(one.log for one in rounds),
        "eventsourcing_per_s": statistics.median(one.peer for one in rounds),
        "ratio_eventsourcing": statistics.median(one.log / one.peer for one in rounds),
        "raw_file_per_s": statistics.median(one.raw for one in rounds),
        "share_of_raw": statistics.median(one.log / one.raw for one in rounds),
        "emitted_per_s": statistics.median(one.emitted for one in rounds),
        "emit_us": statistics.median(one.emit_us for one in rounds),
        "codec_us": codec_us,
        "chain_us": chain_us,
        "decode_12_ms": decode_ms(12, SERIES),
        "decode_10000_ms": decode_ms(10_000, 3),
        "record_bytes": len(groups[0]) / GROUP,
        "reader_p50_ms": late[len(late) // 2],
        "reader_p99_ms": late[len(late) * 99 // 100],
    }


LABELS = {
    "records_per_s": "records/s into the log, groups of 100",
    "eventsourcing_per_s": "records/s into eventsourcing's SQLite recorder",
    "ratio_eventsourcing": "the log's rate by eventsourcing's",
    "raw_file_per_s": "records/s to a bare file with fdatasync",
    "share_of_raw": "share of the bare file",
    "emitted_per_s": "records/s through emit and commit, groups of 100",
    "emit_us": "emit, microseconds for the caller",
    "codec_us": "encode one payload, microseconds",
    "chain_us": "chain one record, microseconds",
    "decode_12_ms": "decode one EpochCompleted of 12 slots, ms",
    "decode_10000_ms": "decode one EpochCompleted of 10,000 slots, ms",
    "record_bytes": "one record, bytes",
    "reader_p50_ms": "to a reader in another process, median ms",
    "reader_p99_ms": "to a reader in another process, 99th percentile ms",
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--directory", type=Path, default=Path(), help="where to write (default: here)")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        read_along(Directory(options.directory), RunId(options.reader))
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        figures = measure(Directory(place))
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        return
    for name, value in figures.items():
        print(f"{LABELS[name]:52} {value:>12,.{0 if value >= 100 else 2}f}")


if __name__ == "__main__":
    main()
