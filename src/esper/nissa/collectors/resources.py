"""Resources: what the agent on a training machine measured of it last. Nothing is measured here, and nothing is made up.

Measurements older than a minute are not shown: a machine whose agent has gone is unknown.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from esper.events.envelope import Record
from esper.events.kinds.telemetry import Gpu, ResourcesMeasured
from esper.nissa.collectors.collector import Collector
from esper.nissa.metrics.family import Family, Sample
from esper.nissa.metrics.model import Handler, Model, Watched

STALE_S = 60.0
_GPUS: dict[str, tuple[str, ...]] = {"gpu": ()}

CPU = Family("esper_cpu_utilization_ratio", "gauge", "Share of all cores that is in use.")
MEMORY_USED = Family("esper_memory_used_bytes", "gauge", "Memory of the machine that is in use.")
MEMORY_TOTAL = Family("esper_memory_total_bytes", "gauge", "Memory of the machine.")
DISK_FREE = Family("esper_disk_free_bytes", "gauge", "Room that is left on the disk of the log.")
DISK_TOTAL = Family("esper_disk_total_bytes", "gauge", "Size of the disk of the log.")
RECEIVED = Family("esper_network_received_bytes_total", "counter", "Bytes that the machine received since it started.")
SENT = Family("esper_network_sent_bytes_total", "counter", "Bytes that the machine sent since it started.")
GPU_UTILIZATION = Family("esper_gpu_utilization_ratio", "gauge", "Share of the time that the GPU was busy.", _GPUS)
GPU_MEMORY_USED = Family("esper_gpu_memory_used_bytes", "gauge", "Memory of the GPU that is in use.", _GPUS)
GPU_MEMORY_TOTAL = Family("esper_gpu_memory_total_bytes", "gauge", "Memory of the GPU.", _GPUS)
GPU_TEMPERATURE = Family("esper_gpu_temperature_celsius", "gauge", "Temperature of the GPU.", _GPUS)
GPU_POWER = Family("esper_gpu_power_watts", "gauge", "Power that the GPU draws.", _GPUS)
LOG_DROPPED = Family("esper_log_dropped_samples", "gauge", "Telemetry that the machine's log did not take.")
MEASURED = Family("esper_resources_measured_timestamp_seconds", "gauge", "When an agent measured the machine last.")

FAMILIES = (
    CPU, MEMORY_USED, MEMORY_TOTAL, DISK_FREE, DISK_TOTAL, RECEIVED, SENT, GPU_UTILIZATION, GPU_MEMORY_USED, GPU_MEMORY_TOTAL,
    GPU_TEMPERATURE, GPU_POWER, LOG_DROPPED, MEASURED,
)  # fmt: skip


def _measured(_model: Model, watched: Watched, _record: Record, event: ResourcesMeasured) -> Watched:
    return replace(watched, resources=event)


HANDLERS: dict[type, Handler] = {ResourcesMeasured: _measured}


def collect(model: Model) -> Iterator[Sample]:
    """The samples of `FAMILIES` for the machine that was measured last."""
    machine = model.machine()
    if machine is None or machine.resources is None or machine.time is None:
        return
    yield Sample(MEASURED, machine.time.timestamp())
    if time.time() - machine.time.timestamp() > STALE_S:
        return
    yield from _machine(machine.resources)
    for gpu in machine.resources.gpus:
        yield from _gpu(gpu)


def _machine(event: ResourcesMeasured) -> Iterator[Sample]:
    yield Sample(CPU, event.cpu_utilization)
    yield Sample(MEMORY_USED, event.memory_used_bytes)
    yield Sample(MEMORY_TOTAL, event.memory_total_bytes)
    yield Sample(DISK_FREE, event.disk_free_bytes)
    yield Sample(DISK_TOTAL, event.disk_total_bytes)
    yield Sample(RECEIVED, event.network_received_bytes)
    yield Sample(SENT, event.network_sent_bytes)
    if event.log_dropped_samples is not None:
        yield Sample(LOG_DROPPED, event.log_dropped_samples)


def _gpu(gpu: Gpu) -> Iterator[Sample]:
    labels = (str(gpu.index),)
    yield Sample(GPU_MEMORY_USED, gpu.memory_used_bytes, labels)
    yield Sample(GPU_MEMORY_TOTAL, gpu.memory_total_bytes, labels)
    for family, value in ((GPU_UTILIZATION, gpu.utilization), (GPU_TEMPERATURE, gpu.temperature_celsius), (GPU_POWER, gpu.power_watts)):
        if value is not None:
            yield Sample(family, value, labels)


COLLECTOR = Collector("resources", 1.0, FAMILIES, collect)
