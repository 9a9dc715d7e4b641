"""A run that is written a few records at a time, so that an observer can be stopped between any two of them."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.errors import DataError
from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.observability import AlertFiring, AlertResolved
from esper.events.kinds.run import StreamEnded
from esper.events.topics import OBSERVERS
from esper.folds.monitoring.dead_or_idle import SilenceSettings
from esper.folds.monitoring.derive import MonitorSettings
from esper.observer.build import builtin_rules
from esper.observer.delivery.deliverer import Deliverer
from esper.observer.observing import Observer, ObserverSettings
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE
from esper.oona.observed import Observed, observed_to, read_observed
from esper.oona.run_log import RunLog

NOW = datetime(2026, 3, 1, 13, 0, tzinfo=UTC)
NEVER = SilenceSettings(dead_after_s=1e9, idle_after_s=1e9)
SETTINGS = ObserverSettings(monitor=MonitorSettings(silence=NEVER, rules=builtin_rules()), tick_s=0.0)
HEARING = replace(SETTINGS, monitor=MonitorSettings(rules=builtin_rules()))
"""The same, but silence is judged."""


class Growing:
    """`records` on their way into a log, as its writer would append them."""

    def __init__(self, path: Path, records: Iterable[Record]) -> None:
        self._waiting = list(records)
        self._observers = 0
        self.run = self._waiting[0].run
        self.directory = Directory(path, create=True)
        self.log: RunLog = self.directory.create(self.run)

    def write(self, count: int = 1_000_000) -> None:
        """Appends the next `count` records."""
        now, self._waiting = tuple(self._waiting[:count]), self._waiting[count:]
        self.log.append(now)

    def observer(self, settings: ObserverSettings = SETTINGS, *, deliverer: Deliverer | None = None) -> Observer:
        """An observer of the directory, started at one o'clock, each a moment after the one before."""
        self._observers += 1
        now = NOW + timedelta(microseconds=self._observers)
        return Observer(
            self.directory,
            settings,
            now=lambda: now,
            make_deliverer=None if deliverer is None else lambda _record: deliverer,
            report=problems.append,
        )

    def derived(self) -> tuple[Record, ...]:
        """What was derived from the run's records so far: all but what the observer says by itself."""
        return tuple(record for record in read(self.directory, self.run) if record.topic != OBSERVERS)


def abandon(observer: Observer) -> None:
    """Lets go of an observer's files as the end of a killed process does: nothing is saved."""
    for run in observer._runs.values():
        run.store.close()
    observer._follower.close()


problems: list[str] = []


def read(directory: Directory, run: RunId) -> tuple[Record, ...]:
    """All that stands in a run's observed file."""
    return read_observed(directory.path / run, run, limit=1_000_000).records


def forget_state(folder: Path) -> None:
    """Makes the observed file anew without the state that an observer saved; derived records and their position stay."""
    run = RunId(folder.name)
    records, derived_to = read_observed(folder, run, limit=1_000_000).records, observed_to(folder)
    for left in folder.glob(f"{OBSERVED_FILE}*"):
        left.unlink()
    with Observed(folder, run) as store:
        store.save(records, derived_to)


def firing(records: tuple[Record, ...]) -> list[Record]:
    """Those of `records` that say that an alert fires."""
    return [record for record in records if record.type == AlertFiring.KIND]


def newer_fact(growing: Growing) -> Record:
    """The run's next fact, of a kind that this version does not know."""
    heads = growing.log.heads()
    draft = heads.draft(StreamEnded(last_step=0), topics.LIFECYCLE, heads.time, epoch=1, step=10**6)
    return heads.next(draft, "esper.seed.transitioned.v9", b"{}")


def lacking(record: Record) -> Event:
    """The event of a record, as a version has it that does not know the transitions of seeds."""
    if record.topic == topics.LIFECYCLE:
        raise DataError("expected a kind of this version's catalogue")
    return decode(record)


def observe_by_an_older_version(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observes the run twice, by a version that a transition blocks."""
    with monkeypatch.context() as older:
        older.setattr("esper.folds.monitoring.cell.decode", lacking)
        for _ in range(2):
            with growing.observer() as observer:
                observer.turn(0.0)


class Clock:
    """A time that a test moves, in seconds after `start`."""

    def __init__(self, start: datetime) -> None:
        self.start = self.now = start

    def __call__(self) -> datetime:
        return self.now

    def passed_s(self) -> float:
        """The monotonic clock beside it."""
        return (self.now - self.start).total_seconds()

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
