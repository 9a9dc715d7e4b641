"""Alertmanager: alerts by its API of version 2, sent again while they fire, each time with an end a few times further ahead.

So an alert of a process that died ends by itself, as Alertmanager's own clients do it, and one that it forgot comes back.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from esper.events.envelope import read_time, written_time
from esper.observer.delivery.exchange import Answer, Send
from esper.observer.delivery.handlers.http import Endpoint, post
from esper.observer.delivery.notices import Notice

PATH = "/api/v2/alerts"
ENDS_AHEAD = 4
"""The end stands so many times `resend_s` ahead: three lost messages in a row resolve nothing. Prometheus does the same."""

AT_ONCE = 100
"""Alerts in one request."""


def alerts_body(notices: Sequence[Notice], now: datetime, resend_s: float) -> bytes:
    """The JSON of `POST /api/v2/alerts`. What is over ends now or earlier, never before it began: Alertmanager refuses that."""
    return json.dumps([_alert(notice, now, resend_s) for notice in notices], ensure_ascii=False, allow_nan=False).encode()


def _alert(notice: Notice, now: datetime, resend_s: float) -> dict[str, object]:
    since = read_time(notice.since)
    ends = now + timedelta(seconds=ENDS_AHEAD * resend_s) if notice.ended is None else min(notice.ended, now)
    alert: dict[str, object] = {
        "labels": {_label(name): value for name, value in notice.labels.items() if value},
        "annotations": {_label(name): value for name, value in notice.annotations.items()} | {"key": notice.key},
        "startsAt": notice.since,
        "endsAt": written_time(max(ends, since)),
    }
    return alert if notice.link.url is None else alert | {"generatorURL": notice.link.url}


def _label(name: str) -> str:
    # Prometheus' data model: other names are refused, with all alerts of the request, by versions before 0.27.
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{name}" if name[:1].isdigit() or not name else name


def alertmanager(endpoint: Endpoint, resend_s: float) -> Send:
    """A sender of alerts to the API under the endpoint's path."""

    def send(notices: Sequence[Notice], now: datetime) -> Answer:
        for start in range(0, len(notices), AT_ONCE):
            answer = post(endpoint, alerts_body(notices[start : start + AT_ONCE], now, resend_s), {}, now)
            if not answer.delivered:
                return answer
        return Answer(delivered=True)

    return send
