"""An observer derives the same wherever it was stopped, keeps runs apart, and tells who delivers of each alert once."""

import math
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest

from esper.errors import DataError, LogError
from esper.events import topics
from esper.events.codec import decode, encode
from esper.events.envelope import Moment, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.observability import (
    AlertFiring,
    AlertNotified,
    AlertResolved,
    AlertSuppressed,
    AnomalyDetected,
    FoldBlocked,
    FoldUnblocked,
    ObserverStarted,
    RunWentSilent,
    WindowAggregated,
)
from esper.events.kinds.run import RunRolledBack
from esper.events.kinds.telemetry import Heartbeat, StepsMeasured
from esper.folds.watching.silence import SilenceSettings
from esper.folds.watching.stream import WatchSettings
from esper.nissa.delivery.deliverer import Deliverer
from esper.nissa.delivery.handlers.build import build_handlers
from esper.nissa.delivery.notices import linker
from esper.nissa.delivery.settings import parse_delivery
from esper.oona.contract import Page
from esper.oona.directory import Directory
from esper.oona.follower import Batch
from esper.oona.heads import Draft
from esper.oona.observed import FILE, Observed, is_settled
from esper.oona.run_log import FILE as LOG
from esper.processes.delivering import make_deliverer
from esper.processes.history import open_run
from esper.processes.observer import Observer, Outcomes
from esper.processes.observing import builtin_rules, rebuild
from tests.processes.observed_runs import HEARING, SETTINGS, Growing, abandon, problems, read
from tests.synthetic import RUN, write_run

ENDED = datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC)
NOW_SOON, NOW_LATE = ENDED + timedelta(minutes=5), ENDED + timedelta(hours=1)


@pytest.fixture(scope="module")
def records(synthetic_log: Path) -> tuple[Record, ...]:
    with open_run(RUN, synthetic_log) as history:
        return tuple(history.records())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, records: tuple[Record, ...]) -> tuple[Record, ...]:
    growing = Growing(tmp_path_factory.mktemp("undisturbed"), records)
    growing.write()
    with growing.observer() as observer:
        observer.turn(0.0)
    growing.log.close()
    return growing.derived()


@pytest.fixture
def growing(tmp_path: Path, records: tuple[Record, ...]) -> Iterator[Growing]:
    made = Growing(tmp_path / "log", records)
    yield made
    made.log.close()


class Post:
    """Who delivers, as far as an observer sees it: what it was told, in order."""

    def __init__(self) -> None:
        self.offered: list[Record] = []
        self.known: list[Record] = []
        self.started_after: int | None = None

    def start(self) -> None:
        self.started_after = len(self.offered)

    def offer(self, alert: Record) -> None:
        self.offered.append(alert)

    def settled(self, outcome: Record) -> None:
        self.known.append(outcome)

    def outstanding(self, _run: RunId | None = None) -> int:
        return 0

    def close(self, _timeout_s: float) -> None:
        pass


def notified(alert: Record) -> AlertNotified:
    event = decode(alert)
    assert isinstance(event, AlertFiring)
    return AlertNotified(
        alert=alert.id, fingerprint=event.fingerprint, since=event.since, handler="page", outcome="delivered", attempts=1, error=None
    )


def newer_fact(growing: Growing) -> Record:
    """The run's next fact, of a kind that this version does not know."""
    heads = growing.log.heads()
    draft = Draft(
        "esper.seed.transitioned.v9", topics.LIFECYCLE, Moment(heads.moment + 1), 1, heads.time, 1, 10**6, heads.anchor, None, b"{}"
    )
    return heads.next(draft)


def firing(records: tuple[Record, ...]) -> list[Record]:
    return [record for record in records if record.type == AlertFiring.KIND]


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
    with Observed(growing.log.path, growing.run) as observed:
        observed.forget()
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


def test_a_run_that_an_observer_names_its_rules_for_has_them_once(growing: Growing) -> None:
    with growing.observer() as observer:
        for _ in range(3):
            growing.write(50)
            observer.turn(0.0)
    started = [decode(record) for record in read(growing.directory, growing.run) if record.type == ObserverStarted.KIND]
    assert [event.settings_digest for event in started if isinstance(event, ObserverStarted)] == [SETTINGS.watch.settings_digest]


def test_alerts_are_offered_once_each_as_they_are_derived(growing: Growing, undisturbed: tuple[Record, ...]) -> None:
    post = Post()
    growing.write()
    with growing.observer(deliverer=post) as observer:
        observer.turn(0.0)
    alerts = [record for record in undisturbed if record.type in {AlertFiring.KIND, "esper.alert.resolved.v1"}]
    assert post.offered == alerts


def test_a_new_observer_offers_again_what_was_derived_and_says_what_became_of_it_before_it_starts(growing: Growing) -> None:
    outcomes = SimpleQueue[tuple[RunId, AlertNotified | AlertSuppressed]]()
    growing.write(200)
    with growing.observer(deliverer=Post(), outcomes=outcomes) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())
        outcomes.put((growing.run, notified(told[0])))
        observer.turn(0.0)
    after = Post()
    with growing.observer(deliverer=after):
        assert [record.id for record in after.offered if record.type == AlertFiring.KIND] == [record.id for record in told]
        assert after.started_after == len(after.offered)
    assert [decode(record) for record in after.known] == [notified(told[0])]


def test_an_observed_file_that_is_damaged_keeps_no_observer_from_starting(growing: Growing) -> None:
    growing.write()
    with growing.observer() as observer:
        observer.turn(0.0)
    with closing(sqlite3.connect(growing.directory.path / growing.run / FILE)) as damaged, damaged:
        damaged.execute("DROP TABLE derived")
    problems.clear()
    with growing.observer(deliverer=Post()) as observer:
        observer.turn(0.0)
    assert [FILE in problem for problem in problems] == [True]


def test_an_outcome_that_comes_at_the_very_end_is_written(growing: Growing) -> None:
    outcomes = SimpleQueue[tuple[RunId, AlertNotified | AlertSuppressed]]()
    growing.write()
    with growing.observer(deliverer=Post(), outcomes=outcomes) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())
        outcomes.put((growing.run, notified(told[0])))
    (noted,) = [record for record in growing.derived() if record.type == AlertNotified.KIND]
    assert decode(noted) == notified(told[0])
    assert (noted.cause, noted.moment) == (told[0].id, told[0].moment)


def test_a_delivery_that_failed_is_said(growing: Growing) -> None:
    outcomes = SimpleQueue[tuple[RunId, AlertNotified | AlertSuppressed]]()
    growing.write()
    problems.clear()
    with growing.observer(deliverer=Post(), outcomes=outcomes) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())[0]
        outcomes.put((growing.run, notified(told).model_copy(update={"outcome": "failed", "error": "no answer"})))
    fired = decode(told)
    assert isinstance(fired, AlertFiring)
    assert problems == [f"run {growing.run}: handler page did not deliver {fired.rule} (firing): no answer"]


class Late(Post):
    """Who delivers the first alert just before it is asked whether anything is still undelivered."""

    def __init__(self, outcomes: Outcomes) -> None:
        super().__init__()
        self.outcomes, self.told = outcomes, False

    def outstanding(self, run: RunId | None = None) -> int:
        if run is not None and not self.told:
            self.told = True
            self.outcomes.put((run, notified(firing(tuple(self.offered))[0])))
        return 0


def test_an_outcome_that_comes_as_a_run_is_settled_is_written_before_it_is_settled(tmp_path: Path, synthetic_log: Path) -> None:
    shutil.copytree(synthetic_log, tmp_path / "log")
    directory = Directory(tmp_path / "log")
    (run,) = directory.names()
    outcomes: Outcomes = SimpleQueue()
    observer = Observer(directory, SETTINGS, now=lambda: NOW_SOON, deliverer=Late(outcomes), outcomes=outcomes, report=problems.append)
    observer.turn(0.0)
    abandon(observer)
    assert is_settled(directory.path / run)
    assert [record.type for record in read(directory, run)].count(AlertNotified.KIND) == 1


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
    assert not (directory.path / run / FILE).exists()


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


def lacking(record: Record) -> Event:
    """The event of a record, as a version has it that does not know the transitions of seeds."""
    if record.topic == topics.LIFECYCLE:
        raise DataError("expected a kind of this version's catalogue")
    return decode(record)


def observe_by_an_older_version(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observes the run twice, by a version that a transition blocks."""
    with monkeypatch.context() as older:
        older.setattr("esper.processes.watch.decode", lacking)
        for _ in range(2):
            with growing.observer() as observer:
                observer.turn(0.0)


@pytest.mark.parametrize("forgets", [False, True])
def test_what_blocks_a_run_fires_until_an_observer_understands_it(growing: Growing, monkeypatch: pytest.MonkeyPatch, forgets: bool) -> None:
    growing.write(100)
    observe_by_an_older_version(growing, monkeypatch)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing"]
    if forgets:
        with Observed(growing.log.path, growing.run) as observed:
            observed.forget()
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
        nothing = Page((), observer._runs[growing.run].position)
        observer._take(Batch(growing.run, nothing, ended=False, error=LogError("the file is damaged")))
        assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing"]
        growing.write(50)
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing", "resolved"]


def test_that_a_run_cannot_be_read_is_said_once_however_often_it_is_tried(growing: Growing) -> None:
    growing.write(100)
    problems.clear()
    with growing.observer() as observer:
        observer.turn(0.0)
        nothing = Page((), observer._runs[growing.run].position)
        for _ in range(3):
            observer._take(Batch(growing.run, nothing, ended=False, error=LogError("the file is damaged")))
    assert problems == ["the file is damaged"]
    assert [record.type for record in read(growing.directory, growing.run)].count(FoldBlocked.KIND) == 1


def test_that_a_run_could_not_be_read_outlives_the_observer_that_was_killed(growing: Growing) -> None:
    growing.write(100)
    observer = growing.observer()
    observer.turn(0.0)
    nothing = Page((), observer._runs[growing.run].position)
    observer._take(Batch(growing.run, nothing, ended=False, error=LogError("the file is damaged")))
    abandon(observer)
    with growing.observer() as observer:
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing", "resolved"]


def write_without(growing: Growing, lost: Record) -> None:
    """Writes the run and takes `lost` out of the file, as damage does."""
    growing.write()
    with closing(sqlite3.connect(growing.log.path / LOG)) as connection, connection:
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


class Clock:
    """A time that a test moves, in seconds after `start`."""

    def __init__(self, start: datetime) -> None:
        self.start = self.now = start

    def __call__(self) -> datetime:
        return self.now

    def at(self, second: float) -> None:
        self.now = self.start + timedelta(seconds=second)


def changes(growing: Growing, *rules: str) -> list[tuple[str, str, datetime]]:
    """What happened to alerts of `rules`: the rule, the state, and when."""
    alerts = [(record, decode(record)) for record in growing.derived() if record.type.startswith("esper.alert.")]
    return [
        (event.rule, type(event).__name__.removeprefix("Alert").lower(), record.time)
        for record, event in alerts
        if isinstance(event, AlertFiring | AlertResolved) and event.rule in rules
    ]


SOON = replace(SETTINGS, watch=WatchSettings(silence=SilenceSettings(dead_after_s=60, idle_after_s=60), rules=builtin_rules()))


def beat(growing: Growing, at: datetime) -> None:
    """A heartbeat of the run at that time."""
    heads, data = growing.log.heads(), encode(Heartbeat(idle_s=0.0, doing="step"))
    growing.log.append(
        (heads.next(Draft(Heartbeat.KIND, topics.HEARTBEAT, None, 1, at, heads.epoch, heads.step, heads.anchor, None, data)),)
    )


def test_a_run_that_was_idle_and_died_is_idle_no_more_from_when_it_was_dead(growing: Growing, records: tuple[Record, ...]) -> None:
    growing.write(100)
    clock = Clock(records[99].time)
    with Observer(growing.directory, SOON, now=clock, report=problems.append) as observer:
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
    with Observer(growing.directory, SOON, now=clock, report=problems.append) as observer:
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
        with Observer(growing.directory, SOON, now=clock, report=problems.append) as observer:
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
    with Observer(growing.directory, SOON, now=clock, report=problems.append) as observer:
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
    with Observer(growing.directory, SOON, now=clock, report=problems.append) as observer:
        observer.turn(0.0)
        observer.turn(0.0)
    assert [state for _, state, _ in changes(growing, "fold-blocked")] == ["firing", "resolved"]
    assert changes(growing, "run-dead") == []


def test_a_rebuild_knows_of_a_silent_run(growing: Growing) -> None:
    growing.write(100)
    with growing.observer(HEARING) as observer:
        observer.turn(0.0)
    assert [made.same for made in rebuild(growing.directory)] == [True]


class Paged:
    """A log whose alerts become lines of a file, at the time that a clock says."""

    def __init__(self, directory: Directory, page: Path, now: Clock) -> None:
        self.directory, self.page, self.now = directory, page, now

    def observer(self, *, from_start: bool = False) -> Observer:
        """An observer, with a deliverer that has begun."""
        outcomes: Outcomes = SimpleQueue()
        settings = parse_delivery(f'[[handlers]]\nname = "page"\nkind = "log"\npath = "{self.page}"\n', "here")
        deliverer = Deliverer(
            build_handlers(settings),
            record=lambda run, event: outcomes.put((run, event)),
            now=self.now,
            link_to=linker(),
            lives=lambda _: True,
        )
        return Observer(
            self.directory,
            SETTINGS,
            now=self.now,
            deliverer=deliverer,
            outcomes=outcomes,
            from_start=from_start,
            report=problems.append,
        )

    def observe(self) -> None:
        """An observer and its deliverer, from their beginning to their end."""
        with self.observer() as observer:
            observer.turn(0.0)
            observer.turn(0.0)

    def told(self, rule: str) -> list[str]:
        """What people were told of a rule's alerts: firing or resolved, in order."""
        lines = self.page.read_text().splitlines() if self.page.exists() else []
        return [line.split()[2] for line in lines if line.split()[3] == f"{rule}:"]


def test_what_was_told_to_fire_is_told_to_be_over_by_an_observer_that_comes_back_a_day_later(
    growing: Growing, records: tuple[Record, ...], tmp_path: Path
) -> None:
    begun = next(place for place, record in enumerate(records) if record.type == RunRolledBack.KIND)
    paged = Paged(growing.directory, tmp_path / "page", Clock(records[begun].time))
    growing.write(begun + 1)
    paged.observe()
    assert paged.told("run-rolled-back") == ["firing"]
    growing.write()
    paged.now.at(86_400)
    paged.observe()
    assert paged.told("run-rolled-back") == ["firing", "resolved"]
    assert {event.handler for event in map(decode, growing.derived()) if isinstance(event, AlertNotified)} == {"page"}


def outcomes_by_alert(directory: Directory, run: RunId) -> dict[str, tuple[str, list[str]]]:
    """Each alert that fired, and each that was over after it had, by id: what it is, and what became of it."""
    found: dict[str, tuple[str, list[str]]] = {}
    fired: set[tuple[str, str]] = set()
    for record in read(directory, run):
        event = decode(record)
        if isinstance(event, AlertFiring):
            fired.add((event.fingerprint, event.since))
            found[record.id] = ("firing", [])
        elif isinstance(event, AlertResolved) and (event.fingerprint, event.since) in fired:
            found[record.id] = ("resolved", [])
        elif isinstance(event, AlertNotified):
            found[event.alert][1].append(event.outcome)
        elif isinstance(event, AlertSuppressed):
            found[event.alert][1].append(event.why)
    return found


@pytest.mark.parametrize("killed", [False, True])
def test_an_old_log_observed_from_its_start_has_one_outcome_for_each_alert_and_pages_nobody(
    tmp_path: Path, synthetic_log: Path, killed: bool
) -> None:
    shutil.copytree(synthetic_log, tmp_path / "log")
    paged = Paged(Directory(tmp_path / "log"), tmp_path / "page", Clock(NOW_LATE))
    (run,) = paged.directory.names()
    first = paged.observer(from_start=True)
    if killed:
        (batch,) = first._follower.poll(0.0)
        first._take(batch)
        abandon(first)
    else:
        first.turn(0.0)
        first.close()
    paged.observe()
    became = outcomes_by_alert(paged.directory, run)
    assert {state for state, _ in became.values()} == {"firing", "resolved"}
    assert all(outcomes == [{"firing": "stale", "resolved": "not_delivered"}[state]] for state, outcomes in became.values())
    assert not paged.page.exists()
    assert is_settled(paged.directory.path / run)


def test_an_old_directory_of_a_crashed_run_pages_nobody(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, finish=False)
    page = tmp_path / "paged"
    settings = parse_delivery(f'[[handlers]]\nname = "page"\nkind = "log"\npath = "{page}"\n', "here")
    deliverer, outcomes = make_deliverer(directory, settings)
    now = datetime.now(UTC)
    with Observer(directory, HEARING, now=lambda: now, deliverer=deliverer, outcomes=outcomes, report=problems.append) as observer:
        observer.turn(0.0)
    told = [decode(record) for record in read(directory, RUN)]
    fired = [event.rule for event in told if isinstance(event, AlertFiring)]
    assert "run-dead" in fired
    assert {event.why for event in told if isinstance(event, AlertSuppressed)} == {"stale", "not_delivered"}
    assert not any(isinstance(event, AlertNotified) for event in told)
    assert not page.exists() or page.read_text() == ""
