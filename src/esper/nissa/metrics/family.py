"""What a metric is: a family with its name, type, help and labels, and the samples of it.

Labels are closed sets: for each label the values that are known from the start are named here, so that a counter is there, at 0, before
anything was counted. A gauge that was never measured has no sample at all.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple

from esper.errors import SettingsError

FamilyType = Literal["counter", "gauge", "histogram"]
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` is the exported one (a counter's ends with `_total`); `labels` maps each label to the values known beforehand."""

    name: str
    type: FamilyType
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.type == "counter" and not self.name.endswith("_total"):
            raise SettingsError(f"metric {self.name}: expected the name of a counter to end with _total")
        if (self.type == "histogram") != bool(self.buckets):
            raise SettingsError(f"metric {self.name}: expected buckets for a histogram and for nothing else")

    def __hash__(self) -> int:
        return hash(self.name)

    def known(self) -> Iterator[tuple[str, ...]]:
        """Every label set that is known beforehand; one empty set for a family without labels."""
        return product(*self.labels.values())


class Distribution(NamedTuple):
    """What a histogram holds: how many values fell into each bucket and above the last (not cumulated), and their sum."""

    counts: tuple[int, ...]
    sum: float


class Sample(NamedTuple):
    """One number of a family, under the values of its labels in their order."""

    family: Family
    value: float | Distribution
    labels: tuple[str, ...] = ()


class Histogram:
    """Counts values into the buckets of a family. A value that is not finite has no place in a sum and is left out."""

    __slots__ = ("_buckets", "_counts", "_sum")

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = tuple(buckets)
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts `value`."""
        if math.isfinite(value):
            self._counts[bisect_left(self._buckets, value)] += 1
            self._sum += value

    def distribution(self) -> Distribution:
        """What was counted so far."""
        return Distribution(tuple(self._counts), self._sum)
