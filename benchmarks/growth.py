"""What growth is worth: each task trained grown, as its host alone, as the grown net static from the start, and as a wider static net.

All four see the same data for the same number of steps; decisions are Tamiyo's alone, through the gate. The default rng seeds, 200-209,
were never used while the policy was developed. Accuracy is on the test split, in percent, after the last epoch.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from esper.api.task import recipe_of
from esper.demo.comparison import compare
from esper.demo.tasks import find_task
from esper.oona.directory import Directory
from esper.processes.recipe import run_settings
from esper.processes.train import fresh_run_id, train

WAYS = ("host", "grown", "static_same", "static_wider")


def main() -> None:
    """Trains, then prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--digits-seeds", type=_seeds, default=_seeds("200-209"), metavar="FIRST-LAST")
    parser.add_argument("--mnist1d-seeds", type=_seeds, default=_seeds("200-204"), metavar="FIRST-LAST")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="esper-growth-") as folder, Progress(console=Console(stderr=True)) as progress:
        for name, seeds in (("digits", arguments.digits_seeds), ("mnist1d", arguments.mnist1d_seeds)):
            bar = progress.add_task(name, total=len(seeds))
            rows = []
            for rng_seed in seeds:
                rows.append(_row(name, rng_seed, Directory(Path(folder) / name, create=True)))
                progress.advance(bar)
            results[name] = _summary(rows)
    if arguments.json:
        json.dump(results, sys.stdout)
        print()
    else:
        _show(results)


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _row(name: str, rng_seed: int, directory: Directory) -> dict[str, float]:
    task = find_task(name)
    settings = run_settings(task.settings, {"trainer.rng_seed": rng_seed})
    started = time.perf_counter()
    grown = train(recipe_of(task, settings), settings, directory, fresh_run_id())
    seconds = time.perf_counter() - started
    row = {"seconds": seconds, "grown_parameters": float(grown.host.parameters())}
    for entry in compare(task, settings, directory, grown, say=lambda _way: None):
        row[entry.variant] = 100 * entry.accuracy
    return row


def _summary(rows: list[dict[str, float]]) -> dict[str, float | int | list[float]]:
    gains = [row["grown"] - row["host"] for row in rows]
    summary: dict[str, float | int | list[float]] = {way: round(statistics.mean(row[way] for row in rows), 2) for way in WAYS}
    return summary | {
        "gain": round(statistics.mean(gains), 2),
        "wins": sum(gain > 0 for gain in gains),
        "runs": len(rows),
        "gains": [round(gain, 2) for gain in gains],
        "grown_parameters": statistics.median(row["grown_parameters"] for row in rows),
        "seconds_per_grown_run": round(statistics.median(row["seconds"] for row in rows), 2),
    }


def _show(results: dict[str, dict[str, float | int | list[float]]]) -> None:
    table = Table(title="test accuracy in percent, mean over rng seeds, equal steps")
    for heading in ("task", "host alone", "grown", "same net, static", "wider, static", "gain", "wins", "median s a grown run"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for name, row in results.items():
        wins = f"{row['wins']} of {row['runs']}"
        table.add_row(name, *(f"{row[way]:.2f}" for way in WAYS), f"{row['gain']:+.2f}", wins, f"{row['seconds_per_grown_run']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
