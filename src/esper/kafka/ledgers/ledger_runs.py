"""The runs of a ledger in memory: records are applied to them, and what follows waits here to be written. No I/O.

What cannot be applied again is urgent: its run is saved in the same transaction. That are the ledger's own records about a run, and a
topic that stopped, for another version might not stop there.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from esper.errors import DataError, LogError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.topics import DEAD_LETTER_SUFFIX
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.kafka.clients import Message
from esper.kafka.ledgers.ledger_states import HostedRun, Saved, SavedStates, Stop

_RUNS_A_COMMIT = 20


class Letter(NamedTuple):
    """A message of `topic` that is set aside as it came, because of `error`."""

    topic: str
    message: Message
    error: str


class LedgerRuns:
    """The runs that are not at rest, with `records` and `letters` that are derived and not written yet."""

    def __init__(self, states: SavedStates, settings: MonitorSettings, now: Callable[[], datetime]) -> None:
        self.records: list[Record] = []
        self.letters: list[Letter] = []
        self._states, self._settings, self._now = states, settings, now
        self._runs = states.runs()
        self._urgent: set[RunId] = set()

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def stops(self) -> dict[RunId, Mapping[str, Stop]]:
        """The topics that stopped, by run."""
        return {name: run.stopped for name, run in self._runs.items() if run.stopped}

    def take(self, record: Record, message: Message) -> None:
        """Applies the next record of its run. A fold that raises changes nothing."""
        name = record.run
        run = self._runs.get(name) or self._states.unpack(name)
        if run is None:
            run = HostedRun(RunMonitor(name, self._settings))
            self._own(name, run, run.monitor.started(self._now()))
        elif name not in self._runs:
            self._put_in_force(name, run)
        self._runs[name] = run
        self.records += self._taken(record, message, run, derived_to=0)

    def take_again(self, record: Record, message: Message, derived_to: int) -> None:
        """Applies a record from which everything that follows is written, up to `derived_to`; what stops its topic now is new.

        Raises LogError where no state of its run was saved.
        """
        run = self._runs.get(record.run) or self._states.unpack(record.run)
        if run is None:
            raise LogError(f"{message.topic}, offset {message.offset}: expected a state of run {record.run} in the changelog, got none")
        self._runs[record.run] = run
        was_stopped, letters = record.topic in run.stopped, len(self.letters)
        derived = self._taken(record, message, run, derived_to)
        del self.letters[letters:]
        if record.topic in run.stopped and not was_stopped:
            self.records += derived

    def block(self, record: Record, message: Message, reason: str, derived_to: int = 0) -> None:
        """Stops the topic of `record` there, for its run alone."""
        run = self._runs[record.run]
        self.records += run.monitor.block(record, reason)
        self._touch(run, message, record.topic)
        self._stop_where_blocked(record, message, run, derived_to)

    def begin(self) -> dict[RunId, Mapping[str, Stop]]:
        """Puts the present settings in force, and takes back every stop: they are returned, by run, for `try_again` and `end_trying`."""
        stopped = self.stops
        for name, run in self._runs.items():
            self._put_in_force(name, run)
            run.stopped = {}
        return stopped

    def try_again(self, record: Record, message: Message, stop: Stop) -> None:
        """Hands in a record at or behind a former stop of its topic: this version may understand what another did not."""
        run = self._runs[record.run]
        if record.topic in run.stopped:
            return
        derived_to = max(stop.derived_to, message.offset)
        try:
            derived = self._taken(record, message, run, derived_to)
        except Exception as error:
            if run.monitor.blocked.get(record.topic) == record.sequence:
                run.stopped[record.topic] = Stop(message.offset, derived_to)
            else:
                self.block(record, message, raised_at(record, error), derived_to)
            return
        if message.offset >= stop.derived_to or record.topic in run.stopped:
            self.records += derived

    def end_trying(self, stopped: Mapping[RunId, Mapping[str, Stop]]) -> None:
        """Records which runs are stopped no more. A topic whose record is not there any more stays as it was."""
        for name, stops in stopped.items():
            run = self._runs[name]
            run.stopped = {topic: stop for topic, stop in stops.items() if topic in run.monitor.blocked} | run.stopped
            self._own(name, run, run.monitor.unblocked(stops, self._now()))

    def judge_silence(self, now: datetime, passed_s: float) -> None:
        """Records the silence of trainings that began or ended as of `now`, when the monotonic clock showed `passed_s`."""
        for name, run in self._runs.items():
            self._own(name, run, run.monitor.judge_silence(now, passed_s, lock_free=None))

    def due(self, state_every_s: float, pack_after_s: float) -> tuple[set[RunId], list[RunId]]:
        """The runs to save and to pack now, at most 20 of those that are not urgent."""
        now = time.monotonic()
        aged = [name for name, run in self._runs.items() if run.since is not None and now >= run.since + state_every_s]
        at_rest = [name for name, run in self._runs.items() if run.can_be_packed(pack_after_s, now)]
        return self._urgent | set(aged[:_RUNS_A_COMMIT]), at_rest[:_RUNS_A_COMMIT]

    def unsaved(self) -> set[RunId]:
        """The runs whose saved state lacks something."""
        return self._urgent | {name for name, run in self._runs.items() if run.since is not None}

    def save(self, saved: Iterable[RunId], packed: Iterable[RunId]) -> Saved:
        """The states of `saved` and `packed`, for a transaction that is to hold them."""
        states = [state for name in saved for state in self._states.save(name, self._runs[name])]
        states += [state for name in packed for state in self._states.pack(name, self._runs.pop(name))]
        self._urgent -= set(saved)
        return states

    def refold_from(self, positions: Mapping[str, int]) -> dict[str, int]:
        """The offset by topic before which every record is in a saved state."""
        found = dict(positions)
        for run in self._runs.values():
            for topic, offset in run.dirty.items():
                found[topic] = min(found[topic], offset)
        return found

    def _taken(self, record: Record, message: Message, run: HostedRun, derived_to: int) -> list[Record]:
        """The records derived from `record`, a dead letter among them set aside as it came."""
        if record.topic in run.stopped and message.offset >= run.stopped[record.topic].offset:
            return []
        found = run.monitor.take(record)
        self._touch(run, message, record.topic)
        self._stop_where_blocked(record, message, run, derived_to)
        derived = [one for one in found if not one.topic.endswith(DEAD_LETTER_SUFFIX)]
        if len(derived) < len(found):
            self.letters.append(Letter(record.topic, message, _undecodable(record)))
        return derived

    def _touch(self, run: HostedRun, message: Message, topic: str) -> None:
        run.dirty.setdefault(topic, message.offset)
        run.applied_at = time.monotonic()
        run.since = run.since or run.applied_at

    def _stop_where_blocked(self, record: Record, message: Message, run: HostedRun, derived_to: int) -> None:
        if record.topic in run.monitor.blocked and record.topic not in run.stopped:
            run.stopped[record.topic] = Stop(message.offset, max(message.offset, derived_to))
            self._urgent.add(record.run)

    def _own(self, name: RunId, run: HostedRun, records: Iterable[Record]) -> None:
        """Takes the ledger's own records about a run."""
        found = list(records)
        if found:
            self.records += found
            self._urgent.add(name)
            run.since = run.since or time.monotonic()

    def _put_in_force(self, name: RunId, run: HostedRun) -> None:
        """Puts the present settings in force from the run's next record on."""
        if run.monitor.settings != self._settings:
            run.monitor.change(self._settings, ())
            self._own(name, run, run.monitor.started(self._now()))


def raised_at(record: Record, error: Exception) -> str:
    """An error of a fold in words."""
    return f"a fold raised {type(error).__name__} at {record.topic}, sequence {record.sequence}: {error}"


def _undecodable(record: Record) -> str:
    """The reason why `record` cannot be decoded."""
    try:
        decode(record)
    except DataError as error:
        return str(error)
    raise AssertionError("a dead letter cannot be decoded")
