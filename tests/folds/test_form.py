"""The JSON form of a state does not depend on how the state came about."""

import json
import math

import pytest

from esper.errors import RuleError
from esper.events.kinds.lifecycle import Stage
from esper.folds.form import form
from esper.folds.seeds import Slot
from esper.folds.table import Table
from tests.folds.histories import seed_row


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.1, 0.1),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (Stage.DORMANT, "DORMANT"),
        (b"\x01\xff", "01ff"),
        ((1, ("a",)), [1, ["a"]]),
        (Table([((2, "b"), 1), ((1, "a"), 2)]), [[[1, "a"], 2], [[2, "b"], 1]]),
    ],
)
def test_a_value_has_its_form(value: object, expected: object) -> None:
    assert form(value) == expected


def test_a_map_has_one_form_whatever_came_first() -> None:
    assert form({"b": 1, "a": 2}) == form({"a": 2, "b": 1}) == [["a", 2], ["b", 1]]


def test_a_slot_is_an_object_of_its_parts() -> None:
    row = seed_row("layer0", 0, Stage.DORMANT, alpha=math.nan)
    assert form(Slot(row)) == {"row": json.loads(row.model_dump_json()), "command": None}
    assert json.loads(row.model_dump_json())["alpha"] == "NaN"


def test_a_value_that_no_state_is_made_of_is_refused() -> None:
    with pytest.raises(RuleError, match="got a set"):
        form({1, 2})
