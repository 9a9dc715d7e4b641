"""What `esper.open` returns: any moment of a run, from its log alone."""

import math
from pathlib import Path

import pytest

from esper.errors import LogError, RuleError
from esper.events.envelope import Moment, Record, record_id
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.telemetry import StepsMeasured
from esper.events.topics import DECISIONS, EPOCH, LIFECYCLE, SEED_HEALTH, STEPS, TOPICS
from esper.events.topics import RUN as RUN_TOPIC
from esper.folds.run_state import BlockedError, RunState, step
from esper.history.run_history import History, open_run
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.folds.histories import fold
from tests.oona.memory import MemoryLog
from tests.synthetic import EPOCHS, FIRST, ROLLBACK_EPOCH, RUN, SECOND, started, ticking, write_run
from tests.synthetic import STEPS as STEPS_PER_EPOCH


def test_the_state_at_an_epoch_is_the_fold_of_all_facts_up_to_it(history: History) -> None:
    records = list(history.records())
    for epoch in range(EPOCHS + 1):
        assert history.at(epoch=epoch) == fold(record for record in records if record.epoch <= epoch)


def test_the_state_at_a_moment_is_the_fold_of_all_records_up_to_it(history: History) -> None:
    state = RunState(RUN)
    for record in history.records():
        state = step(state, record)
        if record.moment % 7 == 0:
            assert history.at(moment=record.moment) == state


def test_pages_of_any_size_give_the_same_states(synthetic_log: Path, history: History) -> None:
    with Directory(synthetic_log).open(RUN) as log:
        paged = History(log, RUN, page=7)
        for moment in (200, 13, 1, 233, 77, 78):
            assert paged.at(moment=moment) == history.at(moment=moment)
        assert [paged.at(epoch=epoch).moment for epoch in (12, 3, 9)] == [history.at(epoch=epoch).moment for epoch in (12, 3, 9)]
        assert paged.state == history.state


def test_an_epoch_that_was_rolled_back_can_be_asked_for(history: History) -> None:
    state = history.at(epoch=ROLLBACK_EPOCH)
    assert state.rollbacks[-1].to_epoch == 8
    assert state.epochs[-1].epoch == ROLLBACK_EPOCH - 1


def test_what_is_printed_of_a_history_and_of_a_state_is_a_line(history: History) -> None:
    assert repr(history) == f"History(run={RUN!r})"
    assert repr(history.at(epoch=4)) == (
        f"RunState(run={RUN!r}, status=running, epoch=4, moment=49, seeds: 3 DORMANT, 2 GERMINATED, 1 GRAFTING)"
    )


def test_no_run_of_that_name_is_a_broken_rule_and_no_directory_a_failed_log(synthetic_log: Path, tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="no run begins or ends with 'ffffff'"):
        open_run("ffffff", synthetic_log)
    with pytest.raises(LogError, match="expected a log at"):
        open_run("latest", tmp_path / "nowhere")


def test_a_moment_beyond_the_end_is_refused_with_the_last_there_is(history: History) -> None:
    with pytest.raises(RuleError, match=r"expected a moment from 0 to 233, the last on disk, got 234"):
        history.at(moment=234)


def test_an_epoch_not_reached_is_refused_with_the_last_that_is_over(history: History) -> None:
    with pytest.raises(RuleError, match=rf"expected an epoch from 0 to {EPOCHS}, the last that is over, got 40"):
        history.at(epoch=40)


def test_either_a_moment_or_an_epoch_is_asked_for(history: History) -> None:
    with pytest.raises(RuleError, match="either a moment or an epoch"):
        history.at()
    with pytest.raises(RuleError, match="either a moment or an epoch"):
        history.at(moment=1, epoch=1)


def test_records_of_a_topic_are_that_topic_s_alone(history: History) -> None:
    found = list(history.records(frozenset({DECISIONS})))
    assert {record.topic for record in found} == {DECISIONS}
    assert [record.sequence for record in found] == list(range(1, len(found) + 1))


def test_a_topic_that_does_not_exist_is_refused_with_those_that_do(history: History) -> None:
    with pytest.raises(RuleError, match=r"expected a topic of the catalogue \(system.events.run, .*got 'nonsense'"):
        next(history.events("nonsense"))


def test_events_come_with_the_records_they_stand_in(history: History) -> None:
    record, event = next(history.events(LIFECYCLE))
    assert (record.epoch, record.topic) == (1, LIFECYCLE)
    assert isinstance(event, SeedTransitioned)
    assert (event.site, event.to_stage) == (SECOND, Stage.GERMINATED)


def test_a_frame_of_steps_has_one_row_a_step(history: History) -> None:
    rows = history.frame(STEPS).rows()
    steps = [row["step"] for row in rows if "loss" in row]
    expected = [step for step in range(1, EPOCHS * STEPS_PER_EPOCH + 1) if step not in (106, 107, 108)]
    assert steps == expected


def test_a_loss_that_was_nan_is_nan_in_the_frame(history: History) -> None:
    poisoned = [row for row in history.frame(STEPS).rows() if row.get("step") == ROLLBACK_EPOCH * STEPS_PER_EPOCH]
    loss = poisoned[0]["loss"]
    assert isinstance(loss, float)
    assert math.isnan(loss)


def test_a_frame_of_health_has_one_row_a_seed_and_none_where_nothing_was_measured(history: History) -> None:
    rows = [row for row in history.frame(SEED_HEALTH).rows() if row.get("epoch") == 1 and "seed" in row]
    assert [(row["site"], row["seed"], row["health_score"]) for row in rows] == [(FIRST, None, None), (SECOND, None, None)]


def test_a_frame_of_epochs_names_nested_values_by_their_path(history: History) -> None:
    row = history.frame(EPOCH).rows()[0]
    assert (row["epoch"], row["validation.loss"], row["validation.metrics.accuracy"]) == (1, 1.4, 0.5)
    assert row["system.parameters"] == 460


def test_seeds_tell_every_life_with_its_stages(history: History) -> None:
    lives = {(life.site, life.seed, life.life): life for life in history.seeds}
    assert set(lives) == {(SECOND, 0, 1), (FIRST, 0, 4), (FIRST, 1, 4), (FIRST, 2, 7), (FIRST, 3, 7), (SECOND, 1, 10)}
    grafted = lives[FIRST, 0, 4]
    assert [(span.stage, span.from_epoch, span.to_epoch) for span in grafted.spans] == [
        (Stage.GERMINATED, 4, 5),
        (Stage.LOADING, 5, 5),
        (Stage.TRAINING, 5, 8),
        (Stage.GRAFTING, 8, 11),
        (Stage.ROLLED_BACK, 11, None),
    ]
    assert grafted.blueprint == "mlp:24"
    assert grafted.evaluation is not None


def test_a_life_that_a_rollback_took_back_is_undone_and_one_it_gave_back_goes_on(history: History) -> None:
    lives = {(life.site, life.seed, life.life): life for life in history.seeds}
    assert lives[SECOND, 1, 10].undone
    returned = lives[FIRST, 3, 7]
    assert not returned.undone
    assert [span.stage for span in returned.spans[-2:]] == [Stage.CANCELLED, Stage.TRAINING]
    assert returned.spans[-1].reason == "rolled back to epoch 8"


def test_decisions_tell_what_became_of_each(history: History) -> None:
    fates = {decided.moment: (decided.decision.adaptation.value, decided.fate, decided.rule) for decided in history.decisions}
    assert ("germinate", "refused", "cap") in fates.values()
    assert ("graft", "applied", None) in fates.values()
    assert ("advance", "failed", None) in fates.values()
    assert ("none", "recorded", None) in fates.values()
    assert "pending" not in {fate for _, fate, _ in fates.values()}


def test_a_live_run_is_answered_from_what_is_on_disk_when_it_is_asked(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    with directory.create(RUN) as log:
        emitter = Emitter(log, RUN, clock=ticking())
        emitter.emit(started(), epoch=0, step=0)
        emitter.commit()
        with open_run("latest", tmp_path) as live:
            assert live.state.moment == 1
            emitter.emit(_transition(), epoch=1, step=5)
            emitter.commit()
            assert live.state.moment == 2
            assert live.end == 2
            with pytest.raises(RuleError, match="from 0 to 0, the last that is over, got 1"):
                live.at(epoch=1)
        emitter.close()


def test_a_run_is_found_by_its_end_and_an_unknown_one_names_those_there_are(synthetic_log: Path) -> None:
    with open_run(RUN[-6:], synthetic_log) as found:
        assert found.run == RUN
    with pytest.raises(RuleError, match=RUN):
        open_run("ffffff", synthetic_log)


def test_a_fact_of_a_newer_version_blocks_the_state_and_not_the_moments_before(history: History) -> None:
    log = _with_unknown_fact(list(history.records())[:30])
    blocked = History(log, RUN)
    for _ in range(2):
        with pytest.raises(BlockedError, match=r"stops at moment 31.*esper.seed.rewound.v9"):
            _ = blocked.state
    assert blocked.at(moment=30) == history.at(moment=30)
    assert blocked.end == 31


def test_following_ends_when_the_run_has_ended(history: History) -> None:
    assert [record.moment for record in history.follow(frozenset({RUN_TOPIC}))][-1] == 233


def test_following_waits_for_what_is_not_written_yet() -> None:
    log = MemoryLog(RUN)
    emitter = Emitter(log, RUN, clock=ticking())
    emitter.emit(started(), epoch=0, step=0)
    emitter.commit()
    following = History(log, RUN).follow(wait_s=30.0)
    assert next(following).moment == 1
    emitter.emit(_transition(), epoch=1, step=5)
    assert next(following).moment == 2
    emitter.close()


def test_telemetry_changes_no_state(tmp_path: Path, history: History) -> None:
    write_run(Directory(tmp_path), telemetry=False)
    with open_run("latest", tmp_path) as silent:
        assert StepsMeasured.KIND not in {record.type for record in silent.records()}
        assert [row.validation for row in silent.state.epochs] == [row.validation for row in history.state.epochs]
        tables = [[row.model_copy(update={"evaluated": None}) for row in one.state.seeds] for one in (silent, history)]
        assert tables[0] == tables[1]  # But for ids, which have the moments of telemetry in them.


def test_every_topic_can_be_asked_for(history: History) -> None:
    for topic in TOPICS:
        assert isinstance(history.frame(topic).rows(), list)


def _transition() -> SeedTransitioned:
    return SeedTransitioned(
        site=FIRST,
        seed=0,
        from_stage=Stage.DORMANT,
        to_stage=Stage.GERMINATED,
        reason="a test",
        life=1,
        blueprint="mlp:24",
        kernel=None,
        embargo_until=None,
    )


def _with_unknown_fact(records: list[Record]) -> MemoryLog:
    log = MemoryLog(RUN)
    log.append(tuple(records))
    last = max(record.fact or 0 for record in records)
    sequence = max((record.sequence or 0 for record in records if record.topic == LIFECYCLE), default=0)
    unknown = records[-1]._replace(
        id=record_id(RUN, Moment(31)),
        topic=LIFECYCLE,
        type="esper.seed.rewound.v9",
        sequence=sequence + 1,
        fact=last + 1,
        moment=Moment(31),
        data=b"{}",
    )
    log.append((unknown,))
    return log
