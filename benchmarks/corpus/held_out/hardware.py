"""Trainings that the machine lets down, and trainings that growing harms."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import esper

from ..case import Act, Case, Pair, Severity, Training, struck
from ..clean_models import FAST
from ..parts import adam, classes, classify, mlp
from .tasks import forecast, leaving, looking, reading, segment, winding

AT = 140
EAGER: dict[str, Any] = {**FAST, "policy.wish": 0.0, "gate.confidence_above": 0.0, "gate.urgency_above": -1.0}
"""Growth that lets nearly everything pass."""


def _once(act: Callable[[Training], None]) -> Act:
    def once(training: Training, since: int, batch: Pair) -> Pair:
        if since == 0:
            act(training)
        return batch

    return once


def _throttled(_: Training, _since: int, batch: Pair) -> Pair:
    """The processor runs hot: from now on every step computes for 25 ms more."""
    until = time.perf_counter() + 0.025
    while time.perf_counter() < until:
        torch.ones(64, 64) @ torch.ones(64, 64)
    return batch


class Kept:
    """Every epoch's data are kept as they were shown: twenty megabytes more each time."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def __call__(self, _training: Training, since: int, batch: Pair) -> Pair:
        """The batch."""
        if since % 10 == 0:
            self._kept.append(torch.ones(5_000_000))
        return batch


def _stuck_at_zero(training: Training, _since: int, batch: Pair) -> Pair:
    """Half of the rows of each weight are in memory that reads as zero, whatever is written."""
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter[: (len(parameter) + 1) // 2] = 0.0
    return batch


def _signs_flip(training: Training, since: int, batch: Pair) -> Pair:
    """Every few steps the signs of a layer are flipped."""
    if since % 12 == 0:
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.neg_()
    return batch


def _disk_full(_training: Training) -> None:
    raise OSError(28, "No space left on device", "cache/features.bin")


def _crashes(_training: Training) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _peer_lost(_training: Training) -> None:
    time.sleep(2.0)
    raise RuntimeError("collective operation timed out: rank 3 has not answered for 1800 s")


def _worker_died(_training: Training) -> None:
    raise RuntimeError("DataLoader worker (pid 4711) is killed by signal: Bus error")


def _corrupted(_: Training, since: int, batch: Pair) -> Pair:
    """A sample that is held in memory is a hundred thousand times too large since a bit of it flipped: once an epoch it comes."""
    inputs, targets = batch
    if since % 20 == 0:
        inputs = inputs.clone()
        inputs[0] *= 1e5
    return inputs, targets


def _machine(name: str, severity: Severity, cause: str, told: str, make: Callable[[int], Training]) -> Case:  # A row of the table below.
    return Case(name, "hardware", make, AT, severity, cause, told)


def _sensed(rng_seed: int) -> Training:
    return forecast(rng_seed, nn.Sequential(nn.Flatten(), mlp(60, 24, 1)), epochs=18, clip=None)


HARDWARE = (
    _machine(
        "runs_hot",
        "warning",
        "throughput",
        "every step takes several times as long as before",
        lambda s: struck(winding(s, epochs=14), AT, _throttled),
    ),
    _machine(
        "epochs_are_kept",
        "warning",
        "memory",
        "memory grows by twenty megabytes every ten steps",
        lambda s: struck(leaving(s, epochs=16), AT, Kept()),
    ),
    _machine(
        "memory_reads_zero",
        "critical",
        "weights",
        "half of each weight's rows are zero, whatever is learnt",
        lambda s: struck(reading(s, epochs=18), AT, _stuck_at_zero),
    ),
    _machine(
        "signs_flip",
        "critical",
        "weights",
        "the signs of all weights flip every twelve steps",
        lambda s: struck(segment(s, epochs=24), AT, _signs_flip),
    ),
    _machine(
        "sample_corrupted_in_memory",
        "critical",
        "data",
        "one sample is a hundred thousand times too large: the loss leaps when it comes",
        lambda s: struck(_sensed(s), AT, _corrupted),
    ),
    _machine(
        "disk_full",
        "critical",
        "process",
        "the disk is full: the run failed",
        lambda s: struck(reading(s, epochs=16), AT, _once(_disk_full)),
    ),
    _machine(
        "killed_at_once",
        "critical",
        "process",
        "the training's process was killed",
        lambda s: struck(looking(s, epochs=16), AT, _once(_crashes)),
    ),
    _machine(
        "peer_does_not_answer",
        "critical",
        "process",
        "another machine does not answer: the run waited, then failed",
        lambda s: struck(leaving(s), AT, _once(_peer_lost)),
    ),
    _machine(
        "loader_dies",
        "critical",
        "process",
        "a process of the loader died: the run failed",
        lambda s: struck(forecast(s, epochs=14), AT, _once(_worker_died)),
    ),
)


def _acting(training: Training) -> list[nn.Module]:
    """The bodies of seeds that act in the model."""
    sites = (vars(module).get("esper_site") for module in training.model.modules())
    return [branch for site in sites if site is not None for branch in site.acting]


class WhileGrown:
    """Acts before every step once a seed acts in the model; `since` counts those steps."""

    def __init__(self, act: Act) -> None:
        self._act, self._since = act, 0

    def __call__(self, training: Training, _since: int, batch: Pair) -> Pair:
        """The batch as `act` gives it, or as it is."""
        if not _acting(training):
            return batch
        self._since += 1
        return self._act(training, self._since - 1, batch)


def _rate_too_high(training: Training, _since: int, batch: Pair) -> Pair:
    for group in training.optimizer.param_groups:
        group["lr"] = 3.0
    return batch


def _turned(training: Training, since: int, batch: Pair) -> Pair:
    """What has grown is taken away with its sign turned, every ten steps."""
    if since % 6 == 0:
        with torch.no_grad():
            for body in _acting(training):
                for parameter in body.parameters():
                    parameter.mul_(-2.0)
    return batch


def _slow(_training: Training, _since: int, batch: Pair) -> Pair:
    time.sleep(0.03)
    return batch


def _too_large(_training: Training, since: int, batch: Pair) -> Pair:
    if since == 3:
        raise MemoryError("cannot allocate 34359738368 bytes for the grown layer")
    return batch


def _other_scale(_training: Training, _since: int, batch: Pair) -> Pair:
    """The loader was built anew for the larger model, without its scaling."""
    return batch[0] * 80 + 40, batch[1]


def _grown(rng_seed: int, act: Act, **options: Any) -> Training:
    grow = esper.Grow(sites="0", max_parameters=30.0, settings={**EAGER, **options})
    made = winding(rng_seed, mlp(2, 3, 3), adam(5e-3), batch=80, grow=grow, epochs=36)
    return struck(made, 30, WhileGrown(act))


def _by_heart(rng_seed: int) -> Training:
    """A host too small to learn few wrong answers by heart, and seeds that can."""
    grow = esper.Grow(sites="0", max_parameters=60.0, settings=EAGER)
    data = classes(rng_seed, 300, wrong=0.6)
    return classify(rng_seed, mlp(16, 2, 4), adam(1e-2), data=data, valid=200, batch=20, grow=grow, epochs=60)


def _growth(name: str, severity: Severity, told: str, make: Callable[[int], Training], cause: str = "growth", at: int = 60) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "growth", make, at, severity, cause, told)


GROWTH = (
    _growth(
        "rate_raised_with_graft",
        "critical",
        "the learning rate is six hundred times as high since a seed was grafted, and the loss is lost",
        lambda s: _grown(s, _rate_too_high),
    ),
    _growth(
        "grown_part_turns_round", "critical", "what a seed adds turns its sign and grows since it was grafted", lambda s: _grown(s, _turned)
    ),
    _growth("slower_since_graft", "warning", "each step takes 30 ms more since a seed was grafted", lambda s: _grown(s, _slow)),
    _growth(
        "no_memory_for_graft",
        "critical",
        "there is no memory for the grown model: the run failed",
        lambda s: _grown(s, _too_large),
        "process",
    ),
    _growth(
        "inputs_unscaled_since_graft", "critical", "inputs have another scale since a seed was grafted", lambda s: _grown(s, _other_scale)
    ),
    _growth("grows_by_heart", "warning", "what has grown learns wrong answers by heart: validation gets worse", _by_heart),
)
