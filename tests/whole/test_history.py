"""The log of a run that grew tells all of it: what its trainer held, in numbers that have no gaps, bound by chains that hold."""

import hashlib
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import groupby

import numpy as np
import pytest

from esper.errors import LogError
from esper.events import topics
from esper.events.envelope import Record
from esper.events.kinds.control import (
    Adaptation,
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
    FieldReported,
)
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, RunFinished, StreamEnded
from esper.events.kinds.telemetry import Heartbeat, SeedHealthMeasured, StepsMeasured
from esper.folds.run_state import RunState, step
from esper.history.run_history import History
from tests.folds.histories import fold
from tests.whole.conftest import Grown
from tests.whole.runs import placed

pytestmark = pytest.mark.whole

LEARNING = {Stage.TRAINING, Stage.GRAFTING, Stage.FINE_TUNING, Stage.FOSSILIZED}


@pytest.fixture(scope="module")
def states(grown: Grown) -> dict[int, RunState]:
    """The fold of the log alone, after every moment."""
    state = RunState(grown.told.run)
    found: dict[int, RunState] = {}
    for record in grown.told.records:
        state = step(state, record)
        found[record.moment] = state
    return found


def test_run_grew_and_refused_and_cancelled(grown: Grown) -> None:
    """What the tests below look at is there to be looked at."""
    entered = Counter(event.to_stage for event in grown.told.events_of(SeedTransitioned))

    assert entered[Stage.TRAINING] >= 3
    assert entered[Stage.GRAFTING] >= 1
    assert entered[Stage.FOSSILIZED] >= 1
    assert entered[Stage.CANCELLED] >= 2
    assert len(grown.told.events_of(DecisionRefused)) >= 2


# What the trainer held


def test_folded_seed_table_is_the_trainers_when_each_epoch_completed(grown: Grown, states: dict[int, RunState]) -> None:
    completed = grown.told.of(EpochCompleted)

    assert [record.epoch for record, _ in completed] == list(range(1, 61))
    assert {record.id for record, _ in completed} == set(grown.watch.judged)
    for record, _ in completed:
        assert placed(states[record.moment].seeds) == grown.watch.judged[record.id], f"epoch {record.epoch}"


def test_folded_seed_table_is_the_trainers_after_each_epochs_commands(grown: Grown, states: dict[int, RunState]) -> None:
    last = {record.epoch: record.moment for record in grown.told.records if record.fact is not None and record.type != StreamEnded.KIND}
    # A heartbeat's epoch may lag.

    assert len(set(grown.watch.left.values())) >= 8
    for epoch, table in grown.watch.left.items():
        assert placed(states[last[epoch]].seeds) == table, f"epoch {epoch}"


def test_history_at_an_epoch_has_the_seed_table_that_the_trainer_went_on_with(grown: Grown) -> None:
    with grown.told.directory.open(grown.told.run) as log:
        history = History(log, grown.told.run)
        found = {epoch: placed(history.at(epoch=epoch).seeds) for epoch in reversed(range(1, 61))}

    assert found == grown.watch.left


def test_folded_epochs_have_the_losses_and_metrics_that_were_measured_beside_the_trainer(grown: Grown, states: dict[int, RunState]) -> None:
    rows = states[max(states)].epochs
    per_epoch = len(grown.watch.steps) // len(rows)

    assert len(rows) == 60
    for row in rows:
        taken = grown.watch.steps[(row.epoch - 1) * per_epoch : row.epoch * per_epoch]
        samples = sum(step.samples for step in taken)
        loss, accuracy = grown.watch.validated[row.epoch]
        assert row.step == row.epoch * per_epoch
        assert row.train.samples == samples == 1097
        assert row.train.loss == pytest.approx(sum(step.loss * step.samples for step in taken) / samples, rel=1e-12)
        assert row.train.metrics == pytest.approx({"accuracy": sum(step.accuracy * step.samples for step in taken) / samples}, rel=1e-12)
        assert row.validation is not None
        assert row.validation.samples == 350
        assert row.validation.loss == pytest.approx(loss, rel=1e-12)
        assert row.validation.metrics == pytest.approx({"accuracy": accuracy}, rel=1e-6)


def test_folded_state_ends_as_the_trainer_did(grown: Grown, states: dict[int, RunState]) -> None:
    end = states[max(states)]

    assert isinstance(end.end, RunFinished)
    assert end.end.metrics == grown.trained.metrics
    assert end.end.parameters == grown.trained.host.parameters() == end.epochs[-1].parameters
    assert end.step == len(grown.watch.steps)
    assert end.irregularities == ()


def test_folded_counts_are_those_of_the_decisions_that_the_policy_gave(grown: Grown, states: dict[int, RunState]) -> None:
    counts = states[max(states)].control.counts
    decided = [decision for decisions in grown.watch.decided.values() for decision in decisions]
    wanted = [decision for decision in decided if decision.adaptation is not Adaptation.NONE]

    assert grown.told.events_of(DecisionMade) == decided
    assert counts.made == Counter(decision.adaptation for decision in decided)
    assert counts.issued + sum(counts.refused.values()) == len(wanted)
    assert (counts.applied, counts.commands_refused, counts.commands_failed) == (counts.issued, 0, 0)


def test_folded_counts_are_those_of_the_records(grown: Grown, states: dict[int, RunState]) -> None:
    end = states[max(states)]
    count = Counter(record.type for record in grown.told.records)

    assert end.control.counts.issued == count[CommandIssued.KIND]
    assert end.control.counts.applied == count[CommandApplied.KIND]
    assert count[CommandRefused.KIND] + count[CommandFailed.KIND] == 0
    assert sum(end.control.counts.refused.values()) == count[DecisionRefused.KIND]
    assert len(end.field_reports) == count[FieldReported.KIND]
    assert len(end.checkpoints) == count[CheckpointSaved.KIND] - count[CheckpointPruned.KIND]
    kept = {path.name for path in grown.told.directory.checkpoints(grown.told.run).iterdir()}
    assert {row.name for row in end.checkpoints} == kept


# The same again, afterwards


def test_another_process_folded_the_run_while_it_was_trained(grown: Grown) -> None:
    assert grown.digests_while_training == 6
    assert set(grown.digests) == {record.moment for record in grown.told.records}


def test_state_at_a_hundred_random_moments_has_the_digest_of_the_reader_that_was_there(grown: Grown) -> None:
    moments = random.Random(20).sample(range(1, max(grown.digests) + 1), 100)

    with grown.told.directory.open(grown.told.run) as log:
        history = History(log, grown.told.run, page=64)
        replayed = {moment: history.digest(moment) for moment in moments}

    assert len(set(replayed.values())) >= 50
    assert replayed == {moment: grown.digests[moment] for moment in moments}


def test_facts_alone_fold_to_the_same_state(grown: Grown, states: dict[int, RunState]) -> None:
    facts = [record for record in grown.told.records if record.topic in topics.FACTS]

    assert len(facts) < len(grown.told.records)
    assert fold(facts) == states[max(states)]


# Numbers and chains


def test_numbers_have_no_gaps(grown: Grown) -> None:
    records = grown.told.records
    sequences = defaultdict(list)
    for record in records:
        sequences[record.topic].append(record.sequence)

    assert [record.moment for record in records if record.type != Heartbeat.KIND] == list(
        range(1, 1 + sum(record.type != Heartbeat.KIND for record in records))
    )
    facts = [record.fact for record in records if record.fact is not None]
    assert facts == list(range(1, len(facts) + 1))
    assert all((record.topic in topics.FACTS) == (record.fact is not None) for record in records)
    assert {topic: found == list(range(1, len(found) + 1)) for topic, found in sequences.items()} == dict.fromkeys(sequences, True)


def test_clocks_never_go_back_and_no_cause_comes_after_its_effect(grown: Grown) -> None:
    records = grown.told.records
    moments = {record.id: record.moment for record in records}

    assert [record.time for record in records] == sorted(record.time for record in records)
    for _, of_topic in groupby(sorted(records, key=lambda record: record.topic), key=lambda record: record.topic):
        clocks = [(record.epoch, record.step) for record in of_topic]
        assert [epoch for epoch, _ in clocks] == sorted(epoch for epoch, _ in clocks)
        assert [step for _, step in clocks] == sorted(step for _, step in clocks)
    assert records[0].cause is None
    assert all(
        record.cause is not None and moments[record.cause] < record.moment for record in records[1:] if record.type != Heartbeat.KIND
    )


def chain_again(record: Record, before: bytes) -> bytes:
    """The chain of a record, written from the catalogue's words: counted texts, numbers, the chain before it, the payload."""
    texts = (record.topic, record.run, record.writer, record.type, record.trace or "", record.cause or "")
    counted = b"".join(str(len(text.encode())).encode() + b":" + text.encode() for text in texts)
    since_1970 = record.time - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since_1970.days * 86_400 + since_1970.seconds) * 1_000_000 + since_1970.microseconds
    numbers = (record.sequence, record.fact, record.moment, record.incarnation, microseconds, record.epoch, record.step, len(record.data))
    written = b"".join(b" " if number is None else b"%d " % number for number in numbers)
    return hashlib.sha256(counted + written + before + record.data).digest()


def test_chains_hold_over_the_whole_run_and_the_run_names_their_ends(grown: Grown) -> None:
    ends: dict[str, tuple[int | None, bytes]] = {}
    tails = {}
    for record in grown.told.records:
        if record.type == RunFinished.KIND:
            tails = {topic: (sequence, chain.hex()) for topic, (sequence, chain) in ends.items()}
        chain = chain_again(record, ends[record.topic][1] if record.topic in ends else b"")
        assert record.chain == chain, f"topic {record.topic}, sequence {record.sequence}"
        ends[record.topic] = (record.sequence, chain)

    (finished,) = grown.told.events_of(RunFinished)
    assert {tail.topic: (tail.sequence, tail.chain) for tail in finished.tails} == tails
    assert len(tails) >= 11


def test_a_changed_byte_breaks_its_chain(grown: Grown) -> None:
    record = grown.told.records[-1]
    before = next(other.chain for other in reversed(grown.told.records[:-1]) if other.topic == record.topic)
    assert before is not None

    assert chain_again(record, before) == record.chain
    assert chain_again(record._replace(data=record.data[:-2] + b" }"), before) != record.chain
    for changed in (record._replace(epoch=record.epoch + 1), record._replace(fact=None), record._replace(incarnation=7)):
        assert chain_again(changed, before) != record.chain


# How it ends


def test_every_topic_ends_with_stream_ended_before_the_run_does(grown: Grown) -> None:
    last = {record.topic: record for record in grown.told.records}
    others = {topic: record for topic, record in last.items() if topic != topics.RUN}

    assert set(others) >= {topics.SEED_HEALTH, topics.STEPS, topics.EPOCH, topics.LIFECYCLE, topics.DECISIONS}
    assert {record.type for record in others.values()} == {StreamEnded.KIND}
    assert grown.told.records[-1].type == RunFinished.KIND
    spoken = {topic: max(record.step for record in grown.told.records if record.topic == topic) for topic in others}
    ended = {record.topic: event.last_step for record, event in grown.told.of(StreamEnded)}
    assert {topic: ended[topic] <= step for topic, step in spoken.items()} == dict.fromkeys(others, True)


def test_finished_run_is_sealed_in_one_file_and_takes_nothing_more(grown: Grown) -> None:
    directory, run = grown.told.directory, grown.told.run
    entry = directory.entry(run)

    assert entry is not None
    assert entry.sealed
    assert entry.summary is not None
    assert entry.summary["metrics"] == grown.trained.metrics
    assert not list(entry.path.glob("run.sqlite-*"))
    with pytest.raises(LogError, match=f"run {run} is finished and sealed"):
        directory.resume(run)


# What is measured


def test_live_seeds_of_a_healthy_run_have_gradients_at_every_epochs_end(grown: Grown) -> None:
    found = Counter[Stage]()
    for _, event in grown.told.of(EpochCompleted):
        for seed in event.system.seeds:
            assert seed.errors == 0
            if seed.stage in LEARNING and event.system.epoch > seed.since_epoch:
                assert seed.gradient_variance is not None
                assert seed.gradient_variance > 0
                found[seed.stage] += 1

    assert set(found) == LEARNING


def test_live_seeds_of_a_healthy_run_have_gradients_in_telemetry(grown: Grown) -> None:
    found = Counter[Stage]()
    for _, event in grown.told.of(SeedHealthMeasured):
        health = event.health
        for stage, variance, score in zip(health.stage, health.gradient_variance, health.health_score, strict=True):
            assert stage not in LEARNING or (variance is not None and variance > 0)
            assert score is None or score > 0
            if stage is not None:
                found[stage] += 1

    assert set(found) >= LEARNING


def test_steps_measured_are_all_steps_with_the_losses_that_the_objective_gave(grown: Grown) -> None:
    steps = [step for event in grown.told.events_of(StepsMeasured) for step in event.steps.step]
    losses = [loss for event in grown.told.events_of(StepsMeasured) for loss in event.steps.loss]

    assert steps == list(range(1, len(grown.watch.steps) + 1))
    assert np.array_equal(np.array(losses, dtype=np.float64), np.array([step.loss for step in grown.watch.steps]))
