"""An observer derives the same wherever it was stopped, and keeps runs apart."""

import math
import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import (
    AlertFiring,
    ObserverStarted,
    WindowAggregated,
)
from esper.events.kinds.telemetry import StepsMeasured
from esper.observer.build import rebuild
from esper.observer.observing import Observer, ObserverSettings
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE
from esper.oona.observed import is_observed, is_settled
from tests.observer.observed_runs import (
    HEARING,
    SETTINGS,
    Growing,
    abandon,
    firing,
    forget_state,
    problems,
    read,
)
from tests.synthetic import write_run
from tests.trails import checked, held, released, signed_off

ENDED = datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC)
NOW_SOON, NOW_LATE = ENDED + timedelta(minutes=5), ENDED + timedelta(hours=1)


def test_a_run_with_a_nan_and_a_rollback_raises_both_alerts(undisturbed: tuple[Record, ...]) -> None:
    rules = {event.rule for event in map(decode, firing(undisturbed)) if isinstance(event, AlertFiring)}
    assert {"loss-not-finite", "run-rolled-back"} <= rules


def test_windows_say_how_many_values_they_hold(undisturbed: tuple[Record, ...], records: tuple[Record, ...]) -> None:
    counts = [event.count for event in map(decode, undisturbed) if isinstance(event, WindowAggregated) and event.metric == "gradient_norm"]
    spans = [event.steps.gradient_norm for event in map(decode, records) if isinstance(event, StepsMeasured)]
    assert sum(counts) == sum(norm is not None and math.isfinite(norm) for span in spans for norm in span)


@pytest.mark.parametrize("portion", [pytest.param(1, marks=pytest.mark.whole), pytest.param(7, marks=pytest.mark.whole), 40])
def test_an_observer_that_is_killed_again_and_again_derives_the_same(
    growing: Growing, records: tuple[Record, ...], undisturbed: tuple[Record, ...], portion: int
) -> None:
    for _ in range(0, len(records), portion):
        growing.write(portion)
        observer = growing.observer(replace(SETTINGS, state_every_s=1e9))
        observer.turn(0.0)
        abandon(observer)
    assert growing.derived() == undisturbed


def test_a_state_that_was_saved_in_between_changes_nothing(
    growing: Growing, records: tuple[Record, ...], undisturbed: tuple[Record, ...]
) -> None:
    for _ in range(0, len(records), 9):
        growing.write(9)
        with growing.observer(replace(SETTINGS, state_every_s=0.0)) as observer:
            observer.turn(0.0)
    assert growing.derived() == undisturbed


def test_a_state_that_was_lost_is_folded_again_without_deriving(growing: Growing, undisturbed: tuple[Record, ...]) -> None:
    growing.write(150)
    with growing.observer() as observer:
        observer.turn(0.0)
    forget_state(growing.log.path)
    growing.write()
    with growing.observer() as observer:
        observer.turn(0.0)
    assert growing.derived() == undisturbed


def test_a_rebuilt_state_is_the_one_that_was_saved(growing: Growing) -> None:
    growing.write(150)
    with growing.observer() as observer:
        observer.turn(0.0)
    before = growing.derived()
    assert [made.same for made in rebuild(growing.directory)] == [True]
    assert growing.derived() == before


def test_the_trail_is_observed_and_neither_blocks_nor_alerts_ever(directory: Directory) -> None:
    append_to_trail(directory, [checked(), held(), released()], lambda: ENDED)
    (run,) = directory.names(hidden=True)
    reported: list[str] = []
    with Observer(directory, HEARING, now=lambda: NOW_LATE, report=reported.append) as observer:
        observer.turn(0.0)
        observer.turn(0.0)
        append_to_trail(directory, [signed_off()], lambda: ENDED)
        observer.turn(1.0)
        observer.turn(0.0)
        assert observer.idle
    assert [record.type for record in read(directory, run)] == [ObserverStarted.KIND]
    assert reported == []


def test_a_run_that_an_observer_names_its_rules_for_has_them_once(growing: Growing) -> None:
    with growing.observer() as observer:
        for _ in range(3):
            growing.write(50)
            observer.turn(0.0)
    started = [decode(record) for record in read(growing.directory, growing.run) if record.type == ObserverStarted.KIND]
    assert [event.settings_digest for event in started if isinstance(event, ObserverStarted)] == [SETTINGS.monitor.settings_digest]


def test_a_sealed_run_is_observed_to_its_end_and_its_observed_file_sealed(
    tmp_path: Path, synthetic_log: Path, undisturbed: tuple[Record, ...]
) -> None:
    shutil.copytree(synthetic_log, tmp_path / "log")
    directory = Directory(tmp_path / "log")
    (run,) = directory.names()
    with Observer(directory, SETTINGS, now=lambda: NOW_SOON, report=problems.append) as observer:
        observer.turn(0.0)
        observer.turn(0.0)
    assert tuple(record for record in read(directory, run) if record.topic != topics.OBSERVERS) == undisturbed
    assert is_settled(directory.path / run)


def test_a_run_whose_observer_was_killed_at_its_very_end_is_settled_by_the_next_one(tmp_path: Path, synthetic_log: Path) -> None:
    shutil.copytree(synthetic_log, tmp_path / "log")
    directory = Directory(tmp_path / "log")
    (run,) = directory.names()
    killed = Observer(directory, SETTINGS, now=lambda: NOW_SOON, report=problems.append)
    killed.turn(0.0)
    abandon(killed)
    (directory.path / run / "observed.sealed").unlink(missing_ok=True)
    with Observer(directory, SETTINGS, now=lambda: NOW_LATE, report=problems.append) as observer:
        for _ in range(3):
            observer.turn(0.0)
    assert is_settled(directory.path / run)


def test_a_finished_run_that_its_writer_did_not_seal_is_sealed(growing: Growing) -> None:
    growing.write()
    growing.log.close()
    with growing.observer() as observer:
        for _ in range(3):
            observer.turn(0.0)
            observer._follower._listed_at = 0.0  # Looked at anew, without waiting for the second to pass.
    entry = growing.directory.entry(growing.run)
    assert entry is not None
    assert entry.sealed


def test_a_run_that_ended_long_before_anybody_observed_is_left_alone(tmp_path: Path, synthetic_log: Path) -> None:
    shutil.copytree(synthetic_log, tmp_path / "log")
    directory = Directory(tmp_path / "log")
    (run,) = directory.names()
    with Observer(directory, SETTINGS, now=lambda: NOW_LATE, report=problems.append) as observer:
        observer.turn(0.0)
    assert not (directory.path / run / OBSERVED_FILE).exists()


def rest(growing: Growing, days: float = 2) -> None:
    """Ends the writing of the run without its end, `days` ago."""
    growing.log.close()
    then = time.time() - days * 86_400
    for file in growing.log.path.iterdir():
        os.utime(file, (then, then))


@pytest.mark.parametrize("observed", [0, 100])
def test_an_old_run_that_did_not_end_is_not_opened_until_it_goes_on(
    growing: Growing, undisturbed: tuple[Record, ...], observed: int
) -> None:
    growing.write(100)
    if observed:
        with growing.observer() as observer:
            observer.turn(0.0)
    rest(growing)
    before = {file.name: file.stat().st_mtime_ns for file in growing.log.path.iterdir()}
    with growing.observer() as observer:
        for _ in range(3):
            observer.turn(0.0)
            observer._follower._listed_at = 0.0
        assert not observer._runs
        assert {file.name: file.stat().st_mtime_ns for file in growing.log.path.iterdir()} == before
        growing.log = growing.directory.resume(growing.run)
        growing.write()
        while not observer.turn(1.0):
            pass
        for _ in range(3):
            observer.turn(0.0)
    assert growing.derived() == undisturbed
    growing.log.close()


def test_a_run_that_was_interrupted_yesterday_is_observed(growing: Growing) -> None:
    growing.write(100)
    rest(growing, days=0.9)
    with growing.observer() as observer:
        assert observer.turn(0.0) == 100


def test_a_run_that_is_sealed_keeps_no_other_waiting(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    growing.write()
    growing.log.close()
    asked, go_on = threading.Event(), threading.Event()

    def seal_slowly(directory: Directory, run: RunId) -> bool:
        asked.set()
        go_on.wait(60)
        return seal(directory, run)

    seal = Directory.seal_finished
    monkeypatch.setattr(Directory, "seal_finished", seal_slowly)
    with growing.observer(ObserverSettings(tick_s=0.0)) as observer:
        while not asked.is_set():
            observer.turn(0.01)
        other = write_run(growing.directory, run=RunId("01900000-0000-7000-8000-000000000099"), until_epoch=1)
        while not is_observed(growing.directory.path / other):
            observer.turn(0.01)
        go_on.set()
        while not is_settled(growing.directory.path / growing.run):
            observer.turn(0.01)
