"""An observer tells who delivers of each alert once, and writes what became of it."""

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import (
    AlertFiring,
    AlertNotified,
    AlertResolved,
    AlertSuppressed,
)
from esper.events.kinds.run import RunRolledBack
from esper.observer.delivery.deliverer import Deliverer, Recorder
from esper.observer.delivery.delivery_file import parse_delivery
from esper.observer.delivery.handlers import build_handlers, make_deliverer
from esper.observer.delivery.notices import linker
from esper.observer.delivery.outbox import AlertOutcome
from esper.observer.observing import Observer
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE
from esper.oona.observed import is_settled
from tests.observer.observed_runs import (
    HEARING,
    SETTINGS,
    Clock,
    Growing,
    abandon,
    firing,
    observe_by_an_older_version,
    problems,
    read,
)
from tests.synthetic import RUN, write_run

ENDED = datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC)
NOW_SOON, NOW_LATE = ENDED + timedelta(minutes=5), ENDED + timedelta(hours=1)


class Post(Deliverer):
    """Who delivers, as far as an observer sees it: what it was told, in order."""

    def __init__(self, _record: Recorder | None = None) -> None:
        self.offered: list[Record] = []
        self.known: list[Record] = []
        self.started_after: int | None = None

    def start(self) -> None:
        self.started_after = len(self.offered)

    def offer(self, *alerts: Record) -> None:
        self.offered += alerts

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


def test_alerts_are_offered_once_each_as_they_are_derived(growing: Growing, undisturbed: tuple[Record, ...]) -> None:
    post = Post()
    growing.write()
    with growing.observer(deliverer=post) as observer:
        observer.turn(0.0)
    alerts = [record for record in undisturbed if record.type in {AlertFiring.KIND, "esper.alert.resolved.v1"}]
    assert post.offered == alerts


def test_a_new_observer_offers_again_what_was_derived_and_says_what_became_of_it_before_it_starts(growing: Growing) -> None:
    growing.write(200)
    with growing.observer(deliverer=Post()) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())
        observer.record([AlertOutcome(told[0], notified(told[0]))])
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
    with closing(sqlite3.connect(growing.directory.path / growing.run / OBSERVED_FILE)) as damaged, damaged:
        damaged.execute("DROP TABLE derived")
    problems.clear()
    with growing.observer(deliverer=Post()) as observer:
        observer.turn(0.0)
    assert [OBSERVED_FILE in problem for problem in problems] == [True]


def test_an_outcome_that_comes_at_the_very_end_is_written(growing: Growing) -> None:
    growing.write()
    with growing.observer(deliverer=Post()) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())
        observer.record([AlertOutcome(told[0], notified(told[0]))])
    (noted,) = [record for record in growing.derived() if record.type == AlertNotified.KIND]
    assert decode(noted) == notified(told[0])
    assert (noted.cause, noted.moment) == (told[0].id, told[0].moment)


def test_an_outcome_is_written_at_once(growing: Growing) -> None:
    growing.write()
    with growing.observer(deliverer=Post()) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())
        observer.record([AlertOutcome(told[0], notified(told[0]))])
        assert [decode(record) for record in growing.derived() if record.type == AlertNotified.KIND] == [notified(told[0])]


def test_an_outcome_that_cannot_be_written_is_written_as_soon_as_it_can(growing: Growing) -> None:
    growing.write()
    folder = growing.directory.path / growing.run
    with growing.observer(deliverer=Post()) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())
        problems.clear()
        folder.rename(folder.with_name("elsewhere"))
        observer.record([AlertOutcome(told[0], notified(told[0]))])
        observer.turn(0.0)
        assert any("elsewhere" not in problem and growing.run in problem for problem in problems)
        folder.with_name("elsewhere").rename(folder)
        observer.turn(0.0)
    assert [record.type for record in growing.derived()].count(AlertNotified.KIND) == 1


def test_a_delivery_that_failed_is_said(growing: Growing) -> None:
    growing.write()
    problems.clear()
    with growing.observer(deliverer=Post()) as observer:
        observer.turn(0.0)
        told = firing(growing.derived())[0]
        observer.record([AlertOutcome(told, notified(told).model_copy(update={"outcome": "failed", "error": "no answer"}))])
    fired = decode(told)
    assert isinstance(fired, AlertFiring)
    assert problems == [f"run {growing.run}: handler page did not deliver {fired.rule} (firing): no answer"]


class Late(Post):
    """Who delivers the first alert just before it is asked whether anything is still undelivered."""

    def __init__(self, record: Recorder) -> None:
        super().__init__()
        self.record, self.told = record, False

    def outstanding(self, run: RunId | None = None) -> int:
        if run is not None and not self.told:
            self.told = True
            first = firing(tuple(self.offered))[0]
            self.record([AlertOutcome(first, notified(first))])
        return 0


def test_an_outcome_that_comes_as_a_run_is_settled_is_written_before_it_is_settled(tmp_path: Path, synthetic_log: Path) -> None:
    shutil.copytree(synthetic_log, tmp_path / "log")
    directory = Directory(tmp_path / "log")
    (run,) = directory.names()
    observer = Observer(directory, SETTINGS, now=lambda: NOW_SOON, make_deliverer=Late, report=problems.append)
    observer.turn(0.0)
    abandon(observer)
    assert is_settled(directory.path / run)
    assert [record.type for record in read(directory, run)].count(AlertNotified.KIND) == 1


class Paged:
    """A log whose alerts become lines of a file, at the time that a clock says."""

    def __init__(self, directory: Directory, page: Path, now: Clock) -> None:
        self.directory, self.page, self.now = directory, page, now

    def observer(self, *, from_start: bool = False) -> Observer:
        """An observer, with a deliverer that has begun."""
        settings = parse_delivery(f'[[handlers]]\nname = "page"\nkind = "log"\npath = "{self.page}"\n', "here")
        handlers = build_handlers(settings)
        return Observer(
            self.directory,
            SETTINGS,
            now=self.now,
            make_deliverer=lambda record: Deliverer(handlers, record=record, now=self.now, link_to=linker(), lives=lambda _: True),
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
        (page,) = first._follower.poll(0.0)
        first._take(page)
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
    now = datetime.now(UTC)
    deliverer = partial(make_deliverer, directory, settings)
    with Observer(directory, HEARING, now=lambda: now, make_deliverer=deliverer, report=problems.append) as observer:
        observer.turn(0.0)
    told = [decode(record) for record in read(directory, RUN)]
    fired = [event.rule for event in told if isinstance(event, AlertFiring)]
    assert "run-dead" in fired
    assert {event.why for event in told if isinstance(event, AlertSuppressed)} == {"stale", "not_delivered"}
    assert not any(isinstance(event, AlertNotified) for event in told)
    assert not page.exists() or page.read_text() == ""


def test_alerts_that_change_when_a_run_is_opened_are_delivered(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    growing.write(100)
    observe_by_an_older_version(growing, monkeypatch)
    post = Post()
    with growing.observer(deliverer=post) as observer:
        observer.turn(0.0)
    resolved = [event.rule for event in map(decode, post.offered) if isinstance(event, AlertResolved)]
    assert "fold-blocked" in resolved
