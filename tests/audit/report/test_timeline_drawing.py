"""The timeline draws stages, losses and marks where they were."""

import math
from typing import Any

import pytest

from esper.audit.report.timeline_drawing import LEFT, RIGHT, WIDTH, PlacedViolation, TimelineDrawing, draw

pytestmark = pytest.mark.whole

Row = dict[str, Any]


def loss(epoch: int, value: float | None) -> Row:
    return {"epoch": epoch, "train_loss": None, "validation_loss": value}


def span(stage: str, since: int, until: int, seed: int = 0, site: str = "a") -> Row:
    return {"site": site, "seed": seed, "blueprint": "mlp:2", "stage": stage, "since": since, "until": until}


def mark(kind: str, epoch: int, what: str = "it", until: int | None = None) -> Row:
    return {"kind": kind, "epoch": epoch, "until": until, "what": what, "moment": 1}


def drawn(
    losses: list[Row], spans: list[Row] | None = None, marks: list[Row] | None = None, violations: list[PlacedViolation] | None = None
) -> TimelineDrawing:
    made = draw(losses, spans or [], marks or [], violations or [])
    assert made is not None
    return made


TEN = [loss(epoch, 1.0 / epoch) for epoch in range(1, 11)]


def test_nothing_is_drawn_of_a_run_without_an_epoch() -> None:
    assert draw([], [], [], []) is None


def test_the_last_epoch_is_at_the_right() -> None:
    made = drawn(TEN)
    assert (made.epochs[0].x, made.epochs[-1].x, made.epochs[-1].text) == (LEFT, WIDTH - RIGHT, "10")


@pytest.mark.parametrize("last", [1, 7, 60, 999, 12345])
def test_the_axis_has_at_most_eleven_round_numbers(last: int) -> None:
    labels = drawn([loss(last, 0.5)]).epochs
    assert 2 <= len(labels) <= 11


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_loss_that_is_no_number_breaks_the_line(value: float | None) -> None:
    losses = [loss(1, 1.0), loss(2, value), loss(3, 0.5)]
    assert [name for name, _ in drawn(losses).lines] == ["validation_loss", "validation_loss"]


@pytest.mark.parametrize(
    ("stage", "kind"), [("TRAINING", "isolated"), ("GRAFTING", "acting"), ("FOSSILIZED", "fossilized"), ("CULLED", "ended")]
)
def test_a_stage_is_drawn_by_what_it_means_for_the_model(stage: str, kind: str) -> None:
    (bar,) = drawn(TEN, [span(stage, 2, 8)]).bars
    assert bar.kind == kind
    assert bar.label == stage.lower()


def test_a_short_stage_has_its_letter() -> None:
    (bar,) = drawn([loss(100, 1.0)], [span("EVALUATING", 4, 6)]).bars
    assert bar.label == "E"
    assert bar.title == "mlp:2, evaluating from the end of epoch 4 to that of 6"


def test_a_stage_that_lasted_no_epoch_is_no_bar() -> None:
    assert [bar.label for bar in drawn(TEN, [span("LOADING", 3, 3), span("TRAINING", 3, 8)]).bars] == ["training"]


def test_a_slot_has_one_lane() -> None:
    made = drawn(TEN, [span("TRAINING", 1, 3), span("GRAFTING", 3, 9), span("TRAINING", 1, 9, seed=1)])
    assert [lane.text for lane in made.lanes] == ["site a slot 0", "site a slot 1"]


def test_many_slots_are_counted_not_drawn() -> None:
    made = drawn(TEN, [span("TRAINING", 1, 3, seed=seed) for seed in range(50)])
    assert (len(made.lanes), len(made.bars), made.left_out) == (40, 40, 10)


def test_a_rollback_reaches_back_to_its_checkpoint() -> None:
    (found,) = drawn(TEN, marks=[mark("rollback", 8, until=4)]).marks
    assert found.reach is not None
    assert (found.x - LEFT) / (found.reach - LEFT) == pytest.approx(2.0)


def test_what_happened_at_one_place_is_one_mark() -> None:
    (found,) = drawn(TEN, marks=[mark("refused", 8, f"reason {number}") for number in range(9)]).marks
    assert found.title.splitlines()[0] == "epoch 8: reason 0"
    assert found.title.splitlines()[-1] == "and 3 more"


def test_a_long_run_has_no_more_bars_and_marks_than_there_is_room_for() -> None:
    spans = [span("TRAINING" if epoch % 2 else "GRAFTING", epoch, epoch + 1) for epoch in range(20_000)]
    made = drawn([loss(20_000, 1.0)], spans, [mark("refused", epoch) for epoch in range(20_000)])
    assert max(len(made.bars), len(made.marks)) <= WIDTH - RIGHT - LEFT + 1


def test_a_violation_stands_beside_what_happened() -> None:
    made = drawn(
        TEN,
        marks=[mark("alert", 3)],
        violations=[PlacedViolation("log.chain", 9, 3, "it does not follow"), PlacedViolation("x.y", 9, None, "nowhere")],
    )
    assert [(one.shape, one.x) for one in made.marks] == [("alert", made.marks[0].x), ("violation", made.marks[0].x)]
    assert made.marks[1].title == "epoch 3: log.chain: it does not follow"
