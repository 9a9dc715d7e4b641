"""Alerts that people have taken over, as an observer needs them: which are silent now, and which are to be told again."""

from collections.abc import Callable, Mapping
from datetime import datetime

from esper.errors import EsperError
from esper.events import topics
from esper.events.codec import decode, decode_as
from esper.events.envelope import Record, RunId
from esper.events.kinds.accountability import AlertAcknowledged
from esper.events.kinds.observability import AlertFiring
from esper.folds.monitoring.open_alerts import OpenAlerts, apply_change
from esper.history.trail import AlertKey, acknowledgements_of, trail_runs, until_of
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE
from esper.oona.observed import is_observed, observed_records


class Acknowledgements:
    """The acknowledgements in the trail of a log, read again whenever it grew. A trail that cannot be read silences nothing."""

    def __init__(self, directory: Directory, now: Callable[[], datetime], report: Callable[[str], None]) -> None:
        self._directory, self._now, self._report = directory, now, report
        self._known: Mapping[AlertKey, AlertAcknowledged] = {}
        self._told: set[tuple[AlertKey, str]] = set()
        self._files: object = None
        self.refresh()

    def refresh(self) -> None:
        """Reads the trail where it has changed; an error is reported once for each change."""
        files = [(run, *_size(self._directory, run)) for run in trail_runs(self._directory)]
        if files == self._files:
            return
        self._files = files
        try:
            self._known = acknowledgements_of(self._directory)
        except EsperError as error:
            self._known = {}
            self._report(f"no acknowledgement of an alert is in force: {error}")

    def silences(self, record: Record) -> bool:
        """True for a record of AlertFiring whose alert is acknowledged now."""
        if record.type != AlertFiring.KIND or not self._known:
            return False
        acknowledged = self._known.get((record.run, decode_as(record, AlertFiring).fingerprint))
        return acknowledged is not None and self._now() < until_of(acknowledged)

    def over(self) -> list[tuple[RunId, AlertFiring, datetime]]:
        """Each alert that still fires, was told before its acknowledgement ended and not since, with that end. Each is returned once."""
        found = []
        for key, acknowledged in self._known.items():
            ended = until_of(acknowledged)
            if ended <= self._now() and (key, acknowledged.until) not in self._told:
                self._told.add((key, acknowledged.until))
                alert = _firing(self._directory, key[0]).get(key)
                if alert is not None and isinstance(alert.event, AlertFiring) and alert.record.time < ended:
                    found.append((key[0], alert.event, ended))
        return found


def _firing(directory: Directory, run: RunId) -> OpenAlerts:
    state: OpenAlerts = {}
    if is_observed(directory.path / run):
        for record in observed_records(directory.path / run, run, topics.ALERTS):
            state = apply_change(state, record, decode(record))
    return state


def _size(directory: Directory, run: RunId) -> tuple[int, int]:
    sizes = (
        path.stat().st_size if path.exists() else 0 for path in (directory.path / run / name for name in (RUN_FILE, f"{RUN_FILE}-wal"))
    )
    first, second = sizes
    return first, second
