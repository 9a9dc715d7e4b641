"""Where alerts go: a TOML file, read strictly. A mistake is refused with its line and the reason, before anything starts.

`[[handlers]]` is a table for each way to reach people; docs/delivery.md says what every key means. Secrets stand in files or variables of
the environment, never here, and are read by `esper.observer.delivery.handlers.build`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from esper.observer.delivery.notices import Severity
from esper.settings import TomlFile

_CONFIG = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _absolute(path: str) -> str:
    # Observers are started from anywhere: what a relative path means would depend on who started this one.
    if not path.startswith("/") or "\x00" in path:
        raise ValueError("expected an absolute path")
    return path


def _printable(text: str) -> str:
    if not text or not text.isascii() or any(not letter.isprintable() or letter == " " for letter in text):
        raise ValueError("expected ASCII letters without spaces")
    return text


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Url = Annotated[str, AfterValidator(_printable)]
Hostname = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?$")]
Address = Annotated[str, Field(pattern=r"^[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,190}$")]
Rate = Annotated[float, Field(ge=0.1, le=60_000)]
Burst = Annotated[int, Field(ge=1, le=1000)]
Timeout = Annotated[float, Field(gt=0, le=60)]


class _Handler(BaseModel):
    """What every handler has."""

    model_config = _CONFIG
    name: Name
    """What outcomes and messages call it."""
    severity: Severity = "info"
    """The least severity that it gets."""
    rate_per_minute: Rate = 30.0
    """Messages a minute over a longer time."""
    burst: Burst = 30
    """Messages at once, after a quiet time; and so many wait while the receiver does not answer."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 15
    """How often a message is tried; 15 take about nine minutes."""


class LogSettings(_Handler):
    """Lines of text."""

    kind: Literal["log"]
    path: AbsolutePath | None = None
    """The file that lines are appended to; standard error where there is none."""
    rate_per_minute: Rate = 600.0
    burst: Burst = 600


class _HttpSettings(_Handler):
    url: Url | None = None
    """Where to post; one of `url`, `url_file` and `url_env` is needed."""
    url_file: AbsolutePath | None = None
    """A file with the URL, where the URL itself is a secret."""
    url_env: Variable | None = None
    """A variable of the environment with the URL."""
    token_file: AbsolutePath | None = None
    """A file with a token, sent as `Authorization: Bearer`; over https, or to this machine, alone."""
    token_env: Variable | None = None
    """A variable of the environment with the token."""
    ca_file: AbsolutePath | None = None
    """Certificates to trust instead of this machine's."""
    connect_timeout_s: Timeout = 3.0
    """For connecting to one address, and for the TLS handshake."""
    timeout_s: Timeout = 10.0
    """For everything from connecting to the answer."""


class WebhookSettings(_HttpSettings):
    """POST of Alertmanager's webhook body, version 4."""

    kind: Literal["webhook"]
    secret_file: AbsolutePath | None = None
    """A file with the secret that bodies are signed with."""
    secret_env: Variable | None = None
    """A variable of the environment with the secret."""


class AlertmanagerSettings(_HttpSettings):
    """POST to the API of Alertmanager under `url`."""

    kind: Literal["alertmanager"]
    rate_per_minute: Rate = 600.0
    """More than to people: grouping and holding back are Alertmanager's own work."""
    burst: Burst = 600
    resend_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """How often what fires is sent again; it ends by itself four times that after the last time."""


class MailSettings(_Handler):
    """Mail over SMTP with TLS."""

    kind: Literal["smtp"]
    host: Hostname
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """587 for STARTTLS, 465 for TLS."""
    tls: Literal["starttls", "tls"] = "starttls"
    username: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    password_file: AbsolutePath | None = None
    """A file with the password."""
    password_env: Variable | None = None
    """A variable of the environment with the password."""
    from_: Annotated[Address, Field(alias="from")]
    to: Annotated[tuple[Address, ...], Field(min_length=1, max_length=50)]
    ca_file: AbsolutePath | None = None
    """Certificates to trust instead of this machine's."""
    connect_timeout_s: Timeout = 5.0
    timeout_s: Timeout = 30.0


HandlerSettings = LogSettings | WebhookSettings | AlertmanagerSettings | MailSettings
_KINDS: Mapping[str, type[HandlerSettings]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(HandlerSettings)
}
# Of each group at most one may be given, of the first of HTTP exactly one.
_ONE_OF = (("url", "url_file", "url_env"), ("token_file", "token_env"), ("secret_file", "secret_env"), ("password_file", "password_env"))


class DeliverySettings(BaseModel):
    """Every handler, and what holds for all of them."""

    model_config = _CONFIG
    handlers: tuple[HandlerSettings, ...] = ()
    deliver_within_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """A firing older than this is not delivered any more; a resolution of what was delivered always is."""
    base_url: Url | None = None
    """Where people find Nissa; messages link there."""


DEFAULT = DeliverySettings(handlers=(LogSettings(kind="log", name="log"),))
"""Without a file: lines on standard error."""


def parse_delivery(text: str, where: str) -> DeliverySettings:
    """The settings in `text`; `where` names it in errors. Raises SettingsError, with the line, for the first mistake."""
    file = TomlFile(text, where)
    tables = file.content.pop("handlers", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        file.refuse(("handlers",), "expected handlers as [[handlers]] tables")
    common = file.table(DeliverySettings)
    file.content["handlers"] = tables
    handlers: list[HandlerSettings] = []
    places: dict[str, int] = {}
    for place, table in enumerate(tables):
        handler = _handler(file, place, table)
        if handler.name in places:
            other = file.line_of(("handlers", places[handler.name], "name"))
            file.refuse(("handlers", place, "name"), f"two handlers of the name {handler.name!r}: the other is in line {other}")
        places[handler.name] = place
        handlers.append(handler)
    return common.model_copy(update={"handlers": tuple(handlers)})


def _handler(file: TomlFile, place: int, table: dict[str, Any]) -> HandlerSettings:  # Any: TOML; the models check it.
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        came = "nothing" if kind is None else repr(kind)
        file.refuse(("handlers", place, "kind"), f"kind: expected one of {', '.join(_KINDS)}, got {came}")
    handler: HandlerSettings = file.table(_KINDS[kind], ("handlers", place), secret=("url",))  # A URL may be a secret.
    _check_groups(file, place, handler)
    return handler


def _check_groups(file: TomlFile, place: int, handler: HandlerSettings) -> None:
    for group in _ONE_OF:
        given = [key for key in group if getattr(handler, key, None) is not None]
        if len(given) > 1:
            file.refuse(("handlers", place, given[1]), f"expected one of {', '.join(group)}, got {' and '.join(given)}")
    if isinstance(handler, (WebhookSettings, AlertmanagerSettings)) and not (handler.url or handler.url_file or handler.url_env):
        file.refuse(("handlers", place), f"handler {handler.name!r}: expected one of {', '.join(_ONE_OF[0])}")
    if isinstance(handler, MailSettings) and (handler.username is None) != (handler.password_file is None and handler.password_env is None):
        file.refuse(("handlers", place), f"handler {handler.name!r}: expected username and password together, or neither")
