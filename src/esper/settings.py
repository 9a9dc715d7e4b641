"""The reader of every TOML file, and of what a command line or a program gives: a model or a text in, a SettingsError with the reason out.

The place is a file and a line, or a setting's dotted name. Models are strict; TOML's lists are given to them as the tuples that frozen
settings are made of.
"""

import os
import re
import tomllib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError

from esper.errors import SettingsError
from esper.stderr import warn

KeyPath = tuple[str | int, ...]
"""Keys of tables and indices of lists, from the outermost."""

_Model = TypeVar("_Model", bound=BaseModel)
_ABSENT = object()
LONGEST_SECRET_BYTES = 64 * 1024
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
_WORDS = {
    "Value error, ": "",
    "Input should be greater": "expected a number greater",
    "Input should be less": "expected a number less",
    "Input should be a valid integer, got a number with a fractional part": "expected a whole number",
    "Input should be a valid integer": "expected a whole number",
    "Input should be a valid string": "expected a text",
    "Input should be a valid boolean": "expected true or false",
    "Input should be a valid number": "expected a number",
    "Input should be a valid tuple": "expected a list",
    "Input should be a valid dictionary or instance of": "expected a table, in place of",
    "Input should be a valid dictionary": "expected a table",
    "Input should be": "expected",
    "Tuple should have": "expected",
    " after validation": "",
}
"""Pydantic's words for a mistake, and those of a person who writes TOML."""


def read_text(what: str, named: Path | None, usual: Path | None = None) -> tuple[str, str] | None:
    """Text and name of the file at `named`, else at `usual`; None where no path is given, or there is no file at `usual`.

    Raises SettingsError, calling the file `what`, where there is none at `named`, and for one that cannot be read.
    """
    path = usual if named is None else named
    try:
        if path is None:
            return None
        text = path.read_text()
        if (mode := path.stat().st_mode) & 0o022:
            warn(f"{what} in {path} may be changed by others (mode {mode & 0o777:o}): chmod go-w {path}")
        return text, str(path)
    except FileNotFoundError:
        if named is None:
            return None
        raise SettingsError(f"expected {what} at {named}, got nothing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {what} at {path}: {error}") from error


def read_secret(file: str | None, variable: str | None) -> SecretStr | None:
    """The secret in a file of one line, without its end and a byte order mark, or in an environment variable; None where neither is named.

    Raises SettingsError that names the place, never the content, and no place that may be a secret typed where a path is meant.
    """
    if file is None:
        if variable is not None and not os.environ.get(variable):
            raise SettingsError(f"expected a secret in the environment variable {variable}, found none")
        return None if variable is None else SecretStr(os.environ[variable])
    try:
        with Path(file).open("rb") as opened:
            found = opened.read(LONGEST_SECRET_BYTES + 1)
            rights = os.fstat(opened.fileno())
    except OSError as error:
        place = file if "/" in file else "the file that is named"
        raise SettingsError(f"expected a secret in {place}: {error.strerror}") from (error if "/" in file else None)
    # A UnicodeDecodeError would carry the bytes along.
    text = found.decode(errors="replace").removeprefix("\ufeff").rstrip("\r\n")
    if "\ufffd" in text:
        raise SettingsError(f"expected a secret in {file}, as UTF-8: found other bytes")
    if not text or len(found) > LONGEST_SECRET_BYTES:
        raise SettingsError(f"expected a secret of 1 to {LONGEST_SECRET_BYTES} bytes in {file}, found {len(found)}")
    if not text.isprintable():
        raise SettingsError(f"expected a secret of one line in {file}, found another line or a control character")
    if rights.st_mode & 0o077:
        _warn_once(f"the secret in {file} may be read by others (mode {rights.st_mode & 0o777:o}): chmod 600 {file}")
    return SecretStr(text)


@cache
def _warn_once(line: str) -> None:
    """Writes `line` to standard error, the first time alone: a secret is read at every connection."""
    warn(line)


class TomlFile:
    """A parsed TOML file. Every mistake found in it becomes a SettingsError with its name, the line and the reason."""

    def __init__(self, text: str, name: str) -> None:
        """Raises SettingsError for a mistake of syntax."""
        self._name = name
        self._lines = text.replace("\r\n", "\n").split("\n")
        try:
            self.content: dict[str, Any] = tomllib.loads(text)  # Any: TOML; the models that `table` is given check it.
        except tomllib.TOMLDecodeError as error:
            place = _AT_LINE.search(str(error))
            line = int(place[1]) if place else len(self._lines)
            raise SettingsError(f"{name}:{line}: {_AT_LINE.sub('', str(error))}") from error

    def table(self, model: type[_Model], path: KeyPath = (), *, secret: Collection[str] = ()) -> _Model:
        """The table at `path` as a `model`; an absent table has the defaults. Values of `secret` keys are in no message.

        Raises SettingsError for the mistake nearest to the start of the file.
        """
        table = _at(self.content, path)
        if not isinstance(table, dict) and table is not _ABSENT:
            self.refuse(path, f"{_expected_table(path)}, got {table!r:.80}")
        try:
            return model.model_validate({} if table is _ABSENT else _in_tuples(table))
        except ValidationError as error:
            mistakes = [(self.line_of((*path, *place)), place, reason) for place, reason in _mistakes(model, table, error, secret)]
            _, place, reason = min(mistakes, key=lambda mistake: mistake[0])
            self.refuse((*path, *place), f"{_dotted(place)}: {reason}" if place else reason, error)

    def refuse(self, path: KeyPath, reason: str, cause: Exception | None = None) -> NoReturn:
        """Raises SettingsError with the line of `path`."""
        raise SettingsError(f"{self._name}:{self.line_of(path)}: {reason}") from cause

    def line_of(self, path: KeyPath) -> int:
        """The line, from 1, of the statement that gives `path`, or else the nearest table around it; 1 where there is none."""
        while path and _at(self.content, path) is _ABSENT:
            path = path[:-1]
        ends = self._statement_ends
        statement = bisect_left(ends, True, key=lambda end: _at(tomllib.loads("\n".join(self._lines[:end])), path) is not _ABSENT)
        return ends[statement - 1] + 1 if path and statement > 0 else 1

    @cached_property
    def _statement_ends(self) -> list[int]:
        """The last line of each statement, which is where `tomllib`, which gives no positions, can parse a part of the file."""
        ends = [0]
        for end in range(1, len(self._lines) + 1):
            try:
                tomllib.loads("\n".join(self._lines[ends[-1] : end]))
            except tomllib.TOMLDecodeError:
                continue
            ends.append(end)
        return ends[1:]


def user_cache() -> Path:
    """The folder for what can be made again: `esper` in $XDG_CACHE_HOME, else in ~/.cache. It is not made."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esper"


def settings_of(model: type[_Model], values: Mapping[str, object], name: str = "") -> _Model:
    """`values` from a command line or a program as a `model`; `name` is the table that their dotted names begin with.

    Raises SettingsError that names the setting.
    """
    try:
        return model.model_validate(_in_tuples(values))
    except ValidationError as error:
        place, reason = next(_mistakes(model, values, error))
        raise SettingsError(f"setting {_dotted((name, *place) if name else place)}: {reason}") from error


def said(name: str, text: str, what: str) -> str:
    """`text` without the spaces around it. Raises SettingsError, naming the option or argument, where there is nothing else."""
    if not text.strip():
        raise SettingsError(f"{name}: expected {what}, got {text!r}")
    return text.strip()


def person(name: str, text: str) -> str:
    """The name of a person that the option or argument `name` gives. Raises SettingsError for a blank."""
    return " ".join(said(name, text, "the name of a person").split())


def person_or_none(name: str, text: str | None) -> str | None:
    """As `person`; None where none is given."""
    return None if text is None else person(name, text)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the `known` name that ends with `name` or is nearly it, at up to three that begin with it, or at the one most like it."""
    known = list(dict.fromkeys(known))
    beginning = [one for one in known if one.startswith(name) and len(name) > 1]
    near = [one for one in known if one.endswith(f".{name}")][:1] or get_close_matches(name, known, n=1, cutoff=0.9)
    near = near or (beginning if len(beginning) < 4 else []) or get_close_matches(name, known, n=1)
    return f", perhaps {' or '.join(near)}" if near else ""


def _mistakes(
    model: type[BaseModel], values: object, error: ValidationError, secret: Collection[str] = ()
) -> Iterator[tuple[KeyPath, str]]:
    for mistake in error.errors(include_url=False, include_context=False):
        path = _existing(values, mistake["loc"])
        got = "" if path and path[-1] in secret else f", got {_in_lists(mistake['input'])!r:.80}"
        match mistake["type"]:
            case "extra_forbidden":
                keys = _fields(_kind_at(model, path[:-1]))
                nested = [f"{key}.{inner}" for key, kind in keys.items() for inner in _fields(kind)]
                yield path, f"unknown key{nearest(str(path[-1]), (*keys, *nested))}; expected one of {', '.join(keys)}"
            case "missing":
                yield (*path, mistake["loc"][-1]), "expected this key, got nothing"
            case "tuple_type" if isinstance(mistake["input"], Mapping):
                yield path, _expected_table((*path, 0)) + got
            case "model_type" | "dict_type":
                yield path, _expected_table(path) + got
            case _:
                reason = mistake["msg"]
                for pydantic, ours in _WORDS.items():
                    reason = reason.replace(pydantic, ours)
                yield path, reason + got


def _existing(values: object, location: KeyPath) -> KeyPath:
    """`location` without what pydantic adds to it: the branches of a union that it tried, and a key that is missing."""
    path: KeyPath = ()
    for part in location:
        path = path if _at(values, (*path, part)) is _ABSENT else (*path, part)
    return path


def _at(values: Any, path: KeyPath) -> Any:  # Any: TOML.
    for part in path:
        try:
            values = _ABSENT if isinstance(values, str) else values[part]
        except (LookupError, TypeError):
            return _ABSENT
    return values


def _kind_at(kind: Any, path: KeyPath) -> Any:  # Any: the annotation of a field.
    for part in path:
        kind = next(iter(get_args(kind)), None) if isinstance(part, int) else _fields(kind).get(part)
    return kind


def _fields(kind: Any) -> dict[str, Any]:
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def _expected_table(path: KeyPath) -> str:
    return f"expected [[{_dotted(path[:-1])}]] tables" if isinstance(path[-1], int) else f"expected a table [{_dotted(path)}]"


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _in_tuples(value: object) -> Any:  # Any: the model checks it.
    if isinstance(value, Mapping):
        return {key: _in_tuples(inner) for key, inner in value.items()}
    return tuple(map(_in_tuples, value)) if isinstance(value, list | tuple) else value


def _in_lists(value: object) -> object:
    return list(map(_in_lists, value)) if isinstance(value, tuple) else value
