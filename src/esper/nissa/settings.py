"""Settings of the service: address, token, host names, limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from esper.settings import TomlFile, read_text, settings_of


class NissaSettings(BaseModel):
    """The table [nissa] of a settings file. The token itself is no setting: it is read from a file or the environment."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    host: str = "127.0.0.1"
    """The address to listen at. Any but a loopback address asks for a token."""

    port: Annotated[int, Field(ge=1, le=65535)] = 9090
    """The port to listen at; Prometheus uses the same one."""

    token_file: Annotated[Path | None, Field(strict=False)] = None
    """A file whose content is the bearer token; without it the environment variable ESPER_NISSA_TOKEN."""

    names: tuple[str, ...] = ()
    """Host names of the service besides localhost and the machine's own; a plain address is always accepted."""

    collectors: tuple[str, ...] = ()
    """Collectors besides Esper's own, as module:attribute."""

    lag_limit_s: Annotated[float, Field(gt=0, lt=86400)] = 10.0
    """Largest lag with which the service is ready: seconds since everything on disk had been read."""

    body_limit_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    """The largest request body that is read."""

    tails: Annotated[int, Field(ge=1)] = 64
    """Live tails at one time."""

    tail_records: Annotated[int, Field(ge=1)] = 10_000
    """Records that a live tail may be behind; beyond it the tail sends a gap and goes on nearer to the end."""


def nissa_settings(path: Path | None, typed: Mapping[str, object]) -> NissaSettings:
    """The table [nissa] of the file at `path`, and over it what was `typed`. Raises SettingsError naming the setting."""
    file = read_text("settings", path)
    settings = NissaSettings() if file is None else TomlFile(*file).table(NissaSettings, ("nissa",))
    return settings_of(NissaSettings, dict(settings) | dict(typed), "nissa")
