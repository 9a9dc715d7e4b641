"""Every decision of a run can be computed and judged again from its log, and what followed from it stands there once."""

from collections import Counter
from types import NoneType

import pytest

from esper.events.codec import decode_payload
from esper.events.envelope import EventId, Record
from esper.events.kinds.control import (
    Adaptation,
    Command,
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
    FieldReported,
)
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.kernels import BlueprintSubmitted
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import RunRolledBack, RunStarted
from esper.folds.gate import GateView, Refused, after, judge
from esper.folds.run_state import RunState, step
from esper.processes.recipe import run_settings
from esper.tamiyo.policy import decide
from tests.whole.conftest import Grown
from tests.whole.figures import Known, command_of, each_decision
from tests.whole.runs import Told

pytestmark = pytest.mark.whole

THRESHOLD_CONFIDENCE, THRESHOLD_URGENCY, CAP = 0.7, 0.6, 3
ADAPTATIONS = {Adaptation.GERMINATE, Adaptation.GRAFT, Adaptation.FOSSILIZE, Adaptation.CULL}
# The catalogue's table, written out again.
TABLE = {
    Stage.DORMANT: {Command.GERMINATE: Stage.GERMINATED},
    Stage.GERMINATED: {Command.LOAD: Stage.LOADING, Command.CANCEL: Stage.CANCELLED},
    Stage.LOADING: {
        Command.TRAIN: Stage.TRAINING,
        Command.GRAFT: Stage.GRAFTING,
        Command.CULL: Stage.CULLED,
        Command.CANCEL: Stage.CANCELLED,
    },
    Stage.TRAINING: {Command.GRAFT: Stage.GRAFTING, Command.CULL: Stage.CULLED, Command.CANCEL: Stage.CANCELLED},
    Stage.GRAFTING: {Command.STABILIZE: Stage.STABILIZATION, Command.CULL: Stage.CULLED},
    Stage.STABILIZATION: {Command.EVALUATE: Stage.EVALUATING, Command.CULL: Stage.CULLED},
    Stage.EVALUATING: {Command.FINE_TUNE: Stage.FINE_TUNING, Command.FOSSILIZE: Stage.FOSSILIZED, Command.CULL: Stage.CULLED},
    Stage.FINE_TUNING: {Command.FOSSILIZE: Stage.FOSSILIZED, Command.CULL: Stage.CULLED},
    Stage.CULLED: {Command.RESET: Stage.DORMANT},
    Stage.CANCELLED: {Command.RESET: Stage.DORMANT},
}


@pytest.fixture(scope="module", params=["grown", "faulty"])
def run(request: pytest.FixtureRequest) -> Told:
    """A run whose log is judged: one that grew undisturbed, and one with rollbacks and a seed that broke."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found.told, Told)
    return found.told


# The numbers


def test_confidence_and_urgency_of_every_decision_can_be_computed_from_the_log(run: Told) -> None:
    seen = Counter[Adaptation]()

    def compare(known: Known, _record: object, decision: DecisionMade) -> None:
        expected = tuple(known.figures(decision))
        assert (decision.confidence, decision.urgency) == pytest.approx(expected, abs=1e-12), f"epoch {known.epoch}: {decision}"
        seen[decision.adaptation] += 1

    assert each_decision(run, compare) >= 60
    assert set(seen) >= {Adaptation.NONE, Adaptation.GERMINATE, Adaptation.GRAFT, Adaptation.CANCEL, Adaptation.ADVANCE}


def test_policy_makes_the_logged_decisions_again_from_the_logged_states(run: Told) -> None:
    (started,) = run.events_of(RunStarted)
    policy = run_settings(started.settings).policy
    made: dict[EventId | None, list[DecisionMade]] = {}
    for record, decision in run.of(DecisionMade):
        made.setdefault(record.cause, []).append(decision)

    for record, _ in run.of(EpochCompleted):
        stored = decode_payload(record.type, record.data)
        assert isinstance(stored, EpochCompleted)
        assert list(decide(stored.system, record.id, policy)) == made.pop(record.id, []), f"epoch {record.epoch}"
    assert made == {}


def test_settings_in_the_log_are_the_settings_of_the_run(run: Told) -> None:
    (started,) = run.events_of(RunStarted)

    assert run_settings(started.settings) == run.settings


# The gate


def test_every_adaptation_that_was_applied_passed_the_thresholds(run: Told) -> None:
    decisions = {record.id: decision for record, decision in run.of(DecisionMade)}
    commands = {record.id: record.cause for record, _ in run.of(CommandIssued)}
    applied = Counter[int]()
    for record, _ in run.of(CommandApplied):
        assert record.cause is not None
        cause = commands[record.cause]
        assert cause is not None
        decision = decisions[cause]
        if decision.adaptation in ADAPTATIONS:
            assert decision.confidence > THRESHOLD_CONFIDENCE
            assert decision.urgency > THRESHOLD_URGENCY
            applied[record.epoch] += 1

    assert sum(applied.values()) >= 5
    assert max(applied.values()) == CAP


def test_gate_judges_every_decision_again_as_it_was_judged(run: Told) -> None:
    """From the folded log, with what EpochCompleted says about readiness: all that the gate may know."""
    (started,) = run.events_of(RunStarted)
    gate = run_settings(started.settings).gate
    commands = command_of(run)
    refusals = {record.cause: event for record, event in run.of(DecisionRefused)}
    verdicts = Counter[type]()
    state, view = RunState(run.run), GateView(0, EventId(""), {})
    for record in run.records:
        event = run.events[record.id]
        state = step(state, record)
        if isinstance(event, EpochCompleted):
            view = _view(state, event)
        if isinstance(event, DecisionMade):
            verdict = judge(event, view, gate)
            assert verdict == _logged(run, record.id, commands, refusals), f"epoch {record.epoch}: {event}"
            view = after(view, event, verdict, gate)
            verdicts[type(verdict)] += 1

    assert set(verdicts) == {Command, Refused, NoneType}


def _view(state: RunState, completed: EpochCompleted) -> GateView:
    table = {(row.site, row.seed): row for row in state.seeds}
    assert state.seeds == completed.system.seeds
    return GateView(state.epoch, state.epochs[-1].id, table, last_germination=state.last_germination(state.epoch))


def _logged(
    run: Told, decision: EventId, commands: dict[EventId, Record], refusals: dict[EventId | None, DecisionRefused]
) -> Command | Refused | None:
    if decision in commands:
        command = run.events[commands[decision].id]
        assert isinstance(command, CommandIssued)
        return command.command
    refusal = refusals.get(decision)
    return None if refusal is None else Refused(refusal.rule, refusal.reason)


# What followed


def test_every_decision_other_than_none_has_a_command_or_a_refusal(run: Told) -> None:
    answers = Counter(record.cause for record, _ in (*run.of(CommandIssued), *run.of(DecisionRefused)))
    wanted = {record.id for record, decision in run.of(DecisionMade) if decision.adaptation is not Adaptation.NONE}

    assert answers == dict.fromkeys(wanted, 1)


def test_every_command_has_exactly_one_outcome_in_its_epoch(run: Told) -> None:
    outcomes: list[tuple[Record, CommandApplied | CommandRefused | CommandFailed]]
    outcomes = [*run.of(CommandApplied), *run.of(CommandRefused), *run.of(CommandFailed)]
    commands = {record.id: (record.epoch, event.command, event.site, event.seed) for record, event in run.of(CommandIssued)}

    assert len(commands) >= 15
    assert Counter(record.cause for record, _ in outcomes) == dict.fromkeys(commands, 1)
    for record, event in outcomes:
        assert record.cause is not None
        assert (record.epoch, event.command, event.site, event.seed) == commands[record.cause]


def test_every_command_is_in_the_log_before_the_first_of_its_epoch_takes_effect(run: Told) -> None:
    for record, _ in run.of(CommandIssued):
        effects = [other.moment for other, _ in (*run.of(CommandApplied), *run.of(SeedTransitioned)) if other.epoch == record.epoch]
        assert record.moment < min(effects), f"epoch {record.epoch}"


def test_every_transition_is_on_the_table_and_caused_by_its_command(run: Told) -> None:
    stages: dict[tuple[str, int], Stage] = {}
    rolled_back = 0
    for record, event in run.of(SeedTransitioned):
        assert record.cause is not None
        cause = run.events[record.cause]
        assert event.from_stage is stages.get((event.site, event.seed), Stage.DORMANT)
        stages[event.site, event.seed] = event.to_stage
        if event.to_stage is Stage.ROLLED_BACK:
            assert isinstance(cause, RunRolledBack)
            rolled_back += 1
            continue
        assert isinstance(cause, CommandApplied)
        assert (cause.site, cause.seed) == (event.site, event.seed)
        assert TABLE[event.from_stage][cause.command] is event.to_stage

    applied = len(run.of(CommandApplied))
    assert len(run.of(SeedTransitioned)) == applied + rolled_back


def test_every_life_that_ended_was_reported(run: Told) -> None:
    ended = {Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK}
    lives = [
        (event.site, event.seed, event.life, str(event.to_stage)) for event in run.events_of(SeedTransitioned) if event.to_stage in ended
    ]

    assert [(event.site, event.seed, event.life, event.outcome) for event in run.events_of(FieldReported)] == lives
    assert len(lives) >= 3


def test_every_germination_was_submitted_to_be_compiled(run: Told) -> None:
    born = [(event.site, event.seed, event.life) for event in run.events_of(SeedTransitioned) if event.to_stage is Stage.GERMINATED]

    assert [(event.site, event.seed, event.life) for event in run.events_of(BlueprintSubmitted)] == born


def test_a_decision_carries_its_trace_to_its_outcome(run: Told) -> None:
    traces: dict[str, set[EventId]] = {}
    for record in run.records:
        if record.trace is not None:
            traces.setdefault(record.trace, set()).add(_decision_behind(run, record.id))

    assert len(traces) == len(run.of(CommandIssued)) + len(run.of(DecisionRefused))
    assert {len(found) for found in traces.values()} == {1}


def _decision_behind(run: Told, event: EventId) -> EventId:
    records = {record.id: record for record in run.records}
    while not isinstance(run.events[event], DecisionMade):
        cause = records[event].cause
        assert cause is not None
        event = cause
    return event


def test_a_wrong_number_would_have_been_seen(grown: Grown) -> None:
    """The second implementation tells a decision from one that is off by a millionth."""
    wrong: list[bool] = []

    def compare(known: Known, _record: object, decision: DecisionMade) -> None:
        wrong.append((decision.confidence + 1e-6, decision.urgency) != pytest.approx(tuple(known.figures(decision)), abs=1e-12))

    each_decision(grown.told, compare)
    assert all(wrong)
