"""Measurements: the numbers in an event, as columns by metric name.

Names are stable and in base units: seconds, bytes, ratios in 0..1. A metric that changes slowly is measured once a record, and its column
has one entry whatever the length of `steps`. A value that was not measured is NaN with `measured` false; a measured NaN has `measured`
true. `METRICS` has the metrics of each topic, so that a rule about a metric that no event measures can be refused. A metric of the user's
own is one series for each set of values of its labels, with a name like `esper_custom_queue_length{queue="fast"}`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from esper.events import topics
from esper.events.fields import Event
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.telemetry import CustomMetricRecorded, ResourcesMeasured, SeedHealthMeasured, StepsMeasured

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
_IntArray = npt.NDArray[np.int64]
_Values = tuple[float | None, ...] | tuple[int, ...]

HEALTH = ("activation_variance", "gradient_variance", "dead_neuron_ratio", "avg_correlation", "latency_s", "errors", "health_score")
"""The metrics of sites and seeds."""
_GPU = ("utilization", "memory_used_ratio", "temperature_celsius", "power_watts")

METRICS: Mapping[str, frozenset[str]] = {
    topics.STEPS: frozenset(
        ("loss", "gradient_norm", "step_latency_s", "data_wait_s", "samples_per_s", "memory_bytes", "learning_rate", "metric.*")
    ),
    topics.SEED_HEALTH: frozenset(HEALTH),
    topics.EPOCH: frozenset(("train.*", "validation.*", "duration_s", "samples_per_s")),
    topics.RESOURCES: frozenset(
        (
            *("cpu_utilization", "memory_used_ratio", "disk_free_bytes", "disk_free_ratio"),
            *("network_received_bytes", "network_sent_bytes"),
            *(f"gpu.*.{name}" for name in _GPU),
            "log_dropped_samples",
        )
    ),
    topics.CUSTOM_METRICS: frozenset(("esper_custom_*",)),
}
"""The metrics of each topic that has some; a name with a star is a family, like the user's own metrics `metric.*`."""


_CUSTOM = re.compile(r"esper_custom_[a-z][a-z0-9_]*(\{.+\})?", re.ASCII)
_GPU_METRIC = re.compile(r"gpu\.\d+\.", re.ASCII)
_LABEL = re.compile(r'([a-z][a-z0-9_]*)="((?:[^"\\]|\\["\\])*)"(?:,(?=.)|$)', re.ASCII)


def is_known(topic: str, metric: str) -> bool:
    """True if records of `topic` may carry `metric`, by its own name, as a member of a family, or as one series."""
    if topic == topics.CUSTOM_METRICS:
        written = _CUSTOM.fullmatch(metric)
        return written is not None and _are_labels((written[1] or "")[1:-1])
    if topic == topics.RESOURCES and metric.startswith("gpu.") and not _GPU_METRIC.match(metric):
        return False
    return any(fnmatchcase(metric, name) for name in METRICS.get(topic, frozenset()))


def _are_labels(text: str) -> bool:
    labels = list(_LABEL.finditer(text))
    names = [label[1] for label in labels]
    return "".join(label[0] for label in labels) == text and names == sorted(set(names))


def is_series_of(name: str, metric: str) -> bool:
    """True if `name` is `metric`, or one of the series that its labels divide it into."""
    return name == metric or (name.startswith(metric) and name[len(metric)] == "{")


@dataclass(frozen=True, slots=True)
class Measurements:
    """The measurements of one record. Shapes: a column is 1-D, with one entry a row (health), one a step, or one.

    `steps`: the optimizer steps of the columns' entries; None where the record has no steps of its own. `sites`, `seeds`: the site and seed
    of each row, seed None for a site's own; None where the measurements are the run's.
    """

    steps: _IntArray | None
    columns: Mapping[str, FloatArray]
    measured: Mapping[str, BoolArray]
    sites: tuple[str, ...] | None
    seeds: tuple[int | None, ...] | None
    last_adaptation_step: int | None
    batches: tuple[tuple[int, str], ...] = ()
    """The number in its epoch and the digest of each step's first batch; empty where they are unknown."""


def measurements_of(event: Event) -> Measurements | None:
    """The measurements in `event`; None for a kind that has none."""
    match event:
        case StepsMeasured():
            return _steps(event)
        case SeedHealthMeasured():
            health = event.health
            columns, measured = _columns({name: getattr(health, "latency_ms" if name == "latency_s" else name) for name in HEALTH})
            columns["latency_s"][:] /= 1e3
            return Measurements(None, columns, measured, health.site, health.seed, event.last_adaptation_step)
        case EpochCompleted():
            return _run_level(_epoch(event))
        case ResourcesMeasured():
            return _run_level(_resources(event))
        case CustomMetricRecorded():
            return _run_level({_series(event.name, event.labels): (event.value,)})
        case _:
            return None


def _run_level(values: Mapping[str, _Values]) -> Measurements:
    return Measurements(None, *_columns(values), None, None, None)


def _steps(event: StepsMeasured) -> Measurements:
    steps = event.steps
    values: dict[str, _Values] = {
        "loss": steps.loss,
        "gradient_norm": steps.gradient_norm,
        "step_latency_s": steps.step_latency_ms,
        "data_wait_s": steps.data_wait_ms,
        "samples_per_s": (event.samples_per_s,),
        "memory_bytes": (event.memory_bytes,),
        "learning_rate": (max(event.learning_rates, default=None),),
    }
    columns, measured = _columns(values | {f"metric.{name}": column for name, column in event.metrics.items()})
    columns["step_latency_s"][:] /= 1e3
    columns["data_wait_s"][:] /= 1e3
    batches = () if event.batches is None else tuple(zip(event.batches.number, event.batches.sample, strict=True))
    return Measurements(np.array(steps.step, dtype=np.int64), columns, measured, None, None, event.last_adaptation_step, batches)


def _epoch(event: EpochCompleted) -> dict[str, _Values]:
    values: dict[str, _Values] = {"duration_s": (event.duration_s,), "samples_per_s": (event.samples_per_s,)}
    for name, part in (("train", event.train), ("validation", event.validation)):
        if part is not None:
            values |= {f"{name}.{metric}": (value,) for metric, value in part.metrics.items()}
            values |= {f"{name}.loss": (part.loss,), f"{name}.samples": (part.samples,)}
    return values


def _resources(event: ResourcesMeasured) -> dict[str, _Values]:
    values: dict[str, _Values] = {
        "cpu_utilization": (event.cpu_utilization,),
        "memory_used_ratio": (_ratio(event.memory_used_bytes, event.memory_total_bytes),),
        "disk_free_bytes": (event.disk_free_bytes,),
        "disk_free_ratio": (_ratio(event.disk_free_bytes, event.disk_total_bytes),),
        "network_received_bytes": (event.network_received_bytes,),
        "network_sent_bytes": (event.network_sent_bytes,),
        "log_dropped_samples": (event.log_dropped_samples,),
    }
    for gpu in event.gpus:
        used = _ratio(gpu.memory_used_bytes, gpu.memory_total_bytes)
        measured = (gpu.utilization, used, gpu.temperature_celsius, gpu.power_watts)
        values |= {f"gpu.{gpu.index}.{name}": (value,) for name, value in zip(_GPU, measured, strict=True)}
    return values


def _series(name: str, labels: Mapping[str, str]) -> str:
    """The series' name as Prometheus writes it, its labels in their order."""
    quoted = ((label, text.replace("\\", r"\\").replace('"', r"\"")) for label, text in sorted(labels.items()))
    return name + ("{" + ",".join(f'{label}="{text}"' for label, text in quoted) + "}" if labels else "")


def _ratio(part: int, total: int) -> float | None:
    return part / total if total else None


def _columns(values: Mapping[str, _Values]) -> tuple[dict[str, FloatArray], dict[str, BoolArray]]:
    columns: dict[str, FloatArray] = {}
    measured: dict[str, BoolArray] = {}
    for name, column in values.items():
        size, missing = len(column), column.count(None)
        # Nearly always all are measured or none: of 1,000 entries these take a fifth of the time of a mixture, whose None becomes NaN.
        columns[name] = np.full(size, np.nan) if missing == size else np.array(column, dtype=np.float64)
        mixed = missing not in {0, size}
        measured[name] = np.array([value is not None for value in column], np.bool_) if mixed else _each(size, missing == 0)
    return columns, measured


@lru_cache(maxsize=64)
def _each(size: int, known: bool) -> BoolArray:
    """`known` for each of `size` entries; shared, so it cannot be written to."""
    every = np.full(size, known, dtype=np.bool_)
    every.flags.writeable = False
    return every
