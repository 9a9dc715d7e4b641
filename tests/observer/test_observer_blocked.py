"""What an observer cannot understand, or finds missing: facts stop their topic until somebody understands them, telemetry goes on."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from esper.errors import LogError
from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.observability import (
    AlertFiring,
    AlertResolved,
    AnomalyDetected,
    FoldBlocked,
    FoldUnblocked,
    WindowAggregated,
)
from esper.observer.build import rebuild
from esper.oona.file import RUN_FILE
from esper.oona.follower import RunPage
from tests.observer.observed_runs import (
    SETTINGS,
    Growing,
    abandon,
    changes,
    forget_state,
    newer_fact,
    observe_by_an_older_version,
    problems,
    read,
)


def test_a_fact_of_a_newer_version_stops_its_topic_and_says_so_once(growing: Growing) -> None:
    growing.write(20)
    with growing.observer() as observer:
        observer.turn(0.0)
        newer = newer_fact(growing)
        growing.log.append((newer,))
        observer.turn(0.0)
    with growing.observer() as observer:
        observer.turn(0.0)
    blocked = [decode(record) for record in read(growing.directory, growing.run) if record.type == FoldBlocked.KIND]
    assert [(event.topic, event.sequence) for event in blocked if isinstance(event, FoldBlocked)] == [(newer.topic, newer.sequence)]
    assert any(
        event.rule == "fold-blocked" for event in map(decode, read(growing.directory, growing.run)) if isinstance(event, AlertFiring)
    )


@pytest.mark.parametrize("forgets", [False, True])
def test_what_blocks_a_run_fires_until_an_observer_understands_it(growing: Growing, monkeypatch: pytest.MonkeyPatch, forgets: bool) -> None:
    growing.write(100)
    observe_by_an_older_version(growing, monkeypatch)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing"]
    if forgets:
        forget_state(growing.log.path)
    with growing.observer() as observer:
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing", "resolved"]
    unblocked = [decode(record) for record in read(growing.directory, growing.run) if record.type == FoldUnblocked.KIND]
    assert unblocked == [FoldUnblocked(topics=(topics.LIFECYCLE,))]


def test_what_an_older_version_could_not_understand_is_derived_by_one_that_does(
    growing: Growing, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[Record, ...]
) -> None:
    growing.write(100)
    observe_by_an_older_version(growing, monkeypatch)
    growing.write()
    with growing.observer() as observer:
        observer.turn(0.0)
    assert {record.id for record in undisturbed} <= {record.id for record in growing.derived()}
    assert [made.same for made in rebuild(growing.directory)] == [True]


def test_a_state_that_a_topic_was_taken_up_in_is_made_again_the_same(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    growing.write(100)  # The last of them is of another topic than the one that was blocked.
    observe_by_an_older_version(growing, monkeypatch)
    with growing.observer() as observer:
        observer.turn(0.0)
    assert [made.same for made in rebuild(growing.directory)] == [True]


def test_a_run_that_cannot_be_read_fires_until_it_can(growing: Growing) -> None:
    growing.write(100)
    with growing.observer() as observer:
        observer.turn(0.0)
        position = observer._runs[growing.run].position
        observer._take(RunPage(growing.run, (), position, error=LogError("the file is damaged")))
        assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing"]
        growing.write(50)
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing", "resolved"]


def test_that_a_run_cannot_be_read_is_said_once_however_often_it_is_tried(growing: Growing) -> None:
    growing.write(100)
    problems.clear()
    with growing.observer() as observer:
        observer.turn(0.0)
        position = observer._runs[growing.run].position
        for _ in range(3):
            observer._take(RunPage(growing.run, (), position, error=LogError("the file is damaged")))
    assert problems == ["the file is damaged"]
    assert [record.type for record in read(growing.directory, growing.run)].count(FoldBlocked.KIND) == 1


def test_that_a_run_could_not_be_read_outlives_the_observer_that_was_killed(growing: Growing) -> None:
    growing.write(100)
    observer = growing.observer()
    observer.turn(0.0)
    position = observer._runs[growing.run].position
    observer._take(RunPage(growing.run, (), position, error=LogError("the file is damaged")))
    abandon(observer)
    with growing.observer() as observer:
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing", "resolved"]


def write_without(growing: Growing, lost: Record) -> None:
    """Writes the run and takes `lost` out of the file, as damage does."""
    growing.write()
    with closing(sqlite3.connect(growing.log.path / RUN_FILE)) as connection, connection:
        connection.execute("DELETE FROM records WHERE topic = ? AND sequence = ?", (lost.topic, lost.sequence))


def steps_of(records: tuple[Record, ...]) -> list[Record]:
    return [record for record in records if record.topic == topics.STEPS]


def test_telemetry_that_is_missing_is_an_anomaly_and_a_warning_that_ends_and_blocks_nothing(
    growing: Growing, records: tuple[Record, ...]
) -> None:
    lost = steps_of(records)[1]
    write_without(growing, lost)
    with growing.observer() as observer:
        observer.turn(0.0)
    said = [decode(record) for record in read(growing.directory, growing.run)]
    assert not any(isinstance(event, FoldBlocked) for event in said)
    assert [(event.topic, event.value) for event in said if isinstance(event, AnomalyDetected) and event.detector == "missing"] == [
        (lost.topic, 1.0)
    ]
    about = [event for event in said if isinstance(event, AlertFiring | AlertResolved) and event.rule == "steps-missing"]
    assert [(type(event), event.severity) for event in about] == [(AlertFiring, "warning"), (AlertResolved, "warning")]


def test_telemetry_that_is_missing_before_its_streams_end_raises_no_alert_for_nothing_could_end_it(
    growing: Growing, records: tuple[Record, ...]
) -> None:
    write_without(growing, steps_of(records)[-2])
    with growing.observer() as observer:
        observer.turn(0.0)
    said = [decode(record) for record in growing.derived()]
    assert any(isinstance(event, AnomalyDetected) and event.detector == "missing" for event in said)
    assert not any(isinstance(event, AlertFiring) and event.rule == "steps-missing" for event in said)


def test_a_fact_that_is_missing_stops_its_topic_alone_for_the_next_observer_too(growing: Growing, records: tuple[Record, ...]) -> None:
    write_without(growing, next(record for record in records if record.topic == topics.LIFECYCLE and record.sequence == 2))
    with growing.observer() as observer:
        observer._follower._limit = 100  # A part of the run.
        observer.turn(0.0)
    before = growing.derived()
    with growing.observer() as observer:
        observer.turn(0.0)
    assert any(record.type == WindowAggregated.KIND for record in growing.derived()[len(before) :])
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing"]


def test_missing_telemetry_is_told_once_however_often_the_observer_is_killed(growing: Growing, records: tuple[Record, ...]) -> None:
    write_without(growing, steps_of(records)[1])
    for _ in range(2):
        observer = growing.observer(replace(SETTINGS, state_every_s=1e9))
        observer.turn(0.0)
        abandon(observer)
    assert sum(isinstance(event, AnomalyDetected) and event.detector == "missing" for event in map(decode, growing.derived())) == 1
