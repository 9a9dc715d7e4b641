"""The rows that a query gave."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa

from esper.errors import RuleError


@dataclass(frozen=True)
class Answer:
    """All rows of a query: an answer is never a part of them. Columns of one name are told apart by a number: a, a_1."""

    arrow: pa.Table
    took_s: float

    def rows(self) -> list[tuple[object, ...]]:
        """The rows as tuples of Python's values; a map is a dict."""
        return list(zip(*(_values(column) for column in self.arrow.columns), strict=True))

    def df(self) -> Any:  # Any: pandas may be missing, and with it its types.
        """The rows as a pandas DataFrame. Raises RuleError where pandas is not installed."""
        try:
            return self.arrow.to_pandas()
        except ImportError as error:
            raise RuleError("expected pandas to be installed for .df(): pip install pandas, or take .arrow or .rows()") from error

    def pl(self) -> Any:  # Any: polars may be missing, and with it its types.
        """The rows as a polars DataFrame. Raises RuleError where polars is not installed."""
        try:
            import polars as pl
        except ImportError as error:
            raise RuleError("expected polars to be installed for .pl(): pip install polars, or take .arrow or .rows()") from error
        return pl.from_arrow(self.arrow)


def _values(column: pa.ChunkedArray) -> list[object]:
    """The values of `column`; all as texts where Python has no value for one of them, such as a nanosecond or a time that is infinite."""
    try:
        values: list[object] = column.to_pylist(maps_as_pydicts="strict")
        if pa.types.is_interval(column.type):
            return [None if one is None else _interval(*one) for one in column.to_pylist()]
    except (OverflowError, ValueError):
        try:
            values = column.cast(pa.string()).to_pylist()
        except pa.ArrowNotImplementedError as error:
            raise RuleError(f"expected values that Python has, got {column.type}: cast that column to VARCHAR in the query") from error
    return values


def _interval(months: int, days: int, nanoseconds: int) -> timedelta | str:
    """An interval; as a text where it has months, whose length Python does not know."""
    rest = timedelta(days=days, microseconds=nanoseconds // 1000)
    return f"{months} months {rest}" if months else rest
