"""What the facts of a run make of its state, step by step, and what does not fit is described and taken at its word."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from esper.errors import RuleError
from esper.events import topics
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.kinds.control import Command, CommandApplied, DecisionRefused, FieldReported
from esper.events.kinds.kernels import KernelCompileFailed
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import CheckpointPruned, RunFailed, RunFinished, RunResumed, SamplesDropped
from esper.folds.run_state import BlockedError, RunState, Status, digest, step
from tests.folds.histories import RUN, Writer, completed, derived, evaluation, fold, issued, seed_row, started, steps, training, transition
from tests.folds.runs import asked, begun, germinated, oddities, rolled_back, saved, state_of
from tests.trails import held

FINISHED = RunFinished(metrics={"accuracy": 0.9}, model_digest="ab" * 32, parameters=100, stopped_early=False, tails=())
FAILED = RunFailed(kind="error", error="boom", where="step 7", tails=())
DROPPED = SamplesDropped(topic=topics.STEPS, count=1, first_step=1, last_step=1)
RESUMED = RunResumed(checkpoint="epoch-2", caught_up_to=9, incarnation=2, environment_changes=())


def test_a_state_before_the_first_record_is_new() -> None:
    assert RunState(RUN).status is Status.NEW
    assert RunState(RUN).seeds == ()


def test_a_started_run_is_running_with_its_facts() -> None:
    state = state_of(begun(1))
    assert state.status is Status.RUNNING
    assert state.started == started(1)
    assert state.sites == started(1).sites


def test_the_clocks_are_those_of_the_last_fact() -> None:
    writer = begun()
    writer.epoch, writer.step = 3, 30
    writer.write(DROPPED)
    writer.write(steps(31))
    state = state_of(writer)
    assert (state.epoch, state.step, state.moment, state.incarnation) == (3, 30, 2, 1)


def test_telemetry_and_derived_events_change_nothing() -> None:
    writer = begun()
    writer.write(steps(1))
    state = fold(writer.records[:1])
    assert step(state, writer.records[1]) is state
    assert step(state, derived(writer.records[0], steps(1))) is state


def test_the_trail_is_about_other_runs_and_changes_nothing() -> None:
    writer = Writer()
    writer.write(held())
    assert step(RunState(RUN), writer.records[0]) == RunState(RUN)


def test_a_completed_epoch_is_kept_with_its_losses_and_digests() -> None:
    writer = begun()
    writer.epoch, writer.step = 1, 10
    evidence = writer.write(completed(1, loss=0.5))
    state = state_of(writer)
    row = state.epochs[0]
    assert (row.epoch, row.step, row.moment, row.id) == (1, 10, 2, evidence)
    assert (row.train.loss, row.train.metrics, row.digests.parameters) == (0.5, {"accuracy": 0.5}, "ab" * 32)
    assert state.epochs[-1].id == evidence


def test_checkpoints_are_kept_until_they_are_pruned() -> None:
    writer = begun()
    for name in ("epoch-1", "epoch-2"):
        writer.write(saved(name))
    writer.write(CheckpointPruned(checkpoint="epoch-1", reason="older than the last 1"))
    assert [row.name for row in state_of(writer).checkpoints] == ["epoch-2"]


def test_field_reports_and_dropped_samples_are_kept() -> None:
    writer = begun()
    report = FieldReported(
        blueprint="mlp:8", kernel=None, site="layer0", seed=0, life=1, metric_before=1.0, metric_after=0.9, outcome="FOSSILIZED"
    )
    writer.write(report)
    writer.write(SamplesDropped(topic=topics.STEPS, count=3, first_step=1, last_step=3))
    writer.write(SamplesDropped(topic=topics.STEPS, count=2, first_step=5, last_step=6))
    state = state_of(writer)
    assert [row.event for row in state.field_reports] == [report]
    assert dict(state.dropped) == {topics.STEPS: 5}


def test_an_epoch_that_a_rollback_ended_is_not_missing() -> None:
    writer = begun(1)
    writer.epoch = 4
    writer.write(completed(4))
    writer.epoch = 5
    writer.write(saved("epoch-2"))
    writer.write(rolled_back((seed_row("layer0", 0, Stage.DORMANT),), None))
    writer.epoch = 6
    writer.write(completed(6))
    assert state_of(writer).irregularities == ()


def test_a_run_ends_finished_or_failed() -> None:
    finished, failed = begun(), begun()
    finished.write(FINISHED)
    failed.write(FAILED)
    assert (state_of(finished).status, state_of(finished).end) == (Status.FINISHED, FINISHED)
    assert (state_of(failed).status, state_of(failed).end) == (Status.FAILED, FAILED)


def test_a_failed_run_that_is_resumed_is_running() -> None:
    writer = begun()
    writer.write(FAILED)
    writer.incarnation = 2
    writer.write(RESUMED)
    state = state_of(writer)
    assert (state.status, state.end, state.incarnation) == (Status.RUNNING, None, 2)
    assert state.irregularities == ()


def test_kernels_change_the_clocks_alone() -> None:
    writer = begun()
    writer.write(KernelCompileFailed(key="ab" * 32, site="layer0", seed=0, life=1, error="no"))
    before, after = fold(writer.records[:1]), fold(writer.records)
    assert after.moment == 2
    assert after.seeds == before.seeds
    assert after.irregularities == ()


def after_the_end(writer: Writer) -> None:
    writer.write(FINISHED)
    writer.write(DROPPED)


def epoch_went_back(writer: Writer) -> None:
    writer.epoch = 3
    writer.write(DROPPED)
    writer.epoch = 2
    writer.write(DROPPED)


def incarnation_went_back(writer: Writer) -> None:
    writer.incarnation = 2
    writer.write(RESUMED)
    writer.incarnation = 1
    writer.write(DROPPED)


def epoch_left_out(writer: Writer) -> None:
    for epoch in (1, 3):
        writer.epoch = epoch
        writer.write(completed(epoch))


def table_disagrees(writer: Writer) -> None:
    writer.epoch = 1
    writer.write(completed(1, (seed_row("layer0", 0, Stage.TRAINING, life=1),)))


def answered_twice(writer: Writer) -> None:
    made = asked(writer)
    writer.write(DecisionRefused(rule="cap", reason="too many"), made)
    writer.write(issued(Command.GERMINATE), made)


def two_outcomes(writer: Writer) -> None:
    told = writer.write(issued(Command.GERMINATE), asked(writer))
    for _ in range(2):
        writer.write(CommandApplied(command=Command.GERMINATE, site="layer0", seed=0), told)


def outcome_of_another(writer: Writer) -> None:
    told = writer.write(issued(Command.GERMINATE), asked(writer))
    writer.write(CommandApplied(command=Command.GERMINATE, site="layer0", seed=1), told)


def applied_too_late(writer: Writer) -> None:
    told = writer.write(issued(Command.GERMINATE), asked(writer))
    writer.epoch = 2
    writer.write(CommandApplied(command=Command.GERMINATE, site="layer0", seed=0), told)


IRREGULAR: list[tuple[Callable[[Writer], object], str]] = [
    (lambda writer: writer.write(started(1)), "the run started a second time"),
    (after_the_end, "esper.samples.dropped.v1 came after the run's end"),
    (epoch_went_back, "the epoch went back from 3 to 2"),
    (incarnation_went_back, "the incarnation went back from 2 to 1"),
    (epoch_left_out, "epoch 3 was completed after epoch 1"),
    (lambda writer: writer.write(completed(1)), "EpochCompleted of epoch 0 holds the system state of epoch 1"),
    (table_disagrees, "EpochCompleted has seed 0 of site 'layer0' in TRAINING, life 1; the log says DORMANT, life None"),
    (
        lambda writer: writer.write(transition(Stage.TRAINING, Stage.GRAFTING)),
        "seed 0 of site 'layer0' was in DORMANT, its transition says from TRAINING",
    ),
    (
        lambda writer: writer.write(transition(Stage.DORMANT, Stage.GRAFTING)),
        "no edge leads seed 0 of site 'layer0' from DORMANT to GRAFTING",
    ),
    (
        lambda writer: writer.write(transition(Stage.DORMANT, Stage.ROLLED_BACK)),
        "no edge leads seed 0 of site 'layer0' from DORMANT to ROLLED_BACK",
    ),
    (
        lambda writer: writer.write(transition(Stage.DORMANT, Stage.GERMINATED, site="layer9")),
        "seed 0 of site 'layer9' is no slot of this run",
    ),
    (lambda writer: writer.write(evaluation(life=3)), "life 3 of seed 0 of site 'layer0' was evaluated, the present one is life None"),
    (
        lambda writer: writer.write(DecisionRefused(rule="cap", reason="too many"), EventId("run/1")),
        "a refusal follows from run/1, which is no decision since the last EpochCompleted",
    ),
    (answered_twice, f"a command follows from {RUN}/3, which was answered before"),
    (two_outcomes, f"an outcome follows from {RUN}/4, which is no command without an outcome"),
    (outcome_of_another, f"the outcome of {RUN}/4 is not about its command and seed"),
    (applied_too_late, f"{RUN}/4 was valid until epoch 1, and was applied after epoch 2"),
    (
        lambda writer: writer.write(CheckpointPruned(checkpoint="epoch-9", reason="old")),
        "checkpoint 'epoch-9' was pruned, and is not kept",
    ),
    (
        lambda writer: writer.write(rolled_back((), None)),
        "the run went back to checkpoint 'epoch-2', which is not kept",
    ),
    (
        lambda writer: writer.write(rolled_back((), None)),
        "the rollback's seed table misses seed 0 of site 'layer0'",
    ),
]


@pytest.mark.parametrize(("write", "what"), IRREGULAR)
def test_what_does_not_fit_is_described(write: Callable[[Writer], object], what: str) -> None:
    writer = begun(2)
    write(writer)
    assert what in oddities(writer)


def test_a_fact_before_the_start_is_described() -> None:
    writer = Writer()
    writer.write(DROPPED)
    assert oddities(writer) == ["esper.samples.dropped.v1 came before RunStarted"]


def test_an_irregularity_names_the_moment_of_its_record() -> None:
    writer = begun()
    writer.write(started(1))
    assert [irregularity.moment for irregularity in state_of(writer).irregularities] == [2]


@pytest.mark.parametrize("change", [{"type": "esper.seed.transitioned.v2"}, {"data": b'{"site": 7}'}])
def test_a_fact_that_cannot_be_understood_blocks_the_run_and_leaves_the_state_before(change: dict[str, object]) -> None:
    writer = begun()
    germinated(writer)
    state = fold(writer.records[:1])
    before = digest(state)
    unknown = Record(**{**writer.records[1]._asdict(), **change})
    with pytest.raises(BlockedError, match=f"the fold of run {RUN} stops at moment 2, topic {topics.LIFECYCLE}"):
        step(state, unknown)
    assert digest(state) == before
    assert step(state, writer.records[1]).moment == 2


def test_telemetry_of_an_unknown_kind_changes_nothing() -> None:
    writer = begun()
    writer.write(steps(1))
    state = fold(writer.records[:1])
    assert step(state, writer.records[1]._replace(type="esper.steps.measured.v9")) is state


def test_a_record_of_another_run_is_refused() -> None:
    writer = begun()
    with pytest.raises(RuleError, match="expected records of run another"):
        step(RunState(RunId("another")), writer.records[0])


def test_a_state_with_losses_that_are_not_numbers_has_a_digest() -> None:
    def digest_with(loss: float) -> str:
        writer = begun()
        writer.write(completed(1, loss=loss))
        return digest(state_of(writer))

    assert digest_with(math.nan) == digest_with(math.nan)
    assert len({digest_with(loss) for loss in (math.nan, math.inf, -math.inf, 1.0)}) == 4


def test_every_fact_changes_the_digest() -> None:
    records = [record for record in training([0, 1, 6, 2]) if record.fact is not None]
    digests = {digest(fold(records[:count])) for count in range(1, len(records) + 1)}
    assert len(digests) == len(records)


def test_the_digest_has_every_epoch_by_one_digest_of_all_of_them() -> None:
    def ended(*losses: float) -> RunState:
        writer = begun()
        for epoch, loss in enumerate(losses, start=1):
            writer.epoch = epoch
            writer.write(completed(epoch, loss=loss))
        return state_of(writer)

    state = ended(1.0, 2.0, 3.0)
    assert digest(replace(state, epochs=())) == digest(state)  # So it costs the same after every epoch.
    assert len({digest(one) for one in (state, ended(1.5, 2.0, 3.0), ended(1.0, 2.5, 3.0), ended(2.0, 1.0, 3.0))}) == 4


def test_a_legal_history_has_no_irregularities() -> None:
    assert fold(training([0, 1, 2, 6, 3, 0, 0, 0, 4, 5, 1, 1, 2, 2, 13, 0])).irregularities == ()


def test_a_moment_may_leave_room_for_telemetry() -> None:
    writer = begun()
    state = state_of(writer)
    germinated(writer)
    assert step(state, writer.records[1]._replace(moment=Moment(40))).moment == 40
