"""Numbers, names and small curves as text."""

import math
from datetime import UTC, datetime

import pytest

from esper.cli.text import (
    UNKNOWN,
    at_joints,
    count,
    elided,
    hanging,
    learning_rate,
    metric,
    one_line,
    percent,
    reference,
    rounded,
    separated,
    share,
    short_id,
    span,
    sparkline,
    timestamp,
    whole_words,
)
from esper.events.envelope import EventId, RunId
from tests.cli.conftest import rendered

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.2141, "0.214"),
        (0.0, "0.000"),
        (0.00042, "4.2e-4"),
        (-0.5, "-0.500"),
        (12345.6789, "12345.679"),
        (None, "unknown"),
        (NAN, "NaN"),
        (INF, "Infinity"),
        (-INF, "-Infinity"),
    ],
)
def test_a_number_is_never_rounded_to_zero_nor_made_up(value: float | None, shown: str) -> None:
    assert rounded(value) == shown


def test_what_was_not_measured_is_unknown_in_every_form() -> None:
    assert {show(None) for show in (rounded, percent, share, learning_rate, count, timestamp)} == {UNKNOWN}


@pytest.mark.parametrize(("value", "shown"), [(0.603, "0.603"), (0.5996, "0.600"), (0.00029, "0.000"), (NAN, "NaN")])
def test_a_share_has_three_places(value: float, shown: str) -> None:
    assert share(value) == shown


def test_other_forms() -> None:
    assert percent(0.946) == "94.6 %"
    assert learning_rate(3e-3) == "3.0e-3"
    assert count(14208) == "14,208"
    assert timestamp(datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)) == "2026-03-01 12:00:05"
    assert short_id(RunId("019ca945-0a00-7000-8000-0000007c21ab")) == "…7c21ab"
    assert metric("test_accuracy", 0.963) == "test_accuracy 96.3 %"
    assert metric("perplexity", 12.0) == "perplexity 12.000"


def test_an_event_is_named_by_its_place() -> None:
    assert reference(EventId("019ca945-0a00-7000-8000-0000007c21ab/238")) == "@238"
    assert reference(EventId("0d41f3f0a1b2c3d4e5f60718293a4b5c")) == "0d41f3f0"


def test_a_curve_runs_between_its_own_least_and_greatest() -> None:
    assert sparkline([-1.0, 0.0, 1.0], 10) == "▁▅█"


def test_a_curve_of_positive_values_is_logarithmic() -> None:
    assert sparkline([1.0, 10.0, 100.0], 10) == "▁▅█"


def test_a_curve_shows_gaps_and_what_is_not_finite() -> None:
    assert sparkline([1.0, None, NAN, INF, 2.0], 10) == "▁ !!█"


def test_a_curve_of_equal_values_is_flat_and_one_of_nothing_is_empty() -> None:
    assert sparkline([3.0, 3.0], 10) == "▁▁"
    assert sparkline([], 10) == ""
    assert sparkline([None, None], 10) == "  "


def test_a_long_curve_keeps_its_width_and_hides_no_nan() -> None:
    values: list[float | None] = [1.0 + index for index in range(100)]
    values[42] = NAN
    drawn = sparkline(values, 20)
    assert len(drawn) == 20
    assert drawn.index("!") == 8


def test_text_that_is_cut_has_an_ellipsis() -> None:
    assert [elided("abcdef", width) for width in (6, 5, 4, 1)] == ["abcdef", "ab…ef", "ab…f", "…"]
    assert [rendered(one_line("one", "four", "six"), width=width) for width in (14, 9)] == [["one  four  six"], ["one  …"]]
    assert rendered(one_line("longer", "x"), width=4) == ["lon…"]


@pytest.mark.parametrize(
    ("width", "words"), [(23, "gain 0.27 over, n 350 z"), (22, "gain 0.27 over, n …"), (12, "gain 0.27 …"), (3, "g…z")]
)
def test_a_sentence_without_room_loses_whole_words(width: int, words: str) -> None:
    assert whole_words("gain 0.27 over, n 350 z", width) == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics.validation_loss", "metrics.\nvalidation_\nloss"),
        ("a long sentence of short words", "a long sentence of short words"),
        ("of torch.optim.sgd.SGD", "of torch.optim.\nsgd.SGD"),
        ("f7530f2f31695a20f684fd5f", "f7530f2f3169\n5a20f684fd5f"),
        ("", ""),
    ],
)
def test_a_word_without_room_is_broken_at_its_joints(text: str, expected: str) -> None:
    assert at_joints(text, 12) == expected


def test_the_range_of_a_curve_is_that_of_its_finite_values() -> None:
    assert span([1.616, None, NAN, 1.61]) == "1.610 .. 1.616"
    assert span([None]) == "unknown"


def test_separated_parts_are_not_broken_and_keep_the_width() -> None:
    parts = ["run …7c21ab", "validation_loss 0.094", "test_loss 0.146", "test_accuracy 96.3 %"]
    assert rendered(separated(parts, indent=1)) == [" run …7c21ab · validation_loss 0.094 · test_loss 0.146 · test_accuracy 96.3 %"]
    lines = rendered(separated(parts, indent=1), width=45)
    assert max(map(len, lines)) <= 45
    assert all(line.startswith(" ") for line in lines)
    assert all(any(part in line for line in lines) for part in parts)


def test_words_hang_beside_their_head_and_keep_the_width() -> None:
    words = "0.2721 against 0.2989 (-9.0 %), n 350, z 4.7, best of 9 tried"
    first, *others = rendered(hanging("  @7  ", words), width=30)
    assert first.startswith("  @7  0.2721")
    assert all(len(line) <= 30 and line.startswith("      ") for line in others)
    assert " ".join(line.strip() for line in (first.removeprefix("  @7"), *others)) == words
