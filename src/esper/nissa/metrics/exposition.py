"""Metrics as Prometheus reads them: one registry of an application's own, text or OpenMetrics as the scraper asks."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from esper.nissa.metrics.family import Distribution, Family, Sample
from esper.nissa.metrics.model import Custom

Gather = Callable[[], tuple[Iterable[Sample], Iterable[Custom]]]


class Exposition:
    """Everything that is measured, written when it is asked for. Any number of threads may ask at once."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def write(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in the format that the header `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry is this application's own, and no name stands in it twice."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        samples, customs = self._gather()
        families: dict[Family, list[Sample]] = {}
        for sample in samples:
            families.setdefault(sample.family, []).append(sample)
        for family, found in families.items():
            yield _metric(family, found)
        for custom in customs:
            yield _custom(custom)


def _metric(family: Family, samples: Iterable[Sample]) -> Metric:
    labels = tuple(family.labels)
    if family.type == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=labels)
        for sample in samples:
            assert isinstance(sample.value, Distribution)
            histogram.add_metric(sample.labels, _buckets(family, sample.value), sample.value.sum)
        return histogram
    kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=labels)
    for sample in samples:
        assert not isinstance(sample.value, Distribution)
        metric.add_metric(sample.labels, sample.value)
    return metric


def _buckets(family: Family, value: Distribution) -> list[tuple[str, float]]:
    total = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, family.buckets), "+Inf"), value.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _custom(custom: Custom) -> Metric:
    help_ = "A metric of the user's own."
    kind = CounterMetricFamily if custom.type == "counter" else GaugeMetricFamily
    metric = kind(custom.name, help_, labels=custom.labels)
    for values, value in custom.series.items():
        metric.add_metric(values, value)
    return metric
