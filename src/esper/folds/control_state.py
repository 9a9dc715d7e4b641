"""Decisions and their fates: the decisions of the last epoch with their numbers, the commands without an outcome, and counts.

A refusal and a command name their decision as cause, an outcome names its command. An answer to nothing is described, and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from esper.errors import DataError
from esper.events.envelope import EventId, Moment, Record, moment_of
from esper.events.fields import Event
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
from esper.events.kinds.epoch import EpochCompleted
from esper.folds.sorted_map import SortedMap

_OutcomeEvent = CommandApplied | CommandRefused | CommandFailed
_Outcome = Literal["applied", "refused", "failed"]
Fate = Literal["pending", "applied", "refused", "command refused", "failed", "recorded"]
Irregular = tuple[str, ...]
"""Descriptions of what does not fit the records before."""

_Counted = TypeVar("_Counted")


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision and its fate. `rule` is the gate's where it refused; `command` is what it became; `detail` is why it was not applied."""

    id: EventId
    moment: Moment
    epoch: int
    decision: DecisionMade
    fate: Fate = "pending"
    rule: GateRule | None = None
    command: Command | None = None
    detail: str | None = None

    @classmethod
    def of(cls, record: Record, event: DecisionMade) -> "DecisionRow":
        """The row of a decision that was just made; `none` is recorded and has no other fate."""
        return cls(record.id, record.moment, record.epoch, event, "recorded" if event.adaptation is Adaptation.NONE else "pending")

    def refused(self, event: DecisionRefused) -> "DecisionRow":
        """The row after the gate refused the decision."""
        return replace(self, fate="refused", rule=event.rule, detail=event.reason)

    def concluded(self, event: _OutcomeEvent) -> "DecisionRow":
        """The row after the outcome of its command."""
        outcome, detail = _outcome_of(event)
        return replace(self, fate="command refused" if outcome == "refused" else outcome, detail=detail)


@dataclass(frozen=True, slots=True)
class CommandRow:
    """A command that has no outcome yet, and the moment of its decision (None: it follows from no decision of this epoch)."""

    id: EventId
    moment: int
    epoch: int
    decision: int | None
    event: CommandIssued


@dataclass(frozen=True, slots=True)
class LastCommand:
    """The last command issued for a slot. `outcome` is None until it has one; `why` is a refusal's reason or a failure's error."""

    moment: int
    epoch: int
    command: Command
    outcome: _Outcome | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts over the whole run: decisions made by adaptation and refused by rule, commands issued and their outcomes."""

    made: Mapping[Adaptation, int] = field(default_factory=dict)
    refused: Mapping[GateRule, int] = field(default_factory=dict)
    issued: int = 0
    applied: int = 0
    commands_refused: int = 0
    commands_failed: int = 0


@dataclass(frozen=True, slots=True)
class Control:
    """The decisions since the last EpochCompleted by moment, the commands without an outcome by moment, and the counts."""

    decisions: SortedMap[int, DecisionRow] = field(default_factory=SortedMap)
    open_commands: SortedMap[int, CommandRow] = field(default_factory=SortedMap)
    counts: Counts = field(default_factory=Counts)


def change_control(control: Control, record: Record, event: Event) -> tuple[Control, Irregular, LastCommand | None]:
    """`control` after `event`, and the command that is now the last one of its slot; an EpochCompleted ends the decisions before it."""
    match event:
        case EpochCompleted():
            return replace(control, decisions=SortedMap()), (), None
        case DecisionMade():
            counts = replace(control.counts, made=_one_more(control.counts.made, event.adaptation))
            return replace(_with_row(control, DecisionRow.of(record, event)), counts=counts), (), None
        case DecisionRefused():
            return *_refused(control, record, event), None
        case CommandIssued():
            return *_issued(control, record, event), LastCommand(record.moment, record.epoch, event.command)
        case CommandApplied() | CommandRefused() | CommandFailed():
            return _concluded(control, record, event)
        case _:
            return control, (), None


def _refused(control: Control, record: Record, event: DecisionRefused) -> tuple[Control, Irregular]:
    decision, irregular = _answered(control, record, "a refusal")
    control = replace(control, counts=replace(control.counts, refused=_one_more(control.counts.refused, event.rule)))
    return (control if decision is None else _with_row(control, decision.refused(event))), irregular


def _issued(control: Control, record: Record, event: CommandIssued) -> tuple[Control, Irregular]:
    decision, irregular = _answered(control, record, "a command")
    command = CommandRow(record.id, record.moment, record.epoch, None if decision is None else decision.moment, event)
    if decision is not None:
        control = _with_row(control, replace(decision, command=event.command))
    counts = replace(control.counts, issued=control.counts.issued + 1)
    return replace(control, open_commands=control.open_commands.with_item(record.moment, command), counts=counts), irregular


def _concluded(control: Control, record: Record, event: _OutcomeEvent) -> tuple[Control, Irregular, LastCommand]:
    outcome, why = _outcome_of(event)
    counter = outcome if outcome == "applied" else f"commands_{outcome}"
    control = replace(control, counts=replace(control.counts, **{counter: getattr(control.counts, counter) + 1}))
    moment = _cause(record)
    command = None if moment is None else control.open_commands.get(moment)
    if command is None:
        unknown = (f"an outcome follows from {record.cause}, which is no command without an outcome",)
        return control, unknown, LastCommand(record.moment, record.epoch, event.command, outcome, why)
    decision = None if command.decision is None else control.decisions.get(command.decision)
    if decision is not None:
        control = _with_row(control, decision.concluded(event))
    control = replace(control, open_commands=control.open_commands.without(command.moment))
    last = LastCommand(command.moment, command.epoch, command.event.command, outcome, why)
    irregular = []
    if (event.command, event.site, event.seed) != (command.event.command, command.event.site, command.event.seed):
        irregular.append(f"the outcome of {command.id} is not about its command and seed")
    if outcome == "applied" and record.epoch > (expires := command.event.expires_epoch):
        irregular.append(f"{command.id} was valid until epoch {expires}, and was applied after epoch {record.epoch}")
    return control, tuple(irregular), last


def _outcome_of(event: _OutcomeEvent) -> tuple[_Outcome, str | None]:
    match event:
        case CommandApplied():
            return "applied", None
        case CommandRefused():
            return "refused", event.reason
        case CommandFailed():
            return "failed", event.error


def _answered(control: Control, record: Record, answer: str) -> tuple[DecisionRow | None, Irregular]:
    moment = _cause(record)
    decision = None if moment is None else control.decisions.get(moment)
    if decision is None:
        return None, (f"{answer} follows from {record.cause}, which is no decision since the last EpochCompleted",)
    if decision.rule is not None or decision.command is not None:
        return decision, (f"{answer} follows from {record.cause}, which was answered before",)
    return decision, ()


def _with_row(control: Control, row: DecisionRow) -> Control:
    return replace(control, decisions=control.decisions.with_item(row.moment, row))


def _one_more(counts: Mapping[_Counted, int], key: _Counted) -> dict[_Counted, int]:
    return {**counts, key: counts.get(key, 0) + 1}


def _cause(record: Record) -> Moment | None:
    """The moment of the record's cause; None where it has no cause of this run's own."""
    try:
        return None if record.cause is None else moment_of(record.cause)
    except DataError:
        return None
