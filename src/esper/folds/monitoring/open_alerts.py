"""The alerts that are pending or firing, folded from AlertPending, AlertFiring and AlertResolved records: the one place that counts them.

For every reader of `observability.alerts`: the history's list, the service's metrics and API. A fold over the records of any number of
runs: `open_alerts = step(open_alerts, record, event)`, from an empty map. (A host of cells reads `AlertState.firing`, where they come
from.)
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved

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


def step(state: OpenAlerts, record: Record, event: Event) -> OpenAlerts:
    """`state` after `record`, which holds `event`; the same object where it is no change of an alert."""
    match event:
        case AlertPending() | AlertFiring():
            return {**state, (record.run, event.fingerprint): OpenAlert(record, event)}
        case AlertResolved():
            return {key: alert for key, alert in state.items() if key != (record.run, event.fingerprint)}
        case _:
            return state
