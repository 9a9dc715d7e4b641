"""Counts and durations in words."""

from esper.words import duration, plural


def test_a_count_has_its_noun() -> None:
    assert [plural(number, "site") for number in (0, 1, 2170)] == ["0 sites", "1 site", "2,170 sites"]


def test_a_duration_has_two_units_at_most() -> None:
    assert [duration(seconds) for seconds in (2.0, 61, 300, 7260, 86_400, 200_000)] == [
        "2.0 s", "1 min 1 s", "5 min", "2 h 1 min", "1 d", "2 d 7 h",
    ]  # fmt: skip
