"""What a metric of the user's own may be: the one place where samples are checked, whoever brings them.

A batch is accepted whole or not at all. A metric's type and label names are fixed by its first sample; a counter's name ends with `_total`,
a gauge's does not, so that neither ever stands in the other's place in an exposition.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from esper.errors import DataError
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.nissa.metrics.model import CUSTOM_METRICS, CUSTOM_SERIES, Custom
from esper.nissa.views import CustomSample, InvalidPart

PREFIX = "esper_custom_"
MOST_LABELS = 4
LONGEST_VALUE = 128
_NAME = re.compile(r"esper_custom_[a-z][a-z0-9_]{0,99}")
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = frozenset({"le", "quantile"})
_SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_created", "_info")


class InvalidSamplesError(DataError):
    """Samples break a rule; `parts` says which, and where, without repeating them."""

    def __init__(self, parts: Sequence[InvalidPart]) -> None:
        super().__init__("; ".join(f"{part.pointer}: {part.detail}" for part in parts))
        self.parts = tuple(parts)


class RedefinedError(InvalidSamplesError):
    """A metric is known with another type or other labels."""


@dataclass(slots=True)
class _Known:
    type: str
    labels: tuple[str, ...]
    series: set[tuple[str, ...]] = field(default_factory=set)


def full_name(name: str) -> str:
    """`name` with the prefix that every custom metric has."""
    return name if name.startswith(PREFIX) else PREFIX + name


def faults(sample: CustomSample, at: str) -> Iterable[InvalidPart]:
    """What is wrong with one sample by itself; `at` is where it stands."""
    name = full_name(sample.name)
    if not _NAME.fullmatch(name):
        yield InvalidPart(pointer=f"{at}/name", detail="expected small letters, digits and _, a letter first, at most 100 after the prefix")
    if sample.type == "counter" and not name.endswith("_total"):
        yield InvalidPart(pointer=f"{at}/name", detail="expected the name of a counter to end with _total")
    if sample.type == "gauge" and name.endswith(_SUFFIXES):
        yield InvalidPart(pointer=f"{at}/name", detail=f"expected the name of a gauge to end with none of {', '.join(_SUFFIXES)}")
    # Written so that NaN fails: every comparison with it is false.
    if sample.type == "counter" and not sample.value >= 0:
        yield InvalidPart(pointer=f"{at}/value", detail="expected what a counter grew by: 0 or more")
    yield from _label_faults(sample.labels, at)


def _label_faults(labels: Mapping[str, str], at: str) -> Iterable[InvalidPart]:
    if len(labels) > MOST_LABELS:
        yield InvalidPart(pointer=f"{at}/labels", detail=f"expected at most {MOST_LABELS} labels")
    if any(not _LABEL.fullmatch(name) or name in _RESERVED for name in labels):
        yield InvalidPart(pointer=f"{at}/labels", detail="expected label names of small letters, digits and _; neither le nor quantile")
    if any(len(value) > LONGEST_VALUE or not value.isprintable() for value in labels.values()):
        yield InvalidPart(pointer=f"{at}/labels", detail=f"expected label values of at most {LONGEST_VALUE} printable characters")


class CustomMetrics:
    """Accepts samples: checks them against each other and against all that is known, and has them recorded. For any number of threads."""

    def __init__(self, known: Callable[[], Iterable[Custom]], record: Callable[[Sequence[CustomMetricRecorded]], None]) -> None:
        self._logged = known
        self._record = record
        self._lock = Lock()
        self._known: dict[str, _Known] = {}

    def accept(self, samples: Sequence[CustomSample]) -> int:
        """How many samples are durable now: all of them. Raises InvalidSamplesError, RedefinedError, and what `record` raises."""
        wrong = [part for at, sample in enumerate(samples) for part in faults(sample, f"/samples/{at}")]
        if wrong:
            raise InvalidSamplesError(wrong)
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
            raise InvalidSamplesError(wrong)
        return grown

    def _copy(self, name: str) -> _Known | None:
        known = self._known.get(name)
        return None if known is None else _Known(known.type, known.labels, set(known.series))


def _event(sample: CustomSample) -> CustomMetricRecorded:
    return CustomMetricRecorded(name=full_name(sample.name), type=sample.type, labels=sample.labels, value=sample.value, about=sample.about)
