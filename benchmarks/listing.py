"""How long a list of many runs takes, and whether a reader can follow them with few descriptors.

10,000 sealed and 20 live runs in one log, `ulimit -n 1024`. `esper runs` is timed as a whole process, the listing alone inside this one;
the peer is what any listing must do at least: read every mark. A follower then reads every run to its end. The sealed runs are hard links
to one sealed file, so that making them does not take longer than the measurement; nobody opens them to list them.

With `--interrupted N` there are as many runs besides that never ended, a month old, half of them observed. The start of an observer, with
its first turns, is timed over all of that, and once more where it opens every one of them, as if it had been interrupted just now.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from esper.events.envelope import RunId
from esper.events.kinds.run import CheckpointPruned, RunFinished
from esper.observer.observing import Observer, ObserverSettings
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.file import RUN_FILE
from esper.oona.follower import Follower

SEALED, LIVE, DESCRIPTORS, ROUNDS = 10_000, 20, 1024, 5


def main() -> None:
    """Makes the runs, measures, prints a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--interrupted", type=int, default=0, metavar="N", help="old runs that never ended (default: none)")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with tempfile.TemporaryDirectory(prefix="esper-listing-") as folder, ExitStack() as stack:
        directory = Directory(folder, create=True)
        seal_many(directory)
        for number in range(LIVE):
            live(directory, RunId(f"01900000-0000-7000-9000-{number:012}"), stack)
        interrupt_many(directory, arguments.interrupted)
        figures = measure(directory)
        if arguments.interrupted:
            figures |= started(directory, arguments.interrupted)
    if arguments.json:
        json.dump(figures, sys.stdout)
        print()
    else:
        show(figures)


def seal_many(directory: Directory) -> None:
    """One finished run, and hard links to its file and mark under other names."""
    first = RunId("01900000-0000-7000-8000-000000000000")
    with directory.create(first) as log, Emitter(log, first, clock=lambda: datetime.now(UTC)) as emitter:
        emitter.emit(CheckpointPruned(checkpoint="0001", reason="benchmark"), epoch=0, step=0)
        tails = emitter.tails(epoch=0, step=0)
        ended = RunFinished(metrics={"validation_loss": 0.1}, model_digest="0" * 64, parameters=460, stopped_early=False, tails=tails)
        emitter.emit(ended, epoch=0, step=0)
        emitter.close(seal=True)
    for number in range(1, SEALED):
        copy = directory.path / f"01900000-0000-7000-8000-{number:012}"
        copy.mkdir()
        for name in (RUN_FILE, "sealed"):
            os.link(directory.path / first / name, copy / name)


def interrupt_many(directory: Directory, count: int) -> None:
    """Runs of a few records that never ended, a month old; half of them were observed."""
    for number in range(count):
        run = RunId(f"01900000-0000-7000-a000-{number:012}")
        with directory.create(run) as log, Emitter(log, run, clock=lambda: datetime.now(UTC)) as emitter:
            for step in range(50):
                emitter.emit(CheckpointPruned(checkpoint=str(step), reason="benchmark"), epoch=0, step=step)
        if number == count // 2:
            age(directory)
            observe_all(directory)
    age(directory)


def age(directory: Directory) -> None:
    """Makes the files of runs that are not live a month old; those of the sealed ones are one."""
    then = time.time() - 30 * 86_400
    for pattern in ("*-8000-000000000000/*", "*-a000-*/*"):
        for file in directory.path.glob(pattern):
            os.utime(file, (then, then))


def observe(directory: Directory, settings: ObserverSettings) -> float:
    """Seconds that an observer takes to start and until its first turns find nothing more to read."""
    began = time.perf_counter()
    with Observer(directory, settings, now=lambda: datetime.now(UTC), report=print) as observer:
        while observer.turn(0.0):
            pass
        return time.perf_counter() - began


def observe_all(directory: Directory) -> float:
    """The same where every run is opened, for which there are more descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        return observe(directory, ObserverSettings(old_s=1e12, fresh_s=0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def started(directory: Directory, count: int) -> dict[str, float | int]:
    """How long an observer takes to start, over old runs, and where it opens all of them."""
    old = [observe(directory, ObserverSettings(fresh_s=0.0)) for _ in range(ROUNDS)]
    return {
        "interrupted": count,
        "observer_start_s": round(statistics.median(old), 3),
        "observer_start_all_opened_s": round(observe_all(directory), 3),
    }


def live(directory: Directory, run: RunId, stack: ExitStack) -> None:
    """A run that this process goes on writing."""
    log = stack.enter_context(directory.create(run))
    emitter = stack.enter_context(Emitter(log, run, clock=lambda: datetime.now(UTC)))
    emitter.emit(CheckpointPruned(checkpoint="0001", reason="benchmark"), epoch=0, step=0)
    emitter.commit()


def measure(directory: Directory) -> dict[str, float | int]:
    """Medians over rounds, after one warm-up."""
    command = [sys.executable, "-m", "esper.cli", "runs", "--log", str(directory.path)]
    listed = len(directory.runs())
    inside = [timed(directory.runs) for _ in range(ROUNDS)]
    marks = [timed(lambda: read_marks(directory.path)) for _ in range(ROUNDS)]
    cache = {**os.environ, "XDG_CACHE_HOME": os.fspath(directory.path / ".cache")}  # A list keeps lines there.
    first, *whole = [timed(lambda: subprocess.run(command, capture_output=True, check=True, env=cache)) for _ in range(ROUNDS + 1)]
    began = time.perf_counter()
    followed: set[RunId] = set()
    with Follower(directory, from_start=True) as follower:
        while len(followed) < SEALED + LIVE:
            followed |= {page.run for page in follower.poll(1.0)}
    return {
        "sealed": SEALED,
        "live": LIVE,
        "listed": listed,
        "listing_s": round(statistics.median(inside), 3),
        "marks_alone_s": round(statistics.median(marks), 3),
        "esper_runs_first_s": round(first, 3),
        "esper_runs_s": round(statistics.median(whole), 3),
        "followed": len(followed),
        "followed_s": round(time.perf_counter() - began, 2),
        "descriptors_allowed": DESCRIPTORS,
    }


def read_marks(path: Path) -> int:
    """Reads every mark and nothing else."""
    return sum(len(mark.read_bytes()) for mark in path.glob("*/sealed"))


def timed(action: object) -> float:
    """Seconds of one call."""
    assert callable(action)
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def show(figures: dict[str, float | int]) -> None:
    """The table."""
    table = Table(title=f"{figures['sealed']:,} sealed and {figures['live']} live runs, ulimit -n {figures['descriptors_allowed']}")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    table.add_row("reading the marks alone (peer)", f"{figures['marks_alone_s']:.3f}")
    table.add_row("listing the runs", f"{figures['listing_s']:.3f}")
    table.add_row("`esper runs`, whole process, the first time", f"{figures['esper_runs_first_s']:.3f}")
    table.add_row("`esper runs`, whole process", f"{figures['esper_runs_s']:.3f}")
    table.add_row(f"a follower reads all {figures['followed']:,} to their ends", f"{figures['followed_s']:.2f}")
    if "interrupted" in figures:
        table.add_row(f"an observer starts beside {figures['interrupted']} old interrupted runs", f"{figures['observer_start_s']:.3f}")
        table.add_row("the same, opening all of them", f"{figures['observer_start_all_opened_s']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
