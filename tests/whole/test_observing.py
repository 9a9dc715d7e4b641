"""Observers as processes: killed at any moment, handed over, and told by nobody that a training was killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertFiring, RunHeardAgain, RunWentSilent
from esper.events.topics import OBSERVERS
from esper.folds.monitoring.derive import MonitorSettings
from esper.observer.build import builtin_rules
from esper.observer.leader import observer_of
from esper.observer.observing import Observer, ObserverSettings
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE
from esper.oona.observed import is_settled, read_observed
from tests.waiting import until

pytestmark = pytest.mark.whole


class Started:
    """Processes of `esper`, all killed at the end of a test."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._processes: list[subprocess.Popen[bytes]] = []

    def esper(self, *arguments: str, observed: bool = False) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "ESPER_OBSERVE": "1" if observed else "0"}
        command = [sys.executable, "-m", "esper.cli", *arguments, "--log", str(self.log)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        # Trainings start observers in sessions of their own: nothing but the log in their arguments says whose they are.
        while others := [process for process in psutil.process_iter(["cmdline"]) if str(self.log) in (process.info["cmdline"] or ())]:
            for process in others:
                process.kill()
            psutil.wait_procs(others, timeout=10)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    made = Started(tmp_path / "log")
    yield made
    made.end()


def only_run(log: Path) -> RunId:
    until(lambda: log.exists() and any(Directory(log).entry(name) for name in Directory(log).names()))
    return Directory(log).names()[0]


def observed(log: Path, run: RunId) -> tuple[Record, ...]:
    return read_observed(log / run, run, limit=1_000_000).records


def derived(log: Path, run: RunId) -> tuple[Record, ...]:
    return tuple(record for record in observed(log, run) if record.topic != OBSERVERS)


def said(log: Path, run: RunId, kind: str) -> list[Record]:
    return [record for record in observed(log, run) if record.type == kind]


def test_an_observer_killed_again_and_again_derives_what_one_that_was_not_derives(started: Started, tmp_path: Path) -> None:
    training = started.esper("train", "digits", "--epochs", "160", "--set", "trainer.measure_every=1")
    run, chance = only_run(started.log), random.Random(7)
    kills = 0
    while training.poll() is None:
        observer = started.esper("observe")
        time.sleep(1.0 + chance.random() * 2.0)
        observer.kill()
        kills += 1
    assert kills >= 3
    started.esper("observe")
    until(lambda: is_settled(started.log / run))
    shutil.copytree(started.log / run, tmp_path / "again" / run, ignore=shutil.ignore_patterns("observed*"))
    settings = ObserverSettings(monitor=MonitorSettings(rules=builtin_rules()))
    with Observer(Directory(tmp_path / "again"), settings, now=lambda: datetime.now(UTC), report=print) as once:
        while once.turn(0.0):
            pass
    assert derived(started.log, run) == derived(tmp_path / "again", run)
    assert len(derived(started.log, run)) > 10


def test_a_killed_training_raises_an_alert_that_ends_when_it_is_resumed(started: Started) -> None:
    training = started.esper("train", "digits", "--epochs", "400", observed=True)
    run = only_run(started.log)
    until(lambda: (started.log / run / OBSERVED_FILE).exists() and derived(started.log, run))
    training.kill()
    until(lambda: said(started.log, run, RunWentSilent.KIND))
    (silent,) = map(decode, said(started.log, run, RunWentSilent.KIND))
    assert isinstance(silent, RunWentSilent)
    assert silent.state == "dead"
    assert silent.silent_s < 60.0
    rules = [event.rule for event in map(decode, derived(started.log, run)) if isinstance(event, AlertFiring)]
    assert "run-dead" in rules
    started.esper("resume", "latest", observed=True)
    until(lambda: said(started.log, run, RunHeardAgain.KIND))


def test_one_process_observes_and_the_next_takes_over_whoever_is_killed(started: Started) -> None:
    started.esper("train", "digits", "--epochs", "400", observed=True)
    directory = Directory(started.log, create=True)
    until(lambda: observer_of(directory))
    first = observer_of(directory)
    assert first is not None
    started.esper("train", "mnist1d", "--epochs", "400", observed=True)
    by_hand = started.esper("observe")
    until(lambda: len(directory.names()) == 2)
    time.sleep(2.0)
    assert observer_of(directory) == first
    os.kill(first, signal.SIGKILL)
    until(lambda: observer_of(directory) not in {None, first})
    second = observer_of(directory)
    assert second is not None
    os.kill(second, signal.SIGKILL)
    until(lambda: observer_of(directory) not in {None, first, second})
    by_hand.kill()
