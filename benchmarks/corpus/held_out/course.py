"""Trainings that learn and then go wrong, and some that go the wrong way from the start."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from ..case import Case, Pair, Severity, Training, struck
from ..clean_courses import scheduled
from ..parts import adam, classes, classify, mlp, sgd
from .clean_losses import margin, playing
from .clean_models import controlling
from .clean_tuning import pretrained
from .tasks import Reader, Transformer, forecast, leaving, looking, reading, segment, winding

AT = 140


def _set(name: str, value: Any) -> Any:
    """Sets an option of the optimizer before every step: a rollback does not bring the old one back."""

    def act(training: Training, since: int, batch: Pair) -> Pair:
        for group in training.optimizer.param_groups:
            group[name] = value(since) if callable(value) else value
        return batch

    return act


class Restored:
    """Every `every` steps the weights are again those of the first step after the fault's beginning but one: an old checkpoint is loaded
    in a circle."""

    def __init__(self, every: int) -> None:
        self._every = every

    def __call__(self, training: Training, since: int, batch: Pair) -> Pair:
        """Gives the weights of another start."""
        if since % self._every == 0:
            with torch.no_grad():
                for parameter in training.model.parameters():
                    if parameter.dim() > 1:
                        nn.init.xavier_uniform_(parameter, generator=torch.Generator().manual_seed(1))
        return batch


class Burdened(nn.Module):
    """A reader and the weight of a side task, the size of its hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.weight = Reader(), 1e-3


def _burdened(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Burdened)
    text, after = batch
    hidden = model.reader.cell(model.reader.table(text))[0]
    read = F.cross_entropy(model.reader.last(hidden).transpose(1, 2), after, reduction="none").mean(1)
    result: Tensor = read + model.weight * hidden.square().mean((1, 2))
    return result


def _burden(training: Training, since: int, batch: Pair) -> Pair:
    """The side task counts for a fifth more with every step, up to a thousand times the task's own share."""
    setattr(training.model, "weight", min(1e3, 1e-3 * 1.2 ** min(since, 80)))  # noqa: B010 - mypy does not know the model's class.
    return batch


def _burdened_reader(rng_seed: int) -> Training:
    made = reading(rng_seed, Burdened(), epochs=18)
    return replace(made, options={"objective": _burdened})


def _collapses(training: Training, since: int, batch: Pair) -> Pair:
    """One step far too large leaves the policy sure of one action for ever: it tries nothing else any more."""
    if since == 0:
        with torch.no_grad():
            training.model.get_parameter("policy.2.bias")[0] = 60.0
    return batch


def _drowned(share: float) -> Any:
    def act(training: Training, _since: int, batch: Pair) -> Pair:
        for module in training.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
        return batch

    return act


def _grows(training: Training, _since: int, batch: Pair) -> Pair:
    """Decay with the wrong sign: each step makes all weights larger by a fiftieth."""
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.mul_(1.02)
    return batch


def _delayed(training: Training, since: int, batch: Pair) -> Pair:
    """Gradients of half of the steps come with the wrong sign: two workers that add where they should average the difference."""
    if since == 0:
        for parameter in training.model.parameters():
            parameter.register_hook(lambda gradient: -gradient)
    return batch


def _turned_up(optimizer: torch.optim.Optimizer) -> Any:
    """Each restart begins ten times as high as the one before."""
    return lr_scheduler.LambdaLR(optimizer, lambda step: 10.0 ** (step // 80) * (1 - step % 80 / 100))


def _course(name: str, at: int, severity: Severity, cause: str, told: str, make: Any) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "course", make, at, severity, cause, told)


COURSE = (
    _course(
        "maximised",
        0,
        "critical",
        "optimizer",
        "the optimizer maximises the loss",
        lambda s: looking(s, optimize=sgd(0.05, maximize=True), clip=None),
    ),
    _course(
        "warm_up_never_ends",
        AT,
        "critical",
        "learning_rate",
        "the learning rate goes on rising after its warm-up, until the loss is lost",
        lambda s: struck(reading(s, Transformer(), adam(5e-3), epochs=20), AT, _set("lr", lambda since: 5e-3 * 1.1 ** min(since, 100))),
    ),
    _course(
        "momentum_without_damping",
        AT,
        "warning",
        "optimizer",
        "a momentum of 0.9999 lets the weights run on: the loss rises and swings",
        lambda s: struck(forecast(s, optimize=sgd(0.1, momentum=0.9), epochs=16), AT, _set("momentum", 0.9999)),
    ),
    _course(
        "side_task_takes_over",
        AT,
        "critical",
        "loss",
        "the weight of a side task grows without an end, and the task is unlearnt",
        lambda s: struck(_burdened_reader(s), AT, _burden),
    ),
    _course(
        "restored_in_a_circle",
        AT,
        "critical",
        "weights",
        "untrained weights are loaded every thirty steps: what was learnt does not stay",
        lambda s: struck(winding(s, epochs=16), AT, Restored(30)),
    ),
    _course(
        "fine_tuned_too_fast",
        0,
        "critical",
        "learning_rate",
        "the learning rate is far too high for a model that has learnt: what it knew is gone in a few steps",
        lambda s: classify(s, pretrained(s), adam(1.0), data=classes(s, wrong=0.0)),
    ),
    _course(
        "discount_above_one",
        0,
        "critical",
        "loss",
        "values feed on themselves: their targets and the loss grow without an end",
        lambda s: controlling(s, 1.6, epochs=24),
    ),
    _course(
        "policy_collapses",
        AT,
        "critical",
        "weights",
        "the policy takes one action for ever, whatever the situation, and earns less",
        lambda s: struck(playing(s, epochs=16), AT, _collapses),
    ),
    _course(
        "dropout_turned_up",
        AT,
        "critical",
        "activation",
        "dropout leaves one number in fifty: the loss rises and stays there",
        lambda s: struck(reading(s, Reader(dropout=0.1), epochs=18), AT, _drowned(0.98)),
    ),
    _course(
        "decay_of_wrong_sign",
        AT,
        "critical",
        "decay",
        "every step makes all weights larger",
        lambda s: struck(leaving(s, epochs=14), AT, _grows),
    ),
    _course(
        "gradients_turned_round",
        AT,
        "critical",
        "gradient",
        "gradients come with the wrong sign from one step on: what was learnt is unlearnt",
        lambda s: struck(segment(s, epochs=24), AT, _delayed),
    ),
    _course(
        "triplets_fall_together",
        0,
        "warning",
        "output",
        "the hardest triplets drive all samples to one place: the loss is the margin, and stays it",
        lambda s: replace(winding(s, mlp(2, 48, 48, 8)), options={"objective": lambda m, b: margin(m, b, hardest=True)}),
    ),
    _course(
        "plateau_judged_upside_down",
        20,
        "warning",
        "learning_rate",
        "the schedule takes a falling loss for a plateau: the rate is next to nothing after a few epochs",
        lambda s: scheduled(
            forecast(s, optimize=sgd(0.02)), lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="max", patience=0, factor=0.1)
        ),
    ),
    _course(
        "restarts_climb",
        80,
        "critical",
        "learning_rate",
        "each restart of the schedule begins ten times as high as the one before",
        lambda s: scheduled(looking(s, optimize=adam(2e-3), epochs=24), _turned_up, "step"),
    ),
)
