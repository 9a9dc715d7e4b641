"""Metrics of one worker process for Prometheus, read from its ledgers at each scrape.

Counters begin at zero with the process; gauges are of the partitions that it owns now.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from esper.kafka.ledgers.owned_ledgers import OwnedLedgers

_COUNTED = {
    "applied": ("records_applied", "Records that were read and applied."),
    "derived": ("records_derived", "Records that were derived and written, or are being written."),
    "dead letters": ("dead_letters", "Messages that were set aside, as nobody can read them."),
    "expired": ("records_expired", "Messages that retention deleted before they were read."),
    "transactions": ("transactions", "Transactions that were committed."),
}


def metrics_text(ledgers: OwnedLedgers) -> bytes:
    """The metrics of `ledgers` now, as Prometheus text 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Ledgers(ledgers))
    return generate_latest(registry)


class _Ledgers(Collector):
    def __init__(self, ledgers: OwnedLedgers) -> None:
        self._ledgers = ledgers

    def collect(self) -> Iterator[Metric]:
        owned = self._ledgers
        for name, (metric, help_text) in _COUNTED.items():
            yield CounterMetricFamily(f"esper_worker_{metric}", help_text, owned.counts[name])
        yield CounterMetricFamily("esper_worker_ledgers_opened", "Ledgers that were opened: partitions that were taken over.", owned.opened)
        opened = owned.open.values()
        yield GaugeMetricFamily("esper_worker_ledgers", "Ledgers that are open: partitions that this worker reads.", len(opened))
        yield GaugeMetricFamily("esper_worker_runs", "Runs that are not at rest.", sum(ledger.runs for ledger in opened))
        stopped = sum(ledger.stopped_runs for ledger in opened)
        yield GaugeMetricFamily("esper_worker_stopped_runs", "Runs of which a topic stopped: see FoldBlocked.", stopped)
        slowest = max((ledger.last_transaction_s for ledger in opened), default=0.0)
        yield GaugeMetricFamily(
            "esper_worker_last_transaction_seconds", "Time of the last transaction, of the ledger where it took longest.", slowest
        )
        lag = GaugeMetricFamily("esper_worker_lag_records", "Offsets between the high watermarks and the positions.", labels=["topic"])
        for topic in sorted({topic for ledger in opened for topic in ledger.lag}):
            lag.add_metric([topic], sum(ledger.lag.get(topic, 0) for ledger in opened))
        yield lag
