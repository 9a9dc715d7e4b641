"""What a training came to, beside the other ways."""

import math
from pathlib import Path

import pytest

from esper.cli.outcome import comparison, growth_summary
from esper.demo.comparison import Compared
from esper.events.envelope import RunId
from esper.history.run import open_run
from esper.history.view import Reading
from tests.cli.conftest import rendered

ROWS = [
    Compared("grown", RunId("000001"), 0.9686, 2170),
    Compared("host", RunId("000002"), 0.9443, 460),
    Compared("static_same", RunId("000003"), 0.95, 2170),
    Compared("static_wider", RunId("000004"), 0.9714, 2185),
]


def test_the_best_comes_first_and_a_better_static_net_is_not_hidden() -> None:
    assert [line.split()[0] for line in rendered(comparison(ROWS))] == ["wider", "grown", "same", "host"]


def test_what_was_gained_or_lost_against_the_host_alone_is_said() -> None:
    assert any("2.4 points over the host" in line for line in rendered(comparison(ROWS)))
    worse = [Compared("grown", RunId("000001"), 0.93, 2170), ROWS[1]]
    assert any("1.4 points under the host" in line for line in rendered(comparison(worse)))


@pytest.mark.parametrize("width", [80, 100])
def test_a_row_fits_and_its_remark_is_whole(width: int) -> None:
    lines = rendered(comparison(ROWS), width=width)
    assert max(map(len, lines)) <= width
    assert lines[0].endswith("has to be known beforehand")


def test_a_bar_is_in_proportion_and_an_accuracy_that_is_not_finite_has_none() -> None:
    blocks = {
        line.split()[0]: line.count("█") for line in rendered(comparison([*ROWS[:2], Compared("static_same", RunId("x"), math.nan, 1)]))
    }
    assert blocks["same"] == 0
    assert blocks["grown"] >= blocks["host"] > 0


def told(log: Path, width: int = 100, moment: int | None = None) -> list[str]:
    """The story of the synthetic run."""
    with open_run("latest", log) as history:
        return rendered(*growth_summary(history.reading(moment=moment)), width=width)


def test_what_was_done_alike_after_one_epoch_is_one_line(synthetic_log: Path) -> None:
    lines = told(synthetic_log)
    assert lines[0] == "    1  germinated hidden.2 s0 lowrank:8: best of 5 improved 3.1 % < 15 %"
    assert "    4  germinated hidden.0 s0 mlp:24, s1 lowrank:8: best of 5 improved 3.1 % < 15 %" in lines


def test_grafts_ends_and_rollbacks_are_told_in_the_order_in_which_they_came(synthetic_log: Path) -> None:
    lines = told(synthetic_log)
    turns = [" ".join(line.split()[:2]) for line in lines]
    assert [turn for turn in turns if turn.split()[1] != "germinated"] == [
        "4 grafted", "8 grafted", "8 culled", "9 cancelled", "10 fossilized", "11 rolled", "12 fossilized", "12 cancelled", "refused by",
    ]  # fmt: skip


def test_what_was_refused_is_counted_by_rule(synthetic_log: Path) -> None:
    assert told(synthetic_log)[-1] == "       refused by the gate: cap 1, finite 1, urgency 1"


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_it_may_be(synthetic_log: Path, width: int) -> None:
    assert max(map(len, told(synthetic_log, width))) <= width


def test_a_long_story_is_its_end(synthetic_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.cli.outcome._TURNS", 2)
    lines = told(synthetic_log)
    assert lines[0].strip() == "10 earlier turns are not told here"
    assert [line.split()[:2] for line in lines[1:3]] == [["12", "fossilized"], ["12", "cancelled"]]


def test_a_run_in_which_nothing_grew_says_so() -> None:
    assert [line.strip() for line in rendered(*growth_summary(Reading(RunId("x"))))] == ["nothing grew", "refused by the gate: none"]
