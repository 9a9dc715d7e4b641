"""Tasks of the held-out kinds: made-up data, small models, and for each a training that is well."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Pair, Training
from ..parts import Optimize, adam, mlp, random_of, squared, trained

VOCABULARY = 20
"""Words of `sentences`."""


def customers(rng_seed: int, samples: int = 960, wrong: float = 0.05) -> Pair:
    """Eight numbers and three categories of six (as numbers, in the last columns) of a customer, and whether he leaves."""
    random = random_of(rng_seed, "customers")
    numbers = torch.randn(samples, 8, generator=random)
    categories = torch.randint(6, (samples, 3), generator=random)
    effects = torch.randn(3, 6, generator=random)
    score = 0.8 * numbers @ torch.randn(8, generator=random) + 1.2 * sum(effects[place][categories[:, place]] for place in range(3))
    leaves = torch.where(torch.rand(samples, generator=random) < wrong, torch.randint(2, (samples,), generator=random), score > 0)
    return torch.cat((numbers, categories.float()), 1), leaves.float()


class Tabular(nn.Module):
    """Embedded categories beside the numbers, and layers over both; the logit of a customer's leaving."""

    def __init__(self, categories: int = 6, width: int = 24) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(categories, 4) for _ in range(3))
        self.layers = mlp(20, width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(samples,)."""
        embedded = [table(inputs[:, 8 + place].long()) for place, table in enumerate(self.tables)]
        logits: Tensor = self.layers(torch.cat((inputs[:, :8], *embedded), 1))
        return logits.squeeze(1)


def binary(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of two classes, of each sample."""
    return F.binary_cross_entropy_with_logits(output, target, reduction="none")


def leaving(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """Whether customers leave: 800 of them, 25 steps an epoch."""
    data = options.pop("data", None) or customers(rng_seed)
    return trained(model or Tabular(), data, options.pop("loss", binary), optimize or adam(), **options)


def spiral(rng_seed: int, samples: int = 960, noise: float = 0.15) -> Pair:
    """Points of the plane on three arms that wind about each other, and their arm."""
    random = random_of(rng_seed, "spiral")
    arm, far = torch.randint(3, (samples,), generator=random), torch.rand(samples, generator=random)
    angle = 4.5 * far + arm * 2.0944 + noise * torch.randn(samples, generator=random)
    return 2 * far[:, None] * torch.stack((angle.cos(), angle.sin()), 1), arm


def winding(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """The arm of a point of the spiral: two hidden layers, 25 steps an epoch."""
    data = options.pop("data", None) or spiral(rng_seed)
    loss = options.pop("loss", F.cross_entropy)
    return trained(model or mlp(2, 32, 32, 3, active=nn.GELU), data, loss, optimize or adam(1e-2), **options)


def series(rng_seed: int, samples: int = 800, length: int = 20) -> Pair:
    """Windows of three measurements over time, (samples, length, 3), and the first one's next value."""
    random = random_of(rng_seed, "series")
    time = torch.arange(length + 1) + 12 * torch.rand(samples, 1, generator=random)
    wave = torch.sin(time * (0.5 + 0.2 * torch.rand(samples, 1, generator=random)))
    load, drift = torch.randn(samples, length + 1, generator=random), torch.randn(samples, 1, generator=random).expand(-1, length + 1)
    value = wave + 0.5 * drift + 0.05 * torch.randn(samples, length + 1, generator=random)
    value[:, 1:] = value[:, 1:] + 0.4 * load[:, :-1]
    return torch.stack((value, load, drift), 2)[:, :-1], value[:, -1:]


class Forecast(nn.Module):
    """An LSTM over a window; the next value."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(3, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, window: Tensor) -> Tensor:
        """(samples, 1)."""
        output: Tensor = self.last(self.cell(window)[0][:, -1])
        return output


def forecast(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """The next value of a series: 640 windows, 20 steps an epoch."""
    data = options.pop("data", None) or series(rng_seed)
    return trained(model or Forecast(), data, options.pop("loss", squared), optimize or adam(1e-2), **options)


def sentences(rng_seed: int, samples: int = 640, length: int = 14, odd: float = 0.1) -> Pair:
    """Words that go on by a stride that is the sentence's own, some of them any word; and the word after each."""
    random = random_of(rng_seed, "sentences")
    word, stride = torch.randint(VOCABULARY, (samples,), generator=random), torch.randint(1, 5, (samples,), generator=random)
    said = [word]
    for _ in range(length):
        any_word = torch.randint(VOCABULARY, (samples,), generator=random)
        said.append(torch.where(torch.rand(samples, generator=random) < odd, any_word, (said[-1] + stride) % VOCABULARY))
    text = torch.stack(said, 1)
    return text[:, :-1], text[:, 1:]


class Reader(nn.Module):
    """A GRU over words; logits of the next word, and, with `dropout`, less of the table at a time."""

    def __init__(self, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.table, self.drop = nn.Embedding(VOCABULARY, 16), nn.Dropout(dropout)
        self.cell, self.last = nn.GRU(16, width, batch_first=True), nn.Linear(width, VOCABULARY)

    def forward(self, text: Tensor) -> Tensor:
        """(samples, places, words)."""
        logits: Tensor = self.last(self.cell(self.drop(self.table(text)))[0])
        return logits


class Block(nn.Module):
    """A layer of a transformer: heads that look back alone (unless `sees_ahead`), then two linear layers, each after a normalisation."""

    def __init__(self, width: int = 24, heads: int = 2, *, sees_ahead: bool = False) -> None:
        super().__init__()
        self.heads, self.sees_ahead = heads, sees_ahead
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.mixed, self.layers = nn.Linear(width, 3 * width), nn.Linear(width, width), mlp(width, 2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """As large as its input."""
        samples, places, width = hidden.shape
        query, key, value = self.query(self.first(hidden)).view(samples, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        looked = F.scaled_dot_product_attention(query, key, value, is_causal=not self.sees_ahead)
        hidden = hidden + self.mixed(looked.transpose(1, 2).reshape(samples, places, width))
        output: Tensor = hidden + self.layers(self.second(hidden))
        return output


class Transformer(nn.Module):
    """Blocks over embedded words and their places; logits of the next word."""

    def __init__(self, blocks: int = 2, width: int = 24, *, sees_ahead: bool = False) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(VOCABULARY, width), nn.Parameter(0.1 * torch.randn(32, width))
        self.blocks = nn.Sequential(*(Block(width, sees_ahead=sees_ahead) for _ in range(blocks)))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCABULARY))

    def forward(self, text: Tensor) -> Tensor:
        """(samples, places, words)."""
        logits: Tensor = self.last(self.blocks(self.table(text) + self.places[: text.shape[1]]))
        return logits


def next_words(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each sample, over its places."""
    return F.cross_entropy(output.transpose(1, 2), target, reduction="none").mean(1)


def reading(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """The next word of a sentence: 480 sentences, 15 steps an epoch."""
    data = options.pop("data", None) or sentences(rng_seed)
    return trained(model or Reader(), data, options.pop("loss", next_words), optimize or adam(1e-2), **options)


def cells(rng_seed: int, samples: int = 480, noise: float = 0.6) -> Pair:
    """Noisy images of 1x12x12 with one round cell, and the mask of the cell."""
    random = random_of(rng_seed, "cells")
    across, down = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    centre = 3 + 6 * torch.rand(samples, 2, 1, 1, generator=random)
    size = 1.5 + 2 * torch.rand(samples, 1, 1, generator=random)
    mask = ((across - centre[:, 0]).square() + (down - centre[:, 1]).square() < size.square()).float()[:, None]
    return mask + noise * torch.randn(samples, 1, 12, 12, generator=random), mask


def segmenter(normal: str = "group") -> nn.Sequential:
    """Three convolutions over 1x12x12 with a normalisation; a logit of each pixel."""
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 8)):
        norm = nn.GroupNorm(2, after) if normal == "group" else nn.BatchNorm2d(after)
        layers += [nn.Conv2d(before, after, 3, padding=1), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 1, 3, padding=1))


def dice(output: Tensor, target: Tensor) -> Tensor:
    """One minus the overlap of the mask that is meant and the one that is given."""
    meant, given = output.sigmoid().flatten(1), target.flatten(1)
    return 1 - (2 * (meant * given).sum(1) + 1) / (meant.sum(1) + given.sum(1) + 1)


def pixels(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the pixels of each sample."""
    return F.binary_cross_entropy_with_logits(output, target, reduction="none").flatten(1).mean(1)


def segment(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """The mask of a cell: 320 images, 10 steps an epoch."""
    data = options.pop("data", None) or cells(rng_seed)
    return trained(model or segmenter(), data, options.pop("loss", pixels), optimize or adam(1e-2), **options)


def bars(rng_seed: int, samples: int = 640, noise: float = 0.7) -> Pair:
    """Images of 1x8x8, one of six bars (three columns, three rows) in noise, and which."""
    random = random_of(rng_seed, "bars")
    shapes = torch.zeros(6, 1, 8, 8)
    for place in range(3):
        shapes[place, 0, :, 1 + 2 * place : 3 + 2 * place] = shapes[3 + place, 0, 1 + 2 * place : 3 + 2 * place] = 1
    which = torch.randint(6, (samples,), generator=random)
    return shapes[which] + noise * torch.randn(samples, 1, 8, 8, generator=random), which


def striped(normal: type[nn.Module] | None = nn.BatchNorm2d, **options: Any) -> nn.Sequential:
    """Two strided convolutions, each with the normalisation, and a linear layer; logits of six bars."""
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), *([normal(after, **options)] if normal else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 6))


def looking(rng_seed: int, model: nn.Module | None = None, optimize: Optimize | None = None, **options: Any) -> Training:
    """Which bar an image shows: 480 images, 15 steps an epoch."""
    data = options.pop("data", None) or bars(rng_seed)
    return trained(model or striped(), data, options.pop("loss", F.cross_entropy), optimize or adam(), **options)
