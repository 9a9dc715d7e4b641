"""Digests over events: the chain that ties a record to its predecessor, ids of derived events, canonical JSON, and the comparison form.

docs/events.md defines the chain: sha256 over all fields of a record, the previous chain of its topic, and the payload.

The comparison form is what two executions of the same training must agree on: the payload as it is written, without the fields that its
JSON Schema marks volatile, and with every id that it marks a reference replaced.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Literal

from pydantic import JsonValue
from pydantic_core import to_json as json_bytes

from esper.errors import DataError
from esper.events.codec import encode
from esper.events.envelope import MICROSECOND, SINCE, EventId
from esper.events.fields import Event


def chain(record: Sequence[Any], previous: bytes) -> bytes:  # Any: a Record, or its fields in their order before they are made one.
    """The chain of `record` after `previous` (32 bytes, or none at a topic's start); the record's own `chain` field is not read.

    Every record passes here, so it is written for speed: what lasts for a topic is made once, the rest is one text and one digest.
    """
    _, run, topic, writer, sequence, fact, moment, _, incarnation, kind, time, epoch, step, cause, trace, _, data = record
    lasting = _lasting(topic, run, writer, kind, trace or "", cause or "")
    number, counted = "" if sequence is None else sequence, "" if fact is None else fact
    microseconds = (time - SINCE) // MICROSECOND
    text = f"{lasting}{number} {counted} {moment} {incarnation} {microseconds} {epoch} {step} {len(data)} "
    digest = hashlib.sha256(text.encode())
    digest.update(previous)
    digest.update(data)
    return digest.digest()


@lru_cache(maxsize=1024)
def _lasting(*texts: str) -> str:
    return "".join(f"{len(text.encode())}:{text}" for text in texts)


def derived_id(cause: EventId, rule: str, version: int, settings_digest: str, index: int) -> EventId:
    """The id of the `index`-th event that a rule derives from `cause`: made again from the same, it is the same."""
    parts = "\x1f".join((cause, rule, str(version), settings_digest, str(index)))
    return EventId(hashlib.sha256(parts.encode()).hexdigest()[:32])


def to_json(value: object) -> JsonValue:
    """`value` as JSON: dataclasses and models as objects, a map that is no dict as a list of pairs in its order, NaN as a word."""
    text = json_bytes(value, inf_nan_mode="strings", bytes_mode="hex", fallback=lambda table: list(table.items()))
    made: JsonValue = json.loads(text)
    return made


def canonical(value: JsonValue) -> bytes:
    """`value` as JSON with sorted keys, no spaces, shortest floats; what digests are taken of. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: JsonValue) -> str:
    """sha256 over the canonical form of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def checkpoint_digest(manifest: bytes, tensors_sha256: str) -> str:
    """The digest of a checkpoint whose tensors have that sha256: over its manifest, in which theirs stands.

    Raises DataError for a manifest that is none, or that is of other tensors.
    """
    try:
        body = dict(json.loads(manifest))
        digest, expected = digest_of(body), str(body["tensors_sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"expected the manifest of a checkpoint: {error!r}") from error
    if expected != tensors_sha256:
        raise DataError(f"expected tensors with sha256 {expected[:16]}, as the manifest says, got {tensors_sha256[:16]}")
    return digest


def comparison_form(event: Event, resolve: Callable[[EventId], str]) -> JsonValue:
    """The part of `event` that two executions of the same training agree on: no volatile fields, ids replaced by `resolve`.

    Values are as they stand in the payload: what is not finite is one of the three words, so that equal forms compare equal.
    """
    return _compared(json.loads(encode(event)), _marks_of(type(event)), resolve)


# The marks of a value: volatile, a reference, or those of an object's fields ("*": of every value of a map); None: it has none.
_Mark = Literal["volatile", "reference"] | Mapping[str, Any] | None
_Schema = Mapping[str, Any]  # Any: a JSON Schema, made by pydantic; marks inside marks.


@cache
def _marks_of(kind: type[Event]) -> _Mark:
    schema = kind.model_json_schema(mode="serialization")
    return _marks_in(schema, schema.get("$defs", {}))


def _marks_in(schema: _Schema, parts: _Schema) -> _Mark:
    if schema.get("x-volatile"):
        return "volatile"
    if schema.get("x-reference"):
        return "reference"
    if "$ref" in schema:
        return _marks_in(parts[schema["$ref"].removeprefix("#/$defs/")], parts)
    if "properties" in schema:
        marks = {name: mark for name, field in schema["properties"].items() if (mark := _marks_in(field, parts))}
        return marks or None
    if isinstance(values := schema.get("additionalProperties"), dict):
        mark = _marks_in(values, parts)
        return {"*": mark} if mark not in (None, "volatile") else mark
    inner = schema.get("anyOf") or [items for items in (schema.get("items"),) if isinstance(items, dict)]
    found = [mark for part in inner if (mark := _marks_in(part, parts))]
    assert all(mark == found[0] for mark in found), f"more than one part of a union is compared in its own way: {schema}"
    return found[0] if found else None


def _compared(value: JsonValue, mark: _Mark, resolve: Callable[[EventId], str]) -> JsonValue:
    if mark is None:
        return value
    if isinstance(value, list):
        return [_compared(item, mark, resolve) for item in value]
    if isinstance(value, dict) and isinstance(mark, Mapping):
        kept = ((name, item, mark.get(name, mark.get("*"))) for name, item in value.items())
        return {name: _compared(item, inner, resolve) for name, item, inner in kept if inner != "volatile"}
    return resolve(EventId(value)) if mark == "reference" and isinstance(value, str) else value
