"""What detectors are compared with: a fixed threshold and a z-score, as users write them today, and chance.

Each peer is asked of the metric that shows a fault, by whoever knows that beforehand, and is given what is not finite for nothing: no
comparison with NaN is true. Like the detectors they announce when something begins, and again only after it has ended.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from esper.events import topics
from esper.folds.monitoring.measurements import FloatArray, Measurements

WINDOW = 64
SHOWN: dict[str, tuple[str, str]] = {
    "nonfinite": (topics.STEPS, "loss"),
    "spike": (topics.STEPS, "loss"),
    "divergence": (topics.STEPS, "loss"),
    "explosion": (topics.STEPS, "gradient_norm"),
    "vanishing": (topics.STEPS, "gradient_norm"),
    "dead": (topics.SEED_HEALTH, "dead_neuron_ratio"),
    "stuck": (topics.STEPS, "loss"),
    "drift": (topics.STEPS, "loss"),
    "oscillation": (topics.STEPS, "loss"),
}
"""The metric in which each detector's faults show."""


class Measured(NamedTuple):
    """One record's readings, with the topic and the step of the record."""

    topic: str
    step: int
    read: Measurements


Judge = Callable[[float, "deque[float]"], bool]


def beyond_threshold(metric: str) -> Judge:
    """A loss above 3, a gradient norm above 10 or below 0.001, half of the units dead: as one writes it beforehand."""
    low, high = {"loss": (-np.inf, 3.0), "gradient_norm": (1e-3, 10.0), "dead_neuron_ratio": (-np.inf, 0.5)}[metric]
    return lambda value, _past: not low <= value <= high


def beyond_three_sigma(_metric: str) -> Judge:
    """More than three standard deviations from the mean of the last 64 values."""

    def judge(value: float, past: "deque[float]") -> bool:
        if not np.isfinite(value):
            return True
        if len(past) < WINDOW // 2:
            return False
        return bool(abs(value - np.mean(past)) > 3 * max(float(np.std(past)), 1e-12))

    return judge


def alarms(records: Iterable[Measured], detector: str, peer: Callable[[str], Judge]) -> list[int]:
    """The steps of the records in which the peer begins to complain about the metric that shows what `detector` is for."""
    topic, metric = SHOWN[detector]
    judge, found = peer(metric), []
    past: dict[object, deque[float]] = {}
    complaining: set[object] = set()
    for record in records:
        if record.topic != topic or metric not in record.read.columns:
            continue
        for row, value in _values(record.read, metric):
            known = past.setdefault(row, deque(maxlen=WINDOW))
            bad = judge(value, known)
            if bad and row not in complaining:
                found.append(record.step)
            (complaining.add if bad else complaining.discard)(row)
            if np.isfinite(value):
                known.append(value)
    return found


def _values(read: Measurements, metric: str) -> list[tuple[object, float]]:
    column, measured = read.columns[metric], read.measured[metric]
    rows = [None] * len(column) if read.sites is None or read.seeds is None else list(zip(read.sites, read.seeds, strict=True))
    return [(row, float(value)) for row, value, known in zip(rows, column, measured, strict=True) if known]


def by_chance(count: int, steps: int, random: np.random.Generator) -> FloatArray:
    """So many alarms anywhere in the run."""
    made: FloatArray = random.uniform(0, steps, count)
    return made
