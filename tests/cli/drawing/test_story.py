"""What grew in a run, in a few lines."""

from pathlib import Path

import pytest

from esper.cli.drawing.story import story
from esper.events.envelope import RunId
from esper.history.run import open_run
from esper.history.view import Reading


def told(log: Path, width: int = 100, moment: int | None = None) -> list[str]:
    """The story of the synthetic run."""
    with open_run("latest", log) as history:
        return [line.plain for line in story(history.reading(moment=moment), width)]


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
    monkeypatch.setattr("esper.cli.drawing.story._MOST", 2)
    lines = told(synthetic_log)
    assert lines[0].strip() == "10 earlier turns are not told here"
    assert [line.split()[:2] for line in lines[1:3]] == [["12", "fossilized"], ["12", "cancelled"]]


def test_a_run_in_which_nothing_grew_says_so() -> None:
    assert [line.plain.strip() for line in story(Reading(RunId("x")), 80)] == ["nothing grew", "refused by the gate: none"]
