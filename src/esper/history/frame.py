"""A topic of a run as a table in memory, which pandas, polars, DuckDB and Arrow take as it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import BaseModel

from esper.errors import SettingsError
from esper.events.envelope import Record
from esper.events.fields import Columns, Event
from esper.events.topics import EPOCH, SEED_HEALTH, STEPS

if TYPE_CHECKING:
    import pyarrow as pa

TOPIC_OF: Mapping[str, str] = {"steps": STEPS, "epochs": EPOCH, "health": SEED_HEALTH}
"""The topics that have a short name of their own."""
_COORDINATES = ("moment", "sequence", "fact", "time", "epoch", "step", "type")


@dataclass(frozen=True)
class Frame:
    """Columns of equal length by name; None is not measured. `polars.DataFrame(frame)`, `pyarrow.table(frame)`, and in DuckDB its name.

    `pandas.DataFrame(frame.columns)` needs no Arrow. The others ask for Arrow's PyCapsule interface, which takes pyarrow.
    """

    columns: Mapping[str, Sequence[object]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> list[dict[str, object]]:
        """A row after the other, each with every column."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]

    def arrow(self) -> "pa.Table":
        """The columns as an Arrow table; a column of more than one type is text. Raises SettingsError where pyarrow is missing."""
        try:
            import pyarrow as pa
        except ImportError:
            raise SettingsError(
                "a frame as Arrow needs pyarrow: pip install 'esper-training[audit]'; frame.columns is a plain dict of lists"
            ) from None

        def column(values: Sequence[object]) -> "pa.Array":
            try:
                return pa.array(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                return pa.array([None if value is None else str(value) for value in values])

        return pa.table({name: column(values) for name, values in self.columns.items()})

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Arrow's PyCapsule interface: <https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html>."""
        return self.arrow().__arrow_c_stream__(requested_schema)


def frame_of(rows: Sequence[Mapping[str, object]]) -> Frame:
    """`rows` as columns, in the order in which their names first occur."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Frame({name: [_cell(row.get(name)) for row in rows] for name in names})


def rows_of(record: Record, event: Event) -> Iterator[dict[str, object]]:
    """The flat rows of a record: one, or one a measured step or seed where it holds columns."""
    row: dict[str, object] = {name: getattr(record, name) for name in _COORDINATES}
    columns: dict[str, tuple[object, ...]] = {}
    for name, value in event:
        if isinstance(value, Columns):
            columns |= dict(value)
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
    """`value` under `name`; the fields of a part under dotted names."""
    if isinstance(value, BaseModel):
        return {path: inner for field_name, part in value for path, inner in _flat(f"{name}.{field_name}", part).items()}
    if isinstance(value, dict):
        return {f"{name}.{key}": item for key, item in value.items()}
    return {name: value}


def _cell(value: object) -> object:
    """`value` of plain types: lists for sequences, dicts for parts in them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, BaseModel):
        return {name: _cell(inner) for name, inner in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_cell(inner) for inner in value]
    return {name: _cell(inner) for name, inner in value.items()} if isinstance(value, dict) else value
