"""Decisions as lines, also where names are long and room is short."""

import pytest

from esper.cli.decisions import decision_table
from esper.events.envelope import EventId, Moment
from esper.events.kinds.control import Adaptation, DecisionMade, GateRule
from esper.folds.control_state import DecisionRow, Fate
from tests.cli.conftest import rendered


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
