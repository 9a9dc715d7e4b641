"""Where things stand in a TOML text: the line of every key and table header, which `tomllib` does not tell.

For `lines_of` the text must have been parsed by `tomllib` before: what is wrong with its syntax is said there. Here is only as much of
TOML's grammar (v1.0.0) as it takes to tell keys from values: strings of the four kinds, comments, brackets, dotted and quoted keys.
"""

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from esper.errors import SettingsError

Path = tuple[str | int, ...]

_STRING = r'"""(?:\\.|[^\\])*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:\'{0,2})|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_COMMENT = r"#[^\n]*"
_PART = re.compile(rf"[ \t]*(?P<part>[A-Za-z0-9_-]+|{_STRING})[ \t]*(?P<dot>\.?)", re.DOTALL)
_BLANK = re.compile(rf"(?:[ \t\r\n]|{_COMMENT})*")
_VALUE = re.compile(rf"{_STRING}|{_COMMENT}|[\[{{]|[\]}}]|\n|[^\"'#\[\]{{}}\n]+", re.DOTALL)
_BRANCHES = frozenset(("str", "int", "bool", "[key]"))  # pydantic's words for what it tried; no place in the file.
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


class _Key(NamedTuple):
    parts: tuple[str, ...]
    end: int


class TomlFile:
    """One TOML text, and how what is wrong in it is told: a SettingsError with its name, the line and the reason."""

    def __init__(self, text: str, where: str) -> None:
        """Reads `text`, called `where`. Raises SettingsError for a mistake of syntax."""
        self.where = where
        try:
            self.content: dict[str, Any] = tomllib.loads(text)  # Any: TOML; whoever reads it checks it.
        except tomllib.TOMLDecodeError as error:
            place = _AT_LINE.search(str(error))
            line = int(place[1]) if place else text.count("\n") + 1
            self._refuse(line, _AT_LINE.sub("", str(error)), error)
        self._lines = lines_of(text)

    def line_of(self, path: Path) -> int:
        """The line of what stands at `path`, or of the nearest thing around it that has a line."""
        return line_of(self._lines, path)

    def refuse_at(self, path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
        """Raises SettingsError for what stands at `path`."""
        self._refuse(self.line_of(path), reason, cause)

    def refuse_table(self, path: Path, error: ValidationError, keys: Iterable[str], *, secret: Collection[str] = ()) -> NoReturn:
        """Raises SettingsError for the first mistake in the table at `path`, which may have `keys`; a `secret` one's value is not told."""
        first = error.errors(include_url=False, include_context=False)[0]
        place = tuple(part for part in first["loc"] if part not in _BRANCHES)
        named = ".".join(str(part) for part in place)
        match first["type"]:
            case "extra_forbidden":
                reason = f"unknown key {named!r}, expected one of {', '.join(keys)}"
            case "missing":
                reason = f"expected the key {named!r}"
            case _:
                # Settings are made of tuples, which a TOML file has as lists.
                expected = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
                reason = f"{named}: {expected}" + ("" if named in secret else f", got {first['input']!r:.80}")
        self.refuse_at((*path, *place), reason, error)

    def _refuse(self, line: int, reason: str, cause: Exception | None = None) -> NoReturn:
        raise SettingsError(f"{self.where}:{line}: {reason}") from cause


def lines_of(text: str) -> Mapping[Path, int]:
    """The line, from 1, of every key and table in `text`; a table of an array has its index in the path. Inside inline values: nothing."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    at = _blank(text, 0)
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        if text[at] == "[":
            array = text.startswith("[[", at)
            key = _key(text, at + 1 + array)
            table = _table(key.parts, counts, array)
            for size in range(1, len(table) + 1):
                lines.setdefault(table[:size], line)
            at = text.index("]", key.end) + 1 + array
        else:
            key = _key(text, at)
            path = table
            for part in key.parts:
                path = (*path, part)
                lines.setdefault(path, line)
            at = _behind_value(text, text.index("=", key.end) + 1)
        at = _blank(text, at)
    return lines


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """The line of what stands at `path`, or of the nearest thing around it that has a line of its own; 1 where nothing has."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    assert found is not None, "the pattern matches nothing too"
    return found.end()


def _key(text: str, at: int) -> _Key:
    parts: list[str] = []
    while (found := _PART.match(text, at)) is not None:
        part = found["part"]
        parts.append(tomllib.loads(f"part = {part}")["part"] if part[0] in "\"'" else part)
        at = found.end()
        if not found["dot"]:
            break
    return _Key(tuple(parts), at)


def _table(parts: tuple[str, ...], counts: dict[Path, int], array: bool) -> Path:
    path: Path = ()
    for place, part in enumerate(parts):
        path = (*path, part)
        last = place == len(parts) - 1
        if array and last:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _behind_value(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        found = _VALUE.match(text, at)
        assert found is not None, "tomllib has read this text"
        part, at = found.group(), found.end()
        depth += (part in {"[", "{"}) - (part in {"]", "}"})
        if part == "\n" and depth == 0:
            break
    return at
