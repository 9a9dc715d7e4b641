"""Columns inside events have one length, wherever they stand and whether or not they were measured."""

import pytest
from pydantic import ValidationError

from esper.events.fields import Float
from esper.events.kinds.epoch import Columns


class Inner(Columns):
    left: tuple[Float, ...]
    right: tuple[Float | None, ...] | None


class Outer(Columns):
    name: tuple[str, ...]
    loss: tuple[Float, ...] | None
    inner: Inner | None
    metrics: dict[str, tuple[Float | None, ...]]


def test_columns_that_were_not_measured_have_no_length() -> None:
    assert Outer(name=("a", "b"), loss=None, inner=None, metrics={}).loss is None
    assert Outer(name=("a", "b"), loss=None, inner=Inner(left=(1.0, 2.0), right=None), metrics={}).name == ("a", "b")


def test_optional_column_of_another_length_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"expected columns of equal length, got \{'name': 2, 'loss': 1\}"):
        Outer(name=("a", "b"), loss=(1.0,), inner=None, metrics={})


def test_columns_inside_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"'inner\.left': 1, 'inner\.right': 1"):
        Outer(name=("a", "b"), loss=None, inner=Inner(left=(1.0,), right=(None,)), metrics={})


def test_column_in_a_map_of_another_length_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"'metrics\.accuracy': 3"):
        Outer(name=("a", "b"), loss=None, inner=None, metrics={"accuracy": (1.0, 2.0, None)})


def test_empty_columns_are_equal() -> None:
    assert Outer(name=(), loss=(), inner=None, metrics={"accuracy": ()}).name == ()
