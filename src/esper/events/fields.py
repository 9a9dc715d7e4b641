"""The field types that event kinds are made of, and the base every kind is declared on.

Numbers: a value that is not finite is written as "NaN", "Infinity" or "-Infinity"; null means not measured and nothing else. No other
text is a number, and no truth value is one. A range binds finite values only, so that a NaN loss can be recorded at all. A
comparison with NaN is false: no NaN passes a limit.

Marks: a field's JSON Schema carries `x-volatile` where two executions of the same training may differ, and `x-reference` where the text
is the id of another record. The comparison form (`esper.events.digests`) is driven by them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from operator import attrgetter
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from esper.events.envelope import EventId

CONFIG = ConfigDict(
    frozen=True,
    strict=True,
    extra="forbid",
    ser_json_inf_nan="strings",
    allow_inf_nan=True,
    json_schema_serialization_defaults_required=True,
)


class Part(BaseModel):
    """A frozen piece of an event's payload."""

    model_config = CONFIG


class Event(Part):
    """A frozen fact in the past tense. `kind` is its written name, `topic` where it stands ("*": in several topics)."""

    KIND: ClassVar[str]
    TOPIC: ClassVar[str]

    def __init_subclass__(cls, *, kind: str = "", topic: str = "") -> None:
        if kind:
            cls.KIND, cls.TOPIC = kind, topic


WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class _Number(NamedTuple):
    """Schema of a float for pydantic: a number in low..high, or one of the three words for a value that is not finite.

    Finite values in range never leave pydantic's compiled code: a Python function per value would triple the cost of decoding columns.
    """

    low: float | None = None
    high: float | None = None

    def _from_json(self, value: object) -> float:
        # Called with what the compiled schema refused: a word, or a fault. JSON's numbers are finite, so a bare NaN is a fault too.
        if isinstance(value, str) and value in WORDS:
            return WORDS[value]
        raise ValueError("expected a number or a word")

    def _from_python(self, value: object) -> float:
        if isinstance(value, (float, np.floating)) and not math.isfinite(value):
            return float(value)
        return self._from_json(value)

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        finite = core_schema.float_schema(strict=True, allow_inf_nan=False, ge=self.low, le=self.high)
        limits = "" if self.low is None else f" >= {self.low:g}" if self.high is None else f" in {self.low:g}..{self.high:g}"

        def either(other: core_schema.NoInfoValidatorFunction) -> CoreSchema:
            return core_schema.union_schema(
                [finite, core_schema.no_info_plain_validator_function(other)],
                mode="left_to_right",
                custom_error_type="number",
                custom_error_message=f"expected a number{limits} or one of {', '.join(WORDS)}",
            )

        return core_schema.json_or_python_schema(
            json_schema=either(self._from_json),
            python_schema=either(self._from_python),
            serialization=core_schema.simple_ser_schema("float"),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # Limits bind numbers alone and the pattern binds text alone: one flat schema, where a union would be repeated for every column.
        written = {"type": ["number", "string"], "pattern": "^(NaN|-?Infinity)$", "minimum": self.low, "maximum": self.high}
        marks = {key: value for key, value in handler(schema).items() if key not in {"anyOf", *written}}
        return {key: value for key, value in written.items() if value is not None} | marks


VOLATILE = Field(json_schema_extra={"x-volatile": True})

Float = Annotated[float, _Number()]
Fraction = Annotated[float, _Number(0.0, 1.0)]
Signed = Annotated[float, _Number(-1.0, 1.0)]
NonNegative = Annotated[float, _Number(low=0.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Reference = Annotated[EventId, Field(json_schema_extra={"x-reference": True})]
CheckpointName = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$")]
"""Names a folder of its run: never a path."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Metrics = dict[str, Float]

M = TypeVar("M", bound=BaseModel)


class Columns(Part):
    """Tuples of equal length, one entry per thing measured."""

    @model_validator(mode="after")
    def _equal_lengths(self) -> "Columns":
        columns = vars(self)
        if len({len(column) for column in columns.values() if type(column) is tuple}) > 1:
            _require_equal_lengths({name: column for name, column in columns.items() if isinstance(column, tuple)})
        return self


def _require_equal_lengths(columns: Mapping[str, tuple[object, ...]]) -> None:
    if len(set(map(len, columns.values()))) > 1:
        raise ValueError(f"expected columns of equal length, got { {name: len(column) for name, column in columns.items()} }")


class RowColumns(Part):
    """Columns of a field that is written by column; `ROW` is the model of one row."""

    ROW: ClassVar[type[BaseModel]]


class Rows(Sequence[M]):
    """Rows that were read by column. They are made when the first is asked for: most readers of a record ask for none."""

    def __init__(self, row: type[M], columns: dict[str, tuple[object, ...]]) -> None:
        _require_equal_lengths(columns)
        self._row, self._columns = row, columns

    @cached_property
    def _made(self) -> tuple[M, ...]:
        columns, names = self._columns, set(self._columns)  # The set is of all rows: a copy of a model copies its set.
        return tuple(
            [_trusted(self._row, dict(zip(columns, values, strict=True)), names) for values in zip(*columns.values(), strict=True)]
        )

    def __getitem__(self, index: Any) -> Any:  # Any: a row or a tuple of rows, as of a tuple.
        return self._made[index]

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __eq__(self, other: object) -> bool:
        return self._made == (other._made if isinstance(other, Rows) else other)

    def __hash__(self) -> int:
        return hash(self._made)


class ByColumn:
    """Mark of a field `Sequence[Row]` that is written as one object of columns, which takes a third of the bytes of objects per row.

    Columns are validated by pydantic's compiled code. Rows are made of them as they are: to validate each again takes four times as long.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # Any: pydantic's own.
        row = get_args(source)[0]
        model = _columns_model(row)
        columns = handler.generate_schema(model)
        read: Any = handler.resolve_ref_schema(columns)  # Any: pydantic's own. Its inner schema gives a dict of columns, without a model.
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(lambda found: Rows(row, found[0]), read["schema"]),
            python_schema=handler.generate_schema(tuple.__class_getitem__((row, ...))),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda rows: _columns_of(model, rows), return_schema=columns),
        )


@cache
def _columns_model(row: type[BaseModel]) -> type[RowColumns]:
    """The columns of rows like `row`: a tuple per field, in the order of its fields."""
    hints = get_type_hints(row, include_extras=True)
    fields: dict[str, Any] = {name: (tuple.__class_getitem__((hints[name], ...)), ...) for name in row.model_fields}  # Any: pydantic's own.
    made = create_model(f"{row.__name__}Columns", __base__=RowColumns, **fields)
    made.__doc__, made.ROW = row.__doc__, row
    return made


def _columns_of(model: type[RowColumns], rows: Iterable[BaseModel]) -> RowColumns:
    names = tuple(model.model_fields)
    columns = tuple(zip(*map(attrgetter(*names), rows), strict=True)) or ((),) * len(names)
    return _trusted(model, dict(zip(names, columns, strict=True)), set(names))


def _trusted(model: type[M], values: dict[str, object], names: set[str]) -> M:
    """`model_construct` for values that are validated and complete, in a tenth of its time."""
    made = model.__new__(model)
    object.__setattr__(made, "__dict__", values)
    object.__setattr__(made, "__pydantic_fields_set__", names)
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def float32_column(values: npt.ArrayLike, measured: npt.ArrayLike | None = None) -> tuple[float | None, ...]:
    """`values` rounded to float32 and written shortest; None where `measured` is false.

    Shapes: both 1-D, equal length. The shortest decimal that gives the same float32 is about half the bytes of its float64 form.
    """
    rounded = np.asarray(values, dtype=np.float32)
    kept = np.ones(rounded.shape, dtype=bool) if measured is None else np.asarray(measured, dtype=bool)
    return tuple(float(str(value)) if known else None for value, known in zip(rounded, kept, strict=True))
