"""SQL gives the state that the folds give, at any moment."""

import json
import random

import pytest

from esper.events.kinds.lifecycle import SeedRow
from esper.history.run_history import History
from tests.audit.conftest import Ask
from tests.synthetic import EPOCHS, RUN

pytestmark = pytest.mark.whole


def seeds(ask: Ask, moment: int) -> tuple[SeedRow, ...]:
    """The rows of `seeds_at`, as events have them."""
    columns = [row[0] for row in ask("DESCRIBE FROM seeds_at(?, ?)", RUN, moment)][1:]
    rows = ask("SELECT * EXCLUDE (run) FROM seeds_at(?, ?)", RUN, moment)
    return tuple(SeedRow.model_validate_json(json.dumps(dict(zip(columns, row, strict=True)))) for row in rows)


def test_the_seed_table_at_a_hundred_moments_is_that_of_the_fold(ask: Ask, history: History) -> None:
    for moment in random.Random(11).sample(range(1, history.end + 1), 100):
        assert seeds(ask, moment) == history.at(moment=moment).seeds, f"moment {moment}"


def test_the_run_at_a_hundred_moments_is_that_of_the_fold(ask: Ask, history: History) -> None:
    for moment in random.Random(12).sample(range(1, history.end + 1), 100):
        state = history.at(moment=moment)
        loss = state.epochs[-1].validation if state.epochs else None
        expected = (
            *(state.moment, state.epoch, state.step, state.incarnation, state.status.value, len(state.epochs)),
            *(
                None if loss is None else loss.loss,
                state.last_germination(1 << 30),
                state.control.counts.issued,
                state.control.counts.applied,
            ),
        )
        assert ask("SELECT * EXCLUDE (run, time) FROM run_at(?, ?)", RUN, moment) == [expected], f"moment {moment}"


def test_the_checkpoints_at_a_hundred_moments_are_those_of_the_fold(ask: Ask, history: History) -> None:
    for moment in random.Random(13).sample(range(1, history.end + 1), 100):
        expected = {(row.name, row.digest, row.epoch, row.moment) for row in history.at(moment=moment).checkpoints}
        assert set(ask("SELECT checkpoint, digest, epoch, moment FROM checkpoints_at(?, ?)", RUN, moment)) == expected


def test_the_moment_of_an_epoch_is_where_the_fold_stands_when_it_is_over(ask: Ask, history: History) -> None:
    for epoch in range(1, EPOCHS + 1):
        state = history.at(epoch=epoch)
        [(moment,)] = ask("SELECT moment_of_epoch(?, ?)", RUN, epoch)
        assert seeds(ask, int(str(moment))) == state.seeds


def test_a_life_ends_as_it_was_last_measured(ask: Ask, history: History) -> None:
    [(epoch, moment, measured, score)] = ask("SELECT epoch, moment, measured, health_score FROM life_ends WHERE ended = 'CULLED'")
    before = history.at(moment=int(str(moment)) - 1).slot("hidden.0", 1)
    assert before is not None
    assert (epoch, measured, score) == (8, 8, before.row.health_score)


def test_lives_are_those_of_the_timeline_a_rollback_included(ask: Ask, history: History) -> None:
    expected = {(one.site, one.seed, one.life, str(one.stage), one.undone, one.kernel) for one in history.folded().timeline.lives}
    assert set(ask("SELECT site, seed, life, stage, undone, kernel FROM lives")) == expected
    assert {(undone, stage) for _, _, _, stage, undone, _ in expected} >= {(True, "GERMINATED"), (False, "TRAINING")}


def test_an_end_of_a_life_that_a_rollback_took_back_is_marked(ask: Ask) -> None:
    ends = ask("SELECT epoch, site, seed, ended FROM life_ends WHERE undone ORDER BY moment")
    assert ends == [(9, "hidden.0", 2, "CANCELLED"), (9, "hidden.0", 3, "CANCELLED"), (10, "hidden.2", 0, "FOSSILIZED")]
