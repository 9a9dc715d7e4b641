"""Whole lives of seeds under the real gate, epoch by epoch."""

from esper.tamiyo.policy_input import PolicySettings
from tests.tamiyo.world import World


def test_the_best_of_a_race_becomes_part_of_the_host() -> None:
    world = World({"mlp:24": 3.0, "lowrank:8": 2.0, "signal:12": 9.0}, 40, PolicySettings(max_germinations=1)).run()

    assert [(epoch, stage) for epoch, stage, slot, _ in world.history if slot == 2] == [
        (6, "GERMINATED"),
        (7, "LOADING"),
        (7, "TRAINING"),
        (10, "GRAFTING"),
        (13, "STABILIZATION"),
        (14, "EVALUATING"),
        (15, "FINE_TUNING"),
        (25, "FOSSILIZED"),
    ]
    assert [(epoch, stage, slot) for epoch, stage, slot, _ in world.history if epoch in {10, 11}] == [
        (10, "CANCELLED", 0),
        (10, "CANCELLED", 1),
        (10, "GRAFTING", 2),
        (11, "DORMANT", 0),
        (11, "DORMANT", 1),
    ]
    assert world.refusals == []


def test_candidates_that_never_help_are_culled_and_the_next_race_waits_for_the_gate() -> None:
    world = World({"mlp:24": -1.0, "lowrank:8": -1.0, "signal:12": -1.0}, 60, PolicySettings(max_germinations=2)).run()

    assert [(epoch, stage) for epoch, stage, slot, _ in world.history if slot == 0] == [
        (6, "GERMINATED"),
        (7, "LOADING"),
        (7, "TRAINING"),
        (16, "CULLED"),
        (19, "DORMANT"),
        (22, "GERMINATED"),
        (23, "LOADING"),
        (23, "TRAINING"),
        (32, "CULLED"),
        (35, "DORMANT"),
    ]


def test_the_structure_is_final_before_the_last_epoch() -> None:
    world = World({"mlp:24": 9.0, "lowrank:8": 1.0, "signal:12": 2.0}, 22, PolicySettings()).run()

    assert [(epoch, stage) for epoch, stage, slot, _ in world.history if slot == 0][-2:] == [(15, "FINE_TUNING"), (21, "FOSSILIZED")]


def test_after_a_failed_race_another_starts_with_as_many_candidates() -> None:
    world = World({"mlp:24": -1.0, "lowrank:8": -1.0, "signal:12": -1.0}, 60, PolicySettings(max_germinations=2)).run()

    assert [(epoch, slot) for epoch, stage, slot, _ in world.history if stage == "GERMINATED"] == [
        (6, 0),
        (6, 1),
        (6, 2),
        (22, 0),
        (22, 1),
        (22, 2),
    ]


def test_a_seed_that_harms_once_grafted_is_removed() -> None:
    world = World({"mlp:24": 5.0, "lowrank:8": 0.0, "signal:12": 0.0}, 22, PolicySettings())
    world.worth["mlp:24"] = -2.0

    assert (15, "CULLED", 0, "mlp:24") in world.run().history
