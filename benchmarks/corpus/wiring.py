"""Trainings that are wired wrongly, most of them from the start: they learn nothing, or less than they would."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case, Pair, Severity, Training, struck
from .parts import adam, classes, classify, images, mlp, random_of, regress, sgd, trained

NEVER: Severity = "warning"


def _wired(name: str, make: Any, cause: str, told: str, *, at: int = 0, severity: Severity = NEVER) -> Case:
    return Case(name, "wiring", make, at, severity, cause, told)


def _with_bias(model: nn.Sequential, layer: int, value: float) -> nn.Sequential:
    nn.init.constant_(model.get_parameter(f"{layer}.bias"), value)
    return model


def _scaled(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def _shuffled(rng_seed: int) -> Pair:
    inputs, labels = classes(rng_seed)
    return inputs, labels[torch.randperm(len(labels), generator=random_of(rng_seed, "shuffled"))]


class Detached(nn.Module):
    """A body whose output is cut off from the gradient, before a head that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self.head(F.relu(self.body(inputs)).detach())  # type: ignore[no-any-return]


class LeftOnEval(nn.Sequential):
    """Layers that stay in eval mode whatever is asked of them."""

    def train(self, mode: bool = True) -> "LeftOnEval":
        """Ignores the mode, except for the flag that `training` shows."""
        super().train(False)
        self.training = mode
        return self


def _skips(training: Training, since: int, batch: Pair) -> Pair:
    if since == 0:
        setattr(training.optimizer, "step", lambda *_args, **_named: None)  # noqa: B010 - mypy lets no method be assigned to.
    return batch


def _only(*names: str) -> Any:
    def optimize(model: nn.Module) -> torch.optim.Optimizer:
        return adam()(nn.ParameterList([model.get_parameter(name) for name in names]))

    return optimize


def _body_at_zero(model: nn.Module) -> torch.optim.Optimizer:
    body, head = model.get_submodule("0"), model.get_submodule("2")
    groups: list[dict[str, Any]] = [{"params": body.parameters(), "lr": 0.0}, {"params": head.parameters()}]
    return torch.optim.Adam(groups, lr=3e-3)


def _scheduled_to_zero(rng_seed: int) -> Training:
    made = classify(rng_seed)
    made.options["scheduler"] = torch.optim.lr_scheduler.LambdaLR(made.optimizer, lambda epoch: 0.0 if epoch else 1.0)  # type: ignore[index]
    return made


def _normal_on_eval() -> LeftOnEval:
    return LeftOnEval(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 4))


class Saturated(nn.Module):
    """A head that is so far in the flat of its sigmoid that nothing moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _scaled(mlp(16, 32, 4), 30.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Squashed logits."""
        return torch.sigmoid(self.inner(inputs))


class Clipped(nn.Module):
    """Logits of which the negative ones are cut off."""

    def __init__(self, active: Any) -> None:
        super().__init__()
        self.inner, self.active = mlp(16, 32, 4), active

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits that went through one activation too many."""
        return self.active(self.inner(inputs))  # type: ignore[no-any-return]


def _spread(output: Tensor, target: Tensor) -> Tensor:
    """The mistake of a column against a row: every output against every target."""
    return (output - target.squeeze(1)).square().mean(1)


def _constant_inputs(rng_seed: int) -> Pair:
    inputs, labels = classes(rng_seed)
    return torch.ones_like(inputs), labels


def _one_off(rng_seed: int) -> Pair:
    inputs, labels = classes(rng_seed)
    return inputs, labels.roll(1)


def _zeroed(rng_seed: int) -> Training:
    return classify(rng_seed, _scaled(mlp(16, 32, 4), 0.0))


WIRING = (
    _wired(
        "all_units_dead",
        lambda s: classify(s, _with_bias(mlp(16, 32, 4), 0, -100.0)),
        "activation",
        "no unit of the hidden layer is ever active: its output is constant, and it gets no gradient",
    ),
    _wired(
        "labels_shuffled",
        lambda s: classify(s, data=_shuffled(s)),
        "labels",
        "inputs say nothing about the labels: the loss stays at guessing",
    ),
    _wired("learning_rate_zero", lambda s: classify(s, optimize=adam(0.0)), "learning_rate", "the learning rate is 0"),
    _wired(
        "learning_rate_tiny",
        lambda s: classify(s, optimize=sgd(1e-9)),
        "learning_rate",
        "the learning rate is too small to change anything",
    ),
    _wired(
        "layer_not_in_optimizer",
        lambda s: classify(s, optimize=_only("2.weight", "2.bias")),
        "optimizer",
        "layer 0 is not in the optimizer",
    ),
    _wired("layer_detached", lambda s: classify(s, Detached()), "gradient", "layer body gets no gradient"),
    _wired(
        "group_at_zero",
        lambda s: classify(s, optimize=_body_at_zero),
        "learning_rate",
        "the first parameter group has a learning rate of 0",
    ),
    _wired("scheduled_to_zero", _scheduled_to_zero, "learning_rate", "the learning rate is 0 from the second epoch on", at=20),
    _wired("steps_skipped_for_ever", lambda s: struck(classify(s), 80, _skips), "optimizer", "no parameter changes any more", at=80),
    _wired(
        "left_on_eval",
        lambda s: trained(_normal_on_eval(), images(s), F.cross_entropy),
        "mode",
        "normalisation and dropout are never in train mode",
    ),
    _wired("constant_input", lambda s: classify(s, data=_constant_inputs(s)), "data", "every input is the same"),
    _wired("output_saturated", lambda s: classify(s, Saturated()), "output", "outputs are in the flat of the sigmoid, and hardly change"),
    _wired(
        "softmax_twice",
        lambda s: classify(s, Clipped(lambda o: o.softmax(1))),
        "output",
        "the loss takes logits, and is given probabilities",
    ),
    _wired("output_cut_at_zero", lambda s: classify(s, Clipped(F.relu)), "output", "logits below zero are cut off"),
    _wired(
        "column_against_row",
        lambda s: regress(s, loss=_spread),
        "loss",
        "each output is compared with every target: the best is their mean",
    ),
    _wired("targets_one_off", lambda s: classify(s, data=_one_off(s)), "labels", "targets are those of the sample before"),
    _wired("weights_all_zero", _zeroed, "weights", "all weights begin at zero, and units stay equal"),
    _wired("weights_huge", lambda s: classify(s, _scaled(mlp(16, 32, 4), 60.0)), "weights", "weights begin sixty times too large"),
    _wired(
        "decay_too_strong",
        lambda s: classify(s, optimize=adam(3e-3, weight_decay=3.0)),
        "decay",
        "the weight decay leaves the weights at zero",
    ),
    _wired("clipped_to_nothing", lambda s: classify(s, optimize=sgd(0.05), clip=1e-6), "gradient", "gradients are clipped to a millionth"),
    _wired(
        "nearly_all_dropped",
        lambda s: classify(s, mlp(16, 32, 4, between=lambda _: nn.Dropout(0.995))),
        "activation",
        "dropout leaves one unit in 200",
    ),
)
