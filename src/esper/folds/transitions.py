"""The lifecycle of a seed, as data: which command leads from which stage to which.

An edge that is not in `_EDGES` is refused and changes nothing. One stage is entered without a command: ROLLED_BACK, by the trainer alone,
from any stage that the blamed seed had just before (`RunRolledBack` is the cause). A test compares the diagram in docs/lifecycle.md.
"""

from collections.abc import Mapping
from types import MappingProxyType

from esper.errors import RuleError
from esper.events.kinds.control import Adaptation, Command
from esper.events.kinds.lifecycle import Stage

_EDGES: Mapping[tuple[Stage, Command], Stage] = MappingProxyType(
    {
        (Stage.DORMANT, Command.GERMINATE): Stage.GERMINATED,
        (Stage.GERMINATED, Command.LOAD): Stage.LOADING,
        (Stage.GERMINATED, Command.CANCEL): Stage.CANCELLED,
        (Stage.LOADING, Command.TRAIN): Stage.TRAINING,
        (Stage.LOADING, Command.GRAFT): Stage.GRAFTING,
        (Stage.LOADING, Command.CULL): Stage.CULLED,
        (Stage.LOADING, Command.CANCEL): Stage.CANCELLED,
        (Stage.TRAINING, Command.GRAFT): Stage.GRAFTING,
        (Stage.TRAINING, Command.CULL): Stage.CULLED,
        (Stage.TRAINING, Command.CANCEL): Stage.CANCELLED,
        (Stage.GRAFTING, Command.STABILIZE): Stage.STABILIZATION,
        (Stage.GRAFTING, Command.CULL): Stage.CULLED,
        (Stage.STABILIZATION, Command.EVALUATE): Stage.EVALUATING,
        (Stage.STABILIZATION, Command.CULL): Stage.CULLED,
        (Stage.EVALUATING, Command.FINE_TUNE): Stage.FINE_TUNING,
        (Stage.EVALUATING, Command.FOSSILIZE): Stage.FOSSILIZED,
        (Stage.EVALUATING, Command.CULL): Stage.CULLED,
        (Stage.FINE_TUNING, Command.FOSSILIZE): Stage.FOSSILIZED,
        (Stage.FINE_TUNING, Command.CULL): Stage.CULLED,
        (Stage.CULLED, Command.RESET): Stage.DORMANT,
        (Stage.CANCELLED, Command.RESET): Stage.DORMANT,
    }
)

_HOUSEKEEPING: Mapping[Stage, Command] = MappingProxyType(
    {
        Stage.GERMINATED: Command.LOAD,
        Stage.LOADING: Command.TRAIN,
        Stage.GRAFTING: Command.STABILIZE,
        Stage.STABILIZATION: Command.EVALUATE,
        Stage.EVALUATING: Command.FINE_TUNE,
        Stage.CULLED: Command.RESET,
        Stage.CANCELLED: Command.RESET,
    }
)

ISOLATED = frozenset({Stage.TRAINING})
IN_TASK_GRAPH = frozenset({Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILIZED})
LIVE = frozenset(Stage) - {Stage.DORMANT, Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK}


def next_stage(stage: Stage, command: Command) -> Stage:
    """The stage that `command` leads to from `stage`. Raises RuleError for an edge that is not in the table."""
    following = _EDGES.get((stage, command))
    if following is None:
        legal = sorted(known for start, known in _EDGES if start is stage)
        raise RuleError(f"expected one of {', '.join(legal) or 'no command'} for a seed in {stage}, got {command}")
    return following


def edges() -> tuple[tuple[Stage, Command, Stage], ...]:
    """Every edge of the table: the stage, the command, the stage that it leads to."""
    return tuple((stage, command, following) for (stage, command), following in _EDGES.items())


def is_edge(start: Stage, end: Stage) -> bool:
    """True if some command leads from `start` to `end`."""
    return any(stage is start and following is end for (stage, _), following in _EDGES.items())


def command_for(adaptation: Adaptation, stage: Stage) -> Command | None:
    """The command that `adaptation` asks for from `stage`; None: not legal from there, or nothing is asked for."""
    if adaptation is Adaptation.NONE:
        return None
    command = _HOUSEKEEPING.get(stage) if adaptation is Adaptation.ADVANCE else Command(adaptation.value)
    return command if command is not None and (stage, command) in _EDGES else None
