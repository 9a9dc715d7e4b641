"""Pairs are made of what losses people write: as they give it, asked for it, or cut; and whole batches where that would be another loss."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.errors import DataError
from esper.events.kinds.run import Pairs
from esper.tolaria.determinism import random_state_digest
from esper.tolaria.objective import Batch, Loss, Supervised, WithoutMetrics, piece_of
from esper.tolaria.pairs import find_pairs, measure_of, warning
from esper.tolaria.validation import Evaluator
from tests.tolaria.worlds import CPU, SAMPLES, batches, loss_of, perceptron

WEIGHT = torch.tensor([1.0, 5.0])
LEAST = 8


def found(loss: Loss, data: list[tuple[Tensor, Tensor]] | None = None, model: nn.Module | None = None) -> Pairs:
    """The pairs of 3 batches of 8, 8 and 4 samples, or of `data`."""
    return Evaluator(model or perceptron(), batches(8) if data is None else data, Supervised(loss), CPU).find_pairs(LEAST)


class Focal(nn.Module):
    """A module of somebody's own that takes torch's word."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "mean"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Losses of samples that are right already count less."""
        each = F.cross_entropy(output, target, reduction="none")
        each = each * (1 - torch.exp(-each)) ** 2
        return each.mean() if self.reduction == "mean" else each


class Deaf(Focal):
    """A module that has the word and does not listen."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """A mean, whatever is asked for."""
        return F.cross_entropy(output, target)


def one_hot(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, F.one_hot(target, 2).float())


def mean_of(output: Tensor, target: Tensor) -> Tensor:
    """What people write: torch's loss within a function, which cannot be asked for anything."""
    return F.cross_entropy(output, target)


class Divergence(nn.Module):
    """A loss that is divided by samples, not by numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "batchmean"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """As it is asked for."""
        return F.kl_div(output.log_softmax(1), F.one_hot(target, 2).float(), reduction=self.reduction)


LOSSES: list[tuple[str, Loss, str, int]] = [
    ("one number a sample", loss_of, "samples", SAMPLES),
    ("several a sample", lambda output, target: (output - F.one_hot(target, 2)) ** 2, "samples", SAMPLES),
    ("a module", nn.CrossEntropyLoss(), "unreduced", SAMPLES),
    ("smoothed", nn.CrossEntropyLoss(label_smoothing=0.1), "unreduced", SAMPLES),
    ("class weights", nn.CrossEntropyLoss(weight=WEIGHT), "unreduced", SAMPLES),
    ("class weights, smoothed", nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), "unreduced", SAMPLES),
    ("a sum", nn.CrossEntropyLoss(reduction="sum"), "unreduced", SAMPLES),
    ("batchmean", Divergence(), "unreduced", SAMPLES),
    ("a function", F.cross_entropy, "unreduced", SAMPLES),
    ("a partial", partial(F.cross_entropy, weight=WEIGHT), "unreduced", SAMPLES),
    ("of somebody's own", Focal(), "unreduced", SAMPLES),
    ("that does not listen", Deaf(), "pieces_of_outputs", SAMPLES),
    ("a lambda", mean_of, "pieces_of_outputs", SAMPLES),
    ("a function of one's own", one_hot, "pieces_of_outputs", SAMPLES),
]


@pytest.mark.parametrize(("loss", "of", "count"), [case[1:] for case in LOSSES], ids=[case[0] for case in LOSSES])
def test_a_loss_gives_the_sharpest_pairs_that_stand_for_it(loss: Loss, of: str, count: int) -> None:
    pairs = found(loss)
    assert (pairs.of, pairs.count, pairs.pieces) == (of, count, 22 if of.startswith("pieces") else 1)
    assert warning(pairs, LEAST) == ""


@pytest.mark.parametrize("loss", [case[1] for case in LOSSES], ids=[case[0] for case in LOSSES])
def test_mean_of_the_parts_is_the_loss_that_is_logged(loss: Loss) -> None:
    evaluator = Evaluator(perceptron(), batches(8), Supervised(loss), CPU)
    measure = measure_of(evaluator.objective, evaluator.find_pairs(LEAST))
    losses = Evaluator(perceptron(), batches(8), Supervised(loss), CPU, measure=measure).losses(parts=True)

    values, weights = losses.parts
    assert float(values @ weights / weights.sum()) == pytest.approx(losses.mean, rel=1e-6)
    assert losses.mean == evaluator.losses().mean
    assert weights.sum() == SAMPLES


def test_ignored_samples_are_no_pairs() -> None:
    """Half of the targets are -100: what is left is weighed as the mean weighs it."""
    ignoring = [(inputs, torch.where(torch.arange(len(targets)) % 2 == 0, targets, -100)) for inputs, targets in batches(8)]
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy, nn.CrossEntropyLoss(weight=WEIGHT)):
        pairs = found(loss, ignoring)
        assert (pairs.of, pairs.count) == ("unreduced", SAMPLES // 2)


def test_tokens_of_a_sample_are_one_pair() -> None:
    """Tokens of one sentence are no independent evidence."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))
    tokens = [(inputs, targets[:, None].expand(-1, 3)) for inputs, targets in batches(8)]
    assert found(nn.CrossEntropyLoss(), tokens, model).count == SAMPLES


def test_a_batch_is_cut_where_outputs_are_not_in_the_order_of_samples() -> None:
    class Flat(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = F.linear(inputs, self.weight, self.bias)
            return logits.reshape(-1, 2)

    tokens = [(inputs, targets[:, None].expand(-1, 3)) for inputs, targets in batches(8)]
    pairs = found(lambda output, target: F.cross_entropy(output, target.reshape(-1)), tokens, Flat(4, 6))
    assert (pairs.of, pairs.count) == ("pieces_of_batches", SAMPLES)


def test_targets_may_be_a_tuple() -> None:
    both = [(inputs, (targets, inputs[:, :2])) for inputs, targets in batches(8)]
    loss: Loss = lambda output, target: F.cross_entropy(output, target[0]) + F.mse_loss(output, target[1])  # noqa: E731
    assert found(loss, both).of == "pieces_of_outputs"  # type: ignore[arg-type] # targets of another shape, as people have them


def test_an_objective_is_measured_on_pieces_of_its_batches() -> None:
    def objective(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(batch, dict)
        scale: Tensor = batch["scale"]
        return scale * F.cross_entropy(model(batch["x"]), batch["y"])

    data = [{"x": x, "y": y, "scale": torch.tensor(2.0), "names": ["a"] * len(x)} for x, y in batches(8)]
    pairs = Evaluator(perceptron(), data, WithoutMetrics(objective), CPU).find_pairs(LEAST)
    assert (pairs.of, pairs.count, pairs.pieces) == ("pieces_of_batches", SAMPLES, 22)


# What stays whole


def contrastive(output: Tensor, _target: Tensor) -> Tensor:
    return F.cross_entropy(output @ output.T, torch.arange(len(output)))


def worst(output: Tensor, target: Tensor) -> Tensor:
    return loss_of(output, target).topk(2).values.mean()


def weighted(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, weight=WEIGHT)


def noisy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output + torch.randn_like(output), target)


def of_eight_or_four(output: Tensor, target: Tensor) -> Tensor:
    assert len(output) in {8, 4}, "eight or four"
    return F.cross_entropy(output, target)


MISMATCH = "the mean over the parts of a batch is"
WHOLE: list[tuple[Callable[[Tensor, Tensor], Tensor], str]] = [
    (contrastive, MISMATCH),
    (worst, "RuntimeError: selected index k out of range"),
    (weighted, MISMATCH),
    (noisy, MISMATCH),
    (of_eight_or_four, "AssertionError: eight or four"),
]


@pytest.mark.parametrize(("loss", "reason"), WHOLE)
def test_a_batch_stays_whole_where_its_pieces_would_be_another_loss(loss: Loss, reason: str) -> None:
    pairs = found(loss)
    assert (pairs.of, pairs.count, pairs.pieces) == ("batches", 3, 1)
    assert pairs.reason.startswith(reason)
    assert warning(pairs, LEAST) == (
        f"a seed is judged by 3 pairs of losses, one a validation batch ({pairs.reason}); fewer than 8 give no confidence, so that nothing "
        "will be grafted: give a loss of one number a sample, or more validation data"
    )


def test_whole_batches_that_are_enough_for_confidence_are_warned_of_all_the_same() -> None:
    pairs = found(contrastive, batches(2))
    assert (pairs.of, pairs.count) == ("batches", 10)
    assert warning(pairs, LEAST).startswith("a seed is judged by 10 pairs of losses, one a validation batch (the mean over")


def test_too_few_samples_are_warned_of() -> None:
    assert "judged by 5 pairs of losses, one a sample (the loss gives one number a sample); fewer than 8" in warning(
        found(loss_of, batches(5, 5)), LEAST
    )


def test_nothing_is_cut_where_there_are_as_many_batches() -> None:
    pairs = found(mean_of, batches(2, 140))
    assert (pairs.of, pairs.count, pairs.reason) == ("batches", 70, "there are enough batches")
    assert warning(pairs, LEAST) == ""


class Counting(nn.Module):
    """A loss with a state: it is divided by the mean of what it was."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("level", torch.ones(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Changes what it holds."""
        loss = F.cross_entropy(output, target)
        self.calls += 1
        self.level = 0.9 * self.level + 0.1 * loss.detach()
        return loss


def test_a_loss_that_changes_what_it_holds_is_called_no_more_than_the_training_calls_it() -> None:
    loss = Counting()
    pairs = found(loss)
    assert (pairs.of, pairs.reason) == ("batches", "calling Counting changes what it holds")
    assert (loss.calls, float(loss.level)) == (0, 1.0)


def test_looking_for_pairs_leaves_model_and_random_state_as_they_were() -> None:
    model = perceptron(3, nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = random_state_digest(CPU), {name: value.clone() for name, value in model.state_dict().items()}
    assert found(mean_of, model=model).of == "pieces_of_outputs"
    assert random_state_digest(CPU) == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())
    assert model.training


def test_a_loss_that_raises_is_left_to_the_validation_that_needs_it() -> None:
    def burst(_output: Tensor, _target: Tensor) -> Tensor:
        raise ValueError("no loss today")

    assert (found(burst).of, found(burst).reason) == ("batches", "ValueError: no loss today")


def test_data_of_unknown_length_are_counted() -> None:
    class Stream:
        def __iter__(self) -> object:
            return iter(batches(8))

    evaluator = Evaluator(perceptron(), Stream(), Supervised(mean_of), CPU)  # type: ignore[arg-type] # An iterable is what it is.
    assert evaluator.find_pairs(LEAST).pieces == 22


def test_another_loss_than_the_run_began_with_is_refused() -> None:
    with pytest.raises(DataError, match="of which pairs are had as 'unreduced'; got another one"):
        measure_of(Supervised(one_hot), found(nn.CrossEntropyLoss()))


def test_more_pairs_are_wanted_where_more_are_needed() -> None:
    objective = Supervised(mean_of)
    assert find_pairs(perceptron(), batches(140, 140), objective, length=1, least=100).count == 100


@pytest.mark.parametrize(
    ("batch", "piece"),
    [
        ({"x": torch.arange(4), "names": ["a", "b", "c", "d"], "n": 3}, {"x": torch.arange(1, 3), "names": ["b", "c"], "n": 3}),
        ([torch.arange(4), torch.tensor(7)], [torch.arange(1, 3), torch.tensor(7)]),
    ],
)
def test_a_piece_of_a_batch_keeps_its_shape(batch: Batch, piece: Batch) -> None:
    assert str(piece_of(batch, 4, 1, 3)) == str(piece)


def test_a_tensor_of_another_length_cannot_be_cut() -> None:
    with pytest.raises(DataError, match=r"a tensor of shape \(3,\) does not begin with the 4 samples of its batch"):
        piece_of((torch.arange(4), torch.arange(3)), 4, 0, 1)
