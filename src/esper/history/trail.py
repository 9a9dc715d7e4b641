"""The trail of a log, read: the holds of its runs that are in force, who took over an alert. Nothing is written.

The trail stands in the runs `audit:<machine>:<date>`. Those of several machines are merged by time, so their clocks must agree better than
people answer each other. A part of the trail that cannot be read is an error, for a hold may stand there.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from threading import Lock

from esper.errors import RuleError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.accountability import AlertAcknowledged, HoldReleased, RunHeld
from esper.events.kinds.run import RunFailed, RunFinished
from esper.events.topics import RUN, TRAIL
from esper.oona.contract import records_of
from esper.oona.daily_run import AUDIT
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE

AlertKey = tuple[RunId, str]
"""Run and fingerprint of an alert."""
Holds = tuple[tuple[Record, RunHeld], ...]


def holds_in_force(directory: Directory, on: date) -> dict[RunId, Holds]:
    """The runs that are held on the day `on` (UTC), each with its holds, oldest first.

    A hold is in force through its last day, unless the holds of its run were released after it. Raises LogError where a part of the trail
    cannot be read, DataError where this version does not understand one.
    """
    held: dict[RunId, Holds] = {}
    for record, event in _said(directory):
        if isinstance(event, HoldReleased):
            held.pop(event.about, None)
        elif isinstance(event, RunHeld) and (event.until is None or event.until >= on.isoformat()):  # Written alike, days sort as texts.
            held[event.about] = (*held.get(event.about, ()), (record, event))
    return held


def acknowledgements_of(directory: Directory) -> dict[AlertKey, AlertAcknowledged]:
    """The newest acknowledgement of every alert that was ever acknowledged, by its run and fingerprint. Raises as `holds_in_force` does."""
    return {(event.about, event.fingerprint): event for _, event in _said(directory) if isinstance(event, AlertAcknowledged)}


class Acknowledgements:
    """The newest acknowledgements of a log, `known` by alert; for any thread. A trail that cannot be read knows none."""

    def __init__(self, directory: Directory) -> None:
        self.known: Mapping[AlertKey, AlertAcknowledged] = {}
        self._directory, self._files, self._lock = directory, list[tuple[RunId, int, int]](), Lock()

    def refresh(self) -> None:
        """Reads the trail where it has changed. Raises as `holds_in_force` does, once for each change."""
        with self._lock:
            files = [(run, *_sizes(self._directory.path / run)) for run in trail_runs(self._directory)]
            if files != self._files:
                self._files, self.known = files, {}
                self.known = acknowledgements_of(self._directory)

    def in_force(self, key: AlertKey, now: datetime) -> AlertAcknowledged | None:
        """The acknowledgement of the alert `key` that silences it now."""
        found = self.known.get(key)
        return found if found is not None and now < until_of(found) else None


def _sizes(folder: Path) -> tuple[int, int]:
    first, second = (path.stat().st_size if path.exists() else 0 for path in (folder / RUN_FILE, folder / f"{RUN_FILE}-wal"))
    return first, second


def until_of(acknowledged: AlertAcknowledged) -> datetime:
    """The end of an acknowledgement."""
    return datetime.fromisoformat(acknowledged.until)


def _said(directory: Directory) -> Iterator[tuple[Record, Event]]:
    """The whole trail, oldest first."""
    found: list[Record] = []
    for name in trail_runs(directory):
        with directory.open(name) as log:
            found += records_of(log, frozenset({TRAIL}))
    for record in sorted(found, key=lambda one: (one.time, one.run, one.moment)):
        yield record, decode(record)


def trail_runs(directory: Directory) -> tuple[RunId, ...]:
    """The runs that hold the trail."""
    return tuple(name for name in directory.names(hidden=True) if name.startswith(f"{AUDIT}:") and directory.has_log(name))


def end_of(directory: Directory, run: RunId) -> tuple[Record, RunFinished | RunFailed]:
    """The end of `run`, which a sign-off is about, with its record. Raises RuleError for a run that has not ended, or goes on now."""
    with directory.open(run) as log:
        newest = log.last(1, frozenset({RUN}))
    live = directory.is_live(run)
    for record in newest:
        event = decode(record)
        if isinstance(event, RunFinished) or (isinstance(event, RunFailed) and not live):
            return record, event
    standing = "one that is trained now" if live else "one that was interrupted" if newest else "one that never began"
    raise RuleError(f"run {run}: expected a run that has finished or failed, got {standing}")
