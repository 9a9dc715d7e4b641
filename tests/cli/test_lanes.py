"""Lives as lanes, and the lattice."""

import pytest

from esper.cli.lanes import LOOKS, lane, lattice, legend, ruler, scale_of, stages_in_words
from esper.events.envelope import Moment
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.events.kinds.run import Site
from esper.folds.timeline import Life, Span
from tests.cli.conftest import rendered

SITE = Site(name="0", layer="Linear 64->6", inputs=64, outputs=6, slots=3, blueprints=("mlp:24",))


def life(*stages: tuple[Stage, int], undone: bool = False) -> Life:
    """A life that enters each stage at the end of an epoch."""
    starts = [epoch for _, epoch in stages]
    spans = [
        Span(stage, start, end, Moment(1), "no graft in nine epochs")
        for (stage, start), end in zip(stages, [*starts[1:], None], strict=True)
    ]
    return Life("0", 0, starts[0], "mlp:24", None, tuple(spans), undone=undone)


GROWING = life((Stage.GERMINATED, 2), (Stage.LOADING, 3), (Stage.TRAINING, 3), (Stage.GRAFTING, 6))


@pytest.mark.parametrize(
    ("seed", "epoch", "drawn"),
    [
        (GROWING, 6, "  ·░░░▒   "),
        (GROWING, 8, "  ·░░░▒▒▒ "),
        (life((Stage.GERMINATED, 2), (Stage.TRAINING, 3), (Stage.CULLED, 5)), 9, "  ·░░x    "),
        (life((Stage.GERMINATED, 9)), 9, "         ·"),
        (life((Stage.FINE_TUNING, 2), (Stage.FOSSILIZED, 4)), 9, "  ██━━━━━━"),
    ],
)
def test_a_lane_shows_the_stage_of_each_epoch(seed: Life, epoch: int, drawn: str) -> None:
    assert lane(seed, epoch, 10, 40).plain == drawn


def test_a_long_axis_is_drawn_with_several_epochs_a_character() -> None:
    assert lane(GROWING, 8, 10, 5).plain == " ░░▒▒"
    assert (scale_of(10, 5), ruler(10, 5)) == (2, "1")


def test_the_ruler_s_numbers_stand_on_their_epochs() -> None:
    line = ruler(30, 60)
    assert line[0] == "1"
    assert line[9:11] == "10"
    assert line[19:21] == "20"


def test_stages_in_words_have_a_bar_per_epoch_and_the_present_in_capitals() -> None:
    assert stages_in_words(GROWING, 7, {Stage.GRAFTING: 3}, 80).plain == "germ ━ train ━━━ GRAFT 1/3"


def test_a_stage_whose_plan_is_unknown_shows_its_age_alone() -> None:
    assert stages_in_words(GROWING, 8, {}, 80).plain == "germ ━ train ━━━ GRAFT 2"


def test_a_long_stage_is_counted_instead_of_drawn() -> None:
    assert stages_in_words(life((Stage.FINE_TUNING, 2), (Stage.FOSSILIZED, 12)), 20, {}, 80).plain == "fine-tune ━10━ FOSSIL since @12"


def test_an_ended_life_says_when_and_why() -> None:
    ended = life((Stage.TRAINING, 2), (Stage.CULLED, 5))
    assert stages_in_words(ended, 20, {}, 80).plain == "train ━━━ culled @5: no graft in nine epochs"


def test_where_room_is_short_the_reason_gives_way_and_then_the_oldest_stages() -> None:
    ended = life((Stage.GERMINATED, 1), (Stage.TRAINING, 2), (Stage.GRAFTING, 5), (Stage.CULLED, 8))
    assert stages_in_words(ended, 20, {}, 45).plain == "germ ━ train ━━━ graft ━━━ culled @8: no gra…"
    assert stages_in_words(ended, 20, {}, 30).plain == "… graft ━━━ culled @8…"


def test_an_undone_life_says_so() -> None:
    assert stages_in_words(life((Stage.TRAINING, 2), undone=True), 9, {}, 80).plain == "train, undone by a rollback"


def test_the_legend_names_what_was_drawn_and_nothing_else() -> None:
    assert rendered(legend("  ░░x ")) == ["░ train x culled"]


def test_a_legend_takes_the_lines_that_it_needs() -> None:
    lines = rendered(legend("".join(look.glyph for look in LOOKS.values())), width=40)
    assert len(lines) > 1
    assert max(map(len, lines)) <= 40
    assert all(f"{look.glyph} {look.word}" in " ".join(lines) for look in LOOKS.values() if look.glyph != " ")


def test_the_lattice_shows_stage_blueprint_embargo_and_what_is_unknown() -> None:
    row = SeedRow(site="0", seed=0, stage=Stage.TRAINING, since_epoch=3, life=2, blueprint="mlp:24", kernel=None, embargo_until=None)
    culled = row.model_copy(update={"seed": 1, "stage": Stage.CULLED, "embargo_until": 7})
    lines = rendered(lattice((SITE,), (row, culled)))
    assert lines[0].split() == ["s0", "s1", "s2"]
    assert lines[1].split() == ["0", "training", "mlp:24", "culled", "mlp:24", "until", "7", "unknown"]
