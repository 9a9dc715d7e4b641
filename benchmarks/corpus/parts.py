"""What trainings of the corpus are put together of: made-up data, small models, and the two everyday trainings."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # The field's own idiom.

from esper.demo.tasks import TensorBatches
from esper.kasmina.randomness import derive

from .case import Pair, Training

Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def adam(lr: float = 3e-3, **options: Any) -> Optimize:
    """Adam for a model."""
    return lambda model: torch.optim.Adam(model.parameters(), lr=lr, **options)


def sgd(lr: float = 0.05, **options: Any) -> Optimize:
    """SGD for a model."""
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, **options)


def random_of(rng_seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose."""
    return torch.Generator().manual_seed(derive(rng_seed, purpose))


def mlp(*widths: int, active: type[nn.Module] = nn.ReLU, between: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """Layers of these widths; `between` makes what follows each activation (dropout, a normalisation)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), active(), *([between(outputs)] if between else [])]
    return nn.Sequential(*layers[: -2 if between else -1])


def classes(rng_seed: int, samples: int = 800, wrong: float = 0.05, kinds: int = 4) -> Pair:
    """Sixteen inputs and the class that a random network gives them; of the share `wrong` any class."""
    random = random_of(rng_seed, "classes")
    inputs = torch.randn(samples, 16, generator=random)
    hidden = torch.tanh(inputs @ torch.randn(16, 12, generator=random) / 2)
    labels = (hidden @ torch.randn(12, kinds, generator=random)).argmax(1)
    any_class = torch.randint(kinds, (samples,), generator=random)
    return inputs, torch.where(torch.rand(samples, generator=random) < wrong, any_class, labels)


def values(rng_seed: int, samples: int = 800, noise: float = 0.1) -> Pair:
    """Sixteen inputs and a value that a random network gives them, with noise."""
    random = random_of(rng_seed, "values")
    inputs = torch.randn(samples, 16, generator=random)
    hidden = torch.tanh(inputs @ torch.randn(16, 12, generator=random) / 4)
    return inputs, hidden @ torch.randn(12, 1, generator=random) + noise * torch.randn(samples, 1, generator=random)


def words(rng_seed: int, samples: int = 480, length: int = 10, kinds: int = 12) -> Pair:
    """Sequences of words of a Markov chain, and the word that follows each place: (samples, length) both."""
    random = random_of(rng_seed, "words")
    chain = torch.softmax(2 * torch.randn(kinds, kinds, generator=random), 1)
    word = torch.randint(kinds, (samples,), generator=random)
    said = [word]
    for _ in range(length):
        said.append(torch.multinomial(chain[said[-1]], 1, generator=random).squeeze(1))
    text = torch.stack(said, 1)
    return text[:, :-1], text[:, 1:]


def images(rng_seed: int, samples: int = 480, noise: float = 3.0) -> Pair:
    """Images of 1x8x8, each of four patterns with noise."""
    random = random_of(rng_seed, "images")
    patterns, labels = torch.randn(4, 1, 8, 8, generator=random), torch.randint(4, (samples,), generator=random)
    return patterns[labels] + noise * torch.randn(samples, 1, 8, 8, generator=random), labels


def cut(data: Pair, batch: int = 32, valid: int = 160, *, shuffle: bool = True) -> tuple[TensorBatches, TensorBatches]:
    """Training and validation batches of the data; the last `valid` samples are held back."""
    (inputs, targets), rest = data, len(data[0]) - valid
    return TensorBatches(inputs[:rest], targets[:rest], batch, shuffle=shuffle), TensorBatches(
        inputs[rest:], targets[rest:], valid, shuffle=False
    )


def squared(output: Tensor, target: Tensor) -> Tensor:
    """The squared error of each sample."""
    return (output - target).square().flatten(1).mean(1)


def of_places(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy over (samples, places, kinds)."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def trained(
    model: nn.Module,
    data: Pair,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimize: Optimize | None = None,
    *,
    epochs: int = 12,
    batch: int = 32,
    valid: int = 160,
    shuffle: bool = True,
    **options: Any,
) -> Training:
    """A training of the model on the data: twelve epochs of about twenty steps, unless said otherwise."""
    train, held = cut(data, batch, valid, shuffle=shuffle)
    return Training(model, (optimize or adam())(model), train, held, epochs, {"loss": loss, **options})


def classify(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """The everyday classification: 640 samples in batches of 32, 16 inputs, four classes, a hidden layer, Adam."""
    data = options.pop("data", None) or classes(rng_seed)
    return trained(model or mlp(16, 32, 4), data, options.pop("loss", F.cross_entropy), optimize, **options)


def regress(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """The everyday regression: 640 samples in batches of 32, 16 inputs, one value, a hidden layer, Adam."""
    data = options.pop("data", None) or values(rng_seed)
    return trained(model or mlp(16, 32, 1, active=nn.Tanh), data, options.pop("loss", squared), optimize, **options)


class Recurrent(nn.Module):
    """A GRU or LSTM over embedded words; logits for every place."""

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM] = nn.GRU) -> None:
        super().__init__()
        self.embedded, self.cell, self.last = nn.Embedding(12, 16), cell(16, 24, batch_first=True), nn.Linear(24, 12)

    def forward(self, text: Tensor) -> Tensor:
        """(samples, places, 12)."""
        hidden: Tensor = self.cell(self.embedded(text))[0]
        return self.last(hidden)  # type: ignore[no-any-return] # torch's modules return Any.


class Attention(nn.Module):
    """A transformer layer over embedded words that looks only back; logits for every place."""

    def __init__(self, *, tied: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedded, self.placed = nn.Embedding(12, 16), nn.Embedding(10, 16)
        self.query, self.mixed, self.normal = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)
        self.wide, self.narrow, self.drop = nn.Linear(16, 32), nn.Linear(32, 16), nn.Dropout(dropout)
        self.last = nn.Linear(16, 12)
        if tied:
            self.last.weight = self.embedded.weight

    def forward(self, text: Tensor) -> Tensor:
        """(samples, places, 12)."""
        places = text.shape[1]
        hidden = self.embedded(text) + self.placed.weight[:places]
        query, key, value = self.query(hidden).chunk(3, -1)
        scores = query @ key.transpose(1, 2) / 4
        ahead = torch.ones(places, places, dtype=torch.bool).triu(1)
        hidden = hidden + self.drop(self.mixed(scores.masked_fill(ahead, -1e9).softmax(-1) @ value))
        hidden = self.normal(hidden + self.narrow(F.gelu(self.wide(hidden))))
        return self.last(hidden)  # type: ignore[no-any-return]


def convolutions(*, normal: bool = True, momentum: float = 0.1) -> nn.Sequential:
    """Two convolutions over 1x8x8 and a linear layer; logits of four classes."""
    first = [nn.Conv2d(1, 8, 3, padding=1), *([nn.BatchNorm2d(8, momentum=momentum)] if normal else []), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 4))
