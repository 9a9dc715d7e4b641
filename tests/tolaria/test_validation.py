"""Losses on validation data: weighted by samples, in eval mode, without a trace; paired differences; which seeds are evaluated when."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import skew
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from esper.errors import DataError
from esper.events.kinds.control import Command
from esper.events.kinds.lifecycle import Evaluation, SeedEvaluated
from esper.tamiyo.policy_input import PolicySettings
from esper.tolaria.determinism import random_state_digest
from esper.tolaria.objective import Batch, Supervised, WithoutMetrics
from esper.tolaria.validation import Evaluator, Losses, evaluate_seeds, paired_evaluation
from tests.tolaria.worlds import ADVANCE, CPU, GRAFTED, SITE, TRAINING, Script, World, batches, loss_of, perceptron, samples

Floats = npt.NDArray[np.float64]


def correct(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) == target).float()


def mean_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def expected() -> tuple[float, float]:
    """(loss, accuracy) over all samples at once."""
    inputs, targets = samples()
    with torch.no_grad():
        output = perceptron()(inputs)
    return float(loss_of(output, targets).double().mean()), float(correct(output, targets).double().mean())


@pytest.mark.parametrize("loss", [loss_of, mean_loss])
def test_loss_and_metrics_are_means_over_samples_also_where_the_last_batch_is_smaller(loss: object) -> None:
    assert callable(loss)
    losses = Evaluator(perceptron(), batches(8), Supervised(loss, {"right": correct}), CPU).losses()
    assert losses.measured.samples == 20
    assert losses.mean == pytest.approx(expected()[0], rel=1e-6)
    assert losses.metrics["right"] == pytest.approx(expected()[1])


def test_a_loss_a_sample_gives_as_many_values_as_samples_in_their_order() -> None:
    losses = Evaluator(perceptron(), batches(8), Supervised(loss_of), CPU).losses()
    inputs, targets = samples()
    with torch.no_grad():
        assert losses.values.tolist() == pytest.approx(loss_of(perceptron()(inputs), targets).tolist())


def test_a_loss_a_batch_gives_one_value_a_batch_weighted_by_its_samples() -> None:
    losses = Evaluator(perceptron(), batches(8), Supervised(mean_loss), CPU).losses()
    assert (len(losses.values), losses.weights.tolist()) == (3, [8.0, 8.0, 4.0])


def test_a_metric_that_is_one_number_a_batch_is_weighted_too() -> None:
    metric = {"right": lambda output, target: correct(output, target).mean()}
    losses = Evaluator(perceptron(), batches(8), Supervised(loss_of, metric), CPU).losses()
    assert losses.metrics["right"] == pytest.approx(expected()[1])


def test_each_pass_takes_the_data_in_the_same_order_though_a_generator_of_their_own_shuffles_them() -> None:
    loader = DataLoader(TensorDataset(*samples()), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(3))
    evaluator = Evaluator(perceptron(), loader, Supervised(loss_of), CPU)
    assert evaluator.losses().values.tolist() == evaluator.losses().values.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_random_state_and_buffers_as_they_were(training: bool) -> None:
    model = perceptron(3, nn.BatchNorm1d(3), nn.Dropout(0.5)).train(training)
    before = random_state_digest(CPU), {name: value.clone() for name, value in model.state_dict().items()}
    Evaluator(model, batches(8), Supervised(loss_of), CPU).losses()
    assert random_state_digest(CPU) == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [training] * 6


def test_evaluation_is_in_eval_mode_and_without_gradients() -> None:
    seen: list[tuple[bool, bool]] = []

    def step(model: nn.Module, batch: Batch) -> Tensor:
        seen.append((model.training, torch.is_grad_enabled()))
        assert isinstance(batch, tuple)
        return loss_of(model(batch[0]), batch[1])

    Evaluator(perceptron(), batches(10), WithoutMetrics(step), CPU).losses()
    assert seen == [(False, False), (False, False)]


def test_mode_and_random_state_are_restored_when_the_loss_raises() -> None:
    model = perceptron().train()
    before = random_state_digest(CPU)

    def burst(_model: nn.Module, _batch: Batch) -> Tensor:
        torch.rand(1)
        raise ValueError("no loss today")

    with pytest.raises(ValueError, match="no loss today"):
        Evaluator(model, batches(10), WithoutMetrics(burst), CPU).losses()
    assert model.training
    assert random_state_digest(CPU) == before


def test_data_that_draws_random_numbers_gives_the_same_losses_in_one_epoch() -> None:
    class Noisy:
        def __iter__(self) -> object:
            inputs, targets = samples()
            yield inputs + torch.randn_like(inputs), targets

    evaluator = Evaluator(perceptron(), Noisy(), Supervised(loss_of), CPU)  # type: ignore[arg-type] # An iterable is what it is.
    assert evaluator.losses().values.tolist() == evaluator.losses().values.tolist()


def test_no_validation_data_is_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="validation data is empty: expected at least one batch"):
        Evaluator(perceptron(), [], Supervised(loss_of), CPU).losses()


def losses(*values: float) -> Losses:
    return weighed(np.array(values), np.ones(len(values)))


def weighed(values: Floats, weights: Floats) -> Losses:
    return Losses(values, weights, {}, (values, weights))


def evaluated(without: Losses, with_seed: Losses) -> Evaluation:
    return paired_evaluation(without, with_seed, epoch=1, alpha=1.0, k=1, look=1)


def test_a_comparison_is_paired() -> None:
    pair = evaluated(losses(1.0, 5.0, 3.0), losses(0.5, 4.0, 3.0))
    assert pair.n == 3
    assert pair.mean == pytest.approx(0.5)
    assert pair.standard_error == pytest.approx(0.5 / math.sqrt(3))  # sd of 0.5, 1, 0 is 0.5
    assert (pair.loss_without, pair.loss_with) == (3.0, 2.5)


def test_a_gain_is_weighted_by_samples_as_the_losses_are() -> None:
    weights = np.array([64.0, 64.0, 64.0, 2.0])
    without, with_seed = weighed(np.array([1.0, 2.0, 3.0, 2.0]), weights), weighed(np.array([1.01, 1.98, 3.02, 2.97]), weights)

    pair = evaluated(without, with_seed)

    assert pair.mean == pytest.approx(pair.loss_without - pair.loss_with)
    assert pair.mean == pytest.approx((64 * -0.01 + 2 * -0.97) / 194)


def test_standard_error_of_unequal_batches_is_that_of_their_samples() -> None:
    """The mean of 4,000 estimates over batches of normal samples, against the one true value: 1 / sqrt(samples)."""
    sizes, draw = np.array([64.0, 64.0, 64.0, 2.0]), np.random.default_rng(5)
    zero = weighed(np.zeros(4), sizes)
    estimates = [evaluated(zero, weighed(draw.standard_normal(4) / np.sqrt(sizes), sizes)).standard_error ** 2 for _ in range(4_000)]
    assert np.mean(estimates) == pytest.approx(1 / sizes.sum(), rel=0.05)


def test_skewness_of_a_gain_is_that_of_its_pairs_over_the_root_of_their_number() -> None:
    without, draw = np.zeros(50), np.random.default_rng(5).standard_exponential(50)
    assert evaluated(losses(*without), losses(*draw)).skewness == pytest.approx(-skew(draw) / math.sqrt(50))
    assert evaluated(losses(1.0, 2.0), losses(0.0, 1.0)).skewness == 0.0


def test_one_pair_has_no_standard_error() -> None:
    assert math.isnan(evaluated(losses(1.0), losses(0.5)).standard_error)


def test_one_value_that_is_not_a_number_makes_the_mean_none() -> None:
    assert math.isnan(losses(1.0, math.nan).mean)
    assert math.isnan(evaluated(losses(1.0, math.nan), losses(0.5, 1.0)).mean)


# Seeds

PLACE = (SITE, 0)
EVALUATING: Script = {**GRAFTED, 6: [ADVANCE], 7: [ADVANCE]}
FINE_TUNING: Script = {**EVALUATING, 8: [ADVANCE]}


class Watching:
    """The usual objective; it notes with which alphas the seeds act when the model is evaluated."""

    def __init__(self) -> None:
        self.alphas: list[float | None] = []
        self.world: World | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What it always is."""
        if self.world is not None and not model.training:
            self.alphas.append(self.world.host.seeds[PLACE].alpha)
        return Supervised(loss_of)(model, batch)


def grown(folder: Path, script: Script, until: int, *, schedule: PolicySettings | None = None) -> tuple[World, Watching]:
    """A world after the end of epoch `until`, its seed with a delta that is not zero."""
    watching = Watching()
    made = World(folder, script=script, schedule=schedule, objective=watching)
    made.step()
    for epoch in range(1, until + 1):
        made.end(epoch)
    for name, tensor in made.host.state()[0].items():
        if name.startswith(f"{SITE}/0/last"):
            torch.nn.init.normal_(tensor, generator=torch.Generator().manual_seed(1))
    made.model.train()
    made.sink.story.clear()
    watching.world = made
    return made, watching


def examined(made: World, epoch: int, **where: int) -> list[SeedEvaluated]:
    """What is said at the end of `epoch`; the alphas that were tried for it are in the watching objective."""
    losses = made.evaluator.losses()
    made.at(epoch, **where)
    evaluate_seeds(made.training, made.evaluator, losses)
    return made.sink.of(SeedEvaluated)


def loss_at(made: World, alpha: float) -> float:
    with made.host.override_alpha({PLACE: alpha}):
        return made.evaluator.losses().mean


def test_a_shadow_validation_tries_every_alpha_and_keeps_the_best(tmp_path: Path) -> None:
    made, watching = grown(tmp_path, TRAINING, 4, schedule=PolicySettings(alphas=(0.2, 0.4, 0.6, 0.8)))
    (said,) = examined(made, 5)
    assert watching.alphas == [0.0, *(pytest.approx(alpha) for alpha in (0.2, 0.4, 0.6, 0.8))]
    gains = {alpha: loss_at(made, 0.0) - loss_at(made, alpha) for alpha in (0.2, 0.4, 0.6, 0.8)}
    assert said.purpose == "shadow"
    assert said.evaluation.alpha == max(gains, key=lambda alpha: gains[alpha])
    assert said.evaluation.mean == pytest.approx(gains[said.evaluation.alpha])
    assert (said.evaluation.n, said.evaluation.k, said.life) == (20, 4, 1)


def test_a_shadow_validation_leaves_the_seed_beside_the_host(tmp_path: Path) -> None:
    made, _ = grown(tmp_path, TRAINING, 4)
    before = made.evaluator.losses().values.tolist()
    examined(made, 5)
    assert made.host.seeds[PLACE].alpha == 0.0
    assert made.evaluator.losses().values.tolist() == before
    assert made.model.training


def test_an_evaluation_compares_with_and_without_the_seed_as_the_model_stands(tmp_path: Path) -> None:
    made, watching = grown(tmp_path, EVALUATING, 7)
    (said,) = examined(made, 8)
    assert watching.alphas == [1.0, 0.0]
    assert (said.purpose, said.evaluation.alpha, said.evaluation.k, said.evaluation.n) == ("evaluation", 1.0, 1, 20)
    assert said.evaluation.loss_without == pytest.approx(loss_at(made, 0.0))
    assert said.evaluation.loss_with == pytest.approx(loss_at(made, 1.0))
    assert said.evaluation.mean == pytest.approx(said.evaluation.loss_without - said.evaluation.loss_with)


DUE: list[tuple[tuple[Script, int], tuple[int, int], bool]] = [  # (script, its last epoch), (epoch examined, epochs left), due
    ((TRAINING, 2), (4, 50), False),
    ((TRAINING, 2), (5, 50), True),
    ((TRAINING, 2), (6, 50), True),
    (({1: TRAINING[1]}, 1), (9, 50), False),
    ((GRAFTED, 3), (9, 1), False),
    (({**GRAFTED, 6: [ADVANCE]}, 6), (9, 1), False),
    ((EVALUATING, 7), (8, 50), True),
    ((FINE_TUNING, 8), (17, 50), False),
    ((FINE_TUNING, 8), (18, 50), True),
    ((FINE_TUNING, 8), (9, 2), False),
    ((FINE_TUNING, 8), (9, 1), True),
]


@pytest.mark.parametrize(("life", "at", "due"), DUE)
def test_a_seed_is_evaluated_when_a_decision_about_it_is_near(
    tmp_path: Path, life: tuple[Script, int], at: tuple[int, int], due: bool
) -> None:
    made, _ = grown(tmp_path, *life)
    assert bool(examined(made, at[0], epochs_left=at[1])) is due


LOOKS = [  # (script, its last epoch), (epoch examined, epochs left), the look
    ((TRAINING, 2), (5, 50), 1),
    ((TRAINING, 2), (11, 50), 7),
    ((EVALUATING, 7), (8, 50), 1),
    ((EVALUATING, 7), (10, 50), 3),
    ((FINE_TUNING, 8), (18, 50), 1),
    ((FINE_TUNING, 8), (20, 50), 3),
    ((FINE_TUNING, 8), (9, 1), 1),
]


@pytest.mark.parametrize(("life", "at", "look"), LOOKS)
def test_looks_at_a_seed_are_counted_in_its_stage(tmp_path: Path, life: tuple[Script, int], at: tuple[int, int], look: int) -> None:
    made, _ = grown(tmp_path, *life)
    (said,) = examined(made, at[0], epochs_left=at[1])
    assert said.evaluation.look == look


def test_a_fossilized_seed_is_judged_no_more(tmp_path: Path) -> None:
    made, _ = grown(tmp_path, FINE_TUNING, 8)
    made.host.apply(Command.FOSSILIZE, *PLACE, epoch=9)
    assert examined(made, 30, epochs_left=1) == []


@pytest.mark.parametrize(("script", "until", "epoch"), [(TRAINING, 2, 5), (EVALUATING, 7, 8)])
def test_a_seed_that_made_a_value_that_is_not_finite_is_not_evaluated(tmp_path: Path, script: Script, until: int, epoch: int) -> None:
    made, _ = grown(tmp_path, script, until)
    for name, tensor in made.host.state()[0].items():
        if name == f"{SITE}/0/last.weight":
            tensor.fill_(math.nan)
    assert len(examined(made, epoch)) == 1  # Nobody knows yet.
    assert made.host.seeds[PLACE].recovering
    assert len(examined(made, epoch + 1)) == 1


def test_what_was_evaluated_is_remembered_with_the_id_of_its_event(tmp_path: Path) -> None:
    made, _ = grown(tmp_path, EVALUATING, 7)
    (said,) = examined(made, 8)
    assert made.training.evaluations == {(*PLACE, 8): made.sink.said[-1].id}
    evaluation = made.training.progress.note(*PLACE).evaluation
    assert evaluation is not None
    assert (evaluation.epoch, evaluation.alpha, evaluation.n, evaluation.k) == (8, 1.0, 20, 1)
    assert evaluation == said.evaluation


def test_every_due_seed_is_evaluated_alone(tmp_path: Path) -> None:
    script: Script = {1: [*TRAINING[1], (TRAINING[1][0][0], 1, "lowrank:1")], 2: [*TRAINING[2], *((ADVANCE[0], 1),) * 2]}
    made, watching = grown(tmp_path, script, 4)
    said = examined(made, 5)
    assert [(one.seed, one.evaluation.k) for one in said] == [(0, 3), (1, 3)]
    assert watching.alphas == [0.0, 0.25, 0.5, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [0.25, 0.5, 1.0])
def test_a_gain_that_is_not_a_number_never_wins(tmp_path: Path, bad: float) -> None:
    class Rising:
        """Not a number at one alpha alone."""

        def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            losses, metrics = Supervised(loss_of)(model, batch)
            return losses * (math.nan if made.host.seeds[PLACE].alpha == bad else 1.0), metrics

    made = World(tmp_path, script=TRAINING, objective=Rising())
    made.step()
    for epoch in (1, 2):
        made.end(epoch)
    (said,) = examined(made, 5)
    assert said.evaluation.alpha in {0.25, 0.5, 1.0} - {bad}
    assert math.isfinite(said.evaluation.mean)
