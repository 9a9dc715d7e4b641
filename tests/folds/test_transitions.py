"""The lifecycle table says what docs/lifecycle.md says, the page about it is drawn from it, and nothing else is legal."""

import re
from itertools import product
from pathlib import Path

import pytest

from esper.errors import RuleError
from esper.events.kinds.control import Adaptation, Command
from esper.events.kinds.lifecycle import Stage
from esper.folds.transitions import _EDGES, _HOUSEKEEPING, IN_TASK_GRAPH, ISOLATED, LIVE, command_for, is_edge, next_stage

PAGE = Path(__file__).parents[2] / "docs" / "lifecycle.md"


def mermaid() -> str:
    """The table as a mermaid state diagram, in the order of `_EDGES`, with the one stage that no command leads to."""
    lines = ["stateDiagram-v2", f"    [*] --> {Stage.DORMANT}"]
    lines += [f"    {start} --> {end}: {command}" for (start, command), end in _EDGES.items()]
    lines += [f"    {Stage.FOSSILIZED} --> [*]", f"    {Stage.ROLLED_BACK} --> [*]"]
    lines += [f"    note right of {Stage.ROLLED_BACK}: entered by a rollback alone, from any stage, without a command"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("start", "commands"),
    [
        ("DORMANT", "germinate>GERMINATED"),
        ("GERMINATED", "load>LOADING cancel>CANCELLED"),
        ("LOADING", "train>TRAINING graft>GRAFTING cull>CULLED cancel>CANCELLED"),
        ("TRAINING", "graft>GRAFTING cull>CULLED cancel>CANCELLED"),
        ("GRAFTING", "stabilize>STABILIZATION cull>CULLED"),
        ("STABILIZATION", "evaluate>EVALUATING cull>CULLED"),
        ("EVALUATING", "fine_tune>FINE_TUNING fossilize>FOSSILIZED cull>CULLED"),
        ("FINE_TUNING", "fossilize>FOSSILIZED cull>CULLED"),
        ("FOSSILIZED", ""),
        ("CULLED", "reset>DORMANT"),
        ("CANCELLED", "reset>DORMANT"),
        ("ROLLED_BACK", ""),
    ],
)
def test_commands_of_a_stage_lead_where_the_catalogue_says(start: str, commands: str) -> None:
    table = " ".join(f"{command}>{end}" for (stage, command), end in _EDGES.items() if stage == start)
    assert table == commands


@pytest.mark.parametrize(("stage", "command"), [pair for pair in product(Stage, Command) if pair not in _EDGES])
def test_an_edge_that_is_not_in_the_table_is_refused(stage: Stage, command: Command) -> None:
    with pytest.raises(RuleError, match=f"in {stage}, got {command}"):
        next_stage(stage, command)


def test_an_edge_of_the_table_leads_on() -> None:
    assert next_stage(Stage.TRAINING, Command.GRAFT) is Stage.GRAFTING


def test_no_command_leads_to_rolled_back() -> None:
    assert Stage.ROLLED_BACK not in _EDGES.values()


def test_an_edge_is_known_by_its_ends() -> None:
    assert is_edge(Stage.LOADING, Stage.GRAFTING)
    assert not is_edge(Stage.GRAFTING, Stage.LOADING)


def test_every_stage_but_the_terminal_ones_is_left_by_some_command() -> None:
    assert set(Stage) - {stage for stage, _ in _EDGES} == {Stage.FOSSILIZED, Stage.ROLLED_BACK}


def test_housekeeping_is_made_of_edges() -> None:
    assert set(_HOUSEKEEPING.items()) <= set(_EDGES)


@pytest.mark.parametrize(
    ("adaptation", "stage", "command"),
    [
        (Adaptation.GERMINATE, Stage.DORMANT, Command.GERMINATE),
        (Adaptation.GERMINATE, Stage.CULLED, None),
        (Adaptation.GRAFT, Stage.TRAINING, Command.GRAFT),
        (Adaptation.GRAFT, Stage.GERMINATED, None),
        (Adaptation.FOSSILIZE, Stage.EVALUATING, Command.FOSSILIZE),
        (Adaptation.CULL, Stage.GERMINATED, None),
        (Adaptation.CULL, Stage.FOSSILIZED, None),
        (Adaptation.CANCEL, Stage.GERMINATED, Command.CANCEL),
        (Adaptation.CANCEL, Stage.GRAFTING, None),
        (Adaptation.ADVANCE, Stage.GERMINATED, Command.LOAD),
        (Adaptation.ADVANCE, Stage.TRAINING, None),
        (Adaptation.ADVANCE, Stage.FINE_TUNING, None),
        (Adaptation.ADVANCE, Stage.CULLED, Command.RESET),
        (Adaptation.ADVANCE, Stage.ROLLED_BACK, None),
        (Adaptation.NONE, Stage.DORMANT, None),
    ],
)
def test_an_adaptation_asks_for_one_command_of_a_stage(adaptation: Adaptation, stage: Stage, command: Command | None) -> None:
    assert command_for(adaptation, stage) is command


def test_stages_are_isolated_in_the_task_graph_or_neither() -> None:
    assert not ISOLATED & IN_TASK_GRAPH
    assert {Stage.GERMINATED, Stage.LOADING} == LIVE - ISOLATED - IN_TASK_GRAPH


def test_the_page_is_drawn_from_the_table() -> None:
    drawn = re.search(r"```mermaid\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert drawn is not None
    assert drawn[1] == mermaid()


def test_the_page_describes_every_stage() -> None:
    described = re.findall(r"^\| ([A-Z_]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert described == [stage.value for stage in Stage]
