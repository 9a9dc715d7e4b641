"""Python's plain values as JSON, and back exactly: tuples, maps with keys that are not text, and numbers that are not finite survive.

JSON alone would give a scheduler's milestones back under texts, and it would never find one of them again. A list and a plain value stand
as they are; everything else is an object with one key that says what it is.
"""

import math
from collections import Counter
from collections.abc import Mapping

from pydantic import JsonValue

from esper.errors import DataError


def to_json(value: object, what: str) -> JsonValue:
    """`value` as JSON. Raises DataError naming `what` where it holds anything but plain values (a function, a tensor)."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"number": str(float(value))}
    if isinstance(value, list):
        return [to_json(part, what) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [to_json(part, what) for part in value]}
    if isinstance(value, Mapping):
        pairs: list[JsonValue] = [[to_json(key, what), to_json(part, what)] for key, part in value.items()]
        return {"counter" if isinstance(value, Counter) else "map": pairs}
    raise DataError(f"a checkpoint holds tensors and plain values only; {what} holds a {type(value).__name__}: {value!r:.200}")


def from_json(value: JsonValue) -> object:
    """What `to_json` was given."""
    if isinstance(value, list):
        return [from_json(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "number":
        return float(str(inner))
    assert isinstance(inner, list)
    if kind == "tuple":
        return tuple(from_json(part) for part in inner)
    pairs = {from_json(key): from_json(part) for key, part in inner}  # type: ignore[misc, str-unpack] # pairs, as written above
    return Counter(pairs) if kind == "counter" else pairs
