"""Shows that a bridge loses nothing: real training, `esper bridge` beside it, and a broker that is stopped, killed or away.

    python benchmarks/outage.py [--json] [--outage-s 60] [--only NAME]

A row for each scenario:
  lost            records of the directory that no reader of committed records finds
  counted_twice   records that a reader's admission applies twice
  repeated        messages that it drops
  changed         records with other bytes
  disordered      messages before their turn in their topic
  waiting         records that the bridge still has at the end
  step_ms_...     medians of the training's step times before the outage, in it and after it
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))
sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1] / "deploy" / "kafka"))

from local_kafka import LocalKafka

from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.telemetry import StepsMeasured
from esper.folds.gaps_and_duplicates import Admission, Apply, admit
from esper.kafka.clients import row_number_of
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import INPUTS, create_topics
from esper.oona.contract import records_of
from esper.oona.directory import Directory
from esper.processes.bridge import waiting_records
from esper.state_files import BRIDGE_STATE
from tests.kafka.made_cluster import Cluster

_ESPER = (sys.executable, "-W", "ignore", "-m", "esper.cli")
_WITHIN_S = 600.0
_POLL_S = 0.1
_KILLS, _BETWEEN_KILLS_S = 10, 2.0
_BEFORE_S = 10.0
_ENDLESS = "100000"


class Trial:
    """A broker, a directory, and a bridge that is started again whenever it ends; `away_at` is when the outage began and ended."""

    def __init__(self, folder: Path, outage_s: float) -> None:
        self.outage_s = outage_s
        self.broker = LocalKafka(folder / "broker")
        self.directory = Directory(folder / "log", create=True)
        self.settings = KafkaSettings(bootstrap=self.broker.bootstrap, partitions=2, replication=1)
        self.away_at: tuple[float, float] = (0.0, 0.0)
        (self.directory.path / "kafka.toml").write_text("partitions = 2\nreplication = 1\n")

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """An `esper` process on the directory."""
        command = [*_ESPER, *words, "--log", os.fspath(self.directory.path)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)

    @contextmanager
    def bridge(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A bridge, killed at the end where it still runs."""
        process = self.start("bridge", "--kafka", f"kafka://{self.broker.bootstrap}")
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def waiting(self) -> int:
        """Records that are not known to be on Kafka."""
        return sum(waiting_records(self.directory, run) for run in self.directory.names(hidden=True))

    def until(self, what: str, done: Callable[[], bool]) -> None:
        """Returns when it is done."""
        deadline = time.monotonic() + _WITHIN_S
        while not done():
            if time.monotonic() > deadline:
                raise SystemExit(f"outage: {what}: not within {_WITHIN_S:.0f} s")
            time.sleep(_POLL_S)

    @contextmanager
    def training(self, epochs: str = _ENDLESS) -> Iterator["subprocess.Popen[bytes]"]:
        """A training that has taken its first steps; interrupted at the end where it still runs."""
        process = self.start("train", "digits", "--epochs", epochs, "--no-observe")
        try:
            self.until("a training begins", lambda: self.waiting() > 0 or any(self.directory.names()))
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(_WITHIN_S)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The broker is away, or the bridge is killed, meanwhile."""
        began = time.time()
        yield
        self.away_at = began, time.time()


def broker_is_stopped(trial: Trial) -> None:
    """Stopped for longer than any request may take, in the middle of a run."""
    _broker_is_away(trial, trial.broker.stop, trial.outage_s)


def broker_is_killed(trial: Trial) -> None:
    """Killed with -9, and started again at once."""
    _broker_is_away(trial, trial.broker.kill, 0.0)


def _broker_is_away(trial: Trial, end: Callable[[], None], seconds: float) -> None:
    with trial.bridge(), trial.training():
        trial.until("the bridge ships", lambda: (trial.directory.path / BRIDGE_STATE).exists() and trial.waiting() == 0)
        time.sleep(_BEFORE_S)
        with trial.outage():
            end()
            time.sleep(seconds)
        trial.broker.start()
        time.sleep(_BEFORE_S)


def bridge_is_killed(trial: Trial) -> None:
    """Killed with -9 ten times."""
    with trial.training():
        time.sleep(_BEFORE_S)
        with trial.outage():
            for _ in range(_KILLS):
                with trial.bridge():
                    time.sleep(_BETWEEN_KILLS_S)


def broker_is_away_all_along(trial: Trial) -> None:
    """Away from before the start of a run until after its end: an hour, shortened."""
    trial.broker.stop()
    with trial.bridge():
        with trial.outage(), trial.training("20") as process:
            process.wait(_WITHIN_S)
        time.sleep(trial.outage_s)
        trial.broker.start()
        trial.until("the bridge catches up", lambda: trial.waiting() == 0)


SCENARIOS = (broker_is_stopped, broker_is_killed, bridge_is_killed, broker_is_away_all_along)


def judged(trial: Trial) -> dict[str, object]:
    """The figures of a trial, with everything read back."""
    logged: dict[tuple[str, int], Record] = {}
    for run in trial.directory.names(hidden=True):
        with trial.directory.open(run) as log:
            logged |= {(run, row): record for row, record in enumerate(records_of(log, None), start=1)}
    cluster, admissions = Cluster(trial.settings), dict[tuple[str, str], Admission]()
    found: dict[tuple[str, int], Record] = {}
    figures = dict.fromkeys(("counted_twice", "repeated", "changed", "disordered"), 0)
    for message in asyncio.run(cluster.messages(*INPUTS)):
        record, place = cluster.record(message), (message.key.decode(), row_number_of(message) or 0)
        verdict = admit(admissions.setdefault((record.run, record.topic), Admission()), record)
        if isinstance(verdict, Apply):
            admissions[record.run, record.topic] = verdict.admission
            figures["counted_twice"] += place in found
            found[place] = record
        else:
            figures["repeated" if found.get(place) == record else "disordered"] += 1
        figures["changed"] += logged.get(place) != record
    before, during, after = _step_times(logged.values(), trial.away_at)
    return {
        "records": len(logged),
        "lost": len(logged.keys() - found.keys()),
        **figures,
        "waiting": trial.waiting(),
        "step_ms_before": before,
        "step_ms_during": during,
        "step_ms_after": after,
    }


def _step_times(records: Iterable[Record], away: tuple[float, float]) -> tuple[float | None, ...]:
    """The medians before, during and after the outage."""
    times: tuple[list[float], ...] = ([], [], [])
    for record in records:
        if record.type == StepsMeasured.KIND:
            event, at = decode(record), record.time.timestamp()
            assert isinstance(event, StepsMeasured)
            times[(at >= away[0]) + (at >= away[1])].extend(event.steps.step_latency_ms)
    return tuple(round(statistics.median(found), 3) if found else None for found in times)


def run(scenario: Callable[[Trial], None], outage_s: float) -> dict[str, object]:
    """The row of `scenario`."""
    with tempfile.TemporaryDirectory(prefix="esper-outage-") as folder:
        trial = Trial(Path(folder), outage_s)
        try:
            trial.broker.start()
            asyncio.run(create_topics(trial.settings))
            scenario(trial)
            began = time.monotonic()
            with trial.bridge():
                trial.until("the bridge catches up", lambda: trial.waiting() == 0)
            caught_up_s = round(time.monotonic() - began, 1)
            return {"scenario": scenario.__name__, **judged(trial), "caught_up_s": caught_up_s}
        finally:
            trial.broker.kill()


def main() -> None:
    """Prints a row for each scenario; ends with 1 where anything was lost, counted twice, changed or out of order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--outage-s", type=float, default=60.0, metavar="S", help="how long a broker is away (default: 60)")
    parser.add_argument("--only", choices=[scenario.__name__ for scenario in SCENARIOS], help="one scenario")
    chosen = parser.parse_args()
    wrong = False
    for scenario in SCENARIOS:
        if chosen.only in (None, scenario.__name__):
            row = run(scenario, chosen.outage_s)
            wrong |= any(row[name] for name in ("lost", "counted_twice", "changed", "disordered", "waiting"))
            print(json.dumps(row) if chosen.json else "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
