"""What a trainer remembers: values that are made new, never changed."""

import math

from hypothesis import given
from hypothesis import strategies as st

from esper.events.kinds.lifecycle import Evaluation
from esper.tamiyo.germination import plateau
from esper.tamiyo.policy_input import PolicySettings
from esper.tolaria.trainer_state import Counters, Rewindable, SeedNotes


def after(*losses: float) -> Rewindable:
    progress = Rewindable()
    for epoch, loss in enumerate(losses, start=1):
        progress = progress.after_validation(epoch, loss)
    return progress


def test_the_best_loss_is_the_lowest_so_far_with_its_epoch() -> None:
    progress = after(3.0, 1.0, 2.0)
    assert (progress.best_loss, progress.best_epoch, progress.validation_losses) == (1.0, 2, (3.0, 1.0, 2.0))


def test_epochs_without_improvement_are_counted_from_the_best() -> None:
    assert [after(*losses).epochs_since_improvement for losses in ((1.0,), (1.0, 1.0), (1.0, 2.0, 3.0), (1.0, 2.0, 0.5))] == [0, 1, 2, 0]


def test_a_loss_that_is_not_a_number_improves_nothing() -> None:
    progress = after(1.0, math.nan)
    assert (progress.best_loss, progress.best_epoch, progress.epochs_since_improvement) == (1.0, 1, 1)


def test_a_number_is_better_than_a_first_loss_that_is_none() -> None:
    progress = after(math.nan, 5.0)
    assert (progress.best_loss, progress.best_epoch) == (5.0, 2)


def test_a_new_cycle_forgets_the_losses_but_not_the_best() -> None:
    progress = after(1.0, 2.0).with_new_cycle()
    assert (progress.validation_losses, progress.best_loss, progress.epochs_since_improvement) == ((), 1.0, 1)


def test_of_many_losses_the_newest_are_kept_and_one_stands_for_the_rest() -> None:
    progress = after(*(100.0 - epoch for epoch in range(100)))
    assert progress.validation_losses == tuple(32.0 - epoch for epoch in range(32))
    assert progress.earlier_loss == 33.0
    assert progress.with_new_cycle().earlier_loss is None


LOSS = st.floats(1e-3, 1e3) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0])


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=30, max_size=80), st.lists(st.tuples(st.integers(0, 99), LOSS), max_size=2), st.integers(3, 32)
)
def test_what_is_kept_of_the_losses_shows_the_same_plateau_as_all_of_them(
    losses: list[float], others: list[tuple[int, float]], window: int
) -> None:
    for place, loss in others:
        losses[place % len(losses)] = loss
    kept = after(*losses)
    earlier = () if kept.earlier_loss is None else (kept.earlier_loss,)
    policy = PolicySettings(window=window)
    assert plateau((*earlier, *kept.validation_losses), policy) == plateau(tuple(losses), policy)


def test_a_slot_without_notes_has_empty_ones() -> None:
    assert Rewindable().note("0", 1) == SeedNotes(site="0", seed=1)


def test_notes_are_kept_by_site_and_slot() -> None:
    progress = (
        Rewindable().noted("a", 0, kernel="k1").noted("a", 1, kernel="k2").noted("b", 0, kernel="k3").noted("a", 0, kernel_failed=True)
    )
    assert progress.note("a", 0) == SeedNotes(site="a", seed=0, kernel="k1", kernel_failed=True)
    assert progress.note("a", 1).kernel == "k2"
    assert progress.note("b", 0).kernel == "k3"
    assert len(progress.notes) == 3


def test_a_forgotten_slot_leaves_the_others() -> None:
    progress = Rewindable().noted("a", 0, kernel="k1").noted("a", 1, kernel="k2").without_note("a", 0)
    assert progress.notes == (SeedNotes(site="a", seed=1, kernel="k2"),)


def test_progress_survives_being_written_and_read() -> None:
    evaluation = Evaluation(epoch=1, alpha=0.5, n=1, k=3, look=1, mean=math.inf, standard_error=math.nan, loss_without=1.0, loss_with=2.0)
    progress = after(math.inf, 1.0).noted("a", 0, evaluation=evaluation)
    again = Rewindable.model_validate_json(progress.model_dump_json())
    assert again.model_dump_json() == progress.model_dump_json()
    assert again.validation_losses == (math.inf, 1.0)


def test_candidates_of_one_race_are_one_germination() -> None:
    counters = Counters().germinated(4).germinated(4).germinated(9)
    assert (counters.germinations, counters.germination_epochs) == (2, (4, 9))


def test_what_was_refused_and_what_failed_is_counted_by_site() -> None:
    counters = Counters().counted("refused", "a").counted("refused", "a").counted("failed", "b")
    assert (counters.refused, counters.failed) == ({"a": 2}, {"b": 1})
