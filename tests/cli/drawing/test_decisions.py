"""Decisions as lines, also where names are long and room is short."""

import pytest

from esper.cli.drawing.decisions import block, line
from esper.events.envelope import EventId, Moment
from esper.events.kinds.control import Adaptation, DecisionMade, GateRule
from esper.folds.control import DecisionRow, Fate


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


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("site", ["0", LONG])
def test_a_decision_keeps_to_its_width_and_its_slot_is_seen(site: str, width: int) -> None:
    refused = decided(site, "refused", "confidence")
    for shown in (line(refused, width, 24), *block(refused, width)):
        assert shown.cell_len <= width
    assert "s1 " in line(refused, width, 24).plain
    assert "s1 lowrank:8 " in block(refused, width)[0].plain


def test_a_reason_that_has_no_room_gives_way_to_the_name() -> None:
    assert line(decided(LONG), 80, 24).plain == "  34  graft encoder_b…rojection_in s1  conf 0.861 urg 1.000  applied"
    assert line(decided(LONG), 100, 24).plain.startswith("  34  graft encode…ction_in s1  shadow 0.2721")


def test_a_block_has_the_whole_reason_and_the_evidence() -> None:
    words = " ".join(shown.plain.strip() for shown in block(decided("0"), 80)[1:])
    assert words == "@238 from @233: shadow 0.2721 against 0.2989 (-9.0 %), n 350, z 4.7, best of 9 tried"
