"""Alerts that people have taken over, as an observer needs them: which are silent now, and which are to be told again."""

from collections.abc import Callable
from datetime import datetime

from esper.errors import EsperError
from esper.events import topics
from esper.events.codec import decode, decode_as
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertFiring
from esper.folds.monitoring.open_alerts import OpenAlerts, apply_change
from esper.history.trail import Acknowledgements, AlertKey, until_of
from esper.oona.directory import Directory
from esper.oona.observed import is_observed, observed_records


class SilencedAlerts:
    """The acknowledgements in the trail of a log. A trail that cannot be read silences nothing."""

    def __init__(self, directory: Directory, now: Callable[[], datetime], report: Callable[[str], None]) -> None:
        self._directory, self._now, self._report = directory, now, report
        self._acknowledgements = Acknowledgements(directory)
        self._told: set[tuple[AlertKey, str]] = set()
        self.refresh()

    def refresh(self) -> None:
        """Reads the trail where it has changed; an error is reported once for each change."""
        try:
            self._acknowledgements.refresh()
        except EsperError as error:
            self._report(f"no acknowledgement of an alert is in force: {error}")

    def silences(self, record: Record) -> bool:
        """True for a record of AlertFiring whose alert is acknowledged now."""
        if record.type != AlertFiring.KIND or not self._acknowledgements.known:
            return False
        return self._acknowledgements.in_force((record.run, decode_as(record, AlertFiring).fingerprint), self._now()) is not None

    def over(self) -> list[tuple[RunId, AlertFiring, datetime]]:
        """Each alert that still fires, was told before its acknowledgement ended and not since, with that end. Each is returned once."""
        found = []
        for key, acknowledged in self._acknowledgements.known.items():
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
