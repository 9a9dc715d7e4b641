"""The observer: follows a directory, derives from each run's records, saves the derived records beside the run, and has alerts delivered.

One process at a time holds the observer's lock and does this (`leader`). Derived records are saved in one transaction with the position
that they were derived to; the state is saved with them now and then. A killed observer's successor loads the state, folds up to that
position without writing, and goes on: the derived records are the same, whenever it was killed. Only silence is judged by a clock.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Protocol, Self

from esper.errors import EsperError
from esper.events import topics
from esper.events.codec import decode, encode
from esper.events.digests import to_json
from esper.events.envelope import Record, RunId, is_training
from esper.events.kinds.observability import (
    AlertFiring,
    AlertNotified,
    AlertResolved,
    AlertSuppressed,
    ObserverStarted,
)
from esper.folds.monitoring.run_monitor import own_id
from esper.folds.monitoring.topic import RULE_VERSIONS, MonitorSettings
from esper.observer.observed_run import ObservedRun
from esper.oona import seal
from esper.oona.contract import START, Position
from esper.oona.directory import Directory
from esper.oona.follower import Follower, RunPage
from esper.oona.observed import Observed, is_observed, is_settled, observed_records

Outcome = AlertNotified | AlertSuppressed
Outcomes = SimpleQueue[tuple[Record, Outcome]]
"""Each alert's record, and an outcome of its delivery."""

_OFFERED = frozenset({AlertFiring.KIND, AlertResolved.KIND})
_OUTCOMES = frozenset({AlertNotified.KIND, AlertSuppressed.KIND})
_LAST_DELIVERY_S = 5.0


class Delivers(Protocol):
    """The delivery of alerts (`esper.observer.delivery`). Every outcome comes back through the observer's queue."""

    def start(self) -> None: ...
    def offer(self, alert: Record) -> None: ...
    def settled(self, outcome: Record) -> None: ...
    def outstanding(self, run: RunId | None = None) -> int: ...
    def close(self, timeout_s: float) -> None: ...


@dataclass(frozen=True)
class ObserverSettings:
    """Settings of an observer."""

    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    state_every_s: float = 2.0
    """Time between two saved states of a run: a successor folds at most as much again."""
    tick_s: float = 1.0
    """Time between two judgements of silence."""
    fresh_s: float = 600.0
    """Greatest age of a sealed run that was never observed and is observed from its start."""


class Observer:
    """Observes `directory`. One thread calls `turn` again and again, then `close`, or uses it in a `with` statement.

    The caller holds the observer's lock. `deliverer` is started here, after it has read the alerts and outcomes of the runs; its outcomes
    come through `outcomes`, from any thread. An error of one run goes to `report` and leaves the others alone.
    """

    def __init__(
        self,
        directory: Directory,
        settings: ObserverSettings,
        *,
        now: Callable[[], datetime],
        deliverer: Delivers | None = None,
        outcomes: Outcomes | None = None,
        from_start: bool = False,
        report: Callable[[str], None],
    ) -> None:
        self._directory, self._settings, self._now, self._report = directory, settings, now, report
        self._deliverer, self._outcomes = deliverer, outcomes or SimpleQueue()
        self._runs: dict[RunId, ObservedRun] = {}
        self._parked: set[RunId] = set()
        self._unsettled: set[RunId] = set()
        self._troubled: set[RunId] = set()
        self._to_note: dict[RunId, list[tuple[Record, Outcome]]] = {}
        self._introduced: set[RunId] = set()
        self._ticked_at = -settings.tick_s
        positions = self._positions()
        # Sealed and observed to their end, but not settled: the observer was killed in between.
        self._to_settle = {
            run for run in positions if is_observed(directory.path / run) and seal.read_mark(directory.path / run) is not None
        }
        self._follower = Follower(directory, positions, from_start=from_start)
        if deliverer is not None:
            self._hand_over(positions)
            deliverer.start()

    @property
    def live(self) -> frozenset[RunId]:
        """The trainings that are being written."""
        return frozenset(run for run in self._follower.live if is_training(run))

    @property
    def idle(self) -> bool:
        """True when no run is being written and no alert is undelivered."""
        return not self.live and (self._deliverer is None or not self._deliverer.outstanding())

    def turn(self, timeout_s: float) -> int:
        """Waits at most `timeout_s` for records and observes them; the number of records."""
        pages = self._follower.poll(timeout_s)
        for page in pages:
            with self._guarded(page.run):
                self._take(page)
            self._note_outcomes()
        self._note_outcomes()
        if time.monotonic() >= self._ticked_at + self._settings.tick_s:
            self._tick()
        return sum(len(page.records) for page in pages)

    def close(self) -> None:
        """Delivers for a few more seconds, saves all states and closes every file."""
        if self._deliverer is not None:
            self._deliverer.close(_LAST_DELIVERY_S)
        self._note_outcomes()
        for run in list(self._runs):
            with self._guarded(run):
                self._park(run)
        self._follower.close()

    def _positions(self) -> dict[RunId, Position]:
        """The positions to go on from: the start for runs that were sealed lately and never observed."""
        positions: dict[RunId, Position] = {}
        for run in self._directory.names(hidden=True):
            folder = self._directory.path / run
            if is_observed(folder):
                if not (is_settled(folder) and seal.read_mark(folder) is not None):
                    with self._guarded(run):
                        positions[run] = _derived_to(folder, run)
            elif seal.sealed_ago_s(folder, self._now()) <= self._settings.fresh_s:
                positions[run] = START
        return positions

    def _hand_over(self, runs: Iterable[RunId]) -> None:
        """Gives the deliverer the alerts that were derived before, and their outcomes."""
        assert self._deliverer is not None
        for run in runs:
            with self._guarded(run):
                for record in observed_records(self._directory.path / run, run, topics.ALERTS):
                    if record.type in _OFFERED:
                        self._deliverer.offer(record)
                    elif record.type in _OUTCOMES:
                        self._deliverer.settled(record)

    def _take(self, page: RunPage) -> None:
        run = self._open(page.run)
        if page.error is not None and not run.monitor.unreadable:
            self._report(str(page.error))
        self._offer(run.take(page, state_every_s=self._settings.state_every_s))
        if page.ended:
            self._park(page.run)

    def _offer(self, new: Iterable[Record]) -> None:
        if self._deliverer is not None:
            for record in new:
                if record.type in _OFFERED:
                    self._deliverer.offer(record)

    def _open(self, name: RunId) -> ObservedRun:
        run = self._runs.get(name)
        if run is None:
            report = self._report if name not in self._troubled else _silent
            run = self._runs[name] = ObservedRun.open(self._directory, name, self._settings.monitor, self._now, report)
            self._offer(run.recovered)
            self._parked.discard(name)
            self._unsettled.discard(name)
            if name not in self._introduced:
                self._introduced.add(name)
                self._offer(run.save(run.monitor.own_record(_started(self._settings.monitor), self._now()), with_state=True))
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
        if self._deliverer is not None and self._deliverer.outstanding(name):
            return
        # All outcomes are in the queue by now. They are written first: a settled run is not opened again.
        self._note_outcomes()
        if name in self._to_note:
            return
        self._unsettled.discard(name)
        if self._directory.seal_finished(name):
            Observed(self._directory.path / name, name).seal()

    def _note_outcomes(self) -> None:
        """Writes the outcomes of alerts; those that cannot be written are kept for the next time."""
        while True:
            try:
                alert, event = self._outcomes.get_nowait()
            except Empty:
                break
            self._to_note.setdefault(alert.run, []).append((alert, event))
        for name in list(self._to_note):
            with self._guarded(name):
                self._note(name, self._to_note[name])
                del self._to_note[name]

    def _note(self, name: RunId, noted: Iterable[tuple[Record, Outcome]]) -> None:
        run = self._runs.get(name)
        observed = Observed(self._directory.path / name, name) if run is None else run.store
        try:
            failures = [text for alert, event in noted if (text := _failure(alert, event)) is not None]
            observed.save([self._outcome(alert, event) for alert, event in noted])
            for text in failures:
                self._report(text)
        finally:
            if run is None:
                observed.close()
                self._unsettled.add(name)

    def _outcome(self, alert: Record, event: Outcome) -> Record:
        """The record of an outcome: caused by its alert, at the same place."""
        now, data = self._now(), encode(event)
        identity = own_id(alert.id, event.KIND, now, data)
        return alert._replace(id=identity, type=event.KIND, time=now, cause=alert.id, generation=alert.generation + 1, data=data)

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
        live = self._follower.live
        again, self._to_settle = self._troubled | self._to_settle, set()
        for name in again | (self._follower.following - self._runs.keys() - self._parked):
            with self._guarded(name):
                self._begin_again(name)
        # Only a run that is read to its end can be silent.
        for name in self._runs.keys() - self._follower.behind:
            with self._guarded(name):
                self._judge(name, free=name not in live)
        for name in list(self._unsettled):
            with self._guarded(name):
                self._settle(name)

    def _begin_again(self, name: RunId) -> None:
        self._follower.go_back(name, self._open(name).position)

    def _judge(self, name: RunId, *, free: bool) -> None:
        """A free lock counts once the run was read again after it: a run that ended in between is not dead."""
        run = self._runs[name]
        gone = free and run.was_free and not run.came
        run.was_free, run.came = free, False
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
            run = self._runs.pop(name, None)
            if run is not None:
                run.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _failure(alert: Record, event: Outcome) -> str | None:
    """The line for `observer.log` about an alert that a handler failed to deliver; None where it did not fail."""
    if not isinstance(event, AlertNotified) or event.outcome != "failed":
        return None
    told = decode(alert)
    assert isinstance(told, AlertFiring | AlertResolved), "only these are delivered"
    state = "firing" if isinstance(told, AlertFiring) else "resolved"
    return f"run {alert.run}: handler {event.handler} did not deliver {told.rule} ({state}): {event.error}"


def _derived_to(folder: Path, run: RunId) -> Position:
    with Observed(folder, run) as observed:
        return observed.derived_to()


def _started(settings: MonitorSettings) -> ObserverStarted:
    written = to_json(settings)
    assert isinstance(written, dict), "settings are written as an object"
    return ObserverStarted(rules=dict(RULE_VERSIONS), settings=written, settings_digest=settings.settings_digest)


def _silent(_problem: str) -> None:
    """Reports nothing."""
