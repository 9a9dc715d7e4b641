"""What a metric of the user's own may be: the one place where samples are checked, whoever brings them.

A batch is accepted whole or not at all. A metric's type and label names are fixed by its first sample; a counter's name ends with `_total`,
a gauge's does not, so that neither ever stands in the other's place in an exposition.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from esper.errors import DataError
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.nissa.metrics.model import CUSTOM_METRICS, CUSTOM_SERIES, Custom
from esper.nissa.views.service import InvalidPart

PREFIX = "esper_custom_"
MOST_LABELS = 4
_NAME = re.compile(r"esper_custom_[a-z][a-z0-9_]{0,99}")
_KNOWN_BY_SUFFIX = "total|bucket|count|sum|created|info"
_END = r"(?!\n)"  # Python lets `$` stand before a last line break; the language of the description does not.
_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True, regex_engine="python-re")

LabelName = Annotated[str, Field(pattern=r"^(?!(le|quantile)$)[a-z][a-z0-9_]{0,63}$" + _END)]
LabelValue = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$" + _END)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=MOST_LABELS, json_schema_extra={"additionalProperties": False})]
About = Annotated[str, Field(max_length=128, description="The run that the sample is about.")]


class GaugeSample(BaseModel):
    """What a gauge is now. `esper_custom_` is put before a name that does not begin with it."""

    model_config = _CONFIG
    name: Annotated[str, Field(pattern=rf"^(?!.*_({_KNOWN_BY_SUFFIX})$)(esper_custom_)?[a-z][a-z0-9_]{{0,99}}$" + _END)]
    type: Literal["gauge"]
    labels: Labels = {}
    value: Annotated[float, Field(allow_inf_nan=False)]
    about: About | None = None


class CounterSample(BaseModel):
    """What a counter grew by. `esper_custom_` is put before a name that does not begin with it."""

    model_config = _CONFIG
    name: Annotated[str, Field(pattern=r"^(esper_custom_)?[a-z][a-z0-9_]{0,93}_total$" + _END)]
    type: Literal["counter"]
    labels: Labels = {}
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    about: About | None = None


CustomSample = GaugeSample | CounterSample


class CustomBatch(BaseModel):
    """Samples that are accepted together or not at all."""

    model_config = _CONFIG
    samples: Annotated[list[Annotated[CustomSample, Field(discriminator="type")]], Field(min_length=1, max_length=1000)]


class RefusedSamplesError(DataError):
    """Samples that do not fit what is known of their metrics; `parts` says where and why, without repeating them."""

    def __init__(self, parts: Sequence[InvalidPart]) -> None:
        super().__init__("; ".join(f"{part.pointer}: {part.detail}" for part in parts))
        self.parts = tuple(parts)


class RedefinedError(RefusedSamplesError):
    """A metric is known with another type or other labels."""


class TooManyError(RefusedSamplesError):
    """There would be more metrics, or more series of one, than may be."""


@dataclass(slots=True)
class _Known:
    type: str
    labels: tuple[str, ...]
    series: set[tuple[str, ...]] = field(default_factory=set)


def full_name(name: str) -> str:
    """`name` with the prefix that every custom metric has."""
    return name if _NAME.fullmatch(name) else PREFIX + name


class CustomMetrics:
    """Accepts samples: checks them against each other and against all that is known, and has them recorded. For any number of threads."""

    def __init__(self, known: Callable[[], Iterable[Custom]], record: Callable[[Sequence[CustomMetricRecorded]], None]) -> None:
        self._logged = known
        self._record = record
        self._lock = Lock()
        self._known: dict[str, _Known] = {}

    def accept(self, samples: Sequence[CustomSample]) -> int:
        """How many samples `record` has taken: all of them. Raises RedefinedError, TooManyError, and what `record` raises."""
        with self._lock:
            self._learn()
            grown = self._grown(samples)
            self._record([_event(sample) for sample in samples])
            self._known |= grown
        return len(samples)

    def _learn(self) -> None:
        for custom in self._logged():
            known = self._known.setdefault(custom.name, _Known(custom.type, custom.labels))
            known.series.update(custom.series)

    def _grown(self, samples: Sequence[CustomSample]) -> dict[str, _Known]:
        """The metrics of `samples` as they are once these are recorded."""
        grown: dict[str, _Known] = {}
        wrong: list[InvalidPart] = []
        for at, sample in enumerate(samples):
            name, labels = full_name(sample.name), tuple(sorted(sample.labels))
            known = grown.get(name) or self._copy(name) or _Known(sample.type, labels)
            if (known.type, known.labels) != (sample.type, labels):
                detail = f"the metric is known as a {known.type} with {len(known.labels)} labels: expected the same type and label names"
                raise RedefinedError([InvalidPart(pointer=f"/samples/{at}", detail=detail)])
            known.series.add(tuple(sample.labels[label] for label in labels))
            grown[name] = known
            if len(known.series) > CUSTOM_SERIES:
                wrong.append(InvalidPart(pointer=f"/samples/{at}/labels", detail=f"expected at most {CUSTOM_SERIES} series of one metric"))
        if len(self._known.keys() | grown.keys()) > CUSTOM_METRICS:
            wrong.append(InvalidPart(pointer="/samples", detail=f"expected at most {CUSTOM_METRICS} metrics"))
        if wrong:
            raise TooManyError(wrong)
        return grown

    def _copy(self, name: str) -> _Known | None:
        known = self._known.get(name)
        return None if known is None else _Known(known.type, known.labels, set(known.series))


def _event(sample: CustomSample) -> CustomMetricRecorded:
    return CustomMetricRecorded(name=full_name(sample.name), type=sample.type, labels=sample.labels, value=sample.value, about=sample.about)
