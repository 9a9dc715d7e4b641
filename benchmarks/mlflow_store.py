"""The peer of `audit.py`: MLflow's own SQLite store with as many metrics, asked the same by SQL. Run by a Python that has MLflow.

    python -m venv /tmp/mlflow && /tmp/mlflow/bin/pip install mlflow-skinny sqlalchemy alembic
    /tmp/mlflow/bin/python benchmarks/mlflow_store.py STORE --metrics 1000000 --keys 64

MLflow makes the store and the run, and takes the first metrics by its `log_batch`, 1,000 at a time, which is timed. The rest goes
straight into its table: by `log_batch` 10 million would take a quarter of an hour. A metric is one number of one seed; a health signal of
Esper has ten, so a tenth as much is kept here. Prints one JSON object.
"""

import argparse
import json
import os
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

BY_API, BATCH, ROUNDS = 20_000, 1000, 5
QUESTIONS = {
    "per_seed_aggregate": 'SELECT "key", count(*), avg(value), min(value), max(value) FROM metrics WHERE run_uuid = :run GROUP BY "key"',
    "last_state_per_seed": 'SELECT "key", value, step FROM latest_metrics WHERE run_uuid = :run',
    # SQLite's own rule: beside a max() the other columns are of its row.
    "state_at_an_epoch": 'SELECT "key", value, max(step) FROM metrics WHERE run_uuid = :run AND step <= :step GROUP BY "key"',
    "point_lookup": 'SELECT * FROM metrics WHERE run_uuid = :run AND "key" = :key AND step = :step',
}


def main() -> None:
    """Fills the store, asks, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--metrics", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=64)
    options = parser.parse_args()
    store = SqlAlchemyStore(f"sqlite:///{options.store}", os.fspath(options.store.with_suffix(".artifacts")))
    run = store.create_run("0", "audit", int(time.time() * 1000), [], "audit").info.run_id
    by_api_per_s = log_by_api(store, run, min(options.metrics, BY_API), options.keys)
    steps = options.metrics // options.keys
    with sqlite3.connect(options.store) as connection:
        began = time.perf_counter()
        connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)", rows(run, BY_API // options.keys, steps, options.keys))
        connection.execute("UPDATE latest_metrics SET step = ?, timestamp = ? WHERE run_uuid = ?", (steps - 1, steps - 1, run))
        connection.commit()
        inserted_s = time.perf_counter() - began
        asked = {"run": run, "step": steps // 2, "key": key(7)}
        queries = {name: median_ms(connection, question, asked) for name, question in QUESTIONS.items()}
        [count] = connection.execute("SELECT count(*) FROM metrics").fetchone()
    print(
        json.dumps(
            {
                "version": mlflow.__version__,
                "metrics": count,
                "log_batch_per_s": round(by_api_per_s),
                "inserted_s": round(inserted_s, 1),
                "size_bytes": options.store.stat().st_size,
                "queries_ms": queries,
            }
        )
    )


def key(number: int) -> str:
    """The name of a metric."""
    return f"blocks.{number // 4}.fc.s{number % 4}.health_score"


def log_by_api(store: SqlAlchemyStore, run: str, metrics: int, keys: int) -> float:
    """Metrics a second by MLflow's own call, as many as that takes at once."""
    ready = [Metric(name, value, at, step) for name, value, at, _, step in rows(run, 0, metrics // keys, keys)]
    began = time.perf_counter()
    for first in range(0, len(ready), BATCH):
        store.log_batch(run, ready[first : first + BATCH], [], [])
    return len(ready) / (time.perf_counter() - began)


def rows(run: str, first: int, steps: int, keys: int) -> Iterator[tuple[str, float, int, str, int]]:
    """Rows of the table of metrics, key by key, as its primary key has them: so they are inserted fastest."""
    for number in range(keys):
        name = key(number)
        for step in range(first, steps):
            yield name, (step * 7919 + number) % 65536 / 65536, step, run, step


def median_ms(connection: sqlite3.Connection, question: str, asked: dict[str, object]) -> float:
    """Milliseconds of one question, its rows fetched."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        connection.execute(question, asked).fetchall()
        taken.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(taken), 2)


if __name__ == "__main__":
    main()
