"""Metrics that are read when they are asked for: stages of seeds, the newest live runs, resources, the following.

A value that was never measured, or that is too old, is absent; it is never zero.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from esper.events.envelope import RunId
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.telemetry import HealthColumns, ResourcesMeasured
from esper.nissa.kafka_status import KafkaStatus
from esper.nissa.metric_definitions import COUNTERS, SCRAPED
from esper.nissa.metrics import FollowedRun, FollowStatus, LogMetrics

_STALE_S = 60.0  # Age at which resources are no longer shown: a machine whose agent has gone is unknown.

MOST_RUNS = 20
"""The newest live runs that have gauges of their own, so that the number of series has a limit; `esper_run_info` names them all."""

Value = tuple[str, float | None, *tuple[str, ...]]
"""Name of a metric, its value (None: not measured, so absent), the values of its labels."""


def families_of(values: Iterable[Value]) -> list[Metric]:
    """`values` grouped into the metric families of SCRAPED."""
    found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, value, *labels in values:
        if value is not None:
            if name not in found:
                text, names = SCRAPED[name]
                found[name] = (CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily)(name, text, labels=names)
            found[name].add_metric(labels, value)
    return list(found.values())


def read_gauges(metrics: LogMetrics) -> Iterator[Value]:
    """Every value that is known now."""
    live = metrics.live()
    if live:
        stages = Counter(stage for run in live for stage in run.stages.values())
        yield from (("esper_seeds", stages[stage], stage) for stage in Stage)
        names = _labels(live)
        for run in live[:MOST_RUNS]:
            yield from ((one[0], one[1], names[run.run], *one[2:]) for one in _of_run(run))
        yield from (("esper_run_info", 1, run.run, names[run.run], run.started.task) for run in live if run.started is not None)
    if (machine := metrics.machine()) is not None:
        measured_at = machine[0].timestamp()
        yield "esper_resources_measured_timestamp_seconds", measured_at
        if time.time() - measured_at <= _STALE_S:
            yield from _of_machine(machine[1])
    firing = Counter[str](alert.event.severity for alert in metrics.firing())
    yield from (("esper_alerts_firing", firing[severity], severity) for severity in COUNTERS["esper_alerts_total"][1]["severity"])
    yield from _of_following(metrics.status)
    yield from _of_kafka(metrics.kafka())


def _labels(live: Sequence[FollowedRun]) -> dict[RunId, str]:
    """The label `run` of each run: the end of its id, which people see and type; the whole id where another live run has that end."""
    ends = Counter(run.run[-6:] for run in live)
    return {run.run: run.run[-6:] if ends[run.run[-6:]] == 1 else run.run for run in live}


def _of_run(run: FollowedRun) -> Iterator[Value]:
    yield "esper_step", run.step
    yield "esper_run_last_record_timestamp_seconds", None if run.time is None else run.time.timestamp()
    if run.started is not None:
        yield "esper_epochs_planned", run.started.epochs
        yield "esper_parameters", run.started.parameters if run.completed is None else run.completed.system.parameters
    if run.completed is not None:
        yield "esper_epoch", run.completed.system.epoch
        for split, measured in (("train", run.completed.train), ("validation", run.completed.validation)):
            if measured is not None:
                yield "esper_loss", measured.loss, split
                yield "esper_accuracy_ratio", measured.metrics.get("accuracy"), split
    if run.steps is not None:
        yield "esper_step_loss", _last(run.steps.steps.loss)
        yield "esper_gradient_norm", _last(run.steps.steps.gradient_norm)
        yield "esper_learning_rate", next((rate for rate in run.steps.learning_rates if not math.isnan(rate)), None)
        yield "esper_samples_per_second", run.steps.samples_per_s
        yield "esper_training_memory_bytes", run.steps.memory_bytes
    if run.health is not None:
        yield from _of_health(run.health.health)


def _last(column: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)


def _of_health(health: HealthColumns) -> Iterator[Value]:
    yield "esper_seeds_recovering", sum(health.recovering)
    for name, column, unit in (
        ("esper_seed_health_score_ratio", health.health_score, 1.0),
        ("esper_seed_dead_neuron_ratio", health.dead_neuron_ratio, 1.0),
        ("esper_seed_latency_seconds", health.latency_ms, 1e-3),
    ):
        known = np.array([value for value in column if value is not None], dtype=np.float64) * unit
        if known.size:
            yield name, float(known.min()), "minimum"
            yield name, float(known.mean()), "mean"
            yield name, float(known.max()), "maximum"


def _of_machine(event: ResourcesMeasured) -> Iterator[Value]:
    yield "esper_cpu_utilization_ratio", event.cpu_utilization
    yield "esper_memory_used_bytes", event.memory_used_bytes
    yield "esper_memory_total_bytes", event.memory_total_bytes
    yield "esper_disk_free_bytes", event.disk_free_bytes
    yield "esper_disk_total_bytes", event.disk_total_bytes
    yield "esper_network_received_bytes_total", event.network_received_bytes
    yield "esper_network_sent_bytes_total", event.network_sent_bytes
    yield "esper_log_dropped_samples", event.log_dropped_samples
    for gpu in event.gpus:
        index = str(gpu.index)
        yield "esper_gpu_memory_used_bytes", gpu.memory_used_bytes, index
        yield "esper_gpu_memory_total_bytes", gpu.memory_total_bytes, index
        yield "esper_gpu_utilization_ratio", gpu.utilization, index
        yield "esper_gpu_temperature_celsius", gpu.temperature_celsius, index
        yield "esper_gpu_power_watts", gpu.power_watts, index


def _of_kafka(status: KafkaStatus) -> Iterator[Value]:
    yield "esper_mirror_caught_up_timestamp_seconds", status.caught_up_at
    yield "esper_mirror_behind_messages", status.behind
    yield "esper_mirror_refused_runs", status.refused
    yield "esper_delivery_partitions", status.partitions
    yield "esper_delivery_outstanding_alerts", status.outstanding
    yield "esper_bridge_waiting_records", status.waiting
    yield "esper_bridge_away_timestamp_seconds", status.away_since


def _of_following(status: FollowStatus) -> Iterator[Value]:
    if status.polled_at is not None:
        yield "esper_follow_poll_timestamp_seconds", status.polled_at
        yield "esper_follow_gone_records", status.gone
        yield "esper_follow_caught_up_timestamp_seconds", status.caught_up_at
        yield "esper_follow_runs", status.following
        yield "esper_follow_unreadable_runs", status.unreadable
        yield "esper_runs", len(status.live), "live"
        yield "esper_runs", status.interrupted, "interrupted"
        yield "esper_runs", status.sealed, "sealed"
