"""Metrics of the user's own: the rules that samples keep, over HTTP and in a training, and the values that the log has of them.

A batch is accepted whole or not at all. A metric's type and label names are fixed by its first sample; a counter's name ends with `_total`,
a gauge's does not, so that neither replaces the other in an exposition.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from esper.errors import DataError
from esper.events.kinds.telemetry import CustomMetricRecorded

MOST_LABELS = 4
MOST_CUSTOM_METRICS = 500
MOST_SERIES = 100  # Of one metric.
_NAME = re.compile(r"esper_custom_[a-z][a-z0-9_]{0,99}")
_KNOWN_BY_SUFFIX = "total|bucket|count|sum|created|info"
_END = r"(?!\n)"  # Python lets `$` stand before a last line break; the language of the description does not.
_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True, regex_engine="python-re")

_LabelName = Annotated[str, Field(pattern=r"^(?!(le|quantile)$)[a-z][a-z0-9_]{0,63}$" + _END)]
_LabelValue = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$" + _END)]
_Labels = Annotated[dict[_LabelName, _LabelValue], Field(max_length=MOST_LABELS, json_schema_extra={"additionalProperties": False})]
_About = Annotated[str, Field(max_length=128, description="The run that the sample is about.")]


class _Sample(BaseModel):
    model_config = _CONFIG
    labels: _Labels = {}
    about: _About | None = None


class GaugeSample(_Sample):
    """The present value of a gauge. `esper_custom_` is put before a name that does not begin with it."""

    name: Annotated[str, Field(pattern=rf"^(?!.*_({_KNOWN_BY_SUFFIX})$)(esper_custom_)?[a-z][a-z0-9_]{{0,99}}$" + _END)]
    type: Literal["gauge"]
    value: Annotated[float, Field(allow_inf_nan=False)]


class CounterSample(_Sample):
    """The increment of a counter. `esper_custom_` is put before a name that does not begin with it."""

    name: Annotated[str, Field(pattern=r"^(esper_custom_)?[a-z][a-z0-9_]{0,93}_total$" + _END)]
    type: Literal["counter"]
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]


CustomSample = GaugeSample | CounterSample


class CustomBatch(BaseModel):
    """Samples that are accepted together or not at all."""

    model_config = _CONFIG
    samples: Annotated[list[Annotated[CustomSample, Field(discriminator="type")]], Field(min_length=1, max_length=1000)]


class InvalidPart(BaseModel):
    """A mistake in a request: where, and what was expected."""

    model_config = _CONFIG
    pointer: str
    detail: str


class RefusedSamplesError(DataError):
    """Samples that do not fit what is known of their metrics, or would be too many. `parts` does not repeat them.

    `problem`: `metric-redefined`, a metric is known with another type or other labels; `too-many-series`, there would be more metrics, or
    more series of one, than may be.
    """

    def __init__(self, problem: Literal["metric-redefined", "too-many-series"], parts: Sequence[InvalidPart]) -> None:
        super().__init__("; ".join(f"{part.pointer}: {part.detail}" for part in parts))
        self.problem = problem
        self.parts = tuple(parts)


@dataclass(slots=True)
class _CustomMetric:
    """A metric: its type, its label names, and its value under each set of label values. None: accepted, not read from the log yet."""

    type: str
    labels: tuple[str, ...]
    series: dict[tuple[str, ...], float | None] = field(default_factory=dict)


class CustomMetrics:
    """The custom metrics of one log. `accept` checks samples and has them recorded, `add` takes them as they are read. For any threads."""

    def __init__(self, record: Callable[[Sequence[CustomMetricRecorded]], None]) -> None:
        self._record = record
        self._accepting = Lock()
        self._lock = Lock()
        self._known: dict[str, _CustomMetric] = {}

    def accept(self, samples: Sequence[CustomSample]) -> int:
        """Number of samples recorded: all of them. Raises RefusedSamplesError, and what `record` raises."""
        events = [_event(sample) for sample in samples]
        with self._accepting:
            with self._lock:
                grown = self._grown(events)
            self._record(events)
            with self._lock:
                for name, metric in grown.items():
                    known = self._known.setdefault(name, metric)
                    known.series = metric.series | known.series
        return len(events)

    def add(self, event: CustomMetricRecorded) -> None:
        """Takes a sample from the log. One that does not fit its metric, or is one too many, is left out."""
        labels, values = tuple(sorted(event.labels)), _label_values(event)
        with self._lock:
            known = self._known.get(event.name) or _CustomMetric(event.type, labels)
            full = len(self._known) >= MOST_CUSTOM_METRICS and event.name not in self._known
            full = full or (len(known.series) >= MOST_SERIES and values not in known.series)
            if full or (known.type, known.labels) != (event.type, labels):
                return
            before = known.series.get(values) if event.type == "counter" else None
            known.series[values] = event.value + (before or 0.0)
            self._known[event.name] = known

    def read(self) -> dict[str, _CustomMetric]:
        """A copy of every metric, in the order of their names."""
        with self._lock:
            return {name: deepcopy(self._known[name]) for name in sorted(self._known)}

    def _grown(self, events: Iterable[CustomMetricRecorded]) -> dict[str, _CustomMetric]:
        """The metrics of `events` once these are recorded."""
        grown: dict[str, _CustomMetric] = {}
        wrong: list[InvalidPart] = []
        for at, event in enumerate(events):
            labels = tuple(sorted(event.labels))
            metric = grown.get(event.name) or deepcopy(self._known.get(event.name)) or _CustomMetric(event.type, labels)
            if (metric.type, metric.labels) != (event.type, labels):
                detail = f"the metric is known as a {metric.type} with {len(metric.labels)} labels: expected the same type and label names"
                raise RefusedSamplesError("metric-redefined", [InvalidPart(pointer=f"/samples/{at}", detail=detail)])
            metric.series.setdefault(_label_values(event), None)
            grown[event.name] = metric
            if len(metric.series) > MOST_SERIES:
                wrong.append(InvalidPart(pointer=f"/samples/{at}/labels", detail=f"expected at most {MOST_SERIES} series of one metric"))
        if len(self._known.keys() | grown.keys()) > MOST_CUSTOM_METRICS:
            wrong.append(InvalidPart(pointer="/samples", detail=f"expected at most {MOST_CUSTOM_METRICS} metrics"))
        if wrong:
            raise RefusedSamplesError("too-many-series", wrong)
        return grown


def _event(sample: CustomSample) -> CustomMetricRecorded:
    name = sample.name if _NAME.fullmatch(sample.name) else f"esper_custom_{sample.name}"
    return CustomMetricRecorded(name=name, type=sample.type, labels=sample.labels, value=sample.value, about=sample.about)


def _label_values(event: CustomMetricRecorded) -> tuple[str, ...]:
    return tuple(event.labels[label] for label in sorted(event.labels))
