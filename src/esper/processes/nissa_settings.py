"""The settings of `esper nissa` from a TOML file and the command line. Unknown keys are errors."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from esper.errors import SettingsError
from esper.nissa.settings import NissaSettings

_TYPES: dict[str, tuple[type, str]] = {
    "host": (str, "a text"),
    "port": (int, "a whole number"),
    "token_file": (str, "a text"),
    "names": (list, "a list of texts"),
    "collectors": (list, "a list of texts"),
    "lag_limit_s": (float, "a number"),
    "body_limit_bytes": (int, "a whole number"),
    "tails": (int, "a whole number"),
    "tail_records": (int, "a whole number"),
}


def settings_of(path: Path | None, typed: Mapping[str, object]) -> NissaSettings:
    """The settings that the table [nissa] of `path` gives, and over it what was typed. Raises SettingsError naming the setting."""
    given = dict(_table(path)) if path is not None else {}
    given |= typed
    known = [field.name for field in fields(NissaSettings)]
    values: dict[str, Any] = {}  # Any: each is checked against `_TYPES` before it is used.
    for name, value in given.items():
        if name not in known:
            raise SettingsError(f"unknown setting nissa.{name}: expected one of {', '.join(known)}")
        values[name] = _checked(name, value)
    return NissaSettings(**values)


def _table(path: Path) -> Mapping[str, object]:
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {path}: expected readable TOML: {error}") from error
    table = document.get("nissa", {})
    if not isinstance(table, dict):
        raise SettingsError(f"settings file {path}: expected a table [nissa]")
    return table


def _checked(name: str, value: object) -> object:
    kind, words = _TYPES[name]
    number = kind is float and type(value) in (int, float)
    if not number and type(value) is not kind:
        raise SettingsError(f"setting nissa.{name}: expected {words}, got {value!r}")
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise SettingsError(f"setting nissa.{name}: expected {words}, got {value!r}")
        return tuple(value)
    return Path(value) if name == "token_file" and isinstance(value, str) else value
