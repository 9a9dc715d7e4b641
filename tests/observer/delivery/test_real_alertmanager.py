"""A real Alertmanager takes an alert, keeps it while it is sent again, and lets it go at its resolution."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from esper.events.codec import encode
from esper.events.envelope import written_time
from esper.observer.delivery.deliverer import Deliverer
from esper.observer.delivery.delivery_file import parse_delivery
from esper.observer.delivery.handlers import build_handlers, run_handler_tests
from esper.observer.delivery.notices import AlertRecord, linker
from tests.observer.delivery.conftest import RealAlertmanager
from tests.observer.delivery.made import RUN, alert
from tests.observer.delivery.servers import Inbox, http_server
from tests.observer.delivery.test_deliverer import Ledger

pytestmark = pytest.mark.whole


def clock() -> datetime:
    return datetime.now(UTC)


def of_now(made: AlertRecord, begun: datetime) -> AlertRecord:
    """The same alert at this machine's time: Alertmanager has a clock of its own."""
    event = made.event.model_copy(update={"since": written_time(begun)})
    return AlertRecord(made.record._replace(time=clock(), data=encode(event)), event)


@contextmanager
def delivering(url: str, ledger: Ledger, resend_s: float) -> Iterator[Deliverer]:
    """A deliverer to that Alertmanager."""
    text = f'[[handlers]]\nkind = "alertmanager"\nname = "alertmanager"\nurl = "{url}"\nresend_s = {resend_s}\n'
    handlers = build_handlers(parse_delivery(text, "delivery.toml"))
    link_to = linker(base_url="http://127.0.0.1:9090")
    deliverer = Deliverer(handlers, record=ledger.record, now=clock, link_to=link_to, lives=lambda _: True)
    deliverer.start()
    try:
        yield deliverer
    finally:
        deliverer.close(0.0)


def test_an_alert_arrives_and_ends_with_its_resolution(real_alertmanager: tuple[RealAlertmanager, int]) -> None:
    alertmanager, receiver = real_alertmanager
    ledger, begun = Ledger(), clock()
    with http_server(inbox=Inbox(port=receiver)) as inbox, delivering(alertmanager.url, ledger, 60.0) as deliverer:
        deliverer.offer(of_now(alert(7), begun).record)
        [active] = alertmanager.wait_for(1)
        assert active["labels"] == {
            "alertname": "loss-not-finite",
            "severity": "warning",
            "topic": "telemetry.training.steps",
            "run": RUN,
            "metric": "loss",
        }
        assert active["annotations"]["command"] == f"esper show {RUN} --at 1234"
        assert active["generatorURL"] == f"http://127.0.0.1:9090/api/v1/runs/{RUN}/state?at=1234"
        assert datetime.fromisoformat(active["startsAt"]).replace(microsecond=0) == begun.replace(microsecond=0)
        inbox.wait_for(1)
        deliverer.offer(of_now(alert(7, firing=False), begun).record)
        alertmanager.wait_for(0)
        inbox.wait_for(2)
        assert ledger.wait_for(2) == [("alertmanager", "delivered")] * 2
    statuses = [json.loads(got.body)["alerts"][0]["status"] for got in inbox.got]
    assert statuses == ["firing", "resolved"]


def test_what_is_sent_again_stays_and_what_is_not_ends_by_itself(real_alertmanager: tuple[RealAlertmanager, int]) -> None:
    alertmanager, _ = real_alertmanager
    ledger, begun = Ledger(), clock()
    with delivering(alertmanager.url, ledger, 1.0) as deliverer:
        deliverer.offer(of_now(alert(7), begun).record)
        [first] = alertmanager.wait_for(1)
        [later] = alertmanager.wait_until(lambda found: [alert["endsAt"] for alert in found] != [first["endsAt"]])
        assert later["fingerprint"] == first["fingerprint"]
        assert later["startsAt"] == first["startsAt"]
        assert later["endsAt"] > first["endsAt"]
    alertmanager.wait_for(0)


def test_a_trial_arrives(real_alertmanager: tuple[RealAlertmanager, int]) -> None:
    alertmanager, _ = real_alertmanager
    text = f'[[handlers]]\nkind = "alertmanager"\nname = "alertmanager"\nurl = "{alertmanager.url}"\n'
    [trial] = run_handler_tests(build_handlers(parse_delivery(text, "delivery.toml")))
    assert trial.answer.delivered
    [active] = alertmanager.wait_for(1)
    assert active["labels"] == {"alertname": "esper-test", "severity": "info", "handler": "alertmanager"}
