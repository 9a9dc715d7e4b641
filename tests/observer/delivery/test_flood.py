"""Ten thousand alerts at once, through threads and a real receiver: the limit holds, and the record has every one of them."""

import json
from collections import Counter

import pytest

from esper.observer.delivery.deliverer import Deliverer
from esper.observer.delivery.delivery_file import parse_delivery
from esper.observer.delivery.handlers import build_handlers
from tests.observer.delivery.made import BEGIN, LINK, alert
from tests.observer.delivery.servers import HOST, http_server, raw_server, silent
from tests.observer.delivery.test_deliverer import Ledger

FLOOD = 10_000
TEAM = """
[[handlers]]
kind = "webhook"
name = "team"
url = "http://{host}:{port}"
rate_per_minute = {rate}
burst = 20
"""
HANGS = """
[[handlers]]
kind = "webhook"
name = "hangs"
url = "http://{host}:{port}"
timeout_s = 60
"""


@pytest.mark.whole
def test_a_flood_sends_no_more_than_the_limit_allows_and_loses_none_in_the_record() -> None:
    ledger = Ledger()
    with http_server() as inbox, raw_server(silent) as hanging:
        text = TEAM.format(host=HOST, port=inbox.port, rate=0.1) + HANGS.format(host=HOST, port=hanging)
        handlers = build_handlers(parse_delivery(text, "delivery.toml"))
        deliverer = Deliverer(handlers, record=ledger.record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True)
        deliverer.start()
        for number in range(FLOOD):
            deliverer.offer(alert(number).record)
        # Of the one that hangs, a burst of 30 waits without an outcome; all the others have one.
        ledger.wait_for(FLOOD + FLOOD - 30)
        deliverer.close(0.0)
    outcomes = Counter((event.handler, event.KIND) for _, event in ledger.outcomes)
    assert outcomes == {
        ("team", "esper.alert.notified.v1"): 20,
        ("team", "esper.alert.suppressed.v1"): FLOOD - 20,
        ("hangs", "esper.alert.suppressed.v1"): FLOOD - 30,
    }
    assert len({event.alert for _, event in ledger.outcomes if event.handler == "team"}) == FLOOD
    assert len(inbox.got) == 20


@pytest.mark.whole
def test_one_message_says_how_many_were_held_back() -> None:
    ledger = Ledger()
    with http_server() as inbox:
        text = TEAM.format(host=HOST, port=inbox.port, rate=6000)
        deliverer = Deliverer(
            build_handlers(parse_delivery(text, "delivery.toml")),
            record=ledger.record,
            now=lambda: BEGIN,
            link_to=LINK,
            lives=lambda _: True,
        )
        deliverer.start()
        for number in range(FLOOD):
            deliverer.offer(alert(number).record)
        deliverer.close(60.0)
    messages = [json.loads(got.body) for got in inbox.got]
    [told] = [message for message in messages if message["groupLabels"]["alertname"] == "esper-alerts-held-back"]
    held = Counter(event.KIND for _, event in ledger.outcomes)["esper.alert.suppressed.v1"]
    assert held + len(messages) - 1 == FLOOD
    assert told["commonAnnotations"]["summary"] == f"{held} alerts were held back by the rate limit of team: {held} warning"
