"""Clean trainings that differ in their data: what is missing, rare, uneven, or changes while it is read."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from ..case import Case, Pair, Training, struck
from ..parts import adam, classes, classify, convolutions, images, random_of, regress, sgd, squared, trained, values
from .tasks import (
    Tabular,
    customers,
    forecast,
    leaving,
    reading,
    sentences,
    series,
)


def _missing(rng_seed: int) -> Training:
    """A tenth of the numbers is missing and stands as zero, and two columns are always the same."""
    inputs, leaves = customers(rng_seed)
    lost = torch.rand(inputs.shape, generator=random_of(rng_seed, "missing")) < 0.1
    lost[:, 8:] = False
    inputs = torch.where(lost, 0.0, inputs)
    inputs[:, 3], inputs[:, 9] = 1.0, 2.0
    return leaving(rng_seed, data=(inputs, leaves))


def _raw_pixels(rng_seed: int) -> Training:
    """Pixels from 0 to 255, which the first layer of the model normalises."""
    inputs, labels = images(rng_seed, noise=1.5)
    raw = (inputs * 25 + 128).round().clamp(0, 255)
    return trained(nn.Sequential(nn.BatchNorm2d(1), convolutions()), (raw, labels), F.cross_entropy)


class ByLength:
    """Sentences of one length a batch, between three words and all; a batch has about as many words as any other."""

    def __init__(self, data: Pair) -> None:
        self._data = data

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[Pair]:
        text, after = self._data
        for length in torch.randint(3, text.shape[1] + 1, (20,)).tolist():
            chosen = torch.randint(len(text), (max(4, 320 // length),))
            yield text[chosen, :length], after[chosen, :length]


def _by_length(rng_seed: int) -> Training:
    return replace(reading(rng_seed), train=ByLength(tuple(part[:480] for part in sentences(rng_seed))))  # type: ignore[arg-type]


def _two_sources(rng_seed: int) -> Training:
    """Every other batch is of a source whose answers are far less certain."""

    def noisy(_: Training, since: int, batch: Pair) -> Pair:
        text, after = batch
        return batch if since % 2 else (text, torch.where(torch.rand(after.shape) < 0.5, torch.randint(20, after.shape), after))

    return struck(reading(rng_seed, epochs=14), 0, noisy)


class Drifting:
    """Values whose law turns slowly, measured one after the other: nothing comes twice."""

    def __init__(self, rng_seed: int) -> None:
        random = random_of(rng_seed, "drifting")
        self._one, self._other = torch.randn(16, 1, generator=random) / 4, torch.randn(16, 1, generator=random) / 4
        self.shown = 0

    def at(self, step: int) -> Pair:
        """A batch as it is after that many steps."""
        inputs = torch.randn(32, 16)
        return inputs, inputs @ (math.cos(step / 400) * self._one + math.sin(step / 400) * self._other) + 0.1 * torch.randn(32, 1)

    def __iter__(self) -> Iterator[Pair]:
        while True:
            self.shown += 1
            yield self.at(self.shown)


class Now:
    """Four batches of what is measured now."""

    def __init__(self, drifting: Drifting) -> None:
        self._drifting = drifting

    def __iter__(self) -> Iterator[Pair]:
        return (self._drifting.at(self._drifting.shown) for _ in range(4))


def _drift(rng_seed: int) -> Training:
    drifting = Drifting(rng_seed)
    made = regress(rng_seed, nn.Linear(16, 1), sgd(0.05), epochs=20)
    return replace(made, train=drifting, valid=Now(drifting), options={"loss": squared, "epoch_steps": 25})


def _outliers(rng_seed: int) -> Training:
    """One target in a hundred is twenty times too large; the loss bears it."""
    inputs, targets = values(rng_seed)
    wild = torch.rand(targets.shape, generator=random_of(rng_seed, "wild")) < 0.01
    wild[640:] = False
    return regress(rng_seed, data=(inputs, torch.where(wild, 20 * targets, targets)), loss=F.l1_loss)


def _mixed_up(rng_seed: int) -> Training:
    """Each sample of training is a mixture of two, and so is its answer."""
    inputs, labels = classes(rng_seed, wrong=0.0)
    made = classify(rng_seed, data=(inputs, F.one_hot(labels, 4).float()), epochs=16)

    def mixed(_: Training, _since: int, batch: Pair) -> Pair:
        order, share = torch.randperm(len(batch[0])), torch.distributions.Beta(0.4, 0.4).sample((len(batch[0]), 1))
        return batch[0].lerp(batch[0][order], share), batch[1].lerp(batch[1][order], share)

    return struck(made, 0, mixed)


def _rare_words(rng_seed: int) -> Training:
    """Two thousand words, most of which are seen never or once."""
    random = random_of(rng_seed, "rare_words")
    rank = (2000 ** torch.rand(800, 12, generator=random)).long() - 1
    labels = (rank % 3 == 0).sum(1).ge(5).long()
    model = nn.Sequential(nn.EmbeddingBag(2000, 16), nn.ReLU(), nn.Linear(16, 2))
    return trained(model, (rank, labels), F.cross_entropy, adam(1e-2), epochs=8)


def _drawn_evenly(rng_seed: int) -> Training:
    """Few customers leave; those are drawn again and again, so that half of each batch does, and of validation as well."""
    inputs, leaves = customers(rng_seed, 2400)
    leave, stay = leaves[:2000].nonzero().squeeze(1)[:120], (leaves[:2000] == 0).nonzero().squeeze(1)[:400]
    held = torch.arange(2000, 2160)
    order = torch.cat((leave.repeat(4)[:400], stay, held))
    return leaving(rng_seed, Tabular(width=12), adam(2e-3), data=(inputs[order], leaves[order]), epochs=8)


def _easier_validation(rng_seed: int) -> Training:
    """Labels of training are of the crowd, those of validation of an expert."""
    inputs, labels = classes(rng_seed, wrong=0.0)
    crowd = torch.rand(800, generator=random_of(rng_seed, "crowd")) < 0.25
    crowd[640:] = False
    return classify(rng_seed, data=(inputs, torch.where(crowd, torch.randint(4, (800,)), labels)), optimize=adam(1e-3))


def _case(group: str, made: dict[str, Callable[[int], Training]]) -> tuple[Case, ...]:
    return tuple(Case(name, group, make) for name, make in made.items())


DATA = _case(
    "data",
    {
        "missing_and_constant_columns": _missing,
        "raw_pixels": _raw_pixels,
        "batches_by_length": _by_length,
        "two_sources_in_turn": _two_sources,
        "law_turns_slowly": _drift,
        "wild_targets": _outliers,
        "mixed_up_in_pairs": _mixed_up,
        "rare_words": _rare_words,
        "drawn_evenly": _drawn_evenly,
        "validation_is_easier": _easier_validation,
        "ten_samples_of_validation": lambda s: forecast(s, data=series(s, 650), valid=10),
    },
)
