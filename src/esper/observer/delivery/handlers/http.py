"""One POST of JSON: no redirect is followed, no proxy is used, and no more of the answer is read than an error's text needs."""

import email.utils
import http.client
import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from esper.observer.delivery.exchange import Answer
from esper.observer.delivery.handlers.connection import Peer, connected
from esper.observer.delivery.handlers.secret import Secret, readable

EXCERPT_BYTES = 2048
"""Read of an answer that is an error; of a success nothing but status and headers is read."""

_SHORTEST_KEY = 8
_AGAIN = frozenset({408, 425, 429})  # Of the 4xx, what RFC 9110, 8470 and 6585 say may be repeated.


class Endpoint(NamedTuple):
    """Where to post. The path may be a secret, as chat services have it: it is never shown."""

    peer: Peer
    authority: str
    """Host, and port where it is not the scheme's own: what the Host header says, and errors."""
    path: Secret
    token: Secret | None

    def secrets(self) -> list[Secret]:
        """What an answer may repeat and an error must not: the token, the path, and those of its parts that look like keys."""
        path = self.path.reveal()
        parts = [Secret(part) for part in re.split(r"[/?&=]", path) if len(part) >= _SHORTEST_KEY]
        return [self.path, *parts] if self.token is None else [self.path, *parts, self.token]


def post(endpoint: Endpoint, body: bytes, headers: Mapping[str, str], now: datetime, *, hidden: Sequence[Secret] = ()) -> Answer:
    """Delivered for a status of 2xx; final for what repeating cannot change: other 4xx, redirects, a certificate that is not trusted."""
    fixed = {"Host": endpoint.authority, "Content-Type": "application/json", "User-Agent": "esper", "Connection": "close"}
    sent = {**fixed, **headers}
    if endpoint.token is not None:
        sent["Authorization"] = f"Bearer {endpoint.token.reveal()}"
    secrets = [*endpoint.secrets(), *hidden]
    try:
        with connected(endpoint.peer, tls_at_once=True) as connection:
            exchange = http.client.HTTPConnection(endpoint.peer.host, endpoint.peer.port)
            exchange.sock = connection
            try:
                exchange.request("POST", endpoint.path.reveal(), body, sent)
                with exchange.getresponse() as response:
                    return _judged(response, endpoint.authority, secrets, now)
            finally:
                exchange.close()
    except ssl.SSLCertVerificationError as error:
        return Answer(delivered=False, final=True, error=readable(f"{endpoint.authority}: {error.verify_message or error.reason}"))
    except TimeoutError as error:
        return Answer(delivered=False, error=f"{endpoint.authority}: {error}")
    except (OSError, http.client.HTTPException) as error:
        return Answer(delivered=False, error=readable(f"{endpoint.authority}: {type(error).__name__}: {error}", secrets))


def _judged(response: http.client.HTTPResponse, place: str, secrets: Sequence[Secret], now: datetime) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return Answer(delivered=True)
    if 300 <= status < 400:
        return Answer(delivered=False, final=True, error=f"expected status 2xx from {place}, got {status}: redirects are not followed")
    said = readable(response.read(EXCERPT_BYTES).decode(errors="replace"), secrets)
    return Answer(
        delivered=False,
        final=400 <= status < 500 and status not in _AGAIN,
        asked_s=_asked_s(response.headers.get("Retry-After"), now),
        error=f"expected status 2xx from {place}, got {status}" + (f": {said}" if said else ""),
    )


def _asked_s(header: str | None, now: datetime) -> float | None:
    # RFC 9110, 10.2.3: seconds, or a date.
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(header) - now).total_seconds())
    except (TypeError, ValueError):
        return None
