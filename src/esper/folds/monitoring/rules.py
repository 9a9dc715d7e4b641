"""Alert rules as data: source, duration, severity, labels and annotations.

A rule reads one topic and has one source: a metric of that topic with a limit, an anomaly that a detector finds there, or a kind of event.
`rule_files` reads rules from TOML; `alerts` applies them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Literal

Severity = Literal["info", "warning", "critical"]
Scalar = str | int | bool
Labels = tuple[tuple[str, str], ...]

SOURCE_LABELS = ("site", "seed", "metric", "detector")
"""What an alert may be about, besides the labels that its rule gives it; a closed set, so that alerts stay few."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A value is out of it when above, below or not finite. Once firing, an alert ends at `clear` (hysteresis), by default at the limit.

    NaN is neither above nor below anything, and neither clears an alert: only `not_finite` is satisfied by it, and by both infinities.
    """

    side: Literal["above", "below", "not_finite"]
    value: float = 0.0
    clear: float = 0.0


@dataclass(frozen=True, slots=True)
class MetricSource:
    """A metric of the topic is out of `limit`; for a metric of seeds each site and seed is judged alone."""

    metric: str
    limit: Limit


@dataclass(frozen=True, slots=True)
class AnomalySource:
    """`detector` finds an anomaly in the topic, in any metric or in one."""

    detector: str
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class EventSource:
    """An event of `kind` stands in the topic `count` times within `within_s` of event time.

    Counted are events whose fields equal `where` and whose `field`, if there is one, is out of `limit`; for each set of the labels `by`
    alone. The alert's value is that of `field`. An event of a kind in `until` ends the alert where its labels are the same.
    """

    kind: str
    where: tuple[tuple[str, Scalar], ...] = ()
    field: str | None = None
    limit: Limit | None = None
    count: int = 1
    within_s: int | None = None
    by: tuple[str, ...] = ("site", "seed")
    until: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """The condition on `topic` under which an alert of this name is raised, and its texts.

    `for_s`: event time for which the source must hold. `keep_s`: event time for which an alert fires on after its source stopped holding;
    None on an event: until `until`, or the end of the stream or run. Templates name labels; annotations also the value and fields of the
    event.
    """

    name: str
    topic: str
    source: MetricSource | AnomalySource | EventSource
    severity: Severity
    for_s: int = 0
    keep_s: int | None = None
    labels: Labels = ()
    annotations: Labels = ()


def template_fields(template: str) -> frozenset[str]:
    """The names in braces of a label's or annotation's template. Raises ValueError where the braces hold more than a name."""
    names: set[str] = set()
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if spec or conversion or not name.isidentifier():
            more = ("!" + conversion if conversion else "") + (":" + spec if spec else "")
            raise ValueError(f"expected a name alone in braces, got {{{name}{more}}}")
        names.add(name)
    return frozenset(names)


def rendered(template: str, values: Mapping[str, str]) -> str:
    """`template` with what `values` has for its names; "-" for a label that this alert does not have."""
    return template.format_map({name: values.get(name, "-") for name in template_fields(template)})


def source_labels(site: str | None, seed: int | None, metric: str, detector: str | None = None) -> Labels:
    """The labels of a measurement or an anomaly, in the order of `SOURCE_LABELS`."""
    place: Labels = () if site is None else (("site", site),) if seed is None else (("site", site), ("seed", str(seed)))
    return (*place, ("metric", metric)) if detector is None else (*place, ("metric", metric), ("detector", detector))
