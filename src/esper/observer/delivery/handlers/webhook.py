"""A webhook: Alertmanager's body of version 4 with one alert in it, so that whatever takes Alertmanager's webhooks takes Esper's."""

import json
from collections.abc import Sequence
from datetime import datetime

from esper.events.envelope import written_time
from esper.observer.delivery.exchange import Answer, Send
from esper.observer.delivery.handlers import signing
from esper.observer.delivery.handlers.http import Endpoint, post
from esper.observer.delivery.handlers.secret import Secret
from esper.observer.delivery.notices import Notice

_NOT_ENDED = "0001-01-01T00:00:00Z"  # What Alertmanager writes for an alert that fires.


def body(notice: Notice, receiver: str) -> bytes:
    """The JSON of one notice. `groupKey` is the key by which to count once: its alert's label `run`, `fingerprint` and `startsAt`."""
    status = "firing" if notice.firing else "resolved"
    alert = {
        "status": status,
        "labels": notice.labels,
        "annotations": notice.annotations,
        "startsAt": notice.since,
        "endsAt": _NOT_ENDED if notice.ended is None else written_time(notice.ended),
        "generatorURL": notice.link.url or "",
        "fingerprint": notice.fingerprint,
    }
    group = {
        "version": "4",
        "groupKey": notice.key,
        "truncatedAlerts": 0,
        "status": status,
        "receiver": receiver,
        "groupLabels": {"alertname": notice.name},
        "commonLabels": notice.labels,
        "commonAnnotations": notice.annotations,
        "externalURL": notice.link.url or "",
        "alerts": [alert],
    }
    return json.dumps(group, ensure_ascii=False, allow_nan=False).encode()


def webhook(name: str, endpoint: Endpoint, secret: Secret | None) -> Send:
    """A sender of one POST a notice, signed where there is a secret."""

    def send(notices: Sequence[Notice], now: datetime) -> Answer:
        [notice] = notices
        written = body(notice, name)
        headers = {} if secret is None else {signing.HEADER: signing.sign(written, secret.reveal(), now.timestamp())}
        return post(endpoint, written, headers, now, hidden=() if secret is None else (secret,))

    return send
