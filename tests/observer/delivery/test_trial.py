"""`esper alerts test`: one message through each handler, and what came of it."""

import json
from collections.abc import Sequence
from datetime import datetime

from esper.observer.delivery.exchange import Answer, Handler
from esper.observer.delivery.handlers.build import build_handlers
from esper.observer.delivery.limits import Limits
from esper.observer.delivery.notices import Notice
from esper.observer.delivery.settings import parse_delivery
from esper.observer.delivery.trial import try_out
from tests.observer.delivery.handlers.servers import HOST, Inbox, http_server
from tests.observer.delivery.made import BEGIN


def test_every_handler_is_tried_whatever_its_severity_and_the_others() -> None:
    with http_server() as team, http_server(inbox=Inbox(status=500)) as broken:
        text = "".join(
            f'[[handlers]]\nkind = "webhook"\nname = "{name}"\nurl = "http://{HOST}:{inbox.port}"\nseverity = "critical"\n'
            for name, inbox in (("broken", broken), ("team", team))
        )
        trials = list(try_out(build_handlers(parse_delivery(text, "f")), lambda: BEGIN))
    assert [(trial.handler, trial.answer.delivered) for trial in trials] == [("broken", False), ("team", True)]
    assert trials[0].answer.error == f"expected status 2xx from {HOST}:{broken.port}, got 500"
    assert all(trial.took_s >= 0 for trial in trials)
    [got] = team.got
    [alert] = json.loads(got.body)["alerts"]
    assert (alert["labels"]["alertname"], alert["labels"]["handler"]) == ("esper-test", "team")


def test_a_handler_that_breaks_is_told_of_like_any_other() -> None:
    def broken(notices: Sequence[Notice], now: datetime) -> Answer:
        raise KeyError(f"{notices} {now}")

    [trial] = try_out([Handler("broken", Limits(), broken)], lambda: BEGIN)
    assert trial.answer == Answer(delivered=False, final=True, error="the handler broke: KeyError")
