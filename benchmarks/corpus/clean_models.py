"""Clean trainings that differ in their model, fine-tune one, or may grow."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper

from .case import Case, Pair, Training
from .clean_courses import scheduled, warm_up
from .parts import (
    Attention,
    Recurrent,
    adam,
    classes,
    classify,
    convolutions,
    images,
    mlp,
    of_places,
    random_of,
    regress,
    sgd,
    squared,
    trained,
    values,
    words,
)

FAST: dict[str, Any] = {
    "policy.window": 3,
    "policy.train_epochs": 1,
    "policy.graft_epochs": 2,
    "policy.fine_tune_epochs": 2,
    "policy.tolerance": 0.9,
    "gate.cooldown": 1,
    "gate.embargo": 1,
}
"""A cycle of growth in few epochs."""


class Residual(nn.Module):
    """Four blocks that add to what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 24), nn.Linear(24, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.ReLU()) for _ in range(4))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        hidden = self.first(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)  # type: ignore[no-any-return] # torch's modules return Any.


class Bag(nn.Module):
    """The class of a bag of words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded, self.last = nn.Embedding(12, 8), nn.Linear(8, 4)

    def forward(self, text: Tensor) -> Tensor:
        """Logits."""
        return self.last(self.embedded(text).mean(1))  # type: ignore[no-any-return]


class LastPlace(Recurrent):
    """The class of a sequence, by a GRU's state at its end."""

    def forward(self, text: Tensor) -> Tensor:
        """Logits of twelve kinds."""
        return super().forward(text)[:, -1]


class Variational(nn.Module):
    """An autoencoder whose code is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(16, 32, 8), mlp(4, 32, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        """The reconstruction, the code's mean and its log variance, side by side."""
        mean, log_variance = self.encoder(inputs).chunk(2, 1)
        code = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape)
        return torch.cat((self.decoder(code), mean, log_variance), 1)


class Experts(nn.Module):
    """Three experts, weighed by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(16, 3), nn.ModuleList(mlp(16, 12, 4) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        answers = torch.stack([expert(inputs) for expert in self.experts], 1)
        logits: Tensor = (self.gate(inputs).softmax(1)[:, :, None] * answers).sum(1)
        return logits


class Rivals(nn.Module):
    """A generator and the critic that tells what it makes from data; both learn from one loss, by reversed gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = mlp(4, 24, 2), mlp(2, 24, 1)


class Target(nn.Module):
    """Values of four actions, and those of a copy that follows slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.slow = mlp(4, 32, 4), mlp(4, 32, 4).requires_grad_(requires_grad=False)


def _bound(output: Tensor, target: Tensor) -> Tensor:
    made, mean, log_variance = output.split((16, 4, 4), 1)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    bound: Tensor = (made - target).square().sum(1) + divergence
    return bound


def _reversed(values: Tensor) -> Tensor:
    """The values; their gradient with the other sign."""
    return 2 * values.detach() - values


def _rivalry(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Rivals)
    points, noise = batch
    false = _reversed(model.generator(noise))
    return (F.softplus(-model.critic(points)) + F.softplus(model.critic(false))).mean()


def _adversarial(rng_seed: int) -> Training:
    random = random_of(rng_seed, "points")
    data = 0.3 * torch.randn(800, 2, generator=random) + 1, torch.randn(800, 4, generator=random)
    made = trained(Rivals(), data, squared, adam(1e-3))
    return replace(made, options={"objective": _rivalry})


def _bellman(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Target)
    states, played = batch
    action, reward, later = played[:, 0].long(), played[:, 1], played[:, 2:]
    if model.training:
        with torch.no_grad():
            for slow, online in zip(model.slow.parameters(), model.online.parameters(), strict=True):
                slow.lerp_(online, 0.02)
    wanted = reward + 0.9 * model.slow(later).amax(1)
    return F.smooth_l1_loss(model.online(states).gather(1, action[:, None]).squeeze(1), wanted.detach())


def _value_learning(rng_seed: int) -> Training:
    random = random_of(rng_seed, "played")
    states, action = torch.randn(960, 4, generator=random), torch.randint(4, (960, 1), generator=random)
    later = 0.8 * states + 0.5 * F.one_hot(action.squeeze(1), 4) + 0.1 * torch.randn(960, 4, generator=random)
    played = torch.cat((action, -later.square().mean(1, keepdim=True), later), 1)
    return replace(trained(Target(), (states, played), squared, adam(1e-3)), options={"objective": _bellman})


def _contrast(model: nn.Module, batch: Any) -> Tensor:
    one, other = (F.normalize(model(side), dim=1) for side in batch)
    return F.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)))


def _contrastive(rng_seed: int) -> Training:
    inputs, _ = values(rng_seed)
    other = inputs + 0.5 * torch.randn(inputs.shape, generator=random_of(rng_seed, "other"))
    made = trained(mlp(16, 32, 8), (inputs, other), squared, batch=32)
    return replace(made, options={"objective": _contrast})


def _bagged(rng_seed: int) -> Pair:
    text, _ = words(rng_seed)
    return text, (text < 4).sum(1).clamp(0, 3)


def _coded(rng_seed: int) -> Pair:
    inputs, _ = values(rng_seed)
    flat = inputs @ torch.randn(16, 16, generator=random_of(rng_seed, "mixed")) / 4
    return flat, flat


def _learnt(rng_seed: int) -> nn.Sequential:
    """A model that has learnt a neighbouring task."""
    model = mlp(16, 32, 4)
    inputs, labels = classes(rng_seed, wrong=0.0)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        adam.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        adam.step()
    adam.zero_grad()
    return model


def _new_head(rng_seed: int) -> Training:
    model = _learnt(rng_seed)
    model.get_submodule("0").requires_grad_(requires_grad=False)
    return classify(rng_seed, nn.Sequential(model[0], model[1], nn.Linear(32, 4)), data=classes(rng_seed + 50))


def _groups(model: nn.Module) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": model.get_submodule("0").parameters(), "lr": 1e-4},
        {"params": model.get_submodule("2").parameters()},
    ]
    return torch.optim.Adam(groups, lr=3e-3)


def _growing(rng_seed: int, width: int, data: Pair, **settings: Any) -> Training:
    grow = esper.Grow(sites="0", max_parameters=30.0, settings={**FAST, **settings})
    return classify(rng_seed, mlp(16, width, 4), data=data, grow=grow, epochs=30)


def _made(group: str, cases: dict[str, Callable[[int], Training]]) -> tuple[Case, ...]:
    return tuple(Case(name, group, make) for name, make in cases.items())


MODELS = _made(
    "model",
    {
        "gru": lambda s: trained(Recurrent(), words(s), of_places, epochs=12),
        "lstm": lambda s: trained(Recurrent(nn.LSTM), words(s), of_places, adam(1e-2), epochs=12),
        "attention": lambda s: trained(Attention(), words(s), of_places, epochs=12),
        "attention_tied_weights": lambda s: trained(Attention(tied=True), words(s), of_places, epochs=12),
        "gru_classifier": lambda s: trained(LastPlace(), _bagged(s), F.cross_entropy, epochs=20),
        "transformer_with_warm_up": lambda s: scheduled(trained(Attention(), words(s), of_places, adam(1e-2)), warm_up, "step"),
        "convolution": lambda s: trained(convolutions(), images(s), F.cross_entropy, sgd(0.02, momentum=0.9)),
        "convolution_plain": lambda s: trained(convolutions(normal=False), images(s), F.cross_entropy),
        "bag_of_words": lambda s: trained(Bag(), _bagged(s), F.cross_entropy, adam(1e-2), epochs=20),
        "autoencoder": lambda s: trained(mlp(16, 24, 6, 24, 16), _coded(s), squared),
        "variational": lambda s: trained(Variational(), _coded(s), _bound),
        "contrastive": _contrastive,
        "adversarial_pair": _adversarial,
        "value_learning": _value_learning,
        "residual": lambda s: classify(s, Residual()),
        "much_dropout": lambda s: classify(s, mlp(16, 64, 4, between=lambda _: nn.Dropout(0.6))),
        "mixture_of_experts": lambda s: classify(s, Experts()),
        "logistic": lambda s: classify(s, nn.Linear(16, 4)),
        "deep_and_narrow": lambda s: classify(s, mlp(16, 12, 12, 12, 12, 12, 4, active=nn.Tanh)),
        "normalised_batches": lambda s: classify(s, mlp(16, 32, 32, 4, between=nn.BatchNorm1d)),
    },
)
FINE_TUNING = _made(
    "fine_tuning",
    {
        "new_head_on_frozen": _new_head,
        "tuned_gently": lambda s: classify(s, _learnt(s), adam(1e-5)),
        "tuned_by_groups": lambda s: classify(s, _learnt(s), _groups, data=classes(s + 50)),
        "learnt_already": lambda s: classify(s, _learnt(s), adam(1e-4), data=classes(s, wrong=0.0)),
    },
)
GROWING = _made(
    "growth",
    {
        "grows_usefully": lambda s: _growing(s, 2, classes(s, wrong=0.0)),
        "nothing_to_gain": lambda s: _growing(s, 48, classes(s, wrong=0.3)),
        "long_with_nothing_to_gain": lambda s: replace(_growing(s, 48, classes(s, 320)), epochs=80),
        "grows_a_regression": lambda s: regress(
            s, mlp(16, 2, 1), grow=esper.Grow(sites="0", max_parameters=30.0, settings=FAST), epochs=30
        ),
    },
)
