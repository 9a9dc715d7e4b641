"""The SystemState of an epoch's end says what host and trainer would say, column by column."""

import math
from pathlib import Path

import pytest

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation, FieldReported
from esper.events.kinds.epoch import GateSettings, SystemState
from esper.events.kinds.lifecycle import Evaluation, Stage
from esper.tolaria.training import TrainerSettings
from tests.tolaria.worlds import CULL, GRAFTED, SITE, TRAINING, World, perceptron

OTHER = (Adaptation.GERMINATE, 1, "lowrank:1")
EVALUATION = Evaluation(epoch=3, alpha=0.5, n=20, k=3, look=1, mean=0.1, standard_error=0.02, loss_without=1.0, loss_with=0.9)


@pytest.fixture
def made(tmp_path: Path) -> World:
    """After epoch 4: slot 0 in GRAFTING, slot 1 GERMINATED and waiting; one step was measured since."""
    script = {**GRAFTED, 4: [OTHER]}
    world = World(tmp_path, script=script, gate=GateSettings(cooldown=2))
    world.step()
    for epoch in range(1, 5):
        world.end(epoch, validation_loss=10.0 - epoch)
    world.step(5, 20, measure=True)
    return world


def test_the_seed_columns_are_the_hosts_own_words(made: World) -> None:
    seeds, rows = made.state(6).seeds, [made.host.seeds[place] for place in sorted(made.host.seeds)]
    assert [(seed.site, seed.seed) for seed in seeds] == [(SITE, 0), (SITE, 1)] == [(row.site, row.seed) for row in rows]
    assert [seed.stage for seed in seeds] == [row.stage for row in rows] == [Stage.GRAFTING, Stage.GERMINATED]
    assert [seed.life for seed in seeds] == [row.life for row in rows] == [1, 4]
    assert [seed.blueprint for seed in seeds] == [row.blueprint for row in rows] == ["mlp:2", "lowrank:1"]
    assert [seed.kernel for seed in seeds] == [row.kernel for row in rows]
    assert [seed.alpha for seed in seeds] == [row.alpha for row in rows] == [1 / 8, None]
    assert [(seed.recovering, seed.errors, seed.since_epoch) for seed in seeds] == [(False, 0, 3), (False, 0, 4)]


def test_losses_of_a_life_stand_beside_it(made: World) -> None:
    seeds = made.state(5).seeds
    assert [(seed.loss_at_germination, seed.loss_before_graft) for seed in seeds] == [(9.0, 7.0), (6.0, None)]


def test_health_is_what_was_measured_and_absent_where_nothing_was(made: World) -> None:
    state = made.state(5)
    (site,) = state.sites
    assert site.site == SITE
    for value in (site.activation_variance, site.gradient_pressure, site.effective_rank):
        assert value is not None
        assert value > 0
    assert state.seeds[0].activation_variance is not None
    assert state.seeds[1].activation_variance is None
    assert made.state(5).sites[0].gradient_pressure is None  # Nothing was measured since.


def test_an_evaluation_is_repeated_with_the_id_of_its_event(made: World) -> None:
    made.training.progress = made.training.progress.noted(SITE, 0, evaluation=EVALUATION)
    made.training.evaluations = {(SITE, 0, 3): EventId("run/9")}
    first, second = made.state(5).seeds
    assert (first.evaluated, first.evaluation) == ("run/9", EVALUATION)
    assert (second.evaluated, second.evaluation) == (None, None)


def test_losses_are_those_of_the_cycle_and_the_best_is_over_the_run(made: World) -> None:
    progress = made.training.progress
    for epoch, loss in enumerate((3.0, 1.0, math.nan), start=1):
        progress = progress.after_validation(epoch, loss)
    made.training.progress = progress.with_new_cycle().after_validation(4, 2.0)
    state = made.state(4)
    assert state.validation_losses == (2.0,)
    assert (state.best_loss, state.best_epoch, state.epochs_since_improvement) == (1.0, 2, 2)


def test_parameters_are_the_hosts_with_its_grafted_seeds_and_their_limit(made: World) -> None:
    own = 4 * 3 + 3 + 3 * 2 + 2
    state = made.state(5)
    assert state.parameters == own + 4 * 2 + 2 + 2 * 3 + 3 == made.host.parameters()
    assert state.parameters_limit == 20 * own


def test_every_stage_is_counted(made: World) -> None:
    stages = made.state(5).stages
    assert set(stages) == set(Stage)
    assert {stage: count for stage, count in stages.items() if count} == {Stage.GRAFTING: 1, Stage.GERMINATED: 1}


def test_counts_of_the_run_are_by_site(made: World) -> None:
    made.training.counters = made.training.counters.counted("refused", SITE).counted("failed", SITE).counted("failed", SITE)
    state = made.state(5)
    assert [(site.refused, site.failed) for site in state.sites] == [(1, 2)]
    assert state.germinations == 2
    assert state.sites[0].blueprints == ("mlp:2", "lowrank:1")


def test_a_slot_that_is_empty_is_neither_ready_nor_not(tmp_path: Path) -> None:
    assert [seed.ready for seed in World(tmp_path).state(1).seeds] == [None, None]


def test_an_embargo_stands_in_its_column(tmp_path: Path) -> None:
    world = World(tmp_path, script={**TRAINING, 3: [CULL]}, gate=GateSettings(embargo=4))
    world.step()
    for epoch in (1, 2, 3):
        world.end(epoch)
    assert [seed.embargo_until for seed in world.state(3).seeds] == [7, None]


def test_field_reports_stand_in_the_order_in_which_they_were_made(made: World) -> None:
    reports = tuple(
        FieldReported(
            blueprint=blueprint, kernel=None, site=SITE, seed=0, life=1, metric_before=1.0, metric_after=None, outcome="ROLLED_BACK"
        )
        for blueprint in ("mlp:2", "lowrank:1")
    )
    made.training.counters = made.training.counters.model_copy(update={"reports": reports})
    assert made.state(5).field_reports == reports


def test_blueprints_that_would_exceed_the_limit_of_parameters_are_not_to_be_tried(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.state(1).sites[0].blueprints == ("mlp:2", "lowrank:1")
    world.host.parameters_limit = world.host.parameters() + 4 + 3 + 3
    assert world.state(1).sites[0].blueprints == ("lowrank:1",)
    world.host.parameters_limit -= 1
    assert world.state(1).sites[0].blueprints == ()


def test_epochs_planned_and_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    world = World(tmp_path, settings=TrainerSettings(epochs=17), gate=GateSettings(cooldown=9))
    state = world.state(2)
    assert (state.epoch, state.epochs_planned, state.gate.cooldown) == (2, 17, 9)


def test_a_host_without_sites_has_empty_columns(tmp_path: Path) -> None:
    state = World(tmp_path, sites=None).state(1)
    assert (state.sites, state.seeds) == ((), ())
    assert sum(state.stages.values()) == 0


def test_a_wider_host_has_its_sites_in_the_models_order(tmp_path: Path) -> None:
    state: SystemState = World(tmp_path, sites="*", model=perceptron()).state(1)
    assert [site.site for site in state.sites] == ["0", "2"]
    assert [(seed.site, seed.seed) for seed in state.seeds] == [("0", 0), ("0", 1), ("2", 0), ("2", 1)]
