"""Decisions, and what became of them."""

import pytest

from esper.events.fields import Event
from esper.events.kinds.control import Adaptation, Command, CommandApplied, CommandFailed, CommandRefused, DecisionRefused
from esper.events.kinds.lifecycle import Stage
from tests.folds.histories import completed, issued, seed_row
from tests.folds.runs import asked, begun, state_of


def test_a_refused_decision_is_kept_with_its_numbers_and_the_rule() -> None:
    writer = begun()
    made = asked(writer)
    writer.write(DecisionRefused(rule="cooldown", reason="two epochs too early"), made)
    state = state_of(writer)
    row = state.decisions[0]
    assert (row.id, row.decision.confidence, row.decision.urgency, row.rule, row.detail) == (
        made,
        0.8,
        0.65,
        "cooldown",
        "two epochs too early",
    )
    assert state.control.counts.made == {Adaptation.GERMINATE: 1}
    assert state.control.counts.refused == {"cooldown": 1}


@pytest.mark.parametrize(
    ("event", "fate", "why"),
    [
        (CommandApplied(command=Command.GERMINATE, site="layer0", seed=0), "applied", None),
        (CommandRefused(command=Command.GERMINATE, site="layer0", seed=0, reason="no room"), "command refused", "no room"),
        (CommandFailed(command=Command.GERMINATE, site="layer0", seed=0, error="no memory"), "failed", "no memory"),
    ],
)
def test_an_outcome_closes_its_command_and_answers_its_decision(event: Event, fate: str, why: str | None) -> None:
    writer = begun()
    told = writer.write(issued(Command.GERMINATE), asked(writer))
    waiting = state_of(writer)
    assert [row.id for row in waiting.control.open_commands.values()] == [told]
    writer.write(event, told)
    state = state_of(writer)
    slot = state.slot("layer0", 0)
    assert slot is not None
    assert slot.command is not None
    assert (slot.command.command, slot.command.outcome, slot.command.why) == (Command.GERMINATE, fate.removeprefix("command "), why)
    assert (state.decisions[0].command, state.decisions[0].fate, state.decisions[0].detail) == (Command.GERMINATE, fate, why)
    assert not state.control.open_commands
    counts = state.control.counts
    assert (counts.issued, counts.applied + counts.commands_refused + counts.commands_failed) == (1, 1)
    assert state.irregularities == ()


def test_decisions_of_the_last_epoch_alone_are_kept_and_all_are_counted() -> None:
    writer = begun()
    asked(writer)
    writer.epoch = 2
    writer.write(completed(2, tuple(seed_row("layer0", seed, Stage.DORMANT) for seed in range(2))))
    state = state_of(writer)
    assert state.decisions == ()
    assert state.control.counts.made == {Adaptation.GERMINATE: 1}


def test_an_outcome_of_a_command_of_the_epoch_before_still_closes_it() -> None:
    writer = begun()
    told = writer.write(issued(Command.GERMINATE, epoch=2), asked(writer))
    writer.epoch = 2
    writer.write(completed(2, tuple(seed_row("layer0", seed, Stage.DORMANT) for seed in range(2))))
    writer.write(CommandApplied(command=Command.GERMINATE, site="layer0", seed=0), told)
    state = state_of(writer)
    assert not state.control.open_commands
    assert state.irregularities == ()
