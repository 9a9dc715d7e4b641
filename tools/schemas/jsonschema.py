"""The JSON Schema (Draft 2020-12) of one event kind's payload, as the codec writes it.

Titles and descriptions are the docstrings of classes and of their fields. `x-volatile` and `x-reference` mark what the comparison form
leaves out and resolves; `x-topic` says where the kind stands.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from esper.events.cloudevents import HEADERS
from esper.events.fields import Event
from esper.events.meanings import field_meanings

Json = dict[str, Any]  # Any: a JSON document under construction; the tests validate it whole.

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def payload_schema(kind: type[Event]) -> Json:
    """The schema of a payload of `kind`: every field is required, since the codec writes defaults too."""
    made = kind.model_json_schema(mode="serialization", schema_generator=_Documented)
    head = {"$schema": DIALECT, "$id": f"urn:esper:{kind.KIND}", "title": made.pop("title"), "description": made.pop("description")}
    return head | {"x-topic": kind.TOPIC} | made


def envelope_schema() -> Json:
    """The schema of the headers of a record on Kafka, their text before UTF-8; headers of other names are allowed and mean nothing."""
    return {
        "$schema": DIALECT,
        "$id": "urn:esper:envelope",
        "title": "Envelope",
        "description": "The headers of a record on Kafka: CloudEvents 1.0, binary content mode. The record's key is the run's id.",
        "type": "object",
        "properties": {
            name: {"type": "string", "pattern": f"^({header.pattern})$", "description": header.meaning} for name, header in HEADERS.items()
        },
        "required": [name for name, header in HEADERS.items() if header.required],
    }


class _Documented(GenerateJsonSchema):
    """Pydantic's schema with the docstrings of fields as descriptions, without titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - Any: pydantic's own name for it is long and private.
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for name, meaning in field_meanings(model).items():
            made["properties"][name]["description"] = meaning
        return made
