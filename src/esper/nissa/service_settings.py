"""Settings of the service: address, token, host names, limits."""

import os
import secrets
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from esper.errors import SettingsError
from esper.settings import TomlFile, read_secret, read_text, settings_of

TOKEN_FILE = "nissa.token"  # noqa: S105 - the name of a file.
"""In the log's directory: the token that is made where none is named, for its owner alone."""
TOKEN_VARIABLE = "ESPER_NISSA_TOKEN"  # noqa: S105 - the name of a variable, not a secret.
_SHORTEST_TOKEN = 16


class NissaSettings(BaseModel):
    """The table [nissa] of a settings file. The token itself is no setting: it is read from a file or the environment."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    host: str = "127.0.0.1"
    """The address to listen at. Any but a loopback address asks for a token."""

    port: Annotated[int, Field(ge=1, le=65535)] = 9090
    """The port to listen at; Prometheus uses the same one."""

    token_file: Annotated[Path | None, Field(strict=False)] = None
    """A file whose content is the bearer token; without it the environment variable ESPER_NISSA_TOKEN, else a token that is made."""

    open: bool = False
    """True: at a loopback address nothing asks for a token, and every account of the machine reads all runs and may post metrics."""

    names: tuple[str, ...] = ()
    """Host names of the service besides localhost and the machine's own; a plain address is always accepted."""

    collectors: tuple[str, ...] = ()
    """Collectors besides Esper's own, as module:attribute."""

    lag_limit_s: Annotated[float, Field(gt=0, lt=86400)] = 10.0
    """Largest lag with which the service is ready: seconds since everything on disk had been read."""

    mirror_lag_limit_s: Annotated[float, Field(gt=0, lt=86400)] = 60.0
    """Largest lag of the mirror of a log on Kafka with which the service is ready: seconds since everything on Kafka had been copied."""

    body_limit_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    """The largest request body that is read."""

    custom_per_s: Annotated[float, Field(gt=0, lt=1e9)] = 1000.0
    """Samples of custom metrics a second, on average over ten seconds."""

    custom_per_day: Annotated[int, Field(ge=1)] = 1_000_000
    """Samples of custom metrics that a day's run takes: about 400 MB."""

    connections: Annotated[int, Field(ge=1)] = 512
    """Connections at one time, and fewer where the limit of descriptors asks for that; one that sends nothing makes room for a new one."""

    request_s: Annotated[float, Field(gt=0, lt=3600)] = 15.0
    """Seconds in which the headers of a request must have come, and again its body."""

    unread_s: Annotated[float, Field(gt=0, lt=3600)] = 30.0
    """Seconds in which a client must take 64 KiB of what waits for it, or it is cut."""

    tails: Annotated[int, Field(ge=1)] = 64
    """Live tails at one time."""

    tail_records: Annotated[int, Field(ge=1)] = 10_000
    """Records that a live tail may be behind; beyond it the tail sends a gap and goes on nearer to the end."""

    queries: Annotated[int, Field(ge=1)] = 2
    """Questions in SQL at one time; each may take 30 s, two threads and a gigabyte."""


def nissa_settings(path: Path | None, typed: Mapping[str, object]) -> NissaSettings:
    """The table [nissa] of the file at `path`, and over it what was `typed`. Raises SettingsError naming the setting."""
    file = read_text("settings", path)
    settings = NissaSettings() if file is None else TomlFile(*file).table(NissaSettings, ("nissa",))
    return settings_of(NissaSettings, dict(settings) | dict(typed), "nissa")


def token_of(settings: NissaSettings, folder: Path) -> str | None:
    """The token that requests must bring: the one that is named, else that in `folder`, made if need be; None where the service is `open`.

    Raises SettingsError, and never shows a token.
    """
    if (named := read_token(settings)) is not None or settings.open:
        return named
    path = folder / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise SettingsError(
            f"cannot make a token at {path}: {error.strerror}; name one with --token-file, or do without: --open"
        ) from error
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
    return read_token(settings.model_copy(update={"token_file": path}))


def read_token(settings: NissaSettings) -> str | None:
    """The token that is named; None where none is, and none is needed. Raises SettingsError, and never shows it."""
    if settings.token_file is not None:
        try:
            found = read_secret(str(settings.token_file), None)
        except SettingsError as error:
            raise SettingsError(f"setting nissa.token_file: {error}") from error
        assert found is not None
        return _checked(found.get_secret_value().strip(), f"setting nissa.token_file, {settings.token_file}")
    if token := os.environ.get(TOKEN_VARIABLE):
        return _checked(token, f"the environment variable {TOKEN_VARIABLE}")
    if not _is_loopback(settings.host):
        raise SettingsError(
            f"setting nissa.host: {settings.host} can be reached by other machines, so a token is needed: "
            f"put one into a file and name it with --token-file, or into {TOKEN_VARIABLE}"
        )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(token: str, where: str) -> str:
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{where}: expected a token of at least {_SHORTEST_TOKEN} printable ASCII characters without spaces")
    return token
