"""Checks as files: a TOML header in comments, then two SELECTs, `population` and `violations`. Read strictly: users write their own.

    -- name = "log.clock_sane"
    -- version = 1
    -- title = "..."
    -- ...

    -- population
    SELECT run ... FROM events

    -- violations
    SELECT run, moment, '...' AS what FROM population WHERE ...

The population is what is asked about: a row each, with the column `run`, and any other that `violations` needs. `violations` may read it by
that name, as it may read every table and view of the projection, and gives run, moment and a sentence. A limit must be false for what
is not a number, and DuckDB sorts NaN above everything: write `coalesce(isfinite(x) AND x > limit, false)`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Annotated, NoReturn

import duckdb
from pydantic import BaseModel, ConfigDict, Field

from esper.errors import SettingsError
from esper.settings import TomlFile

_SECTIONS = ("population", "violations")
_SUFFIX = ".sql"
_Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Header(BaseModel):
    """The header of a check."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", max_length=64)]
    version: Annotated[int, Field(ge=1)]
    """Raised whenever the check finds something else than before."""
    title: _Text
    """The rule, as a sentence."""
    proves: _Text
    """What a PASS shows."""
    cannot_show: _Text
    """What a PASS does not show."""
    clauses: Annotated[tuple[_Text, ...], Field(min_length=1)]
    """The clauses that a PASS is evidence for."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check. `digest` is sha256 over its text: results name it, so that it is known what was asked."""

    header: Header
    population: str
    violations: str
    digest: str
    source: str
    """The name of its file, for messages."""
    by_kind: Mapping[str, str] = field(default_factory=dict)
    """More violations by kind of event, which are asked for where a run has that kind."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.header.name


def parse_check(text: str, where: str) -> Check:
    """The check in `text`; `where` names it in errors. Raises SettingsError, with the line, for the first mistake."""
    lines = text.replace("\r\n", "\n").split("\n")
    starts = [_start(lines, section, where) for section in _SECTIONS]
    if starts[0] > starts[1]:
        _refuse(where, starts[1], "expected `-- population` before `-- violations`")
    header = TomlFile("\n".join(_commented(lines[: starts[0]], where)), where).table(Header)
    parts = (lines[starts[0] + 1 : starts[1]], lines[starts[1] + 1 :])
    population, violations = (_select(part, where, start + 1, name) for part, start, name in zip(parts, starts, _SECTIONS, strict=True))
    return Check(header, population, violations, hashlib.sha256(text.encode()).hexdigest(), where)


def checks_in(folder: Traversable) -> tuple[Check, ...]:
    """The checks in the files of `folder` that end with `.sql`, by name. Raises SettingsError for a mistake in one."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(_SUFFIX))
    return tuple(_read(folder / name, f"{folder}/{name}") for name in names)


def _read(file: Traversable, where: str) -> Check:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the check {where}: {error}") from error
    check = parse_check(text, where)
    if f"{check.name}{_SUFFIX}" != file.name:
        raise SettingsError(
            f"{where}:1: expected the name of the file as the check's, {file.name.removesuffix(_SUFFIX)!r}, got {check.name!r}"
        )
    return check


def _start(lines: list[str], section: str, where: str) -> int:
    """The index of the line that begins `section`."""
    found = [index for index, line in enumerate(lines) if line.rstrip() == f"-- {section}"]
    if len(found) != 1:
        line = found[1] if found else len(lines) - 1
        _refuse(where, line, f"expected one line `-- {section}`, got {len(found) or 'none'}")
    return found[0]


def _commented(lines: list[str], where: str) -> Iterator[str]:
    """The header's lines without their comment signs, line by line, so that TOML's errors name the file's own lines."""
    for index, line in enumerate(lines):
        if line.strip() and not line.startswith("--"):
            _refuse(where, index, f"expected the header, lines that begin with `--`, before `-- population`; got {line.strip()[:60]!r}")
        yield line.removeprefix("--")


def _select(lines: list[str], where: str, start: int, section: str) -> str:
    """The one SELECT that `lines` are, without what ends it."""
    text = "\n".join(lines).strip().removesuffix(";").strip()
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise SettingsError(f"{where}:{start + 1}: {section}: {' '.join(str(error).split())}") from error
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        _refuse(where, start, f"expected one SELECT as {section}, got {', '.join(kinds) or 'nothing'}")
    return text


def _refuse(where: str, index: int, reason: str) -> NoReturn:
    raise SettingsError(f"{where}:{index + 1}: {reason}")
