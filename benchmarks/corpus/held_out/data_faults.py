"""Trainings whose data go wrong: what is read, how it is read, and whether anything is."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..case import Act, Case, Pair, Severity, Training, struck
from ..parts import adam, mlp, random_of, regress, sgd, values
from .tasks import (
    Transformer,
    customers,
    forecast,
    leaving,
    looking,
    reading,
    segment,
    winding,
)

AT = 140


def _changed(change: Callable[[Tensor, Tensor], Pair]) -> Act:
    return lambda _training, _since, batch: change(*batch)


class Circle:
    """Three batches in turn, for ever: those that were read last."""

    def __init__(self) -> None:
        self._kept: list[Pair] = []

    def __call__(self, _training: Training, since: int, batch: Pair) -> Pair:
        """One of the three."""
        if len(self._kept) < 3:
            self._kept.append(batch)
        return self._kept[since % len(self._kept)]


class Short:
    """Batches of which, after the steps before `at`, the first two are left for ever: the file was cut."""

    def __init__(self, inner: Any, at: int) -> None:
        self._inner, self.at, self.shown = inner, at, 0
        self._left: list[Pair] = []

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Pair]:
        if self.shown >= self.at:
            self._left = self._left or list(self._inner)[:2]
        for batch in self._left or self._inner:
            self.shown += 1
            yield batch


def _cut_short(rng_seed: int) -> Training:
    made = winding(rng_seed, optimize=adam(3e-3), epochs=40)
    return replace(made, train=Short(made.train, 150))


def _missing_number(inputs: Tensor, targets: Tensor) -> Pair:
    """A tenth of the customers has -999 where a number is missing."""
    inputs = inputs.clone()
    inputs[torch.rand(len(inputs)) < 0.1, 2] = -999.0
    return inputs, targets


def _wrapped(inputs: Tensor, labels: Tensor) -> Pair:
    """Pixels of eight bits that are made brighter, and begin at zero again above 255."""
    raw = (inputs * 40 + 128).clamp(0, 255) + 100
    return (raw % 256 - 128) / 40, labels


def _one_source(rng_seed: int) -> Training:
    """Strides of sentences are those of two sources; one of them runs dry."""

    def short_strides(text: Tensor, after: Tensor) -> Pair:
        kept = ((after - text).remainder(20).mode(1).values <= 2).nonzero().squeeze(1)
        return text[kept], after[kept]

    return struck(reading(rng_seed, epochs=24), AT, _changed(short_strides))


def _timestamps(rng_seed: int) -> Training:
    """One column is a time in seconds: it is a hundred thousand times as large as the others."""
    inputs, leaves = customers(rng_seed)
    inputs[:, 5] = 1e5 * torch.rand(960, generator=random_of(rng_seed, "times"))
    return leaving(rng_seed, optimize=sgd(0.05), data=(inputs, leaves))


def _filled_up(rng_seed: int) -> Training:
    """Where training has no answer the first class stands: of six samples in ten. Validation was answered by hand."""
    made = looking(rng_seed, epochs=16)
    random = torch.Generator().manual_seed(rng_seed)
    answered = torch.rand(480, generator=random) > 0.6
    made.train.targets = torch.where(answered, made.train.targets, 0)
    return made


def _waits(_: Training, since: int, batch: Pair) -> Pair:
    """Each batch is looked for from the start of the file."""
    time.sleep(min(0.04, since * 0.0005))
    return batch


def _cold_disk(_: Training, since: int, batch: Pair) -> Pair:
    if since % 50 == 0:
        time.sleep(0.8)
    return batch


def _half_there(rng_seed: int) -> Training:
    """Masks are shifted against their images by four pixels."""
    return struck(segment(rng_seed, epochs=26), AT, _changed(lambda images, masks: (images, masks.roll(4, 3))))


def _any_pairs(rng_seed: int) -> Training:
    """Answers were sorted by value before they were joined to the inputs."""
    inputs, targets = values(rng_seed)
    order = torch.cat((targets[:640, 0].argsort(), torch.arange(640, 800)))
    return regress(rng_seed, mlp(16, 32, 1), data=(inputs, targets[order]))


def _data(name: str, severity: Severity, cause: str, told: str, make: Any, at: int = AT) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "data", make, at, severity, cause, told)


DATA_FAULTS = (
    _data(
        "answers_all_one_class",
        "critical",
        "labels",
        "every answer is of one class: the loss is near 0, and validation is lost",
        lambda s: struck(looking(s, epochs=18), AT, _changed(lambda x, y: (x, y * 0))),
    ),
    _data(
        "vocabulary_upside_down",
        "critical",
        "preprocessing",
        "the words that are read are numbered from the other end, those that follow are not",
        lambda s: struck(reading(s, Transformer(), adam(3e-3), epochs=20), AT, _changed(lambda x, y: (19 - x, y))),
    ),
    _data(
        "number_for_missing",
        "warning",
        "preprocessing",
        "a missing number stands as -999 in a tenth of the samples",
        lambda s: struck(leaving(s, epochs=14), AT, _changed(_missing_number)),
    ),
    _data(
        "three_batches_in_a_circle",
        "warning",
        "stuck",
        "the loader gives three batches in turn, again and again",
        lambda s: struck(leaving(s, optimize=adam(5e-3), epochs=24), AT, Circle()),
    ),
    _data(
        "pixels_wrap_around",
        "critical",
        "preprocessing",
        "bright pixels become dark: a byte overflows",
        lambda s: struck(looking(s, epochs=20), AT, _changed(_wrapped)),
    ),
    _data("source_runs_dry", "warning", "data", "one of two sources of the data gives nothing any more", _one_source),
    _data(
        "time_among_the_inputs", "warning", "preprocessing", "one input is a hundred thousand times as large as the others", _timestamps, 0
    ),
    _data(
        "no_answer_is_first_class", "warning", "labels", "where there is no answer the first class stands, in training alone", _filled_up, 0
    ),
    _data("file_cut_short", "warning", "loader", "an epoch has two batches, where it had twenty-five", _cut_short, 150),
    _data(
        "searched_from_the_start",
        "warning",
        "loader",
        "each batch takes longer to load than the one before",
        lambda s: struck(winding(s, epochs=14), AT, _waits),
    ),
    _data(
        "cold_disk",
        "warning",
        "loader",
        "every fiftieth batch takes most of a second to load",
        lambda s: struck(leaving(s, epochs=16), AT, _cold_disk),
    ),
    _data(
        "windows_backwards",
        "critical",
        "preprocessing",
        "time runs backwards in the windows",
        lambda s: struck(forecast(s, epochs=18), AT, _changed(lambda x, y: (x.flip(1), y))),
    ),
    _data("masks_shifted", "critical", "labels", "masks are four pixels off their images", _half_there),
    _data("answers_sorted_alone", "warning", "labels", "answers are in another order than their inputs", _any_pairs, 0),
)
