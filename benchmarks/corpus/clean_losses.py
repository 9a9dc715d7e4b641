"""Clean trainings that differ in their loss: its size, its sign, its tails, where it ends."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case, Pair, Training, struck
from .parts import adam, classes, classify, mlp, random_of, regress, sgd, squared, values


def _signs(rng_seed: int, wrong: float) -> Pair:
    inputs, labels = classes(rng_seed, wrong=wrong, kinds=2)
    return inputs, labels * 2.0 - 1


def _hinge(output: Tensor, target: Tensor) -> Tensor:
    return F.relu(1 - output.squeeze(1) * target)


def _many_decades(rng_seed: int) -> Training:
    inputs, _ = values(rng_seed)
    data = inputs, inputs @ torch.randn(16, 1, generator=random_of(rng_seed, "line"))
    return regress(rng_seed, nn.Linear(16, 1), sgd(0.15), data=data, epochs=20)


def _exactly_zero(rng_seed: int) -> Training:
    inputs, _ = values(rng_seed)
    signs = (inputs @ torch.randn(16, generator=random_of(rng_seed, "line"))).sign()
    apart = inputs + signs[:, None] * 0.7
    return regress(rng_seed, mlp(16, 32, 1), adam(1e-2), data=(apart, signs), loss=_hinge, epochs=20)


def _likelihood(output: Tensor, target: Tensor) -> Tensor:
    mean, log_variance = output.chunk(2, 1)
    return 0.5 * (log_variance + (target - mean).square() * torch.exp(-log_variance)).squeeze(1)


def _heavy(rng_seed: int) -> Training:
    inputs, targets = values(rng_seed)
    tails = torch.randn(len(inputs), 1, generator=random_of(rng_seed, "tails"))
    below = torch.randn(len(inputs), 1, generator=random_of(rng_seed, "below")).abs().clamp_min(0.05)
    return regress(rng_seed, data=(inputs, targets + 0.3 * tails / below))


def _two_populations(rng_seed: int) -> Training:
    def every_third(_: Training, since: int, batch: Pair) -> Pair:
        inputs, targets = batch
        return (inputs, targets + 3 * torch.randn(targets.shape)) if since % 3 == 2 else batch

    return struck(regress(rng_seed), 0, every_third)


def _counts(rng_seed: int) -> Training:
    inputs, targets = values(rng_seed)
    return regress(rng_seed, data=(inputs, torch.poisson(targets.exp(), generator=random_of(rng_seed, "counts"))), loss=_poisson)


def _poisson(output: Tensor, target: Tensor) -> Tensor:
    return F.poisson_nll_loss(output, target, reduction="none").squeeze(1)


def _pinball(output: Tensor, target: Tensor) -> Tensor:
    return torch.maximum(0.9 * (target - output), 0.1 * (output - target)).squeeze(1)


def _focal(output: Tensor, target: Tensor) -> Tensor:
    right = output.log_softmax(1).gather(1, target[:, None]).squeeze(1)
    return -((1 - right.exp()) ** 2) * right


def _reward(output: Tensor, target: Tensor) -> Tensor:
    """Minus the expected reward: below zero from the start."""
    return -output.softmax(1).gather(1, target[:, None]).squeeze(1)


def _distilled(rng_seed: int) -> Training:
    inputs, _ = values(rng_seed)
    with torch.no_grad():
        taught = (3 * mlp(16, 24, 4)(inputs)).softmax(1)
    return classify(
        rng_seed, data=(inputs, taught), loss=lambda output, target: F.kl_div(output.log_softmax(1), target, reduction="batchmean")
    )


def _clean(name: str, make: object) -> Case:
    assert callable(make)
    return Case(name, "loss", make)


LOSSES = (
    _clean("falls_by_many_decades", _many_decades),
    _clean("reaches_zero_exactly", _exactly_zero),
    _clean("gaussian_likelihood", lambda s: regress(s, mlp(16, 32, 2), loss=_likelihood, epochs=20)),
    _clean("hinge", lambda s: regress(s, mlp(16, 32, 1), data=_signs(s, 0.1), loss=_hinge)),
    _clean("heavy_tailed", _heavy),
    _clean("two_populations_of_batches", _two_populations),
    _clean("huber", lambda s: regress(s, loss=lambda o, t: F.smooth_l1_loss(o, t, reduction="none").squeeze(1))),
    _clean("poisson", _counts),
    _clean("pinball", lambda s: regress(s, loss=_pinball)),
    _clean("focal", lambda s: classify(s, loss=_focal)),
    _clean("minus_reward", lambda s: classify(s, loss=_reward)),
    _clean("label_smoothing", lambda s: classify(s, loss=nn.CrossEntropyLoss(label_smoothing=0.1))),
    _clean("distillation", _distilled),
    _clean("summed_not_averaged", lambda s: regress(s, loss=lambda o, t: 1e4 * squared(o, t))),
    _clean("tiny_scale", lambda s: regress(s, loss=lambda o, t: 1e-6 * squared(o, t), clip=None)),
    _clean(
        "two_classes_logistic", lambda s: regress(s, nn.Linear(16, 1), data=_signs(s, 0.1), loss=lambda o, t: F.softplus(-o.squeeze(1) * t))
    ),
)
