"""The JSON Schema (Draft 2020-12) of one event kind's payload, as the codec writes it.

Titles and descriptions are the docstrings of classes and of their fields. `x-volatile` and `x-reference` mark what the comparison form
leaves out and resolves; `x-topic` says where the kind stands.
"""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from esper.events.fields import Columns, Event, Part

Json = dict[str, Any]  # Any: a JSON document under construction; the tests validate it whole.

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def payload_schema(kind: type[Event]) -> Json:
    """The schema of a payload of `kind`: every field is required, since the codec writes defaults too."""
    made = kind.model_json_schema(mode="serialization", schema_generator=_Documented)
    head = {"$schema": DIALECT, "$id": f"urn:esper:{kind.KIND}", "title": made.pop("title"), "description": made.pop("description")}
    return head | {"x-topic": kind.TOPIC} | made


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


@cache
def field_meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field of `model` that has one, by the field's name.

    Read from the source when schemas are made: pydantic can keep them too, and takes twice as long to import every kind.
    """
    meanings: dict[str, str] = {}
    if issubclass(model, Columns) and model.ROW is not None:
        model = model.ROW
    for part in reversed(model.__mro__):
        if issubclass(part, (Event, Part)):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
            assert isinstance(definition, ast.ClassDef)
            meanings |= dict(_documented(definition))
    return meanings


def _documented(definition: ast.ClassDef) -> list[tuple[str, str]]:
    found = []
    for field, after in pairwise(definition.body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found.append((name, inspect.cleandoc(text)))
    return found
