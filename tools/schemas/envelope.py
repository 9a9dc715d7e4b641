"""The JSON Schema of a record's headers on Kafka: one property per header, its text before UTF-8."""

from esper.events.cloudevents import HEADERS
from tools.schemas.jsonschema import DIALECT, Json


def envelope_schema() -> Json:
    """The schema of an object of a record's headers; headers of other names are allowed and mean nothing here."""
    return {
        "$schema": DIALECT,
        "$id": "urn:esper:envelope",
        "title": "Envelope",
        "description": "The headers of a record on Kafka: CloudEvents 1.0, binary content mode. The record's key is the run's id.",
        "type": "object",
        "properties": {
            name: {"type": "string", "pattern": f"^({attribute.pattern})$", "description": attribute.meaning}
            for name, attribute in HEADERS.items()
        },
        "required": [name for name, attribute in HEADERS.items() if attribute.required],
    }
