import copy
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from pydantic import ValidationError

from esper.events.fields import ByColumn, Columns, Float, Fraction, NonNegative, Part, Signed, float32_column


class Numbers(Part):
    any: Float | None = None
    share: Fraction | None = None
    signed: Signed | None = None
    positive: NonNegative | None = None


def written(numbers: Numbers) -> str:
    return numbers.model_dump_json(exclude_none=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [('"NaN"', math.nan), ('"Infinity"', math.inf), ('"-Infinity"', -math.inf), ("1", 1.0), ("-0.5", -0.5), ("1e300", 1e300)],
)
def test_numbers_and_the_three_words_are_read(text: str, value: float) -> None:
    assert repr(Numbers.model_validate_json(f'{{"any":{text}}}').any) == repr(value)


@pytest.mark.parametrize("text", ['"1.5"', '"nan"', '"inf"', '"+Infinity"', '""', "true", "false", "NaN", "Infinity", "1e999", "[1.0]"])
def test_anything_else_is_no_number(text: str) -> None:
    with pytest.raises(ValidationError, match="expected a number or one of NaN, Infinity, -Infinity"):
        Numbers.model_validate_json(f'{{"any":{text}}}')


@pytest.mark.parametrize("value", [True, False, "1.5", b"1", [1.0], 10**400])
def test_no_number_is_made_of_another_python_type(value: Any) -> None:
    with pytest.raises(ValidationError, match="expected a number"):
        Numbers(any=value)


@pytest.mark.parametrize("value", [1, 1.0, np.float64(1.0), np.float32(1.0)])
def test_numbers_of_numpy_become_plain_floats(value: Any) -> None:
    assert type(Numbers(any=value).any) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_range_lets_what_is_not_finite_pass(value: float) -> None:
    numbers = Numbers(any=value, share=value, signed=value, positive=value)
    assert [repr(number) for number in (numbers.any, numbers.share, numbers.signed, numbers.positive)] == [repr(float(value))] * 4


@pytest.mark.parametrize(
    ("field", "value", "limits"),
    [("share", 1.5, r"in 0\.\.1"), ("share", -0.1, r"in 0\.\.1"), ("signed", 1.01, r"in -1\.\.1"), ("positive", -1e-9, ">= 0 or")],
)
def test_a_range_binds_finite_values(field: str, value: float, limits: str) -> None:
    with pytest.raises(ValidationError, match=f"expected a number {limits}"):
        Numbers.model_validate({field: value})
    with pytest.raises(ValidationError, match=f"expected a number {limits}"):
        Numbers.model_validate_json(f'{{"{field}":{value}}}')


def test_what_is_not_finite_is_written_as_a_word() -> None:
    assert written(Numbers(any=math.nan, share=math.inf, positive=-math.inf)) == '{"any":"NaN","share":"Infinity","positive":"-Infinity"}'


@pytest.mark.parametrize("value", [0.5, 1, "NaN", "Infinity", "-Infinity", None])
def test_schema_takes_what_is_written(value: float | str | None) -> None:
    jsonschema.Draft202012Validator(Numbers.model_json_schema(mode="serialization")).validate(dict.fromkeys(Numbers.model_fields, value))


@pytest.mark.parametrize("payload", [{"any": "1.5"}, {"any": "nan"}, {"any": True}, {"share": 1.5}, {"signed": -2}, {"positive": -1}])
def test_schema_refuses_what_is_refused(payload: dict[str, object]) -> None:
    validator = jsonschema.Draft202012Validator(Numbers.model_json_schema(mode="validation"))
    assert not validator.is_valid(payload)


def test_float32_columns_are_written_shortest_and_null_where_not_measured() -> None:
    assert float32_column([0.1, 1 / 3, math.inf, 7.0], [True, True, True, False]) == (0.1, 0.33333334, math.inf, None)


class Pair(Columns):
    left: tuple[Float, ...]
    right: tuple[Float | None, ...]


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"expected columns of equal length, got \{'left': 2, 'right': 1\}"):
        Pair(left=(1.0, 2.0), right=(None,))


class Shade(Part):
    name: str
    depth: Float | None = None


class Palette(Part):
    shades: Annotated[Sequence[Shade], ByColumn()]


@pytest.mark.parametrize("names", [(), ("red",), ("red", "blue")])
def test_rows_are_written_as_columns_and_read_back_as_rows(names: tuple[str, ...]) -> None:
    palette = Palette(shades=tuple(Shade(name=name, depth=0.5) for name in names))
    written = palette.model_dump_json()
    assert json.loads(written) == {"shades": {"name": list(names), "depth": [0.5] * len(names)}}
    assert Palette.model_validate_json(written) == palette


def test_rows_that_were_read_are_models_like_any_other() -> None:
    [first, second] = Palette.model_validate_json('{"shades":{"name":["red","blue"],"depth":[0.5,null]}}').shades
    assert first.model_copy(update={"depth": 1.0}) == Shade(name="red", depth=1.0)
    assert copy.deepcopy(second) == Shade(name="blue", depth=None)
    assert (first.model_fields_set, second.model_fields_set) == ({"name", "depth"}, {"name", "depth"})


@pytest.mark.parametrize(
    ("shades", "message"),
    [
        ({"name": ["red"]}, "Field required"),
        ({"name": ["red"], "depth": [None, None]}, "expected columns of equal length"),
        ({"name": [1], "depth": [None]}, "valid string"),
        ([{"name": "red", "depth": None}], "Input should be an object"),
    ],
)
def test_columns_that_are_no_rows_are_refused(shades: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Palette.model_validate_json(json.dumps({"shades": shades}))
