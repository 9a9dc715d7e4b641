"""A table is a sorted dict that is never changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.folds.sorted_map import _HALF, SortedMap

KEYS = st.integers(0, 3 * _HALF)


@given(st.lists(st.tuples(KEYS, st.integers())), st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers())), max_size=300))
def test_a_table_holds_what_a_dict_would_in_the_order_of_its_keys(
    items: list[tuple[int, int]], changes: list[tuple[int, int | None]]
) -> None:
    table, plain = SortedMap(items), dict(items)
    for key, value in changes:
        table = table.without(key) if value is None else table.with_item(key, value)
        plain = {**plain, key: value} if value is not None else {known: kept for known, kept in plain.items() if known != key}
    assert list(table.items()) == sorted(plain.items())
    assert len(table) == len(plain)
    assert bool(table) == bool(plain)
    assert table == SortedMap(plain.items())


def test_a_table_that_grows_key_by_key_keeps_every_key() -> None:
    table: SortedMap[int, int] = SortedMap()
    for key in range(10 * _HALF, 0, -1):
        table = table.with_item(key, -key)
    assert list(table) == list(range(1, 10 * _HALF + 1))
    assert table[7 * _HALF] == -7 * _HALF


def test_every_key_of_a_large_table_can_be_set_again_and_taken_away() -> None:
    table = SortedMap((key, 0) for key in range(5 * _HALF))
    for key in range(5 * _HALF):
        table = table.with_item(key, key)
    assert list(table.items()) == [(key, key) for key in range(5 * _HALF)]
    for key in range(5 * _HALF):
        table = table.without(key)
    assert table == {}


def test_setting_a_key_leaves_the_table_before_as_it_was() -> None:
    before = SortedMap([(1, "a"), (2, "b")])
    after = before.with_item(1, "c").without(2)
    assert dict(before) == {1: "a", 2: "b"}
    assert dict(after) == {1: "c"}


def test_an_absent_key_raises() -> None:
    with pytest.raises(KeyError):
        SortedMap([(1, "a")])[2]


def test_equal_tables_have_equal_hashes() -> None:
    assert hash(SortedMap([(2, "b"), (1, "a")])) == hash(SortedMap([(1, "a")]).with_item(2, "b"))
