"""Adaptations: what was decided, what the gate refused and why, what became of commands, and how often training went back."""

from collections.abc import Iterator
from typing import get_args

from esper.events.envelope import Record
from esper.events.kinds.control import (
    Adaptation,
    Command,
    CommandApplied,
    CommandFailed,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
    FieldReported,
    GateRule,
)
from esper.events.kinds.run import RunRolledBack
from esper.nissa.collectors.collector import Collector
from esper.nissa.metrics.family import Family, Sample
from esper.nissa.metrics.model import Handler, Model, Watched

_COMMANDS = {"command": tuple(Command)}

DECIDED = Family("esper_adaptations_decided_total", "counter", "Decisions, by what they ask for.", {"adaptation": tuple(Adaptation)})
REFUSED = Family(
    "esper_adaptations_refused_total", "counter", "Decisions that the gate refused, by the first rule.", {"rule": get_args(GateRule)}
)
APPLIED = Family("esper_commands_applied_total", "counter", "Commands that took effect.", _COMMANDS)
COMMANDS_REFUSED = Family("esper_commands_refused_total", "counter", "Commands that were refused and changed nothing.", _COMMANDS)
COMMANDS_FAILED = Family("esper_commands_failed_total", "counter", "Commands that failed and changed nothing.", _COMMANDS)
REPORTS = Family(
    "esper_field_reports_total",
    "counter",
    "Seeds whose life ended, by how.",
    {"outcome": ("FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK")},
)
ROLLBACKS = Family("esper_rollbacks_total", "counter", "Times training went back to a checkpoint.")

FAMILIES = (DECIDED, REFUSED, APPLIED, COMMANDS_REFUSED, COMMANDS_FAILED, REPORTS, ROLLBACKS)


def _decided(model: Model, watched: Watched, _record: Record, event: DecisionMade) -> Watched:
    model.tally.add(DECIDED, event.adaptation)
    return watched


def _refused(model: Model, watched: Watched, _record: Record, event: DecisionRefused) -> Watched:
    model.tally.add(REFUSED, event.rule)
    return watched


def _came_out(model: Model, watched: Watched, _record: Record, event: CommandApplied | CommandRefused | CommandFailed) -> Watched:
    family = APPLIED if isinstance(event, CommandApplied) else COMMANDS_REFUSED if isinstance(event, CommandRefused) else COMMANDS_FAILED
    model.tally.add(family, event.command)
    return watched


def _reported(model: Model, watched: Watched, _record: Record, event: FieldReported) -> Watched:
    model.tally.add(REPORTS, event.outcome)
    return watched


def _rolled_back(model: Model, watched: Watched, _record: Record, _event: RunRolledBack) -> Watched:
    model.tally.add(ROLLBACKS)
    return watched


HANDLERS: dict[type, Handler] = {
    DecisionMade: _decided,
    DecisionRefused: _refused,
    CommandApplied: _came_out,
    CommandRefused: _came_out,
    CommandFailed: _came_out,
    FieldReported: _reported,
    RunRolledBack: _rolled_back,
}


def collect(model: Model) -> Iterator[Sample]:
    """The samples of `FAMILIES`."""
    yield from model.samples(FAMILIES)


COLLECTOR = Collector("adaptations", 1.0, FAMILIES, collect)
