"""Everything that apprise reaches by a URL: mail, chat, push and pager services.

apprise blocks, so an attempt has a thread and a deadline. A thread that hangs is left behind, one per handler at most: until it ends, the
handler's attempts fail. apprise logs the reason of a failure and raises none: its log lines become the answer's error, without the URL's
parts, and are shown nowhere else.
"""

import asyncio
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from urllib.parse import unquote

import apprise
from pydantic import SecretStr

from esper.errors import SettingsError
from esper.observer.delivery.deliverer import Send
from esper.observer.delivery.delivery_file import AppriseSettings, read_url, readable
from esper.observer.delivery.notices import Notice
from esper.observer.delivery.outbox import AttemptResult

_LONGEST_TITLE = 150
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
_REASONS = ("Socket Exception", "Response Details")
_TYPES = {"info": apprise.NotifyType.INFO, "warning": apprise.NotifyType.WARNING, "critical": apprise.NotifyType.FAILURE}

_logger = logging.getLogger("apprise")
_logger.setLevel(logging.DEBUG)
for _name in ("apprise", "urllib3"):  # They log URLs.
    logging.getLogger(_name).propagate = False
    logging.getLogger(_name).addHandler(logging.NullHandler())


@contextmanager
def _caught() -> Iterator[list[logging.LogRecord]]:
    """The lines that apprise logs on this thread meanwhile."""
    owner, records = threading.get_ident(), list[logging.LogRecord]()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread == owner:
            records.append(record)
        return True

    _logger.addFilter(keep)
    try:
        yield records
    finally:
        _logger.removeFilter(keep)


def through_apprise(settings: AppriseSettings) -> Send:
    """A message per notice through the service of a URL. Raises SettingsError without showing the URL."""
    url, place = read_url(settings)
    service = _service(url.get_secret_value(), place, settings.timeout_s)
    name, hidden, busy = str(service.service_name), _hidden(url.get_secret_value()), threading.Lock()

    def notify(notice: Notice) -> AttemptResult:
        with busy, _caught() as records:
            title = readable(f"[{notice.severity} {notice.status}] {notice.name}: {notice.summary}", limit=_LONGEST_TITLE)
            kind = apprise.NotifyType.SUCCESS if notice.status == "resolved" else _TYPES[notice.severity]
            taken = service.notify(body=text_of(notice), title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT)
        if taken:
            return AttemptResult(delivered=True)
        # apprise logs which of several recipients it reached. Another attempt would send to these again.
        reached = any(record.levelno == logging.INFO and record.getMessage().startswith("Sent ") for record in records)
        return AttemptResult(delivered=reached, error=readable(f"{name}: {_reason(records)}", hidden))

    async def send(notices: Sequence[Notice], _now: datetime) -> AttemptResult:
        [notice] = notices
        if busy.locked():
            return AttemptResult(delivered=False, error=f"{name}: an earlier attempt still hangs")
        try:
            async with asyncio.timeout(settings.timeout_s):
                return await asyncio.to_thread(notify, notice)
        except TimeoutError:
            return AttemptResult(delivered=False, error=f"{name}: no complete answer within {settings.timeout_s:g} s")

    return send


def _service(url: str, place: str, timeout_s: float) -> apprise.NotifyBase:
    service, asset = None, apprise.AppriseAsset(http_redirects=False)
    with warnings.catch_warnings(), _caught(), suppress(Exception):  # An error would show the URL.
        warnings.simplefilter("ignore")  # Of the modules that apprise's services import.
        service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        raise SettingsError(f"{place}: expected a URL that apprise knows, such as mailtos://USER:PASSWORD@HOST or slack://TOKEN")
    protected, plain = (_schemas(kind) for kind in (service.secure_protocol, service.protocol))
    if protected and url.partition(":")[0].lower() in plain - protected and service.host not in _THIS_MACHINE:
        raise SettingsError(f"{place}: expected {' or '.join(sorted(protected))} instead of a URL without TLS, or this machine")
    if not service.verify_certificate:
        raise SettingsError(f"{place}: expected certificates to be verified, got verify=no")
    service.socket_connect_timeout = service.socket_read_timeout = timeout_s
    return service


def _schemas(protocol: str | Sequence[str] | None) -> set[str]:
    return {protocol} if isinstance(protocol, str) else set(protocol or ())


def _hidden(url: str) -> list[SecretStr]:
    """Texts that errors must not repeat: the URL and every part of it after the schema, as written and unquoted."""
    parts = {url, *re.split(r"[/?&=@:#,]+", url.partition("://")[2])}
    return [SecretStr(part) for part in parts | {unquote(part) for part in parts} if part]


def _reason(records: Sequence[logging.LogRecord]) -> str:
    lines = [record.getMessage() for record in records if record.levelno >= logging.WARNING or record.getMessage().startswith(_REASONS)]
    return "; ".join(lines) or "the service did not take it"


def text_of(notice: Notice) -> str:
    """Plain text of a notice: the alert, where to see it, its key, labels and annotations."""
    rows = [f"{notice.name} is {notice.status} ({notice.severity})", "", readable(notice.summary, limit=2000), ""]
    rows += [f"see it: {notice.link.command}"]
    rows += [f"        {notice.link.url}"] if notice.link.url else []
    rows += [f"since:  {notice.since}", f"key:    {notice.key}", "", "labels"]
    rows += [f"  {name}: {readable(value)}" for name, value in sorted(notice.labels.items())]
    more = {name: value for name, value in sorted(notice.annotations.items()) if name not in {"summary", "command"}}
    rows += ["", "annotations", *(f"  {name}: {readable(value, limit=1000)}" for name, value in more.items())] if more else []
    return "\n".join(rows) + "\n"
