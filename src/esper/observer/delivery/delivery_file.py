"""delivery.toml, whose keys docs/delivery.md explains, and the secrets that it names. No error or representation shows a secret."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from esper.folds.monitoring.rules import Severity
from esper.settings import TomlFile, read_secret, read_text

DELIVERY_TOML = "delivery.toml"
_SHORTEST_HIDDEN = 4  # Shorter texts are found by chance in any text.
_CONFIG = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _absolute(path: str) -> str:
    # Observers are started from anywhere: a relative path would mean another file each time.
    if not path.startswith("/") or "\x00" in path:
        raise ValueError("expected an absolute path")
    return path


def _printable(text: str) -> str:
    if not text or not text.isascii() or any(not letter.isprintable() or letter == " " for letter in text):
        raise ValueError("expected ASCII letters without spaces")
    return text


def _printable_secret(secret: SecretStr) -> SecretStr:
    _printable(secret.get_secret_value())
    return secret


_AbsolutePath = Annotated[str, AfterValidator(_absolute)]
_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_Burst = Annotated[int, Field(ge=1, le=1000)]
_Rate = Annotated[float, Field(ge=0.1, le=60_000)]
_Timeout = Annotated[float, Field(gt=0, le=60)]


class _HandlerSettings(BaseModel):
    model_config = _CONFIG
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    severity: Severity = "warning"
    rate_per_minute: _Rate = 30.0
    burst: _Burst = 30
    attempts: Annotated[int, Field(ge=1, le=100)] = 15


class LogSettings(_HandlerSettings):
    """Lines of text, appended to `path` or written to standard error."""

    kind: Literal["log"]
    path: _AbsolutePath | None = None
    rate_per_minute: _Rate = 600.0
    burst: _Burst = 600


class _UrlSettings(_HandlerSettings):
    url: Annotated[SecretStr, AfterValidator(_printable_secret)] | None = None
    url_file: _AbsolutePath | None = None
    url_env: _Variable | None = None


class HttpSettings(_UrlSettings):
    """Settings that a webhook and Alertmanager share."""

    token_file: _AbsolutePath | None = None
    token_env: _Variable | None = None
    ca_file: _AbsolutePath | None = None
    connect_timeout_s: _Timeout = 3.0
    timeout_s: _Timeout = 10.0


class WebhookSettings(HttpSettings):
    """POST of Alertmanager's webhook body, version 4."""

    kind: Literal["webhook"]
    secret_file: _AbsolutePath | None = None
    secret_env: _Variable | None = None


class AlertmanagerSettings(HttpSettings):
    """POST to the API of Alertmanager under `url`. It groups and limits by itself, so more is sent to it than to people."""

    kind: Literal["alertmanager"]
    rate_per_minute: _Rate = 600.0
    burst: _Burst = 600
    resend_s: Annotated[float, Field(ge=1, le=3600)] = 60.0


class AppriseSettings(_UrlSettings):
    """A message through apprise: mail, chat, push and pager services."""

    kind: Literal["apprise"]
    timeout_s: _Timeout = 30.0


HandlerSettings = LogSettings | WebhookSettings | AlertmanagerSettings | AppriseSettings
_KINDS: Mapping[str, type[HandlerSettings]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(HandlerSettings)
}
_MAIL = 'mail goes through apprise: write kind = "apprise", and url_file or url_env with mailtos://USER:PASSWORD@HOST?from=...&to=...;'
# At most one key of each group may be given; of the first, exactly one where a handler has a URL.
_ONE_OF = (("url", "url_file", "url_env"), ("token_file", "token_env"), ("secret_file", "secret_env"))


class DeliverySettings(BaseModel):
    """All handlers, and what holds for each of them."""

    model_config = _CONFIG
    handlers: tuple[HandlerSettings, ...] = ()
    deliver_within_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    base_url: Annotated[str, AfterValidator(_printable)] | None = None


DEFAULT = DeliverySettings(handlers=(LogSettings(kind="log", name="log"),))
"""Without a file: lines on standard error."""


def delivery_settings(directory: Path, path: Path | None = None) -> DeliverySettings:
    """The settings in `path`, else in `delivery.toml` of the log's directory, else DEFAULT. Raises SettingsError, with the line."""
    found = read_text("delivery settings", path, directory / DELIVERY_TOML)
    return DEFAULT if found is None else parse_delivery(*found)


def parse_delivery(text: str, where: str) -> DeliverySettings:
    """The settings in `text`; `where` names it in errors. Raises SettingsError, with the line, for the first mistake."""
    file = TomlFile(text, where)
    tables = file.content.pop("handlers", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        file.refuse(("handlers",), "expected handlers as [[handlers]] tables")
    common = file.table(DeliverySettings)
    file.content["handlers"] = tables
    handlers = tuple(_handler(file, place, table) for place, table in enumerate(tables))
    names = [handler.name for handler in handlers]
    for place, name in enumerate(names):
        if (other := names.index(name)) != place:
            line = file.line_of(("handlers", other, "name"))
            file.refuse(("handlers", place, "name"), f"two handlers of the name {name!r}: the other is in line {line}")
    return common.model_copy(update={"handlers": handlers})


def _handler(file: TomlFile, place: int, table: dict[str, Any]) -> HandlerSettings:  # Any: TOML; the models check it.
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        reason = _MAIL if isinstance(kind, str) and kind in {"smtp", "mail", "email"} else f"expected one of {', '.join(_KINDS)},"
        file.refuse(("handlers", place, "kind"), f"kind: {reason} got {'nothing' if kind is None else repr(kind)}")
    handler: HandlerSettings = file.table(_KINDS[kind], ("handlers", place), secret=("url", "url_file", "token_file", "secret_file"))
    for group in _ONE_OF:
        given = [key for key in group if getattr(handler, key, None) is not None]
        if len(given) > 1:
            file.refuse(("handlers", place, given[1]), f"expected one of {', '.join(group)}, got {' and '.join(given)}")
        if not given and "url" in group and isinstance(handler, _UrlSettings):
            file.refuse(("handlers", place), f"handler {handler.name!r}: expected one of {', '.join(group)}")
    return handler


def read_url(settings: HttpSettings | AppriseSettings) -> tuple[SecretStr, str]:
    """The URL of a handler, and a name of its place for errors. Raises SettingsError."""
    if settings.url is not None:
        return settings.url, "url"
    found = read_secret(settings.url_file, settings.url_env)
    assert found is not None, "settings have one of the three"
    return found, f"the url in {settings.url_file or settings.url_env}"


def readable(text: str, secrets: Iterable[SecretStr] = (), *, limit: int = 200) -> str:
    """Foreign `text` as one line to show and keep: without secrets or control characters, at most `limit` long."""
    for secret in sorted((secret.get_secret_value() for secret in secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_HIDDEN:
            text = text.replace(secret, "***")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
