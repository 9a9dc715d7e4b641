import math
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from pydantic import ValidationError

from esper.events.fields import Float, Fraction, NonNegative, Part, Signed, float32_column


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
    [("share", 1.5, r"0\.\.1"), ("share", -0.1, r"0\.\.1"), ("signed", 1.01, r"-1\.\.1"), ("positive", -1e-9, r"0\.\.inf")],
)
def test_a_range_binds_finite_values(field: str, value: float, limits: str) -> None:
    with pytest.raises(ValidationError, match=f"expected a number in {limits}"):
        Numbers.model_validate({field: value})
    with pytest.raises(ValidationError, match=f"expected a number in {limits}"):
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
