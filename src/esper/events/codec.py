"""Events to payloads and back: the only module that encodes or decodes one."""

from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from esper.errors import DataError
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds import KINDS_BY_NAME

E = TypeVar("E", bound=Event)

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024


class UnknownKindError(DataError):
    """A record's kind or version is not in this version's catalogue: written by a newer Esper, or not by Esper."""


def encode(event: Event) -> bytes:
    """The payload of `event`: JSON, UTF-8, written once and never encoded again.

    Raises DataError above 8 MiB, the largest record that the topics allow, and for text that has no UTF-8 form.
    """
    try:
        # The concrete model's own serializer: about twice as fast as model_dump_json().encode().
        data = event.__pydantic_serializer__.to_json(event)
    except PydanticSerializationError as error:
        raise DataError(f"expected an event that JSON can hold, got one {event.KIND}: {error}") from error
    if len(data) > MAX_PAYLOAD_BYTES:
        raise DataError(f"expected a payload of at most {MAX_PAYLOAD_BYTES} bytes, got {len(data)} in one {event.KIND}")
    return data


def decode_payload(kind: str, data: bytes) -> Event:
    """The event of written kind `kind` in `data`.

    Raises UnknownKindError for a kind or version not in the catalogue, DataError for a payload that breaks its schema.
    """
    model = KINDS_BY_NAME.get(kind)
    if model is None:
        raise UnknownKindError(f"expected a kind of this version's catalogue, got {kind!r}")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        came = f"{first['input']!r:.80}"
        raise DataError(f"a payload of {kind} breaks its schema at {place or 'its root'}: {first['msg']}, got {came}") from error


def decode(record: Record) -> Event:
    """The event that stands in `record`; errors name the run, topic and moment besides."""
    try:
        return decode_payload(record.type, record.data)
    except DataError as error:
        raise type(error)(f"run {record.run}, topic {record.topic}, moment {record.moment}: {error}") from error


def decode_as(record: Record, kind: type[E]) -> E:
    """The event in `record`, which is to be of `kind`; DataError for any other."""
    event = decode(record)
    if not isinstance(event, kind):
        place = f"run {record.run}, topic {record.topic}, moment {record.moment}"
        raise DataError(f"{place}: expected an event of kind {kind.KIND}, got {record.type}")
    return event


def as_stored(event: E) -> E:
    """`event` as a reader of the log gets it: decoded from its payload."""
    return type(event).model_validate_json(encode(event))
