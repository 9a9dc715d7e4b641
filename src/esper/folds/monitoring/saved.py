"""Field types of the states that are saved as JSON: arrays, maps whose keys are no text, and sets."""

import base64
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, GetCoreSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema, core_schema

from esper.events.fields import CONFIG

SAVED = ConfigDict(**CONFIG, ser_json_bytes="hex", val_json_bytes="hex", arbitrary_types_allowed=True)
"""The configuration of a saved dataclass."""

Names = Annotated[frozenset[str], PlainSerializer(sorted, return_type=list[str])]
"""A set of texts, saved in their order: equal states have equal bytes."""


class AsArray(NamedTuple):
    """Mark of a numpy array of one element type: saved as base64 of its little-endian bytes, loaded flat and read-only."""

    type: str

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        pack = core_schema.plain_serializer_function_ser_schema(self._packed, return_schema=core_schema.str_schema())
        return core_schema.no_info_plain_validator_function(self._unpacked, serialization=pack)

    def _packed(self, array: npt.NDArray[Any]) -> str:  # Any: of whatever type the field is.
        return base64.b64encode(array.astype(self.type).tobytes()).decode()

    def _unpacked(self, text: object) -> npt.NDArray[Any]:
        if not isinstance(text, str):
            raise ValueError("expected an array in base64")
        return np.frombuffer(base64.b64decode(text, validate=True), self.type)


class AsPairs:
    """Mark of a map: saved as a list of pairs, because the keys of a JSON object are texts."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        pair = core_schema.tuple_schema([handler.generate_schema(one) for one in get_args(source)])
        pairs = core_schema.list_schema(pair)
        items = core_schema.plain_serializer_function_ser_schema(lambda table: list(table.items()), return_schema=pairs)
        return core_schema.no_info_after_validator_function(dict, pairs, serialization=items)
