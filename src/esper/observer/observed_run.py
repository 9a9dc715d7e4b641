"""A run under observation: its monitor, its store, and the position in its log up to which it is derived."""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple, Self

from esper.errors import DataError
from esper.events import topics
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import FoldBlocked
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.oona.contract import START, Position, records_between
from esper.oona.directory import Directory
from esper.oona.follower import RunPage
from esper.oona.observed import Observed, SavedState, observed_records


class Clocks(NamedTuple):
    """The clocks of an observer: `now` for its own records, `passed_s` for how long nothing came."""

    now: Callable[[], datetime]
    passed_s: Callable[[], float]


class ObservedRun:
    """A run that is open. Methods return the derived records that are new, and raise LogError where they cannot be saved."""

    def __init__(self, monitor: RunMonitor, store: Observed, position: Position, clocks: Clocks) -> None:
        self.monitor = monitor
        self.store = store
        self.position = position
        self.saved_to: Position | None = None
        self.saved_at = time.monotonic()
        self.recovered: tuple[Record, ...] = ()
        """Records that were derived when the run was opened, from topics that were blocked."""
        self.was_free = False
        self.has_new = True
        self._clocks = clocks

    @classmethod
    def open(cls, directory: Directory, name: RunId, settings: MonitorSettings, clocks: Clocks, report: Callable[[str], None]) -> Self:
        """The run as its last observer saved it, with `settings` in force; topics that are blocked are tried again.

        A state of another version is reported, and folded again from the run's first record.
        """
        store = Observed(directory.path / name, name)
        try:
            saved = store.saved()
            monitor, state_to = _loaded(name, saved, settings, report)
            own = observed_records(directory.path / name, name, topics.OBSERVERS) if state_to == START else ()
            with directory.open(name) as log:
                monitor.fold(lambda: records_between(log, state_to, saved.derived_to), own)
                if monitor.settings != settings:
                    monitor.change(settings, records_between(log, START, saved.derived_to))
                blocked = frozenset(monitor.blocked) | ({topics.RUN} if monitor.unreadable else set())
                monitor.unreadable = False
                past = records_between(log, START, saved.derived_to) if blocked else ()
                again = [record for record in past if record.topic in blocked]
            run = cls(monitor, store, saved.derived_to, clocks)
            found = [one for record in again for one in monitor.take(record)]
            run.recovered = run.save((*found, *monitor.unblocked(blocked, clocks.now())), with_state=bool(blocked))
        except BaseException:
            store.close()
            raise
        return run

    def take(self, page: RunPage, *, state_every_s: float) -> tuple[Record, ...]:
        """Derives what follows from a page, and saves it."""
        monitor, found = self.monitor, list[Record]()
        if page.error is not None and not monitor.unreadable:  # Recorded once, however often a damaged file grows.
            found += monitor.own_record(FoldBlocked(topic=topics.RUN, sequence=0, reason=str(page.error)), self._clocks.now())
            monitor.unreadable = True
        elif page.error is None and monitor.unreadable:
            monitor.unreadable = False
            found += monitor.unblocked((topics.RUN,), self._clocks.now())
        for record in page.records:
            found += monitor.take(record)
        self.position, self.has_new = page.position, True
        if page.ended and monitor.ended:  # A run that was silent, and went on to its end since, is silent no more.
            found += self.judge_silence(free=False)
        # An own record's effect on the state cannot be folded again from the log alone.
        own = any(record.topic == topics.OBSERVERS for record in found)
        return self.save(found, with_state=own or page.ended or time.monotonic() >= self.saved_at + state_every_s)

    def judge_silence(self, *, free: bool) -> tuple[Record, ...]:
        """The records of a silence that began or ended by the clocks; not saved."""
        return self.monitor.judge_silence(self._clocks.now(), self._clocks.passed_s(), lock_free=free)

    def save(self, records: Iterable[Record], *, with_state: bool) -> tuple[Record, ...]:
        """Saves derived records with the position, and with the parts of the state that changed."""
        new = self.store.save(tuple(records), self.position, self.monitor.save() if with_state else None)
        if with_state:
            self.saved_at, self.saved_to = time.monotonic(), self.position
        return new

    def close(self) -> None:
        """Saves the state where it is behind, and closes the file."""
        try:
            if self.saved_to != self.position:
                self.save((), with_state=True)
        finally:
            self.store.close()


def _loaded(run: RunId, saved: SavedState, settings: MonitorSettings, report: Callable[[str], None]) -> tuple[RunMonitor, Position]:
    """The monitor as it was saved, with the position that it had come to; a new one, reported, where this version cannot read it."""
    try:
        if saved.parts:
            return RunMonitor.load(run, saved.parts), saved.state_to
    except DataError as error:
        report(f"{error}; folding its {saved.derived_to.records_since(START)} records again")
    return RunMonitor(run, settings), START
