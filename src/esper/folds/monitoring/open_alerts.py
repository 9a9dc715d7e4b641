"""The alerts that are pending or firing, folded from the records of `observability.alerts` of any number of runs, from an empty map on.

For every reader of that topic. A host of cells reads `AlertState.firing`, from which these records are derived.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal, NamedTuple

from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved

FAILED_FOR = timedelta(days=1)
"""Time after which nothing fires any more for a run that failed and was not resumed: nothing of its own can resolve it. Chosen."""
AlertStatus = Literal["pending", "firing", "resolved"]


class OpenAlert(NamedTuple):
    """An alert that is pending or firing, with the record and event of its last change."""

    record: Record
    event: AlertPending | AlertFiring

    @property
    def firing(self) -> bool:
        """True where it fires, False where it is pending."""
        return isinstance(self.event, AlertFiring)


OpenAlerts = Mapping[tuple[RunId, str], OpenAlert]
"""Open alerts by run and fingerprint."""


AlertChange = AlertPending | AlertFiring | AlertResolved


def status_of(event: AlertChange) -> AlertStatus:
    """The status of an alert after `event`."""
    return "pending" if isinstance(event, AlertPending) else "firing" if isinstance(event, AlertFiring) else "resolved"


def apply_change(state: OpenAlerts, record: Record, event: Event) -> OpenAlerts:
    """`state` after `record`, which holds `event`; the same object where it is no change of an alert."""
    match event:
        case AlertPending() | AlertFiring():
            return {**state, (record.run, event.fingerprint): OpenAlert(record, event)}
        case AlertResolved():
            return {key: alert for key, alert in state.items() if key != (record.run, event.fingerprint)}
        case _:
            return state
