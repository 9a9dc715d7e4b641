"""The JSON form of a fold's state, for its digest: every part a plain value, non-finite floats as the words the log writes them with."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum

from pydantic import BaseModel, JsonValue

from esper.errors import RuleError


def form(value: object) -> JsonValue:
    """`value` as JSON: dataclasses and models as objects, maps as lists of pairs in the order of their keys' forms.

    Raises RuleError for a type that no state is made of.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Enum):
        return form(value.value)
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _word(value)
    if isinstance(value, bytes):
        return value.hex()
    return _composed(value)


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _composed(value: object) -> JsonValue:
    if isinstance(value, BaseModel):
        made: JsonValue = json.loads(value.model_dump_json())
        return made
    if isinstance(value, tuple | list):
        return [form(item) for item in value]
    if isinstance(value, Mapping):
        pairs = sorted(((form(key), form(item)) for key, item in value.items()), key=lambda pair: json.dumps(pair[0]))
        return [[key, item] for key, item in pairs]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: form(getattr(value, field.name)) for field in fields(value)}
    raise RuleError(f"expected a part of a fold's state, got a {type(value).__name__}")
