"""Records as flat rows for tables and data frames: nested parts by dotted names, columns as one row per entry."""

from collections.abc import Iterator

from pydantic import BaseModel

from esper.events.envelope import Record
from esper.events.fields import Columns, Event

_COORDINATES = ("moment", "sequence", "fact", "time", "epoch", "step", "type")


def rows_of(record: Record, event: Event) -> Iterator[dict[str, object]]:
    """The rows of `event`: one, or one per entry where it holds columns of its own (measured steps, the health of seeds).

    An entry's values replace a coordinate of the same name: `step` of a measured step is that step.
    """
    row: dict[str, object] = {name: getattr(record, name) for name in _COORDINATES}
    columns: dict[str, tuple[object, ...]] = {}
    for name in type(event).model_fields:
        value = getattr(event, name)
        if isinstance(value, Columns):
            columns |= {field: getattr(value, field) for field in type(value).model_fields}
        elif isinstance(value, dict) and name == "metrics" and all(isinstance(column, tuple) for column in value.values()):
            columns |= {f"metrics.{metric}": column for metric, column in value.items()}
        else:
            row |= _flat(name, value)
    if not columns:
        yield row
        return
    for entry in zip(*columns.values(), strict=True):
        yield row | dict(zip(columns, entry, strict=True))


def _flat(name: str, value: object) -> dict[str, object]:
    if isinstance(value, BaseModel):
        parts: dict[str, object] = {}
        for field in type(value).model_fields:
            parts |= _flat(f"{name}.{field}", getattr(value, field))
        return parts
    if isinstance(value, dict):
        return {f"{name}.{key}": item for key, item in value.items()}
    return {name: value}
