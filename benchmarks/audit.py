"""How fast a log becomes tables, and how fast these answer: 10 million health signals, 64 a record, beside MLflow's SQLite store.

    python benchmarks/audit.py [--signals N] [--json] [--directory DIR] [--mlflow PYTHON]

A run is written through the real emitter (`audit_log.py`): for every 100 health records an EpochCompleted of 48 seeds and what is decided
then. `rebuild_signals_per_s` is of everything from an empty file to one that is durable and needs no write-ahead log, facts included;
`duckdb_alone_signals_per_s` is of the same rows put into two tables by DuckDB alone, from memory: what the machine can do then.
Queries are asked of the projection in one process, every row fetched; medians of 5 after one to warm up. `record_lookup` is of a whole
record with its payload, which the peer has none of. `refresh_ms` is from 1,000 new health records in the log to their rows in tables, by
a process that has the projection open; `refresh_cold_ms` by one that opens it, which compares every table's rows with what was written.
`published_s` is for all tables as Parquet.

The peer is asked what it can answer: it keeps metrics, one number of one seed each, and no decisions. As many of them as there are health
signals are in its store, although a signal has ten. `--mlflow` is a Python that has MLflow (`mlflow_store.py` says how to make one);
without it the peer's figures are null.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import duckdb
from audit_log import RECORDS, SIGNALS, STEPS, GrowingRun
from rich.console import Console
from rich.table import Table

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.running import run_checks
from esper.audit.ownership import snapshot_of
from esper.audit.projection import Projection
from esper.audit.publish import publish
from esper.audit.reading import Reader
from esper.audit.snapshot import opened
from esper.audit.table_sql import columns_of, ddl, insertion
from esper.audit.tables import BY_NAME, EVENTS
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.synthetic import RUN, started

ROUNDS, NEW_RECORDS = 5, 1000
QUESTIONS = {
    "per_seed_aggregate": """
        SELECT site, seed, count(*), avg(health_score), min(health_score), max(dead_neuron_ratio), stddev(activation_variance)
        FROM health_signals WHERE run = $run GROUP BY site, seed
    """,
    "last_state_per_seed": """
        FROM health_signals WHERE run = $run QUALIFY row_number() OVER (PARTITION BY site, seed ORDER BY moment DESC) = 1
    """,
    "decisions_with_evidence": """
        SELECT d.moment, d.adaptation, d.site, d.seed, d.fate, e.moment, e.type, v.evaluation_mean, v.evaluation_standard_error
        FROM (SELECT *, unnest(evidence) AS seen FROM decision_fates WHERE run = $run) AS d
        JOIN events AS e ON e.run = d.run AND e.id = d.seen LEFT JOIN evaluations AS v ON v.run = d.run AND v.id = d.seen
    """,
    "state_at_an_epoch": "FROM seeds_at($run, moment_of_epoch($run, $epoch))",
    "point_lookup": "SELECT health_score FROM health_signals WHERE run = $run AND site = $site AND seed = $seed AND step = $step",
    "record_lookup": "FROM events WHERE run = $run AND moment = $moment",
}


def main() -> None:
    """Makes the log, measures, prints a table or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--signals", type=int, default=10_000_000)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--directory", type=Path, default=Path(), help="where to write (default: here)")
    parser.add_argument("--mlflow", type=Path, metavar="PYTHON", help="a Python that has MLflow")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="esper-audit-") as place:
        figures = measure(Directory(Path(place) / "runs", create=True), arguments.signals)
        figures["mlflow"] = peer(arguments.mlflow, Path(place) / "mlflow.db", figures["signals"])
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)


def measure(directory: Directory, signals: int) -> dict[str, Any]:
    """All figures of Esper's own."""
    records = signals // SIGNALS
    with directory.create(RUN) as log, Emitter(log, RUN, clock=lambda: datetime.now(UTC), heartbeat_s=1e9) as emitter:
        run, began = GrowingRun(emitter, -(-records // RECORDS)), time.perf_counter()
        run.start(started())
        while run.records < records:
            run.train(min(RECORDS, records - run.records))
        written_s = time.perf_counter() - began
        rebuilt_s = seconds(lambda: rebuild(directory))
        alone_s = duckdb_alone_s(directory)
        with Projection(directory) as projection:
            asked = {
                "run": RUN,
                "epoch": run.epoch // 2,
                "moment": records // 2,
                "site": "blocks.7.fc",
                "seed": 1,
                "step": run.step // 2 // STEPS * STEPS,
            }
            queries = {name: answer_ms(projection, question, asked) for name, question in QUESTIONS.items()}
            refreshed = [refresh_ms(run, projection.refresh) for _ in range(ROUNDS)]
            published_s = seconds(lambda: publish(projection.connection, directory.path.parent / "published"))
        cold = [refresh_ms(run, lambda: events_in(directory)) for _ in range(ROUNDS)]
        run.train()
        run.finish()
    events = events_in(directory)
    return {
        "signals": records * SIGNALS,
        "events": events,
        "log_bytes": size_of(directory.path / RUN / "run.sqlite"),
        "projection_bytes": size_of(directory.path / "audit.duckdb"),
        "written_s": round(written_s, 1),
        "rebuild_s": round(rebuilt_s, 2),
        "rebuild_signals_per_s": round(records * SIGNALS / rebuilt_s),
        "duckdb_alone_signals_per_s": round(records * SIGNALS / alone_s),
        "queries_ms": queries,
        "refresh_ms": round(statistics.median(refreshed), 1),
        "refresh_cold_ms": round(statistics.median(cold), 1),
        "published_s": round(published_s, 1),
        "published_bytes": sum(map(size_of, (directory.path.parent / "published").iterdir())),
        **checks(directory, events),
    }


def rebuild(directory: Directory) -> None:
    """A projection from nothing."""
    with Projection(directory) as projection:
        projection.refresh()
        projection.checkpoint()


def events_in(directory: Directory) -> int:
    """The number of events in a projection that is opened, and has read everything."""
    with Projection(directory) as projection:
        projection.refresh()
        return int(projection.connection.execute("SELECT count(*) FROM events").fetchall()[0][0])


def refresh_ms(run: GrowingRun, refresh: Callable[[], object]) -> float:
    """Milliseconds until new records are in the tables."""
    run.measure(NEW_RECORDS)
    return seconds(refresh) * 1000


def answer_ms(projection: Projection, question: str, asked: dict[str, object]) -> float:
    """Milliseconds of one question, its rows fetched: the median of five, after one."""
    given = {name: value for name, value in asked.items() if f"${name}" in question}
    taken = [seconds(lambda: projection.connection.execute(question, given).fetchall()) * 1000 for _ in range(ROUNDS + 1)]
    return round(statistics.median(taken[1:]), 2)


def checks(directory: Directory, events: int) -> dict[str, object]:
    """How long all checks take over a snapshot, the comparison with the log apart."""
    snapshot = snapshot_of(directory)
    with opened(snapshot.path) as connection:
        took_s = seconds(lambda: list(run_checks(connection, every_check(), [RUN])))
    return {"checks_s_per_million_events": round(took_s * 1e6 / events, 2)}


def peer(python: Path | None, store: Path, metrics: int) -> dict[str, Any] | None:
    """The figures of MLflow's store; None where no Python that has it was named."""
    if python is None:
        return None
    command = [str(python), str(Path(__file__).with_name("mlflow_store.py")), str(store), "--metrics", str(metrics), "--keys", str(SIGNALS)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{python}: {found.stderr.strip()}")
    figures: dict[str, Any] = json.loads(found.stdout)
    return figures


def seconds(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def duckdb_alone_s(directory: Directory) -> float:
    """Seconds that DuckDB takes for the same records in the same two tables, from memory: nothing is read, decoded, chained or numbered.

    No projection that keeps payloads and rows can be faster, on the machine as it is just then.
    """
    health = BY_NAME["health_signals"]
    batches = list(Reader(directory, {}, {}).batches([(RUN, "run")]))
    with duckdb.connect(directory.path.parent / "alone.duckdb", config={"wal_autocheckpoint": "8GB"}) as connection:
        connection.execute(ddl("events", EVENTS))
        connection.execute(ddl(health.name, columns_of(health)))
        began = time.perf_counter()
        for batch in batches:
            connection.register("batch", batch.table)
            connection.execute("INSERT INTO events FROM batch")
            connection.execute(insertion(health, SeedHealthMeasured, "batch"))
        connection.execute("CHECKPOINT")
        return time.perf_counter() - began


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return path.stat().st_size


def show(figures: dict[str, Any]) -> None:
    """The table."""
    beside = figures["mlflow"]
    title = f"{figures['signals']:,} health signals in {figures['events']:,} records, {figures['log_bytes'] / 1e6:,.0f} MB"
    table = Table(title=title)
    for name in ("what", "Esper", "MLflow's SQLite store" if beside is None else f"MLflow {beside['version']}'s SQLite store"):
        table.add_column(name, justify="left" if name == "what" else "right")
    told = {
        "rebuild, signals/s": (
            f"{figures['rebuild_signals_per_s']:,}",
            "" if beside is None else f"{beside['log_batch_per_s']:,} metrics/s",
        ),
        **{
            f"{name.replace('_', ' ')}, ms": (f"{taken:,.1f}", "" if beside is None else peer_ms(beside, name))
            for name, taken in figures["queries_ms"].items()
        },
        "DuckDB alone, the same rows, signals/s": (f"{figures['duckdb_alone_signals_per_s']:,}", ""),
        "refresh after 1,000 records, ms": (f"{figures['refresh_ms']:,.0f}", ""),
        "the same, the file opened before, ms": (f"{figures['refresh_cold_ms']:,.0f}", ""),
        "all checks, s per million events": (str(figures["checks_s_per_million_events"]), ""),
        "all tables as Parquet, s": (f"{figures['published_s']:,.1f}", ""),
        "bytes, MB": (f"{figures['projection_bytes'] / 1e6:,.0f}", "" if beside is None else f"{beside['size_bytes'] / 1e6:,.0f}"),
    }
    for what, values in told.items():
        table.add_row(what, *values)
    Console().print(table)


def peer_ms(beside: dict[str, Any], name: str) -> str:
    """The peer's answer to one question."""
    return f"{beside['queries_ms'][name]:,.1f}" if name in beside["queries_ms"] else "keeps none"


if __name__ == "__main__":
    main()
