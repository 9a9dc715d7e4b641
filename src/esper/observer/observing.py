"""The observer: follows a directory, derives from each run's records, saves the derived records beside the run, and has alerts delivered.

Derived records are saved in one transaction with the position that they were derived to; the state is saved with them at times. A killed
observer's successor loads the state, folds up to that position without writing, and goes on: the derived records are the same, whenever it
was killed. Only silence is judged by a clock: that of the time that passes (`passed_s`), which nobody sets.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

from esper.errors import EsperError
from esper.events import topics
from esper.events.envelope import Record, RunId, is_training
from esper.events.kinds.observability import AlertFiring, AlertNotified, AlertResolved, AlertSuppressed
from esper.folds.monitoring.derive import MonitorSettings
from esper.observer.acknowledged import SilencedAlerts
from esper.observer.delivery.deliverer import Deliverer, Recorder
from esper.observer.delivery.outbox import AlertOutcome, failure_of, outcome_record
from esper.observer.observed_run import Clocks, ObservedRun
from esper.oona.contract import START, Position
from esper.oona.directory import Directory
from esper.oona.file import read_mark, sealed_ago_s
from esper.oona.follower import Follower, RunPage, unchanged_for_s
from esper.oona.observed import Observed, is_observed, is_settled, observed_records

_OFFERED = frozenset({AlertFiring.KIND, AlertResolved.KIND})
_OUTCOMES = frozenset({AlertNotified.KIND, AlertSuppressed.KIND})
_LAST_DELIVERY_S = 5.0


@dataclass(frozen=True)
class ObserverSettings:
    """Settings of an observer."""

    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    state_every_s: float = 2.0
    """Time between two saved states of a run: a successor folds at most as much again."""
    tick_s: float = 1.0
    """Time between two judgements of silence."""
    old_s: float = 86_400.0
    """Age of the last change of a run that no process writes from which on the run is left alone until it changes."""
    fresh_s: float = 600.0
    """Greatest age of a sealed run that was never observed and is observed from its start."""


class Observer:
    """Observes `directory`. One thread calls `turn` again and again, then `close`, or uses it in a `with` statement.

    The caller holds the observer's lock. `make_deliverer` takes `record`; its deliverer is started here, after it has read the alerts and
    outcomes of the runs. An error of one run goes to `report` and leaves the others alone.
    """

    def __init__(
        self,
        directory: Directory,
        settings: ObserverSettings,
        *,
        now: Callable[[], datetime],
        passed_s: Callable[[], float] = time.monotonic,
        make_deliverer: Callable[[Recorder], Deliverer] | None = None,
        from_start: bool = False,
        report: Callable[[str], None],
    ) -> None:
        self._directory, self._settings, self._now, self._report = directory, settings, now, report
        self._clocks = Clocks(now, passed_s)
        self._deliverer = None if make_deliverer is None else make_deliverer(self.record)
        self._runs: dict[RunId, ObservedRun] = {}
        self._parked: set[RunId] = set()
        self._at_rest: set[RunId] = set()
        self._unsettled: set[RunId] = set()
        self._troubled: set[RunId] = set()
        self._introduced: set[RunId] = set()
        self._to_settle: set[RunId] = set()
        self._sealer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esper-sealing")
        self._sealing: dict[RunId, Future[bool]] = {}
        self._writing = threading.Lock()
        self._closed = False
        self._unwritten: dict[RunId, list[AlertOutcome]] = {}
        self._ticked_at = -settings.tick_s
        self._silenced = SilencedAlerts(directory, now, report)
        positions = self._positions(from_start=from_start)
        self._follower = Follower(directory, positions, from_start=from_start, at_rest=self._at_rest)
        self._parked |= self._at_rest
        if self._deliverer is not None:
            self._hand_over(self._deliverer, positions)
            self._deliverer.start()

    @property
    def idle(self) -> bool:
        """True when no training is being written and no alert is undelivered."""
        return not any(map(is_training, self._follower.live)) and (self._deliverer is None or not self._deliverer.outstanding())

    def turn(self, timeout_s: float) -> int:
        """Waits at most `timeout_s` for records and observes them; the number of records."""
        pages = self._follower.poll(timeout_s)
        for page in pages:
            with self._guarded(page.run):
                self._take(page)
        self._write_again()
        if time.monotonic() >= self._ticked_at + self._settings.tick_s:
            self._tick()
        return sum(len(page.records) for page in pages)

    def close(self) -> None:
        """Delivers for a few more seconds, saves all states and closes every file."""
        if self._deliverer is not None:
            self._deliverer.close(_LAST_DELIVERY_S)
        self._write_again()
        self._sealer.shutdown(cancel_futures=True)
        with self._writing:
            self._closed = True
        for run in list(self._runs):
            with self._guarded(run):
                self._park(run)
        self._follower.close()

    def record(self, outcomes: Iterable[AlertOutcome]) -> None:
        """Writes outcomes beside their runs, from any thread. Those that cannot be written are kept, and tried again every turn.

        After `close` it writes nothing: another observer may have the files.
        """
        with self._writing:
            if self._closed:
                return
            for outcome in outcomes:
                self._unwritten.setdefault(outcome.alert.run, []).append(outcome)
            for name in list(self._unwritten):
                with suppress(EsperError):  # The next turn reports it.
                    self._write_outcomes(name)

    def _positions(self, *, from_start: bool) -> dict[RunId, Position]:
        """The positions to go on from: the start for runs that were sealed lately and never observed. Notes the runs at rest.

        Those are old runs that did not end: there may be any number of them, and none is opened.
        """
        positions: dict[RunId, Position] = {}
        for run in self._directory.names(hidden=True):
            folder = self._directory.path / run
            is_sealed = read_mark(folder) is not None
            is_old = not (is_sealed or from_start) and unchanged_for_s(folder) > self._settings.old_s
            if is_old and not self._directory.is_live(run):
                self._at_rest.add(run)
            elif is_observed(folder) and not (is_sealed and is_settled(folder)):
                with self._guarded(run), Observed(folder, run) as store:
                    positions[run] = store.derived_to()
                    if is_sealed:  # The observer was killed before it could settle the run.
                        self._to_settle.add(run)
            elif not is_observed(folder) and sealed_ago_s(folder, self._now()) <= self._settings.fresh_s:
                positions[run] = START
        return positions

    def _hand_over(self, deliverer: Deliverer, runs: Iterable[RunId]) -> None:
        """Gives the deliverer the alerts that were derived before, and their outcomes."""
        for run in runs:
            with self._guarded(run):
                records = observed_records(self._directory.path / run, run, topics.ALERTS)
                offered = []
                for record in records:
                    if record.type in _OFFERED:
                        offered.append(record)
                    elif record.type in _OUTCOMES:
                        deliverer.settled(record)
                self._deliver(deliverer, offered)

    def _take(self, page: RunPage) -> None:
        run = self._open(page.run)
        if page.run in self._at_rest:  # It changed, and goes on from where it was observed.
            self._at_rest.discard(page.run)
            self._follower.go_back(page.run, run.position)
            return
        if page.error is not None and not run.monitor.unreadable:
            self._report(str(page.error))
        self._offer(run.take(page, state_every_s=self._settings.state_every_s))
        if page.ended:
            self._park(page.run)

    def _offer(self, new: Iterable[Record]) -> None:
        if self._deliverer is not None:
            self._deliver(self._deliverer, [record for record in new if record.type in _OFFERED])

    def _deliver(self, deliverer: Deliverer, alerts: Iterable[Record]) -> None:
        for record in alerts:
            if self._silenced.silences(record):
                deliverer.hold(record)
            else:
                deliverer.offer(record)

    def _tell_again(self) -> None:
        """Records anew that alerts fire whose acknowledgement is over, so that they are delivered again."""
        self._silenced.refresh()
        for name, event, ended in self._silenced.over():
            with self._guarded(name):
                run = self._open(name)
                self._offer(run.save(run.monitor.own_record(event, ended), with_state=True))

    def _open(self, name: RunId) -> ObservedRun:
        if name in self._runs:
            return self._runs[name]
        report = self._report if name not in self._troubled else lambda _: None
        run = self._runs[name] = ObservedRun.open(self._directory, name, self._settings.monitor, self._clocks, report)
        self._offer(run.recovered)
        self._parked.discard(name)
        self._unsettled.discard(name)
        if name not in self._introduced:
            self._introduced.add(name)
            self._offer(run.save(run.monitor.started(self._now()), with_state=True))
        return run

    def _park(self, name: RunId) -> None:
        """Saves and closes a run that ended, that no process writes, or because the observer leaves. More records open it again."""
        run = self._runs.pop(name)
        run.close()
        self._parked.add(name)
        if not run.monitor.firing:
            self._unsettled.add(name)

    def _settle(self, name: RunId) -> None:
        """Seals a finished run that its writer could not seal, and its observed file once its alerts are resolved and delivered."""
        if self._deliverer is not None and (self._deliverer.outstanding(name) or name in self._unwritten):
            return
        sealed = read_mark(self._directory.path / name) is not None or self._sealed_beside(name)
        if sealed is None:
            return
        self._unsettled.discard(name)
        if sealed:
            Observed(self._directory.path / name, name).seal()

    def _sealed_beside(self, name: RunId) -> bool | None:
        """True once the run is sealed, on a thread of its own, for all of it is checked; None until that thread has answered."""
        if name not in self._sealing:
            self._sealing[name] = self._sealer.submit(self._directory.seal_finished, name)
        if not self._sealing[name].done():
            return None
        return self._sealing.pop(name).result()

    def _write_again(self) -> None:
        for name in list(self._unwritten):
            with self._guarded(name), self._writing:
                self._write_outcomes(name)

    def _write_outcomes(self, name: RunId) -> None:
        """Writes the outcomes of one run, each caused by its alert and at the same place; failed deliveries are reported."""
        outcomes = self._unwritten.get(name, [])
        with Observed(self._directory.path / name, name) as store:
            store.save([outcome_record(outcome, self._now()) for outcome in outcomes])
        self._unwritten.pop(name, None)
        for failure in filter(None, map(failure_of, outcomes)):
            self._report(failure)

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
        live = self._follower.live
        again, self._to_settle = self._troubled | self._to_settle, set()
        for name in again | (self._follower.following - self._runs.keys() - self._parked):
            with self._guarded(name):
                self._follower.go_back(name, self._open(name).position)
        # Only a run that is read to its end can be silent.
        for name in self._runs.keys() - self._follower.behind:
            with self._guarded(name):
                self._judge(name, free=name not in live)
        self._tell_again()
        for name in list(self._unsettled):
            with self._guarded(name):
                self._settle(name)

    def _judge(self, name: RunId, *, free: bool) -> None:
        """A free lock counts once the run was read again after it: a run that ended in between is not dead."""
        run = self._runs[name]
        gone = free and run.was_free and not run.has_new
        run.was_free, run.has_new = free, False
        if found := run.judge_silence(free=gone):
            self._offer(run.save(found, with_state=True))
        if gone and (run.monitor.ended or not is_training(name) or run.monitor.silence.silent == "dead"):
            self._park(name)

    @contextmanager
    def _guarded(self, name: RunId) -> Iterator[None]:
        """Within, an error of one run is reported once, and the run opened again from its saved state, until that succeeds."""
        try:
            yield
            self._troubled.discard(name)
        except EsperError as error:
            if name not in self._troubled:
                self._report(str(error))
            self._troubled.add(name)
            if (run := self._runs.pop(name, None)) is not None:
                run.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
