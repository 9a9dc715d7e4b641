"""Digests over events: the chain that ties a record to its predecessor, ids of derived events, canonical JSON, and the comparison form.

The chain of a record is sha256 over these fields in this order, each preceded by its length as 8 bytes, big endian: topic, run, writer,
sequence, moment, type, time, epoch, step, cause, the previous record's chain, the payload's bytes. Numbers are decimal digits, time is
ISO 8601 in UTC with six decimals and a "Z", what is absent is empty. The first record of a topic follows an empty chain.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel, JsonValue

from esper.events.envelope import EventId, Record
from esper.events.fields import Event


def written_time(time: datetime) -> str:
    """`time` as it is chained and shown: ISO 8601, UTC, microseconds, with a Z. Expects an aware UTC time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def chain(record: Record, previous: bytes) -> bytes:
    """The chain of `record` after `previous` (32 bytes, or none at a topic's start); the record's own `chain` field is not read."""
    digest = hashlib.sha256()
    for field in (
        record.topic.encode(),
        record.run.encode(),
        record.writer.encode(),
        b"" if record.sequence is None else b"%d" % record.sequence,
        b"%d" % record.moment,
        record.type.encode(),
        written_time(record.time).encode(),
        b"%d" % record.epoch,
        b"%d" % record.step,
        (record.cause or "").encode(),
        previous,
        record.data,
    ):
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
    return digest.digest()


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


def comparison_form(event: Event, resolve: Callable[[EventId], str]) -> JsonValue:
    """What two executions of the same training must agree on: no volatile fields, ids replaced by `resolve` (topic and sequence)."""
    return _compared(event, resolve)


def _compared(part: BaseModel, resolve: Callable[[EventId], str]) -> JsonValue:
    dumped = part.model_dump(mode="json")
    kept: dict[str, JsonValue] = {}
    for name, field in type(part).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("volatile"):
            continue
        kept[name] = _value(getattr(part, name), dumped[name], name in _reference_fields(type(part)), resolve)
    return kept


def _value(value: object, dumped: JsonValue, reference: bool, resolve: Callable[[EventId], str]) -> JsonValue:
    if isinstance(value, BaseModel):
        return _compared(value, resolve)
    if isinstance(value, tuple) and isinstance(dumped, list):
        return [_value(item, plain, reference, resolve) for item, plain in zip(value, dumped, strict=True)]
    if reference and isinstance(value, str):
        return resolve(EventId(value))
    return dumped


def _reference_fields(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for name, field in model.model_fields.items() if "EventId" in str(field.annotation) or "EventId" in str(field.metadata))
