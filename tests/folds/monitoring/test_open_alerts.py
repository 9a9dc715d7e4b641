"""The alerts that are pending or firing: each once, by run and fingerprint, until they are resolved."""

from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertPending
from esper.folds.monitoring.open_alerts import OpenAlerts, apply_change
from tests.folds.monitoring.streams import Host, TimedWriter, resources, spoken, watching

RULE = """
[[rule]]
name = "disk"
topic = "telemetry.system.resources"
metric = "disk_free_ratio"
below = 0.1
for = "30s"
severity = "critical"
"""


def changes(*frees: float) -> list[Record]:
    """The changes of the alert while so much of the disk is free, twenty seconds apart."""
    host = Host(watching(RULE)).take_all(spoken(TimedWriter(), [(20.0 * at, resources(free)) for at, free in enumerate(frees)]))
    return [record for record in host.derived if record.topic == "observability.alerts"]


def opened(records: list[Record]) -> OpenAlerts:
    """The open alerts after records."""
    state: OpenAlerts = {}
    for record in records:
        state = apply_change(state, record, decode(record))
    return state


def test_an_alert_is_open_from_pending_to_resolved() -> None:
    (pending,) = opened(changes(0.05)).values()
    assert (pending.firing, type(pending.event)) == (False, AlertPending)
    (firing,) = opened(changes(0.05, 0.05, 0.05)).values()
    assert firing.firing
    assert opened(changes(0.05, 0.05, 0.05, 0.9)) == {}


def test_alerts_of_the_same_fingerprint_in_two_runs_are_two() -> None:
    records = changes(0.05)
    state = opened([*records, *(record._replace(run=RunId("another")) for record in records)])
    assert len(state) == 2


def test_other_records_change_nothing() -> None:
    (cause,) = spoken(TimedWriter(), [(0.0, resources(0.05))])
    state = opened(changes(0.05))
    assert apply_change(state, cause, decode(cause)) is state
