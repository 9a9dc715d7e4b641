"""The shape of a case of the corpus: one kind of training, clean or with a fault, made anew for every rng seed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import esper
from esper.kasmina.randomness import derive

Pair = tuple[Tensor, Tensor]
Severity = Literal["critical", "warning", "info"]
Half = Literal["development", "held_out"]
RNG_SEEDS = (0, 1, 2)
GROUPS = ("wiring", "course", "validation", "data", "numerics", "hardware", "growth")
"""The groups of faults."""
CLEAN_GROUPS = ("loss", "schedule", "data", "model", "precision", "length", "fine_tuning", "growth")


@dataclass(frozen=True)
class Training:
    """The arguments of one `esper.fit`; `options` are those beyond the model, its data and its length."""

    model: nn.Module
    optimizer: Optimizer
    train: Any  # Any: batches, which `esper.fit` checks.
    valid: Any
    epochs: int
    options: Mapping[str, Any]

    def fit(self, folder: Path, rng_seed: int) -> None:
        """Trains into a new run of the log in `folder`, unobserved: what watches reads the log afterwards."""
        esper.fit(
            self.model,
            self.train,
            self.valid,
            optimizer=self.optimizer,
            epochs=self.epochs,
            log=folder,
            rng_seed=rng_seed,
            observe=False,
            device="cpu",
            record_argv=False,
            record_source=False,
            **{"grow": None, **self.options},
        )


@dataclass(frozen=True)
class Case:
    """One kind: `make` gives its training for an rng seed. Of a fault also the optimizer step of its beginning (0: from the start), what an
    operator wants to be told, how bad it is, and its cause in one word of `CAUSES`; a clean one has None and empty texts there. `half`: the
    half of the corpus that the kind belongs to.

    Critical: what was learnt is lost and stays lost, numbers are not finite, or the run is gone. Warning: wrong from the start, or what
    training itself goes back from. Info: it may be meant, or is over.
    """

    name: str
    group: str
    make: Callable[[int], Training]
    at: int | None = None
    severity: Severity | None = None
    cause: str = ""
    told: str = ""
    half: Half = "development"

    def training(self, rng_seed: int) -> Training:
        """The training, whose weights follow from the kind and the rng seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(rng_seed, self.name))
            return self.make(rng_seed)


_CAUSES = (
    "activation data decay gradient growth labels learning_rate loader loss memory mode not_finite optimizer output overfitting precision "
    "preprocessing process stuck throughput validation weights"
)
CAUSES = frozenset(_CAUSES.split())
"""What a fault may be caused by, in one word."""

Act = Callable[[Training, int, Pair], Pair]
"""What a fault does: the training, the number of steps since it began (from 0), and the batch in; the batch out."""


class Struck:
    """Batches that are counted over all epochs; from the step after `at` on each goes through `act`. `shown`: how many were given."""

    def __init__(self, inner: Any, at: int, act: Callable[[int, Pair], Pair]) -> None:
        self._inner, self.at, self._act = inner, at, act
        self.shown = 0

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Pair]:
        for batch in self._inner:
            self.shown += 1
            yield self._act(self.shown - 1 - self.at, batch) if self.shown > self.at else batch


class StruckLater:
    """Validation data that go through `act` once training has come to step `at`."""

    def __init__(self, inner: Any, steps: Struck, at: int, act: Callable[[Pair], Pair]) -> None:
        self._inner, self._steps, self._at, self._act = inner, steps, at, act

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Pair]:
        for batch in self._inner:
            yield self._act(batch) if self._steps.shown >= self._at else batch


def struck(training: Training, at: int, act: Act) -> Training:
    """The training with a fault that begins after `at` steps and acts before every step from then on."""
    return replace(training, train=Struck(training.train, at, lambda since, batch: act(training, since, batch)))


def struck_valid(training: Training, at: int, act: Callable[[Pair], Pair]) -> Training:
    """The training whose validation data alone go through `act` after `at` steps."""
    steps = Struck(training.train, at, lambda _since, batch: batch)
    return replace(training, train=steps, valid=StruckLater(training.valid, steps, at, act))
