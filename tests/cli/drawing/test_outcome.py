"""What a training came to, beside the other ways."""

import math

import pytest

from esper.cli.drawing.outcome import bar, comparison
from esper.demo.comparison import Compared
from esper.events.envelope import RunId

ROWS = [
    Compared("grown", RunId("000001"), 0.9686, 2170),
    Compared("host", RunId("000002"), 0.9443, 460),
    Compared("static_same", RunId("000003"), 0.95, 2170),
    Compared("static_wider", RunId("000004"), 0.9714, 2185),
]


def test_the_best_comes_first_and_a_better_static_net_is_not_hidden() -> None:
    assert [line.plain.split()[0] for line in comparison(ROWS, 100)] == ["wider", "grown", "same", "host"]


def test_what_was_gained_or_lost_against_the_host_alone_is_said() -> None:
    assert any("2.4 points over the host" in line.plain for line in comparison(ROWS, 100))
    worse = [Compared("grown", RunId("000001"), 0.93, 2170), ROWS[1]]
    assert any("1.4 points under the host" in line.plain for line in comparison(worse, 100))


@pytest.mark.parametrize("width", [80, 100])
def test_a_row_fits_and_its_remark_is_whole(width: int) -> None:
    lines = [line.plain for line in comparison(ROWS, width)]
    assert max(map(len, lines)) <= width
    assert lines[0].endswith("has to be known beforehand")


@pytest.mark.parametrize(("fraction", "shown"), [(0.0, "    "), (0.5, "██  "), (1.0, "████"), (0.53, "██▏ "), (math.nan, "    ")])
def test_a_bar_is_in_proportion_from_nothing_to_all(fraction: float, shown: str) -> None:
    assert bar(fraction, 4) == shown
