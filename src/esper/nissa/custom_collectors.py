"""Collectors of metrics beside counters and histograms. A scrape calls Esper's own; each of a user's runs on a thread of its own.

A user's collector that fails or hangs is counted, and stops neither another nor the scrape. A scrape shows what it gave last; when it has
given nothing for three intervals (at least ten seconds) its metrics are absent: an old number must not look like a new one.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Annotated

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from pydantic import Field

from esper.errors import SettingsError
from esper.events.fields import Count
from esper.nissa.gauges import Value, families_of, read_gauges
from esper.nissa.metric_definitions import COUNTERS, HISTOGRAMS, SCRAPED
from esper.nissa.metrics import LogMetrics

_PATIENCE_S = 10.0
_ADDED = frozenset(("le", "quantile"))  # Labels of a sample that are not its family's.


@dataclass(frozen=True, slots=True)
class Collector:
    """A function that gives prometheus_client's metric families every `interval_s` seconds. `name` is the value of a label.

    `metrics` are the exported names of those it owns, a counter's with `_total`, each with its label names.
    """

    name: str
    interval_s: float
    metrics: Mapping[str, Sequence[str]]
    collect: Callable[[], Iterable[Metric]]


@dataclass(frozen=True, slots=True)
class CollectorStatus:
    """Calls of a collector by outcome."""

    name: str
    ok: Count
    failed: Count
    hung: Count
    error: str | None
    duration_s: Annotated[float | None, Field(exclude=True)] = None
    succeeded_at: Annotated[float | None, Field(exclude=True)] = None


def find_collector(path: str) -> Collector:
    """The collector that `path` names, as `module:attribute`. Raises SettingsError where there is none."""
    try:
        found = resolve_name(path)
    except (ValueError, ImportError, AttributeError) as error:
        raise SettingsError(f"setting nissa.collectors: expected module:attribute, cannot find {path!r}: {error}") from error
    if not isinstance(found, Collector):
        raise SettingsError(
            f"setting nissa.collectors: expected {path!r} to be a Collector as module:attribute, got a {type(found).__name__}"
        )
    return found


class CollectorRun:
    """A collector at work: its counts, and the families it gave last. `check`: look through what it gives; Esper's own is trusted."""

    def __init__(self, collector: Collector, clock: Callable[[], float] = time.monotonic, *, check: bool = True) -> None:
        self.collector = collector
        self._check = check
        self._patience_s = max(3 * collector.interval_s, _PATIENCE_S)
        self._clock = clock
        self._lock = threading.Lock()
        self._status = CollectorStatus(collector.name, ok=0, failed=0, hung=0, error=None)
        self._families: list[Metric] = []
        self._given_at = -math.inf
        self._running_since = math.inf

    def run_once(self) -> None:
        """Collects now. Any exception is counted: the collector may be a user's."""
        began = self._running_since = self._clock()
        families, error = list[Metric](), None
        try:
            families = list(self.collector.collect())
            if self._check:
                self._require_writable(families)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        with self._lock:
            now, self._running_since = self._clock(), math.inf
            status = replace(self._status, duration_s=now - began, error=error)
            if error is None:
                self._families, self._given_at = families, now
                self._status = replace(status, ok=status.ok + 1, succeeded_at=time.time())
            else:
                self._status = replace(status, failed=status.failed + 1)

    def families(self) -> list[Metric]:
        """The families that were collected last; none once they are too old."""
        with self._lock:
            return self._families if self._clock() - self._given_at <= self._patience_s else []

    def status(self) -> CollectorStatus:
        """Its counts. A call that takes too long is counted as hanging, once."""
        with self._lock:
            if self._clock() - self._running_since > self._patience_s:
                self._running_since = math.inf
                self._status = replace(self._status, hung=self._status.hung + 1)
            return self._status

    def run_until(self, stopping: threading.Event) -> None:
        """Collects at the collector's interval until `stopping` is set."""
        while not stopping.is_set():
            self.run_once()
            stopping.wait(self.collector.interval_s)

    def _require_writable(self, families: list[Metric]) -> None:
        """Raises an error for a family that is not the collector's own, or cannot be written: it would fail every scrape."""
        who, owned = f"collector {self.collector.name!r}", self.collector.metrics
        for family in families:
            name = family.name + ("_total" if family.type == "counter" else "")
            if name not in owned:
                raise SettingsError(f"{who} gave {name}, which it does not own")
            for sample in family.samples:
                if set(sample.labels) - _ADDED != set(owned[name]):
                    raise SettingsError(f"{who} gave {name} with the labels {', '.join(sample.labels) or 'none'}")
        generate_latest(replace(self.collector, collect=lambda: families))


class Collectors:
    """Esper's own gauges, the custom metrics and the users' collectors, as prometheus_client's registry asks for them.

    Users' collectors run between `start` and `stop`. Raises SettingsError where two have one name, or two own one metric.
    """

    def __init__(self, metrics: LogMetrics, collectors: Sequence[Collector] = ()) -> None:
        _require_distinct(collectors)
        self._metrics = metrics
        self._own = CollectorRun(Collector("esper", 0.0, {}, lambda: families_of(read_gauges(metrics))), check=False)
        self.users = [CollectorRun(collector) for collector in collectors]
        self._stopping = threading.Event()
        metrics.registry.register(self)

    def start(self) -> None:
        """Starts every user's collector on a daemon thread: one that hangs does not keep the process from ending."""
        for run in self.users:
            name = f"esper-collector-{run.collector.name}"
            threading.Thread(target=run.run_until, args=(self._stopping,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Starts no collector again."""
        self._stopping.set()

    def status(self) -> list[CollectorStatus]:
        """The counts of each collector, Esper's own first."""
        return [run.status() for run in (self._own, *self.users)]

    def collect(self) -> Iterator[Metric]:
        """Everything that is known now."""
        self._own.run_once()
        for run in (self._own, *self.users):
            yield from run.families()
        yield from families_of(_of_collectors(self.status()))
        for name, custom in self._metrics.custom.read().items():
            kind = CounterMetricFamily if custom.type == "counter" else GaugeMetricFamily
            family = kind(name, "A metric of the user's own.", labels=custom.labels)
            for labels, value in custom.series.items():
                if value is not None:
                    family.add_metric(labels, value)
            if family.samples:
                yield family

    def absent(self) -> list[str]:
        """Metrics of SCRAPED and of users' collectors without a value now: never measured, or no longer."""
        given = {sample.name for family in self.collect() for sample in family.samples}
        return [name for name in (*SCRAPED, *(name for run in self.users for name in run.collector.metrics)) if name not in given]


def _of_collectors(statuses: Iterable[CollectorStatus]) -> Iterator[Value]:
    for one in statuses:
        for outcome, count in (("ok", one.ok), ("failed", one.failed), ("hung", one.hung)):
            yield "esper_collector_runs_total", count, one.name, outcome
        yield "esper_collector_duration_seconds", one.duration_s, one.name
        yield "esper_collector_success_timestamp_seconds", one.succeeded_at, one.name


def _require_distinct(collectors: Sequence[Collector]) -> None:
    """Raises SettingsError where two collectors have one name, or two own one metric."""
    owners = dict.fromkeys((*SCRAPED, *COUNTERS, *HISTOGRAMS), "esper")
    names = {"esper"}
    for collector in collectors:
        if collector.name in names:
            raise SettingsError(f"setting nissa.collectors: two collectors are named {collector.name!r}")
        names.add(collector.name)
        for metric in collector.metrics:
            if (owner := owners.setdefault(metric, collector.name)) != collector.name:
                raise SettingsError(f"setting nissa.collectors: {owner!r} and {collector.name!r} both own the metric {metric}")
