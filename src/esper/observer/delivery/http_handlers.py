"""Webhook and Alertmanager: POST of JSON. No redirect is followed, no proxy is used, and of an answer little is read."""

import asyncio
import email.utils
import json
import logging
import re
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import NamedTuple, cast
from urllib.parse import SplitResult, urlsplit

import anyio._backends._asyncio  # noqa: F401 - httpx imports it, and httpcore, within its first request, which would take 80 ms more.
import httpcore  # noqa: F401
import httpx
from pydantic import SecretStr

from esper.errors import SettingsError
from esper.events.envelope import read_time, written_time
from esper.observer.delivery.deliverer import Send
from esper.observer.delivery.delivery_file import AlertmanagerSettings, HttpSettings, WebhookSettings, read_url, readable
from esper.observer.delivery.notices import Notice
from esper.observer.delivery.outbox import AttemptResult
from esper.observer.delivery.signing import HEADER, sign
from esper.settings import read_secret

_ALERTMANAGER_PATH = "/api/v2/alerts"
AT_ONCE = 100
"""Alerts in one request to Alertmanager."""

EXCERPT_BYTES = 2048
"""Read of an answer that is an error; of a success nothing but status and headers is read."""

_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": "esper",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
_ENDS_AHEAD = 4  # An alert's end is this many `resend_s` ahead, as Prometheus does it: three lost messages in a row resolve nothing.
_NOT_ENDED = "0001-01-01T00:00:00Z"  # As Alertmanager writes it for a firing alert.
_SHORTEST_KEY = 8
_LONGEST_RETRY_AFTER_S = 300.0
_REPEATABLE = frozenset({408, 425, 429})  # The 4xx that RFC 9110, 8470 and 6585 allow to repeat.
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})

for _name in ("httpx", "httpcore"):  # They log URLs, which may be secrets.
    logging.getLogger(_name).disabled = True


class Endpoint(NamedTuple):
    """A URL to post to, and how long that may take. Path, token and signing secret are never shown."""

    authority: str
    """Host and port, as the Host header and errors show them."""
    url: SecretStr
    token: SecretStr | None
    hidden: tuple[SecretStr, ...]
    """Texts that errors must not repeat: path, long parts of it, token and signing secret."""
    tls: ssl.SSLContext
    connect_timeout_s: float
    timeout_s: float


def endpoint_of(settings: HttpSettings, *, below: str = "", hidden: Sequence[SecretStr] = ()) -> Endpoint:
    """The endpoint of `settings`, `below` its URL's path. Raises SettingsError without showing URL or token."""
    url, place = read_url(settings)
    parts = _checked(url.get_secret_value(), place)
    token = read_secret(settings.token_file, settings.token_env)
    if token is not None and not (token.get_secret_value().isascii() and token.get_secret_value().strip() == token.get_secret_value()):
        raise SettingsError(
            f"expected a token of ASCII letters in {settings.token_file or settings.token_env}, found others, or a space around it"
        )
    if token is not None and parts.scheme != "https" and parts.hostname not in _THIS_MACHINE:
        raise SettingsError(f"{place}: expected https where a token is sent, or this machine")
    path = parts.path.rstrip("/") + below if below else parts.path or "/"
    path += f"?{parts.query}" if parts.query and not below else ""
    secrets = [SecretStr(part) for part in (path, *re.split(r"[/?&=]", path)) if part == path or len(part) >= _SHORTEST_KEY]
    return Endpoint(
        authority=parts.netloc,
        url=SecretStr(f"{parts.scheme}://{parts.netloc}{path}"),
        token=token,
        hidden=(*secrets, *hidden, *([] if token is None else [token])),
        tls=_tls(parts.scheme, settings.ca_file),
        connect_timeout_s=settings.connect_timeout_s,
        timeout_s=settings.timeout_s,
    )


def _checked(url: str, place: str) -> SplitResult:
    """The parts of a URL that may be posted to."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:  # Raised outside the handler: a ValueError as its context would carry the URL along.
        raise SettingsError(f"{place}: expected http://HOST or https://HOST, with a port and a path if need be")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsError(f"{place}: expected ASCII letters without spaces")
    if "@" in parts.netloc or parts.fragment:
        raise SettingsError(f"{place}: expected no user, password or fragment in it; a token goes into token_file or token_env")
    return parts


def _tls(scheme: str, ca_file: str | None) -> ssl.SSLContext:
    """Verifies certificate and name, against the machine's authorities or those of `ca_file`."""
    if scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsError(f"expected certificates in {ca_file}: {error}") from error


async def post(endpoint: Endpoint, body: bytes, headers: Mapping[str, str], now: datetime) -> AttemptResult:
    """Posts `body`: delivered for 2xx, final for other 4xx than those that may be repeated, redirects and untrusted certificates."""
    token = {} if endpoint.token is None else {"Authorization": f"Bearer {endpoint.token.get_secret_value()}"}
    # Connecting and the handshake of TLS end before the deadline does: a handshake that is cancelled leaks its socket (httpcore 1.0).
    connect_s = min(endpoint.connect_timeout_s, 0.45 * endpoint.timeout_s)
    try:
        async with (
            asyncio.timeout(endpoint.timeout_s),
            httpx.AsyncClient(verify=endpoint.tls, trust_env=False, timeout=httpx.Timeout(None, connect=connect_s)) as client,
            client.stream("POST", endpoint.url.get_secret_value(), content=body, headers={**_HEADERS, **token, **headers}) as response,
        ):
            return await _answer(response, endpoint, now)
    except TimeoutError:
        return AttemptResult(delivered=False, error=f"{endpoint.authority}: no complete answer within {endpoint.timeout_s:g} s")
    except httpx.ConnectTimeout:
        return AttemptResult(delivered=False, error=f"{endpoint.authority}: no connection within {connect_s:g} s")
    except httpx.HTTPError as error:
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = deeper
        if isinstance(cause, ssl.SSLCertVerificationError):
            return AttemptResult(
                delivered=False, final=True, error=readable(f"{endpoint.authority}: {cause.verify_message or cause.reason}")
            )
        return AttemptResult(delivered=False, error=readable(f"{endpoint.authority}: {type(cause).__name__}: {cause}", endpoint.hidden))


async def _answer(response: httpx.Response, endpoint: Endpoint, now: datetime) -> AttemptResult:
    status = response.status_code
    if response.is_success:
        return AttemptResult(delivered=True)
    error = f"expected status 2xx from {endpoint.authority}, got {status}"
    if 300 <= status < 400:
        return AttemptResult(delivered=False, final=True, error=f"{error}: redirects are not followed")
    async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw(EXCERPT_BYTES))) as chunks:
        excerpt = readable((await anext(chunks, b"")).decode(errors="replace"), endpoint.hidden)
    return AttemptResult(
        delivered=False,
        final=response.is_client_error and status not in _REPEATABLE,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After"), now),
        error=f"{error}: {excerpt}" if excerpt else error,
    )


def _retry_after_s(header: str | None, now: datetime) -> float | None:
    # RFC 9110, 10.2.3: seconds, or a date.
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return min(float(header[:9]), _LONGEST_RETRY_AFTER_S)
    try:
        wait_s = (email.utils.parsedate_to_datetime(header) - now).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(0.0, wait_s), _LONGEST_RETRY_AFTER_S)


def webhook(settings: WebhookSettings) -> Send:
    """A POST per notice, signed where there is a secret."""
    secret = read_secret(settings.secret_file, settings.secret_env)
    endpoint = endpoint_of(settings, hidden=[] if secret is None else [secret])

    async def send(notices: Sequence[Notice], now: datetime) -> AttemptResult:
        [notice] = notices
        body = webhook_body(notice, settings.name)
        headers = {} if secret is None else {HEADER: sign(body, secret.get_secret_value(), now.timestamp())}
        return await post(endpoint, body, headers, now)

    return send


def webhook_body(notice: Notice, receiver: str) -> bytes:
    """Alertmanager's webhook body, version 4, with one alert; `groupKey` is the notice's key."""
    url = notice.link.url or ""
    alert = {
        "status": notice.status,
        "labels": notice.labels,
        "annotations": notice.annotations,
        "startsAt": notice.since,
        "endsAt": _NOT_ENDED if notice.ended is None else written_time(notice.ended),
        "generatorURL": url,
        "fingerprint": notice.fingerprint,
    }
    group = {
        "version": "4",
        "groupKey": notice.key,
        "truncatedAlerts": 0,
        "status": notice.status,
        "receiver": receiver,
        "groupLabels": {"alertname": notice.name},
        "commonLabels": notice.labels,
        "commonAnnotations": notice.annotations,
        "externalURL": url,
        "alerts": [alert],
    }
    return json.dumps(group, ensure_ascii=False, allow_nan=False).encode()


def alertmanager(settings: AlertmanagerSettings) -> Send:
    """POST to Alertmanager's API, version 2. Each firing alert has an end ahead, as its own clients do it.

    So the alert of a process that died ends by itself, and one that Alertmanager forgot appears again.
    """
    endpoint = endpoint_of(settings, below=_ALERTMANAGER_PATH)

    async def send(notices: Sequence[Notice], now: datetime) -> AttemptResult:
        refused: AttemptResult | None = None
        for start in range(0, len(notices), AT_ONCE):
            answer = await post(endpoint, alerts_body(notices[start : start + AT_ONCE], now, settings.resend_s), {}, now)
            if not (answer.delivered or answer.final):
                return answer  # Nobody is there, or not now: the others fare no better.
            refused = refused or (None if answer.delivered else answer)
        return refused or AttemptResult(delivered=True)

    return send


def alerts_body(notices: Sequence[Notice], now: datetime, resend_s: float) -> bytes:
    """JSON of `POST /api/v2/alerts`. A resolved alert ends now or earlier, never before it began: Alertmanager refuses that."""
    alerts = [_alert(notice, now, resend_s) for notice in notices]
    return json.dumps(alerts, ensure_ascii=False, allow_nan=False).encode()


def _alert(notice: Notice, now: datetime, resend_s: float) -> dict[str, object]:
    ends = now + timedelta(seconds=_ENDS_AHEAD * resend_s) if notice.ended is None else min(notice.ended, now)
    alert: dict[str, object] = {
        "labels": {_label(name): value for name, value in notice.labels.items() if value},
        "annotations": {_label(name): value for name, value in notice.annotations.items()} | {"key": notice.key},
        "startsAt": notice.since,
        "endsAt": written_time(max(ends, read_time(notice.since))),
    }
    return alert if notice.link.url is None else alert | {"generatorURL": notice.link.url}


def _label(name: str) -> str:
    # Prometheus' data model: versions before 0.27 refuse a request with other names.
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{name}" if name[:1].isdigit() or not name else name
