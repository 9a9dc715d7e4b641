"""Digests over events: the chain that ties a record to its predecessor, ids of derived events, canonical JSON, and the comparison form.

The chain of a record is sha256 over, in this order: topic, run, writer, type, trace and cause, each as its length in bytes, a colon and
itself; sequence, fact, moment, incarnation, time, epoch, step and the payload's length, each as decimal digits and a space; the previous
record's chain; the payload. Time is in microseconds since 1970 in UTC, what is absent is empty. The first record of a topic follows an
empty chain. So it covers all of a record: its id follows from these, and its generation is 0.

The comparison form is what two executions of the same training must agree on: the payload as it is written, without the fields that its
JSON Schema marks volatile, and with every id that it marks a reference replaced. One walk over the schema makes a plan per kind.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

from pydantic import JsonValue

from esper.events.codec import encode
from esper.events.envelope import MICROSECOND, SINCE, EventId, Record
from esper.events.fields import Event

__all__ = ["canonical", "chain", "comparison_form", "derived_id", "digest_of"]

Resolve = Callable[[EventId], str]


def chain(record: Record, previous: bytes) -> bytes:
    """The chain of `record` after `previous` (32 bytes, or none at a topic's start); the record's own `chain` field is not read.

    Every record passes here, so it is written for speed: what lasts for a topic is made once, the rest is one text and one digest.
    """
    _, run, topic, writer, sequence, fact, moment, _, incarnation, kind, time, epoch, step, cause, trace, _, data = record
    number, counted = "" if sequence is None else sequence, "" if fact is None else fact
    microseconds = (time - SINCE) // MICROSECOND
    numbers = f"{number} {counted} {moment} {incarnation} {microseconds} {epoch} {step} {len(data)} "
    digest = hashlib.sha256(f"{_lasting(topic, run, writer, kind, trace or '')}{_counted(cause or '')}{numbers}".encode())
    digest.update(previous)
    digest.update(data)
    return digest.digest()


def _counted(text: str) -> str:
    return f"{len(text) if text.isascii() else len(text.encode())}:{text}"


@lru_cache(maxsize=1024)
def _lasting(*texts: str) -> str:
    return "".join(map(_counted, texts))


def derived_id(cause: EventId, rule: str, version: int, settings_digest: str, index: int) -> EventId:
    """The id of the `index`-th event that a rule derives from `cause`: made again from the same, it is the same."""
    parts = "\x1f".join((cause, rule, str(version), settings_digest, str(index)))
    return EventId(hashlib.sha256(parts.encode()).hexdigest()[:32])


def canonical(value: JsonValue) -> bytes:
    """`value` as JSON with sorted keys, no spaces, shortest floats; what digests are taken of. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: JsonValue) -> str:
    """sha256 over the canonical form of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def comparison_form(event: Event, resolve: Resolve) -> JsonValue:
    """What two executions of the same training must agree on: no volatile fields, ids replaced by `resolve` (topic and sequence).

    Values are as they stand in the payload: what is not finite is one of the three words, so that equal forms compare equal.
    """
    value: JsonValue = json.loads(encode(event))
    plan = _plan_of(type(event))
    return value if plan is None else plan(value, resolve)


# A plan makes a value's comparison form; None: the value stays as it is.
_Plan = Callable[[JsonValue, Resolve], JsonValue]
_Schema = Mapping[str, Any]  # Any: a JSON Schema, made by pydantic.


@cache
def _plan_of(kind: type[Event]) -> _Plan | None:
    schema = kind.model_json_schema(mode="serialization")
    return _planned(schema, schema.get("$defs", {}))


def _planned(schema: _Schema, parts: _Schema) -> _Plan | None:
    if schema.get("x-volatile"):
        return _left_out
    if schema.get("x-reference"):
        return _resolved
    if "$ref" in schema:
        return _planned(parts[schema["$ref"].removeprefix("#/$defs/")], parts)
    if "properties" in schema:
        return _object_plan({name: _planned(field, parts) for name, field in schema["properties"].items()})
    inner = schema.get("anyOf") or [part for key in ("items", "additionalProperties") if isinstance(part := schema.get(key), dict)]
    plans = {plan for part in inner if (plan := _planned(part, parts))}
    assert len(plans) <= 1, f"more than one part of a union is compared in its own way: {schema}"
    plan = plans.pop() if plans else None
    return plan if plan is None or plan is _left_out or "anyOf" in schema else _plan_for_each(plan)


def _left_out(_value: JsonValue, _resolve: Resolve) -> JsonValue:
    return None  # Never called for a field: whoever plans the object around it leaves the field out.


def _resolved(value: JsonValue, resolve: Resolve) -> JsonValue:
    return resolve(EventId(value)) if isinstance(value, str) else value


def _plan_for_each(plan: _Plan) -> _Plan:
    def compared(value: JsonValue, resolve: Resolve) -> JsonValue:
        if isinstance(value, list):
            return [plan(item, resolve) for item in value]
        if isinstance(value, dict):
            return {key: plan(item, resolve) for key, item in value.items()}
        return value

    return compared


def _object_plan(plans: Mapping[str, _Plan | None]) -> _Plan | None:
    if not any(plans.values()):
        return None

    def compared(value: JsonValue, resolve: Resolve) -> JsonValue:
        if not isinstance(value, dict):  # null, where the part is optional
            return value
        kept = ((name, item, plans[name]) for name, item in value.items() if plans[name] is not _left_out)
        return {name: plan(item, resolve) if plan else item for name, item, plan in kept}

    return compared
