"""The live panel, drawn from a folded run, with lives in words; decisions as lines, also where names are long and room is short."""

from pathlib import Path

import pytest

from esper.cli.decisions_and_refusals import _DECISION_WORDS, decision_table
from esper.cli.panel import panel, stages_in_words
from esper.events.envelope import EventId, Moment, RunId
from esper.events.kinds.control import Adaptation, DecisionMade, GateRule
from esper.events.kinds.lifecycle import Stage
from esper.folds.control_state import DecisionRow, Fate
from esper.folds.timeline import Life, Span
from esper.history.run_history import FoldedRun, open_run
from tests.cli.conftest import rendered


def drawn(reading: FoldedRun, width: int = 100) -> list[str]:
    """The panel as lines of text."""
    return rendered(panel(reading, width), width=width)


def at_epoch(log: Path, epoch: int) -> list[str]:
    """The panel of the synthetic run when `epoch` was over."""
    with open_run("latest", log) as history:
        return drawn(history.folded(epoch=epoch))


@pytest.mark.parametrize("width", [100, 80])
@pytest.mark.parametrize("epoch", [0, 1, 4, 9, 11, 14])
def test_no_line_is_wider_than_it_may_be(synthetic_log: Path, epoch: int, width: int) -> None:
    with open_run("latest", synthetic_log) as history:
        assert max(map(len, drawn(history.folded(epoch=epoch), width))) <= width


def test_the_header_says_what_how_far_and_how_fast(synthetic_log: Path) -> None:
    assert at_epoch(synthetic_log, 9)[0].split() == [
        "esper", "·", "digits", "·", "run", "…7c21ab", "·", "rng", "0", "epoch", "9/14", "━━━━━━━━━━━╸", "0.8", "ms/step",
    ]  # fmt: skip


def test_losses_come_with_the_best_the_curve_and_the_wait_for_data(synthetic_log: Path) -> None:
    assert at_epoch(synthetic_log, 9)[1:3] == [
        " loss  train 0.293  valid 0.320  best 0.320 @9  █▇▆▅▄▃▂▁▁ 0.320 .. 1.400",
        "       acc 90.5 %  lr 3.0e-3  data wait 3 %",
    ]


def test_what_was_lost_and_rolled_back_is_shown(synthetic_log: Path) -> None:
    lines = at_epoch(synthetic_log, 14)
    assert lines[3].startswith(" log   233 records on disk · 3 lost · 1 rolled back")
    assert lines[3].endswith("checkpoint epoch-000012 · 773852b5")


def test_each_site_has_a_box_with_a_lane_per_slot_that_was_used(synthetic_log: Path) -> None:
    lines = at_epoch(synthetic_log, 9)
    top = next(index for index, line in enumerate(lines) if "site hidden.0" in line)
    lane = lines[top + 1].strip("│ ")
    assert (lane[:17], " ".join(lane[17:].split())) == ("s0 mlp:24        ", "germ ━ train ━━━ GRAFT 1/2 alpha 0.33")
    assert [line.split()[1] for line in lines[top + 1 : top + 5]] == ["s0", "s1", "s2", "s3"]
    assert " |grad| 0.48 · rank 5.2 of 6 ─" in lines[top + 5]


def test_what_was_not_measured_is_unknown(synthetic_log: Path) -> None:
    assert any("|grad| unknown · rank unknown ─" in line for line in at_epoch(synthetic_log, 9))


def test_before_the_first_epoch_nothing_is_made_up(synthetic_log: Path) -> None:
    lines = at_epoch(synthetic_log, 0)
    assert lines[1].rstrip() == " loss  train unknown  valid unknown"
    assert "ms/step" not in lines[0]
    assert lines[3] == " 2 dormant: hidden.0, hidden.2"


def test_the_last_decisions_stand_below_with_their_numbers(synthetic_log: Path) -> None:
    lines = at_epoch(synthetic_log, 4)
    assert lines[-8] == "   4  germinate hidden.0 s2  best of 5 improved 3.1 % < …  conf 0.990 urg 0.900  refused: cap"
    assert [line.split()[0] for line in lines[-8:-2]] == ["4", "4", "4", "4", "3", "1"]
    assert " ".join(" ".join(lines[-2:]).split()) == _DECISION_WORDS


def test_a_run_without_a_record_is_said_to_have_none() -> None:
    assert drawn(FoldedRun(RunId("x-000001"))) == [" esper · run …000001 · nothing recorded yet"]


def life(*stages: tuple[Stage, int], undone: bool = False) -> Life:
    """A life that enters each stage at the end of an epoch."""
    starts = [epoch for _, epoch in stages]
    spans = [
        Span(stage, start, end, Moment(1), "no graft in nine epochs")
        for (stage, start), end in zip(stages, [*starts[1:], None], strict=True)
    ]
    return Life("0", 0, starts[0], "mlp:24", None, tuple(spans), undone=undone)


GROWING = life((Stage.GERMINATED, 2), (Stage.LOADING, 3), (Stage.TRAINING, 3), (Stage.GRAFTING, 6))


def test_stages_in_words_have_a_bar_per_epoch_and_the_present_in_capitals() -> None:
    assert stages_in_words(GROWING, 7, {Stage.GRAFTING: 3}, 80).plain == "germ ━ train ━━━ GRAFT 1/3"


def test_a_stage_whose_plan_is_unknown_shows_its_age_alone() -> None:
    assert stages_in_words(GROWING, 8, {}, 80).plain == "germ ━ train ━━━ GRAFT 2"


def test_a_long_stage_is_counted_instead_of_drawn() -> None:
    assert stages_in_words(life((Stage.FINE_TUNING, 2), (Stage.FOSSILIZED, 12)), 20, {}, 80).plain == "fine-tune ━10━ FOSSIL since @12"


def test_an_ended_life_says_when_and_why() -> None:
    ended = life((Stage.TRAINING, 2), (Stage.CULLED, 5))
    assert stages_in_words(ended, 20, {}, 80).plain == "train ━━━ culled @5: no graft in nine epochs"


def test_where_room_is_short_the_reason_gives_way_and_then_the_oldest_stages() -> None:
    ended = life((Stage.GERMINATED, 1), (Stage.TRAINING, 2), (Stage.GRAFTING, 5), (Stage.CULLED, 8))
    assert stages_in_words(ended, 20, {}, 45).plain == "germ ━ train ━━━ graft ━━━ culled @8: no …"
    assert stages_in_words(ended, 20, {}, 30).plain == "… graft ━━━ culled …"


def test_an_undone_life_says_so() -> None:
    assert stages_in_words(life((Stage.TRAINING, 2), undone=True), 9, {}, 80).plain == "train, undone by a rollback"


def decided(site: str, fate: Fate = "applied", rule: GateRule | None = None) -> DecisionRow:
    """A graft of the second slot."""
    made = DecisionMade(
        adaptation=Adaptation.GRAFT,
        site=site,
        seed=1,
        blueprint="lowrank:8",
        confidence=0.861,
        urgency=1.0,
        reason="shadow 0.2721 against 0.2989 (-9.0 %), n 350, z 4.7, best of 9 tried",
        evidence=(EventId("x/233"),),
    )
    return DecisionRow(EventId("x/238"), Moment(238), 34, made, fate, rule)


LONG = "encoder_blocks.0.projection_in"


@pytest.mark.parametrize("reasons", [False, True])
@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("site", ["0", LONG])
def test_a_decision_keeps_to_its_width_and_its_slot_is_seen(site: str, width: int, reasons: bool) -> None:
    (line,) = rendered(decision_table([decided(site, "refused", "confidence")], width, reasons=reasons), width=width)
    assert len(line) <= width
    assert "s1 " in line
    assert line.endswith("conf 0.861 urg 1.000  refused: confidence")


def test_where_reasons_have_no_room_names_take_their_place() -> None:
    assert rendered(decision_table([decided(LONG)], 80), width=80) == [
        "  34  graft encoder_b…in s1 lowrank:8  conf 0.861 urg 1.000  applied",
    ]
    (line,) = rendered(decision_table([decided(LONG)], 100))
    assert line.startswith("  34  graft encode…ction_in s1  shadow 0.2721")
