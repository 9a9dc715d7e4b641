"""The rows of an answer."""

import importlib.util
from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from esper.audit.door.answer import Answer
from esper.errors import RuleError

pytestmark = pytest.mark.whole


def answer(**columns: pa.Array) -> Answer:
    return Answer(pa.table(columns), 0.1)


def test_rows_are_tuples() -> None:
    assert answer(a=pa.array([1, None]), b=pa.array(["x", "y"])).rows() == [(1, "x"), (None, "y")]


def test_there_may_be_no_rows() -> None:
    assert answer(a=pa.array([], pa.int64())).rows() == []


def test_nanoseconds_are_texts() -> None:
    assert answer(a=pa.array([1, None], pa.timestamp("ns"))).rows() == [("1970-01-01 00:00:00.000000001",), (None,)]


def test_what_python_can_hold_stays() -> None:
    assert answer(a=pa.array([1_000_000], pa.timestamp("us"))).rows() == [(datetime(1970, 1, 1, 0, 0, 1),)]


def test_intervals_are_durations_unless_they_have_months() -> None:
    of = pa.month_day_nano_interval()
    values = [(0, 0, 98_570_000), (0, 2, 0), (1, 0, 0), None]
    found = [row for (row,) in answer(a=pa.array(values, of)).rows()]
    assert found == [timedelta(microseconds=98_570), timedelta(days=2), "1 months 0:00:00", None]
    with pytest.raises(RuleError, match="cast that column to VARCHAR"):
        answer(a=pa.array([(0, 2_000_000_000, 0)], of)).rows()


def test_values_within_values_that_python_lacks_are_refused() -> None:
    with pytest.raises(RuleError, match="cast that column to VARCHAR"):
        answer(a=pa.array([[1]], pa.list_(pa.timestamp("ns")))).rows()


@pytest.mark.skipif(importlib.util.find_spec("pandas") is not None, reason="pandas is installed")
def test_without_pandas_a_data_frame_is_refused() -> None:
    with pytest.raises(RuleError, match="pip install pandas"):
        answer(a=pa.array([1])).df()


@pytest.mark.skipif(importlib.util.find_spec("polars") is not None, reason="polars is installed")
def test_without_polars_a_data_frame_is_refused() -> None:
    with pytest.raises(RuleError, match="pip install polars"):
        answer(a=pa.array([1])).pl()
