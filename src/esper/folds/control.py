"""Decisions and what became of them: the decisions of the last epoch with their numbers, the commands without an outcome, and counts.

A refusal and a command name their decision as cause, an outcome names its command; an answer to nothing is described, and counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from esper.errors import DataError
from esper.events.envelope import EventId, Record, moment_of
from esper.events.fields import Float
from esper.events.kinds.control import (
    Adaptation,
    Command,
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
    GateRule,
)
from esper.folds.seeds import LastCommand, Outcome
from esper.folds.table import Table

OutcomeEvent = CommandApplied | CommandRefused | CommandFailed

Counted = TypeVar("Counted")


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision and its answer: `rule` and `why` of a refusal, or `command` and its `outcome` (with `why` where it was not applied)."""

    id: EventId
    moment: int
    epoch: int
    adaptation: Adaptation
    site: str | None
    seed: int | None
    blueprint: str | None
    confidence: Float
    urgency: Float
    reason: str
    rule: GateRule | None = None
    command: Command | None = None
    outcome: Outcome | None = None
    why: str | None = None

    @property
    def answered(self) -> bool:
        """True once the decision was refused or became a command."""
        return self.rule is not None or self.command is not None


@dataclass(frozen=True, slots=True)
class CommandRow:
    """A command that has no outcome yet, and the moment of its decision (None: it follows from no decision of this epoch)."""

    id: EventId
    moment: int
    epoch: int
    decision: int | None
    event: CommandIssued


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there were in the whole run: decisions made by adaptation, refused by rule; commands issued and their outcomes."""

    made: Mapping[Adaptation, int] = field(default_factory=dict)
    refused: Mapping[GateRule, int] = field(default_factory=dict)
    issued: int = 0
    applied: int = 0
    commands_refused: int = 0
    commands_failed: int = 0


@dataclass(frozen=True, slots=True)
class Control:
    """The decisions since the last EpochCompleted by moment, the commands without an outcome by moment, and the counts."""

    decisions: Table[int, DecisionRow] = field(default_factory=Table)
    open_commands: Table[int, CommandRow] = field(default_factory=Table)
    counts: Counts = field(default_factory=Counts)


class Answer(NamedTuple):
    """Control after a record, and what was irregular about it, in words."""

    control: Control
    irregular: tuple[str, ...] = ()


def decided(control: Control, record: Record, event: DecisionMade) -> Control:
    """`control` with one more decision."""
    row = DecisionRow(
        id=record.id,
        moment=record.moment,
        epoch=record.epoch,
        adaptation=event.adaptation,
        site=event.site,
        seed=event.seed,
        blueprint=event.blueprint,
        confidence=event.confidence,
        urgency=event.urgency,
        reason=event.reason,
    )
    counts = replace(control.counts, made=_one_more(control.counts.made, event.adaptation))
    return replace(control, decisions=control.decisions.with_item(record.moment, row), counts=counts)


def refused(control: Control, record: Record, event: DecisionRefused) -> Answer:
    """`control` with the decision that is the record's cause refused."""
    control = replace(control, counts=replace(control.counts, refused=_one_more(control.counts.refused, event.rule)))
    decision, irregular = _asked(control, record, "a refusal")
    if decision is None:
        return Answer(control, irregular)
    row = replace(decision, rule=event.rule, why=event.reason)
    return Answer(replace(control, decisions=control.decisions.with_item(row.moment, row)), irregular)


def issued(control: Control, record: Record, event: CommandIssued) -> Answer:
    """`control` with one more command that waits for its outcome."""
    decision, irregular = _asked(control, record, "a command")
    command = CommandRow(record.id, record.moment, record.epoch, None if decision is None else decision.moment, event)
    decisions = control.decisions
    if decision is not None:
        decisions = decisions.with_item(decision.moment, replace(decision, command=event.command))
    counts = replace(control.counts, issued=control.counts.issued + 1)
    return Answer(Control(decisions, control.open_commands.with_item(record.moment, command), counts), irregular)


def came_out(control: Control, record: Record, event: OutcomeEvent) -> tuple[Answer, LastCommand]:
    """`control` with the outcome of the command that is the record's cause, and that command as its slot's last one."""
    outcome, why = _outcome(event)
    moment = _moment(record)
    command = None if moment is None else control.open_commands.get(moment)
    control = replace(control, counts=_counted(control.counts, outcome))
    if command is None:
        irregular: tuple[str, ...] = (f"an outcome follows from {record.cause}, which is no command without an outcome",)
        return Answer(control, irregular), LastCommand(record.moment, record.epoch, event.command, outcome, why)
    decision = None if command.decision is None else control.decisions.get(command.decision)
    if decision is not None:
        row = replace(decision, outcome=outcome, why=why)
        control = replace(control, decisions=control.decisions.with_item(row.moment, row))
    control = replace(control, open_commands=control.open_commands.without(command.moment))
    return Answer(control, tuple(_misfits(command, record, event))), LastCommand(
        command.moment, command.epoch, command.event.command, outcome, why
    )


def _misfits(command: CommandRow, record: Record, event: OutcomeEvent) -> Iterator[str]:
    issued = command.event
    if (event.command, event.site, event.seed) != (issued.command, issued.site, issued.seed):
        yield f"the outcome of {command.id} is not about its command and seed"
    if isinstance(event, CommandApplied) and record.epoch > issued.expires_epoch:
        yield f"{command.id} was valid until epoch {issued.expires_epoch}, and was applied after epoch {record.epoch}"


def next_epoch(control: Control) -> Control:
    """`control` without the decisions of the epoch before."""
    return replace(control, decisions=Table())


def _asked(control: Control, record: Record, what: str) -> tuple[DecisionRow | None, tuple[str, ...]]:
    moment = _moment(record)
    decision = None if moment is None else control.decisions.get(moment)
    if decision is None:
        return None, (f"{what} follows from {record.cause}, which is no decision since the last EpochCompleted",)
    if decision.answered:
        return decision, (f"{what} follows from {record.cause}, which was answered before",)
    return decision, ()


def _outcome(event: OutcomeEvent) -> tuple[Outcome, str | None]:
    if isinstance(event, CommandApplied):
        return "applied", None
    if isinstance(event, CommandRefused):
        return "refused", event.reason
    return "failed", event.error


def _counted(counts: Counts, outcome: Outcome) -> Counts:
    if outcome == "applied":
        return replace(counts, applied=counts.applied + 1)
    if outcome == "refused":
        return replace(counts, commands_refused=counts.commands_refused + 1)
    return replace(counts, commands_failed=counts.commands_failed + 1)


def _one_more(counts: Mapping[Counted, int], key: Counted) -> dict[Counted, int]:
    return {**counts, key: counts.get(key, 0) + 1}


def _moment(record: Record) -> int | None:
    """The moment of the record's cause; None where it has no cause of this run's own."""
    try:
        return None if record.cause is None else moment_of(record.cause)
    except DataError:
        return None
