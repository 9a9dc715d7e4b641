"""What every answer is: frozen, with the log's words for numbers that are not finite; null is not measured."""

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    """A frozen answer."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_inf_nan="strings",
        allow_inf_nan=True,
        from_attributes=True,
        json_schema_serialization_defaults_required=True,
    )
