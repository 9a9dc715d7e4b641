"""What an observer loses when it is killed: nothing that it derived, and nobody who was to be told.

    python benchmarks/observe_kill.py [--kills N] [--json]

Small trainings, each with a NaN loss and the rollback that follows, are written one after another into a directory. Beside them `esper
observe`, delivering to a webhook, is started and killed with SIGKILL at random moments, N times, and then left to finish. Afterwards the
runs are copied and observed once more by an observer that nobody kills; what either derived must be the same, id by id (silence apart,
which has a clock, and what observers say of themselves). The receiver must have been told of every alert that fired; a message that came
twice must carry the key by which receivers count once.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from alert_latency import train_with_a_nan

from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertFiring, AlertNotified, AlertSuppressed
from esper.folds.monitoring.derive import MonitorSettings
from esper.observer.build import builtin_rules
from esper.observer.observing import Observer, ObserverSettings
from esper.oona.directory import Directory
from esper.oona.observed import is_settled, read_observed

KILLS = 30
WAIT_S = 120.0


def receiver() -> tuple[str, Counter[str]]:
    """The URL of an HTTP server on loopback, and how often it was told of each key while something fired."""
    told: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if body["status"] == "firing":
                told[body["groupKey"]] += 1
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/", told


@contextlib.contextmanager
def trainings(log: Path) -> Iterator[None]:
    """Trainings with a NaN, one after another, as long as this lasts."""
    stop = threading.Event()

    def train() -> None:
        while not stop.is_set():
            train_with_a_nan(log, None)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def observer(log: Path) -> "subprocess.Popen[bytes]":
    """An observer as a process of its own."""
    command = [sys.executable, "-m", "esper.cli", "observe", "--log", os.fspath(log)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_again_and_again(log: Path, kills: int) -> None:
    """Starts and kills observers while trainings go on, then leaves one until everything is settled."""
    chance = random.Random(0)
    with trainings(log):
        for number in range(kills):
            process = observer(log)
            time.sleep(0.8 + 2.2 * chance.random())
            process.kill()
            process.wait()
            print(f"\rkilled {number + 1} of {kills}", end="", file=sys.stderr)
    print(file=sys.stderr)
    process = observer(log)
    directory = Directory(log)
    try:
        waited_for(lambda: all(is_settled(log / run) for run in directory.names()))
    finally:
        process.terminate()
        process.wait(30)


def waited_for(condition: Callable[[], object]) -> None:
    """Returns when `condition` holds. Raises TimeoutError after two minutes."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen within two minutes")
        time.sleep(0.1)


def observed_once(log: Path, again: Path) -> None:
    """The same runs, observed by an observer that nobody kills and that tells nobody."""
    for run in Directory(log).names():
        shutil.copytree(log / run, again / run, ignore=shutil.ignore_patterns("observed*", "checkpoints"))
    settings = ObserverSettings(monitor=MonitorSettings(rules=builtin_rules()))
    with Observer(Directory(again), settings, now=lambda: datetime.now(UTC), from_start=True, report=print) as once:
        while once.turn(0.0):
            pass


def derived(log: Path, run: RunId) -> tuple[Record, ...]:
    """What was derived from a run's records, without what observers and handlers say of themselves."""
    records = read_observed(log / run, run, limit=10_000_000).records
    own = {AlertNotified.KIND, AlertSuppressed.KIND}
    return tuple(record for record in records if record.topic != topics.OBSERVERS and record.type not in own)


def measure(kills: int) -> dict[str, int]:
    """All counts."""
    with tempfile.TemporaryDirectory() as place:
        log, again = Path(place, "log"), Path(place, "again")
        log.mkdir()
        again.mkdir()
        url, told = receiver()
        hook = f'[[handlers]]\nname = "hook"\nkind = "webhook"\nurl = "{url}"\nrate_per_minute = 6000\nburst = 1000\n'
        (log / "delivery.toml").write_text(hook)
        killed_again_and_again(log, kills)
        observed_once(log, again)
        runs = Directory(log).names()
        different = sum(derived(log, run) != derived(again, run) for run in runs)
        fired = [(run, decode(record)) for run in runs for record in derived(log, run) if record.type == AlertFiring.KIND]
        keys = {f"{run}/{event.fingerprint}/{event.since}" for run, event in fired if isinstance(event, AlertFiring)}
        return {
            "kills": kills,
            "runs": len(runs),
            "derived": sum(len(derived(log, run)) for run in runs),
            "different": different,
            "fired": len(fired),
            "untold": len(keys - told.keys()),
            "unknown_keys": len(told.keys() - keys),
            "told_again": sum(told.values()) - len(told),
        }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how often the observer is killed (default: {KILLS})")
    options = parser.parse_args()
    counts = measure(options.kills)
    if options.json:
        print(json.dumps(counts))
        return
    for name, count in counts.items():
        print(f"{name.replace('_', ' '):16}{count:>8,}")


if __name__ == "__main__":
    main()
