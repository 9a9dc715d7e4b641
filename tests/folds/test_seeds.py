"""The seed table, as transitions, evaluations, completed epochs and rollbacks make it."""

from esper.events.envelope import EventId
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import BlamedSeed
from tests.folds.histories import completed, evaluation, seed_row, transition
from tests.folds.runs import begun, germinated, oddities, rolled_back, saved, state_of


def test_all_slots_of_all_sites_are_dormant_from_the_start() -> None:
    rows = [(row.site, row.seed, row.stage) for row in state_of(begun(2, 1)).seeds]
    assert rows == [("layer0", 0, "DORMANT"), ("layer0", 1, "DORMANT"), ("layer1", 0, "DORMANT")]


def test_a_transition_moves_its_slot_alone() -> None:
    writer = begun(2)
    germinated(writer, seed=1, epoch=4)
    state = state_of(writer)
    rows = [(row.seed, row.stage, row.since_epoch, row.life) for row in state.seeds]
    assert rows == [(0, "DORMANT", 0, None), (1, "GERMINATED", 4, 4)]
    assert state.irregularities == ()


def test_alphas_are_those_of_the_last_completed_epoch() -> None:
    writer = begun(2)
    germinated(writer)
    rows = (seed_row("layer0", 0, Stage.GERMINATED, life=1), seed_row("layer0", 1, Stage.DORMANT))
    writer.write(completed(1, rows, alphas=(0.25, None)))
    assert [row.alpha for row in state_of(writer).seeds] == [0.25, None]


def test_the_last_evaluation_of_a_life_is_kept_until_the_next_life() -> None:
    writer = begun(1)
    germinated(writer)
    writer.write(evaluation(mean=0.1))
    last = writer.write(evaluation(mean=0.2))
    slot = state_of(writer).slot("layer0", 0)
    assert slot is not None
    assert slot.row.evaluation is not None
    assert (slot.row.evaluated, slot.row.evaluation.mean, slot.row.evaluation.epoch) == (last, 0.2, 1)
    writer.write(transition(Stage.GERMINATED, Stage.CANCELLED, life=1))
    writer.write(transition(Stage.CANCELLED, Stage.DORMANT))
    slot = state_of(writer).slot("layer0", 0)
    assert slot is not None
    assert slot.row.evaluation is None


def test_the_epochs_of_germinations_are_known_to_the_cooldown() -> None:
    writer = begun(3)
    germinated(writer, seed=0, epoch=2)
    germinated(writer, seed=1, epoch=7)
    germinated(writer, seed=2, epoch=7)
    state = state_of(writer)
    assert state.germination_epochs == (2, 7)
    assert [state.last_germination(before=epoch) for epoch in (2, 7, 8)] == [None, 2, 7]


def test_a_rollback_replaces_the_seed_table_and_locks_the_blamed_seed_alone() -> None:
    writer = begun(2)
    germinated(writer)
    writer.write(saved("epoch-2"))
    germinated(writer, seed=1, epoch=5)
    rows = (seed_row("layer0", 0, Stage.DORMANT), seed_row("layer0", 1, Stage.GERMINATED, life=5))
    back = writer.write(rolled_back(rows, BlamedSeed(site="layer0", seed=1)))
    writer.write(transition(Stage.GERMINATED, Stage.ROLLED_BACK, seed=1, life=5), back)
    state = state_of(writer)
    assert [(row.stage, row.life) for row in state.seeds] == [("DORMANT", None), ("ROLLED_BACK", 5)]
    assert [(row.checkpoint, row.from_epoch, row.to_epoch) for row in state.rollbacks] == [("epoch-2", 5, 2)]
    assert state.irregularities == ()


def test_alphas_are_unknown_after_a_rollback_until_the_next_completed_epoch() -> None:
    writer = begun(1)
    germinated(writer)
    row = seed_row("layer0", 0, Stage.GERMINATED, life=1)
    writer.write(completed(1, (row,), alphas=(0.25,)))
    writer.write(evaluation())
    writer.write(rolled_back((row,), None))
    slot = state_of(writer).slot("layer0", 0)
    assert slot is not None
    assert slot.row.alpha is None
    assert slot.row.evaluation is not None


def test_a_transition_that_does_not_fit_is_taken_at_its_word() -> None:
    writer = begun(1)
    writer.write(transition(Stage.TRAINING, Stage.FOSSILIZED, life=2))
    writer.write(transition(Stage.FINE_TUNING, Stage.FOSSILIZED, site="layer9"))
    assert [(row.site, row.stage) for row in state_of(writer).seeds] == [("layer0", "FOSSILIZED"), ("layer9", "FOSSILIZED")]


def test_only_the_blamed_seed_may_be_rolled_back() -> None:
    writer = begun(2)
    writer.write(saved("epoch-2"))
    rows = tuple(seed_row("layer0", seed, Stage.DORMANT) for seed in range(2))
    back = writer.write(rolled_back(rows, BlamedSeed(site="layer0", seed=1)))
    writer.write(transition(Stage.DORMANT, Stage.ROLLED_BACK, seed=0), back)
    assert oddities(writer) == ["no edge leads seed 0 of site 'layer0' from DORMANT to ROLLED_BACK"]


def test_a_rollback_is_the_cause_of_its_seed_being_rolled_back() -> None:
    writer = begun(1)
    writer.write(saved("epoch-2"))
    writer.write(rolled_back((seed_row("layer0", 0, Stage.DORMANT),), BlamedSeed(site="layer0", seed=0)))
    writer.write(transition(Stage.DORMANT, Stage.ROLLED_BACK), EventId("run/1"))
    assert oddities(writer) == ["no edge leads seed 0 of site 'layer0' from DORMANT to ROLLED_BACK"]
