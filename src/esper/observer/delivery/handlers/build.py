"""Makes handlers from their settings: secrets are read and URLs checked here, once, before anything is sent."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from esper.errors import SettingsError
from esper.observer.delivery.exchange import Handler, Send
from esper.observer.delivery.handlers.alertmanager import PATH, alertmanager
from esper.observer.delivery.handlers.connection import Peer, trust
from esper.observer.delivery.handlers.http import Endpoint
from esper.observer.delivery.handlers.line import lines_to
from esper.observer.delivery.handlers.mail import Mailbox, mail
from esper.observer.delivery.handlers.secret import Secret, SecretSource
from esper.observer.delivery.handlers.webhook import webhook
from esper.observer.delivery.limits import Limits
from esper.observer.delivery.settings import (
    AlertmanagerSettings,
    DeliverySettings,
    HandlerSettings,
    LogSettings,
    MailSettings,
    WebhookSettings,
)

_PORTS = {"http": 80, "https": 443}
_MAIL_PORTS = {"starttls": 587, "tls": 465}
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class _Built(NamedTuple):
    send: Send
    resend_s: float | None


def build_handlers(settings: DeliverySettings) -> tuple[Handler, ...]:
    """The handlers of `settings`, ready to send. Raises SettingsError naming the handler, never a secret."""
    return tuple(_handler(handler, settings.deliver_within_s) for handler in settings.handlers)


def _handler(settings: HandlerSettings, deliver_within_s: float) -> Handler:
    try:
        send, resend_s = _built(settings)
    except SettingsError as error:
        raise SettingsError(f"handler {settings.name}: {error}") from error
    limits = Limits(
        severity=settings.severity,
        rate_per_minute=settings.rate_per_minute,
        burst=settings.burst,
        attempts=settings.attempts,
        resend_s=resend_s,
        deliver_within_s=deliver_within_s,
    )
    return Handler(settings.name, limits, send)


def _built(settings: HandlerSettings) -> _Built:
    match settings:
        case LogSettings():
            return _Built(lines_to(None if settings.path is None else Path(settings.path)), None)
        case WebhookSettings():
            secret = _secret(settings.secret_file, settings.secret_env)
            return _Built(webhook(settings.name, _endpoint(settings, ""), secret), None)
        case AlertmanagerSettings():
            return _Built(alertmanager(_endpoint(settings, PATH), settings.resend_s), settings.resend_s)
        case MailSettings():
            return _Built(mail(_mailbox(settings)), None)


def _secret(file: str | None, variable: str | None) -> Secret | None:
    if file is None and variable is None:
        return None
    return SecretSource(None if file is None else Path(file), variable).read()


def _ca(file: str | None) -> Path | None:
    return None if file is None else Path(file)


def _endpoint(settings: WebhookSettings | AlertmanagerSettings, below: str) -> Endpoint:
    url, place = settings.url, "url"
    if url is None:
        found = _secret(settings.url_file, settings.url_env)
        assert found is not None, "settings ask for one of the three"
        url, place = found.reveal(), f"the url in {settings.url_file or settings.url_env}"
    parts = _split(url, place)
    assert parts.hostname is not None, "checked"
    token = _secret(settings.token_file, settings.token_env)
    if token is not None and parts.scheme != "https" and parts.hostname not in _THIS_MACHINE:
        raise SettingsError(f"{place}: expected https where a token is sent, or this machine")
    peer = Peer(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        tls=trust(_ca(settings.ca_file)) if parts.scheme == "https" else None,
        connect_timeout_s=settings.connect_timeout_s,
        timeout_s=settings.timeout_s,
    )
    path = parts.path.rstrip("/") + below if below else parts.path or "/"
    return Endpoint(peer, parts.netloc, Secret(path + (f"?{parts.query}" if parts.query and not below else "")), token)


def _split(url: str, place: str) -> SplitResult:
    """The parts of a URL that may be posted to. Errors do not show it: its path may be a secret."""
    parts = _parts(url)
    if parts is None or parts.scheme not in _PORTS:
        raise SettingsError(f"{place}: expected http://HOST or https://HOST, with a port and a path if need be")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsError(f"{place}: expected ASCII letters without spaces")
    if "@" in parts.netloc or parts.fragment:
        raise SettingsError(f"{place}: expected no user, password or fragment in it; a token goes into token_file or token_env")
    return parts


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and (parts.port is None or parts.port > 0) else None
    except ValueError:
        return None  # Raised from it, an error would carry the URL along.


def _mailbox(settings: MailSettings) -> Mailbox:
    peer = Peer(
        host=settings.host,
        port=settings.port or _MAIL_PORTS[settings.tls],
        tls=trust(_ca(settings.ca_file)),
        connect_timeout_s=settings.connect_timeout_s,
        timeout_s=settings.timeout_s,
    )
    password = _secret(settings.password_file, settings.password_env)
    return Mailbox(peer, settings.tls, settings.from_, tuple(settings.to), settings.username, password)
