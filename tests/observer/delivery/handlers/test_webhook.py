"""The webhook's body, as Alertmanager's receivers know it, and its signature as a receiver checks it."""

import json

from esper.observer.delivery.exchange import Answer
from esper.observer.delivery.handlers.secret import Secret
from esper.observer.delivery.handlers.signing import HEADER, verify
from esper.observer.delivery.handlers.webhook import body, webhook
from esper.observer.delivery.notices import linker, notice_of
from tests.observer.delivery.handlers.servers import Inbox, endpoint, http_server
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert


def test_the_body_is_alertmanagers_of_version_4_with_one_alert() -> None:
    notice = notice_of(alert(7), linker(base_url="https://nissa.example.org"))
    page = f"https://nissa.example.org/api/v1/runs/{RUN}/state?at=1234"
    labels = {
        "alertname": "loss-not-finite",
        "severity": "warning",
        "topic": "telemetry.training.steps",
        "run": RUN,
        "metric": "loss",
    }
    annotations = {"summary": "the loss is not a finite number", "moment": "1234", "command": f"esper show {RUN} --at 1234"}
    assert json.loads(body(notice, "team")) == {
        "version": "4",
        "groupKey": f"{RUN}/{7:016x}/2026-03-01T12:00:00.000250Z",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "team",
        "groupLabels": {"alertname": "loss-not-finite"},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": page,
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": annotations,
                "startsAt": "2026-03-01T12:00:00.000250Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": page,
                "fingerprint": f"{7:016x}",
            }
        ],
    }


def test_a_resolution_has_the_key_of_its_firing_and_an_end() -> None:
    firing = json.loads(body(notice_of(alert(7), LINK), "team"))
    resolved = json.loads(body(notice_of(alert(7, firing=False, at_s=90), LINK), "team"))
    assert resolved["groupKey"] == firing["groupKey"]
    assert (resolved["status"], resolved["alerts"][0]["status"]) == ("resolved", "resolved")
    assert resolved["alerts"][0]["endsAt"] == "2026-03-01T12:01:30.000250Z"
    assert resolved["alerts"][0]["startsAt"] == firing["alerts"][0]["startsAt"]


def test_a_receiver_can_check_who_sent_it() -> None:
    with http_server() as inbox:
        send = webhook("team", endpoint(inbox.port), Secret("hush-hush"))
        assert send([notice_of(alert(7), LINK)], BEGIN) == Answer(delivered=True)
    [got] = inbox.got
    assert verify(got.headers[HEADER], got.body, "hush-hush", BEGIN.timestamp())
    assert not verify(got.headers[HEADER], got.body, "another", BEGIN.timestamp())


def test_without_a_secret_nothing_is_signed() -> None:
    with http_server() as inbox:
        webhook("team", endpoint(inbox.port), None)([notice_of(alert(7), LINK)], BEGIN)
    assert HEADER not in inbox.got[0].headers


def test_the_secret_is_not_in_an_error_that_repeats_it() -> None:
    with http_server(inbox=Inbox(status=500, body=b"bad signature, expected one by hush-hush")) as inbox:
        answer = webhook("team", endpoint(inbox.port), Secret("hush-hush"))([notice_of(alert(7), LINK)], BEGIN)
    assert answer.error is not None
    assert answer.error.endswith("bad signature, expected one by ***")
