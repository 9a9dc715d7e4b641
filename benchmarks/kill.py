"""Kills a training with SIGKILL, again and again, at named points and at random times, and holds what its log says at last against the
log of the same training that was never killed.

    python benchmarks/kill.py --kills 50 [--json] [--rng-seed N]

The training is tests/whole/kills/scenario.py: 34 epochs with races, culls, grafts, a fossilized seed and two rollbacks, one of which blames
a seed. Every life is a fork of a template process that has imported everything and has one thread; no life inherits anything of a run.
Random kills come from outside; those at named points from inside, by wrapped functions of the product.
lost: acknowledged by `commit` and not in the log, or with other bytes. duplicated: a record twice. diverged: a comparable record (ids
resolved, volatile fields left out) or folded state that is not the unkilled run's, or a life that failed. gaps: in sequences, facts or
moments.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from esper.events.envelope import Record
from tests.whole.kills.accounts import Faults, missing, records_of
from tests.whole.kills.lives import Lives, lives
from tests.whole.kills.points import Kill
from tests.whole.kills.story import After, Death, play

# Each inner tuple is one run; the epochs are those in which the scenario does what the point is about.
NAMED: tuple[tuple[Kill, ...], ...] = (
    (
        Kill("the log's file is made, not renamed"),
        Kill("the log is empty"),
        Kill("RunStarted is durable, no checkpoint yet"),
        Kill("in a transaction, between two rows", 2),
        Kill("telemetry is durable, the epoch goes on", 3, 3),
        Kill("a decision is durable, its command is not", 4, 2),
        Kill("CommandIssued is durable, not applied", 4, 2),
        Kill("a kernel is written, not renamed", 4, 2),
        Kill("between KernelCompiled and KernelCharacterized", 5, 2),
        Kill("a command took effect, no outcome", 5, 4),
        Kill("catching up", 0, 5),
        Kill("catching up", 0, 1),
        Kill("RunResumed is durable, nothing after it"),
        Kill("a checkpoint's file is half written", 7),
        Kill("before a checkpoint's rename", 7),
        Kill("after a checkpoint's rename, before CheckpointSaved", 7),
        Kill("CheckpointSaved is durable, nothing pruned", 7),
    ),
    (
        Kill("an outcome is said, not durable", 6),
        Kill("rolled back, not said", 9),
        Kill("RunRolledBack is durable, nothing after it", 9),
        Kill("while pruning", 10),
        Kill("a group is durable, the writer does not know", 12, 3),
        Kill("in COMMIT", 13, 2),
        Kill("catching up", 0, 4),
        Kill("a fact is durable, the next is not said", 14, 2),
        Kill("CommandIssued is durable, not applied", 15),
        Kill("while pruning", 16),
        Kill("telemetry is durable, the epoch goes on", 18, 2),
    ),
    (
        Kill("in COMMIT", 16, 3),
        Kill("a group is durable, the writer does not know", 20, 2),
        Kill("RunRolledBack is durable, nothing after it", 22),
        Kill("RunResumed is durable, nothing after it"),
        Kill("a command took effect, no outcome", 26),
        Kill("streams ended, before RunFinished"),
        Kill("RunFinished is durable, before sealing"),
        Kill("summary kept, before leaving WAL"),
        Kill("out of WAL, before the mark"),
    ),
)
PER_RANDOM_RUN = 4


def main() -> None:
    """Kills, then prints."""
    parser = argparse.ArgumentParser(description="Kills a training again and again, and compares what is in its log at last.")
    parser.add_argument("--kills", type=int, default=50, help="how many times; beyond the named points, at random times")
    parser.add_argument("--json", action="store_true", help="print the totals as JSON and nothing else")
    parser.add_argument("--rng-seed", type=int, default=0, help="of the random times")
    options = parser.parse_args()
    with lives() as one, tempfile.TemporaryDirectory(prefix="esper-kill-") as folder:
        deaths = kill(one, Path(folder), options.kills, random.Random(options.rng_seed))
    total = sum((death.faults for death in deaths), Faults())
    if options.json:
        counts = {"lost": total.lost, "duplicated": total.duplicated, "diverged": total.diverged, "gaps": total.gaps}
        print(json.dumps({"kills": len(deaths), **counts}))
    else:
        show(deaths)
    if total:
        print("\n".join(total.words), file=sys.stderr)
        sys.exit(1)


def kill(one: Lives, folder: Path, kills: int, rng: random.Random) -> list[Death]:
    """`kills` deaths, in as many runs as they take."""
    whole, whole_s = _unkilled(one, folder / "whole")
    deaths: list[Death] = []
    for number, plan in enumerate(_plans(whole_s, rng)):
        left = kills - len(deaths)
        if left <= 0:
            break
        deaths += play(one, folder / f"run-{number}", whole, islice(plan, left))
    return deaths


def _unkilled(one: Lives, path: Path) -> tuple[tuple[Record, ...], float]:
    one.live(path.with_name("warm"), "train")  # The first life pays for what the system has not cached.
    since = time.monotonic()
    life = one.live(path, "train")
    if life.end != "finished":
        raise RuntimeError(f"expected the run that nobody kills to finish, it {life.end}: {life.error}")
    whole_s, whole = time.monotonic() - since, records_of(path)
    if missing(whole):
        raise RuntimeError(f"expected everything to happen in the run that nobody kills, there is no {', '.join(missing(whole))}")
    return whole, whole_s


def _plans(whole_s: float, rng: random.Random) -> Iterator[Sequence[Kill | After]]:
    """The named kills, run by run, then random ones without end: anywhere in the first life, then within a third of a life's length."""
    yield from NAMED
    while True:
        later = [After(rng.uniform(0, whole_s / 3)) for _ in range(PER_RANDOM_RUN - 1)]
        yield [After(rng.uniform(0, whole_s)), *later]


def show(deaths: Sequence[Death]) -> None:
    """Prints one line per kill point, and the totals."""
    table = Table("kill point", title=f"{len(deaths)} kills")
    for column in ("kills", "lost", "duplicated", "diverged", "gaps", "caught up in s, median"):
        table.add_column(column, justify="right")
    for point in dict.fromkeys(death.point for death in deaths):
        table.add_row(point, *_cells([death for death in deaths if death.point == point]))
    table.add_section()
    table.add_row("all", *_cells(deaths))
    Console(width=120).print(table)


def _cells(deaths: Sequence[Death]) -> tuple[str, ...]:
    total = sum((death.faults for death in deaths), Faults())
    times = [death.caught_up_s for death in deaths if death.caught_up_s is not None]
    counts = (len(deaths), total.lost, total.duplicated, total.diverged, total.gaps)
    return (*map(str, counts), f"{median(times):.2f}" if times else "-")


if __name__ == "__main__":
    main()
