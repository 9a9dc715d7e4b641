"""A run from which nothing comes is silent, once and with the right times, whoever looks."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.observability import (
    AlertFiring,
    AlertResolved,
    RunWentSilent,
)
from esper.events.kinds.telemetry import Heartbeat
from esper.folds.monitoring.dead_or_idle import SilenceSettings
from esper.folds.monitoring.derive import MonitorSettings
from esper.observer.build import builtin_rules, rebuild
from esper.observer.observing import Observer
from esper.oona.observed import is_settled
from esper.oona.writer import append_drafts
from tests.observer.observed_runs import HEARING, SETTINGS, Clock, Growing, changes, observe_by_an_older_version, problems, read

SOON = replace(SETTINGS, monitor=MonitorSettings(silence=SilenceSettings(dead_after_s=60, idle_after_s=60), rules=builtin_rules()))


def test_a_run_from_which_nothing_comes_raises_an_alert_once_and_ends_it_when_it_is_heard_again(growing: Growing) -> None:
    growing.write(100)
    for _ in range(2):
        with growing.observer(HEARING) as observer:
            observer.turn(0.0)
    said = [record.type for record in read(growing.directory, growing.run) if "silent" in record.type]
    assert said == [RunWentSilent.KIND]
    assert "run-dead" in {event.rule for event in map(decode, growing.derived()) if isinstance(event, AlertFiring)}
    growing.write(20)
    with growing.observer() as observer:
        observer.turn(0.0)
    assert "run-dead" in {event.rule for event in map(decode, growing.derived()) if isinstance(event, AlertResolved)}


def beat(growing: Growing, at: datetime) -> None:
    """A heartbeat of the run at that time."""
    heads, event = growing.log.heads(), Heartbeat(idle_s=0.0, doing="step")
    append_drafts(growing.log, [heads.draft(event, event.TOPIC, at, epoch=heads.epoch, step=heads.step)])


def test_a_run_that_was_idle_and_died_is_idle_no_more_from_when_it_was_dead(growing: Growing, records: tuple[Record, ...]) -> None:
    growing.write(100)
    clock = Clock(records[99].time)
    with Observer(growing.directory, SOON, now=clock, passed_s=clock.passed_s, report=problems.append) as observer:
        observer.turn(0.0)
        beat(growing, clock.start + timedelta(seconds=40))
        for second in (65, 105, 110):
            clock.at(second)
            observer.turn(0.0)
    idle, dead = clock.start + timedelta(seconds=60), clock.start + timedelta(seconds=100)
    assert changes(growing, "run-idle", "run-dead") == [
        ("run-idle", "firing", idle),
        ("run-idle", "resolved", dead),
        ("run-dead", "firing", dead),
    ]


def test_a_silent_run_that_goes_on_to_its_end_and_is_sealed_at_once_is_silent_no_more(
    growing: Growing, records: tuple[Record, ...]
) -> None:
    growing.write(100)
    clock = Clock(records[99].time)
    with Observer(growing.directory, SOON, now=clock, passed_s=clock.passed_s, report=problems.append) as observer:
        for second in (0, 70):
            clock.at(second)
            observer.turn(0.0)
        observer._follower._release(growing.run)  # As after two seconds without records.
        growing.write()
        growing.log.close()
        growing.directory.seal_finished(growing.run)
        observer.turn(0.0)
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "run-dead")] == ["firing", "resolved"]
    assert is_settled(growing.log.path)


def test_a_run_that_was_killed_stays_dead_when_another_observer_takes_over(growing: Growing, records: tuple[Record, ...]) -> None:
    growing.write(100)
    growing.log.close()
    clock = Clock(records[99].time)
    for _ in range(2):
        with Observer(growing.directory, SOON, now=clock, passed_s=clock.passed_s, report=problems.append) as observer:
            for _ in range(4):
                observer._follower._listed_at = 0.0  # As after a second: whose lock is free is looked at again.
                observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "run-dead")] == ["firing"]


def test_a_run_that_is_not_read_to_its_end_yet_is_not_silent(growing: Growing, records: tuple[Record, ...]) -> None:
    growing.write(100)
    clock = Clock(records[99].time)
    for second in range(10, 201, 10):
        beat(growing, clock.start + timedelta(seconds=second))
    clock.at(201)
    with Observer(growing.directory, SOON, now=clock, passed_s=clock.passed_s, report=problems.append) as observer:
        observer._follower._limit = 101  # A page ends with the first beat.
        observer.turn(0.0)
        observer.turn(0.0)
    assert changes(growing, "run-dead") == []


def test_a_run_that_beats_is_not_dead_for_the_age_of_what_was_blocked(
    growing: Growing, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    growing.write(100)
    beat(growing, records[99].time + timedelta(seconds=200))
    observe_by_an_older_version(growing, monkeypatch)
    clock = Clock(records[99].time + timedelta(seconds=201))
    with Observer(growing.directory, SOON, now=clock, passed_s=clock.passed_s, report=problems.append) as observer:
        observer.turn(0.0)
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing", "resolved"]
    assert changes(growing, "run-dead") == []


def test_a_rebuild_knows_of_a_silent_run(growing: Growing) -> None:
    growing.write(100)
    with growing.observer(HEARING) as observer:
        observer.turn(0.0)
    assert [made.same for made in rebuild(growing.directory)] == [True]


@pytest.mark.parametrize("set_by_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_neither_makes_a_run_silent_nor_hides_that_it_is(
    growing: Growing, records: tuple[Record, ...], set_by_s: float
) -> None:
    growing.write(100)
    clock, passed = Clock(records[99].time), [0.0]
    with Observer(growing.directory, SOON, now=clock, passed_s=lambda: passed[0], report=problems.append) as observer:
        observer.turn(0.0)
        clock.at(set_by_s)
        for passed[0] in (1.0, 59.0):
            observer.turn(0.0)
        assert changes(growing, "run-dead") == []
        passed[0] = 61.0
        observer.turn(0.0)
    assert changes(growing, "run-dead") == [("run-dead", "firing", clock.start + timedelta(seconds=60))]
