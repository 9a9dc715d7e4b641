"""Trainings that the machine lets down, and trainings that growing harms."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import esper

from .case import Act, Case, Pair, Severity, Training, struck
from .clean_models import FAST
from .parts import classes, classify, mlp

AT = 130
HARM: dict[str, Any] = {**FAST, "policy.wish": 0.0, "gate.confidence_above": 0.0, "gate.urgency_above": -1.0}
"""Growth that lets nearly everything pass."""


def _at_once(act: Callable[[Training], None]) -> Act:
    def once(training: Training, since: int, batch: Pair) -> Pair:
        if since == 0:
            act(training)
        return batch

    return once


def _flip(training: Training) -> None:
    """The highest bit of a weight's exponent changes: from 0.1 to 1e37."""
    with torch.no_grad():
        weight = next(training.model.parameters()).view(-1)
        weight[:1] = (weight[:1].view(torch.int32) ^ (1 << 30)).view(torch.float32)


def _flip_small(training: Training) -> None:
    """A lower bit of the exponent: a weight is 65,536 times what it was."""
    with torch.no_grad():
        weight = next(training.model.parameters()).view(-1)
        weight[:1] *= 65_536.0


def _wrong_core(training: Training, since: int, batch: Pair) -> Pair:
    """Now and then a part of the weights is computed wrongly."""
    if since % 15 == 0:
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter[0] += 3 * torch.randn(parameter[0].shape)
    return batch


def _slower(_: Training, since: int, batch: Pair) -> Pair:
    time.sleep(min(0.05, since * 0.0004))
    return batch


def _slow_steps(_: Training, since: int, batch: Pair) -> Pair:
    if since % 25 == 0:
        time.sleep(0.5)
    return batch


class Leak:
    """Every step keeps a megabyte."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def __call__(self, _training: Training, _since: int, batch: Pair) -> Pair:
        self._kept.append(torch.ones(250_000))
        return batch


def _unreadable(_training: Training) -> None:
    raise OSError(5, "Input/output error", "shard-0017.bin")


def _out_of_memory(_training: Training) -> None:
    raise torch.cuda.OutOfMemoryError("out of memory: tried to allocate 20.00 GiB")


def _killed(_training: Training) -> None:
    os._exit(137)


def _machine(name: str, severity: Severity, cause: str, told: str, act: Act, epochs: int = 15) -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "hardware", lambda s: struck(classify(s, epochs=epochs), AT, act), AT, severity, cause, told)


HARDWARE = (
    _machine("weight_flipped", "critical", "weights", "a bit of a weight has flipped: it is 1e37", _at_once(_flip)),
    _machine(
        "weight_flipped_lower",
        "warning",
        "weights",
        "a bit of a weight has flipped: it is 65,536 times what it was, and training went back",
        _at_once(_flip_small),
    ),
    _machine("core_computes_wrongly", "critical", "weights", "weights change in ways that no gradient explains", _wrong_core),
    _machine("slower_and_slower", "warning", "throughput", "each step takes longer than the one before", _slower),
    _machine("slow_steps", "warning", "throughput", "every 25th step takes half a second", _slow_steps),
    Case(
        "memory_grows", "hardware", lambda s: struck(classify(s), AT, Leak()), AT, "warning", "memory", "memory grows by a megabyte a step"
    ),
    _machine("data_unreadable", "critical", "process", "a file of the data cannot be read: the run failed", _at_once(_unreadable)),
    _machine("out_of_memory", "critical", "process", "there is no memory left: the run failed", _at_once(_out_of_memory)),
    _machine("process_killed", "critical", "process", "the training's process is gone", _at_once(_killed)),
)


def _acting(training: Training) -> list[nn.Module]:
    """The bodies of seeds that act in the model."""
    sites = (vars(module).get("esper_site") for module in training.model.modules())
    return [branch for site in sites if site is not None for branch in site.acting]


def _hurts(training: Training, _since: int, batch: Pair) -> Pair:
    """What acts grows by a tenth a step."""
    with torch.no_grad():
        for body in _acting(training):
            for parameter in body.parameters():
                parameter.mul_(1.1)
    return batch


def _never_settles(training: Training, since: int, batch: Pair) -> Pair:
    """What acts is another one with every few steps."""
    with torch.no_grad():
        for body in _acting(training) if since % 5 == 0 else ():
            for parameter in body.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape))
    return batch


def _not_finite(training: Training, _since: int, batch: Pair) -> Pair:
    with torch.no_grad():
        for body in _acting(training):
            for parameter in body.parameters():
                parameter.fill_(float("nan"))
    return batch


def _host_fades(training: Training, _since: int, batch: Pair) -> Pair:
    """Once something has grown beside it the host's own layer is forgotten."""
    if _acting(training):
        with torch.no_grad():
            training.model.get_parameter("0.weight").mul_(0.9)
    return batch


def _host_stops(training: Training, _since: int, batch: Pair) -> Pair:
    """Once something has grown nothing that is the host's is trained any more."""
    if _acting(training):
        for group in training.optimizer.param_groups:
            group["lr"] = 0.0
    return batch


def _grown(rng_seed: int, act: Act | None = None, settings: dict[str, Any] | None = None) -> Training:
    grow = esper.Grow(sites="0", max_parameters=30.0, settings={**HARM, **(settings or {})})
    made = classify(rng_seed, mlp(16, 3, 4), data=classes(rng_seed, 480, wrong=0.0), grow=grow, epochs=36)
    return made if act is None else struck(made, 30, act)


def _growth(name: str, severity: Severity, told: str, make: Callable[[int], Training]) -> Case:
    # The first graft comes after six epochs of ten steps, for every rng seed.
    return Case(name, "growth", make, 60, severity, "growth", told)


GROWTH = (
    _growth("seed_hurts_after_graft", "critical", "the loss rises since a seed was grafted", lambda s: _grown(s, _hurts)),
    _growth("blend_never_settles", "critical", "the loss swings since a seed was grafted", lambda s: _grown(s, _never_settles)),
    _growth(
        "seed_not_finite", "warning", "a grafted seed gives values that are not finite, and is culled", lambda s: _grown(s, _not_finite)
    ),
    _growth(
        "seeds_learn_too_fast",
        "critical",
        "seeds learn at ten thousand times the host's rate: the run goes back again and again, and fails",
        lambda s: _grown(s, settings={"growth.seed_lr": 1e4}),
    ),
    _growth("host_fades_beside_seed", "warning", "the host's layer fades since a seed was grafted", lambda s: _grown(s, _host_fades)),
    Case(
        *("learning_ends_with_graft", "growth", lambda s: _grown(s, _host_stops), 60, "warning", "learning_rate"),
        told="the learning rate is 0 since a seed was grafted",
    ),
)
