"""RunLabels that the user gives a run: a name, tags, a note, and a config of values; and conditions that pick runs by them.

A condition is `NAME OP VALUE`, like `config.lr > 0.01`: a comparison of one value, and no language; SQL asks everything else.
"""

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from os import PathLike, fspath
from typing import TypeGuard

from pydantic import JsonValue

from esper.errors import SettingsError
from esper.masking import mask_text, mask_values
from esper.settings import said
from esper.words import not_finite

_NAME_CHARACTERS, _TAG_CHARACTERS, _MOST_TAGS, _NOTES_CHARACTERS, _CONFIG_BYTES, _DEPTH = 200, 64, 50, 10_000, 16 * 1024, 8
_CONDITION = re.compile(r"\s*(?P<name>[\w./-]+(?: [\w./-]+)*?)\s*(?P<op><=|>=|!=|==|=|<|>)\s*(?P<value>\S.*?)\s*", re.DOTALL)
_OPERATORS: Mapping[str, Callable[[JsonValue, JsonValue], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,  # type: ignore[dict-item] # `holds` gives it two numbers or two texts
    "<=": operator.le,  # type: ignore[dict-item]
    ">": operator.gt,  # type: ignore[dict-item]
    ">=": operator.ge,  # type: ignore[dict-item]
}
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_CONFIG_PREFIX = "config."


@dataclass(frozen=True)
class RunLabels:
    """The labels of a run as its log has them: checked, and secrets masked. None and empty: not given."""

    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    config: Mapping[str, JsonValue] = field(default_factory=dict)


def labels_of(
    name: str | None = None, tags: Sequence[str] = (), notes: str | None = None, config: Mapping[str, object] | None = None
) -> RunLabels:
    """The labels of these. Raises SettingsError that names the argument, for what is too long, empty, or no value that JSON has."""
    return RunLabels(
        name=None if name is None else _name(name),
        tags=_tags(tags),
        notes=None if notes is None else mask_text(_text("notes", notes, _NOTES_CHARACTERS)),
        config={} if config is None else _config(config),
    )


def _name(name: object) -> str:
    text = mask_text(_text("name", name, _NAME_CHARACTERS, one_line=True))
    if text == "latest":
        raise SettingsError("name: expected another name than 'latest', which every command takes for the newest run")
    return text


def _tags(tags: object) -> tuple[str, ...]:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise SettingsError(f"tags: expected a list of texts, got {tags!r:.80}")
    found = tuple(dict.fromkeys(mask_text(_text("tags", tag, _TAG_CHARACTERS, one_line=True)) for tag in tags))
    if len(found) > _MOST_TAGS:
        raise SettingsError(f"tags: expected at most {_MOST_TAGS}, got {len(found)}")
    return found


def _text(argument: str, text: object, most: int, *, one_line: bool = False) -> str:
    if not isinstance(text, str):
        raise SettingsError(f"{argument}: expected a text, got {text!r:.80}")
    found = said(argument, text, "a text that is not blank")
    if len(found) > most:
        raise SettingsError(f"{argument}: expected at most {most:,} characters, got {len(found):,}")
    if any((one_line or character not in "\n\t\r") and not character.isprintable() for character in found):
        raise SettingsError(f"{argument}: expected {'one line of ' if one_line else ''}text that can be printed, got {found!r:.80}")
    return found


def _config(config: object) -> Mapping[str, JsonValue]:
    if not isinstance(config, Mapping):
        raise SettingsError(f"config: expected a mapping of names to values, got {type(config).__name__}: vars(args) is one")
    found = mask_values(_value("config", config, _DEPTH))
    assert isinstance(found, dict)
    size = len(json.dumps(found, ensure_ascii=False).encode())
    if size > _CONFIG_BYTES:
        raise SettingsError(
            f"config: expected at most {_CONFIG_BYTES:,} bytes as JSON, got {size:,}: keep large values in files of your own"
        )
    return found


def _value(place: str, value: object, depth: int) -> JsonValue:
    """`value` as JSON; numbers of numpy too, paths as texts, and a number that is not finite as the log's word."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | PathLike):
        return str(fspath(value)).encode(errors="replace").decode()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else not_finite(float(value))
    if depth > 0 and isinstance(value, Mapping):
        return {_key(place, key): _value(f"{place}.{key}", inner, depth - 1) for key, inner in value.items()}
    if depth > 0 and isinstance(value, list | tuple):
        return [_value(f"{place}[{number}]", inner, depth - 1) for number, inner in enumerate(value)]
    expected = "texts, numbers, truth values, null, lists and mappings of them"
    raise SettingsError(f"{place}: expected {expected}{'' if depth else f', at most {_DEPTH} deep'}, got a {type(value).__name__}")


def _key(place: str, key: object) -> str:
    if not isinstance(key, str) or not key.isprintable() or not key:
        raise SettingsError(f"{place}: expected names that are texts, got {key!r:.80}")
    return key


@dataclass(frozen=True)
class LabelCondition:
    """A comparison of one value of a run with another, like `config.lr > 0.01`."""

    name: str
    operator: str
    value: JsonValue

    def holds(self, values: Mapping[str, object]) -> bool:
        """True where the run with `values` meets it. One that has no such value meets nothing, `!=` included; nor does NaN."""
        found = _found(self.name, values)
        if found is None and self.value is not None:
            return False
        one, other = _number(found), _number(self.value)
        if self.operator not in ("=", "==", "!=") and not _comparable(one, other):
            return False
        if one != one or other != other:  # noqa: PLR0124 - only NaN differs from itself.
            return False
        return _OPERATORS[self.operator](one, other)


def condition(text: str, known: Iterable[str]) -> LabelCondition:
    """The condition in `text`: NAME, an operator (= != < <= > >=) and a value, JSON or bare text. `known` are names besides config's.

    Raises SettingsError for what is none, and for a name that no run has.
    """
    found = _CONDITION.fullmatch(text)
    names = [*sorted(known), "config.<name>"]
    if found is None:
        raise SettingsError(f"where: expected NAME OP VALUE like 'config.lr > 0.01', got {text!r:.80}")
    if found["name"] not in names and not found["name"].startswith(_CONFIG_PREFIX):
        raise SettingsError(f"where: expected one of {', '.join(names)}, got {found['name']!r}; `esper sql` asks for everything else")
    try:
        value = json.loads(found["value"])
    except json.JSONDecodeError:
        value = found["value"].strip("'")
    if isinstance(value, dict | list):
        raise SettingsError(f"where: expected a number, a text, true, false or null to compare with, got {found['value']!r:.80}")
    return LabelCondition(found["name"], found["op"], value)


def _found(name: str, values: Mapping[str, object]) -> JsonValue:
    """The value of a name; of a dotted one that within it. A whole name comes before a part of it."""
    for text, inner in values.items():
        if text == name:
            return inner if inner is None or isinstance(inner, str | int | float) else str(inner)
        if isinstance(inner, Mapping) and name.startswith(f"{text}.") and (found := _found(name[len(text) + 1 :], inner)) is not None:
            return found
    return None


def _number(value: JsonValue) -> JsonValue:
    """A word for a number that is not finite as that number."""
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _comparable(one: JsonValue, other: JsonValue) -> bool:
    return (_is_number(one) and _is_number(other)) or (isinstance(one, str) and isinstance(other, str))


def _is_number(value: JsonValue) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
