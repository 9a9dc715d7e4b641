"""What the collectors say of themselves: how often each came back, failed or hung, and how long it took."""

from collections.abc import Iterator

from esper.nissa.collectors.collector import Collectors
from esper.nissa.metrics.family import Family, Sample

_COLLECTOR: dict[str, tuple[str, ...]] = {"collector": ()}

RUNS = Family(
    "esper_collector_runs_total",
    "counter",
    "Times a collector was called, by what came of it.",
    _COLLECTOR | {"outcome": ("ok", "failed", "hung")},
)
DURATION = Family("esper_collector_duration_seconds", "gauge", "How long a collector took the last time.", _COLLECTOR)
SUCCEEDED = Family("esper_collector_success_timestamp_seconds", "gauge", "When a collector gave samples last.", _COLLECTOR)

FAMILIES = (RUNS, DURATION, SUCCEEDED)


def own_samples(collectors: Collectors) -> Iterator[Sample]:
    """The samples of `FAMILIES`."""
    for one in collectors.standings():
        name = one.collector.name
        for outcome, count in (("ok", one.ok), ("failed", one.failed), ("hung", one.hung)):
            yield Sample(RUNS, count, (name, outcome))
        for family, value in ((DURATION, one.duration_s), (SUCCEEDED, one.succeeded_at)):
            if value is not None:
                yield Sample(family, value, (name,))
