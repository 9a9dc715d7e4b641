"""Counters and histograms, counted from records: they begin at 0 for every known label set and only grow while the process lives."""

from collections.abc import Iterable

from esper.nissa.metrics.family import Family, Histogram, Sample


class Tally:
    """The counters and histograms of some families. Not for several threads at once."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._counters: dict[Family, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[Family, dict[tuple[str, ...], Histogram]] = {}
        for family in families:
            if family.type == "counter":
                self._counters[family] = dict.fromkeys(family.known(), 0.0)
            elif family.type == "histogram":
                self._histograms[family] = {labels: Histogram(family.buckets) for labels in family.known()}

    def add(self, family: Family, *labels: str, by: float = 1.0) -> None:
        """Counts `by` more of `family`."""
        counted = self._counters[family]
        counted[labels] = counted.get(labels, 0.0) + by

    def observe(self, family: Family, value: float, *labels: str) -> None:
        """Counts `value` into the histogram of `family`."""
        self._histograms[family][labels].observe(value)

    def samples(self, family: Family) -> list[Sample]:
        """The samples of `family` as they stand; none for a family that is not counted here."""
        if family.type == "histogram":
            kept = self._histograms.get(family, {})
            return [Sample(family, histogram.distribution(), labels) for labels, histogram in kept.items()]
        return [Sample(family, value, labels) for labels, value in self._counters.get(family, {}).items()]
