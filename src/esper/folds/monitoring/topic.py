"""Everything that is derived from one topic of one run, in one step: windows, trends, anomalies, alerts, in this order.

A host keeps one `TopicState` for each (run, topic) that `watched` names, and hands every admitted record of that topic to `step`, in order.
What comes out depends on nothing else: not on how records were grouped, nor on when the state was saved and loaded again, and made again it
is the same, to the ids (`derived`). Records that the observer itself says of a run go through the state of their own topic in the same way.

A topic ends with its StreamEnded, the run's own also with RunFinished or RunFailed. After its end a state is as at first, so that a resumed
run begins anew.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from esper.errors import DataError, RuleError
from esper.events.codec import encode
from esper.events.digests import derived_id, digest_of, to_json
from esper.events.envelope import MICROSECOND, SINCE, Record
from esper.events.fields import CONFIG, Event, Part
from esper.events.kinds.observability import AnomalyDetected
from esper.events.kinds.run import RunFailed, RunFinished, StreamEnded
from esper.folds.monitoring import alerts, trends, windows
from esper.folds.monitoring.alerts import Alert, AlertSettings, AlertState, RuleInput
from esper.folds.monitoring.conditions import anomaly_labels
from esper.folds.monitoring.detectors import detect as detectors
from esper.folds.monitoring.detectors.detect import DetectorSettings, DetectorState
from esper.folds.monitoring.measurements import METRICS, Measurements, measurements_of
from esper.folds.monitoring.rules import AnomalySource, Labels, Rule
from esper.folds.monitoring.silence import SilenceSettings
from esper.folds.monitoring.trends import TrendSettings, TrendState
from esper.folds.monitoring.windows import WindowSettings, WindowState

RULE_VERSIONS: Mapping[str, int] = {"windows": 1, "trends": 1, "detectors": 1, "missing": 1, "bounds": 1, "alerts": 1}
"""What derives events here, by name; a version is raised when the same records would give other events."""

BOUND = "bound"
"""The detector of an AnomalyDetected that says: a bound of this state was reached, and what came later is left out."""


class MonitorSettings(Part):
    """How a run is watched, and by which rules."""

    windows: WindowSettings = WindowSettings()
    trends: TrendSettings = TrendSettings()
    detectors: DetectorSettings = DetectorSettings()
    alerts: AlertSettings = AlertSettings()
    silence: SilenceSettings = SilenceSettings()
    rules: tuple[Rule, ...] = ()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # Any: checked as always.
        """These settings with some replaced. Made anew: pydantic's own copy would keep the digest of the old ones."""
        copied = super().model_copy(deep=deep)
        return type(self)(**{name: getattr(copied, name) for name in type(self).model_fields} | dict(update or {}))

    @cached_property
    def settings_digest(self) -> str:
        """sha256 over all settings: part of the id of everything derived under them."""
        return digest_of(to_json(self))

    @cached_property
    def rules_of(self) -> Mapping[str, tuple[Rule, ...]]:
        """The rules of each topic that has some."""
        return {topic: tuple(rule for rule in self.rules if rule.topic == topic) for topic in {rule.topic for rule in self.rules}}

    @cached_property
    def watched(self) -> frozenset[str]:
        """The topics from which something is derived: those with metrics, and those with rules."""
        return frozenset(METRICS) | self.rules_of.keys()


@dataclass(frozen=True, slots=True)
class TopicState:
    """What is remembered of one topic of one run. `bounds` are those that were reached and are still in force."""

    topic: str
    windows: WindowState = field(default_factory=WindowState)
    trends: TrendState = field(default_factory=TrendState)
    detectors: DetectorState = field(default_factory=detectors.initial)
    alerts: AlertState = field(default_factory=AlertState)
    bounds: frozenset[str] = frozenset()


class Derivation(NamedTuple):
    """One event that follows from a record, and what made it."""

    rule: str
    version: int
    event: Event


def initial(topic: str) -> TopicState:
    """The state of `topic` before its first record."""
    return TopicState(topic)


def step(
    state: TopicState, record: Record, event: Event, settings: MonitorSettings, missing: int = 0
) -> tuple[TopicState, tuple[Derivation, ...]]:
    """`state` after `record`, which holds `event`, and what follows from it; so many records of telemetry before it are `missing`.

    Raises RuleError for a record of another topic.
    """
    ends = isinstance(event, StreamEnded | RunFinished | RunFailed)
    if record.topic != state.topic:
        raise RuleError(f"expected records of topic {state.topic}, got {record.type} of topic {record.topic}, run {record.run}")
    topic, time_us = state.topic, (record.time - SINCE) // MICROSECOND
    read = measurements_of(event) if topic in METRICS else None
    made: list[tuple[str, Sequence[Event]]] = []
    found: tuple[AnomalyDetected, ...] = ()
    if topic in METRICS:
        state, found = _measured(state, time_us, read, settings, made)
        if missing and detectors.MISSING not in settings.detectors.off:
            lost = detectors.missing(topic, missing)
            made.append(("missing", (lost,)))
            # A stream that ends ends its alerts: one that began with its last record would never end.
            found = found if ends else (*found, lost)
    rules = settings.rules_of.get(topic, ())
    # What ends lasts no longer.
    seen = RuleInput(topic, time_us, event, read, found, frozenset() if ends else _lasting(state, rules, settings.detectors.off), ends)
    alerted, changes = alerts.step(state.alerts, rules, seen, settings.alerts)
    state = _bounded(state if alerted is state.alerts else replace(state, alerts=alerted), settings, made)
    made.append(("alerts", changes))
    derivations = tuple(Derivation(rule, RULE_VERSIONS[rule], one) for rule, events in made for one in events)
    return (replace(initial(topic), alerts=state.alerts) if ends else state), derivations


def derived(record: Record, derivations: Sequence[Derivation], settings_digest: str, writer: str) -> tuple[Record, ...]:
    """The records of what `step` derived from `record`: its moment, time and clocks, one generation on, and ids that can be made again."""
    made: list[Record] = []
    indexes: dict[str, int] = {}
    for rule, version, event in derivations:
        index = indexes[rule] = indexes.get(rule, -1) + 1
        made.append(
            record._replace(
                id=derived_id(record.id, rule, version, settings_digest, index),
                topic=event.TOPIC,
                writer=writer,
                sequence=None,
                fact=None,
                generation=record.generation + 1,
                type=event.KIND,
                cause=record.id,
                chain=None,
                data=encode(event),
            )
        )
    return tuple(made)


def to_form(state: TopicState) -> JsonValue:
    """`state` as JSON, to be kept with the position that it stands at."""
    kept = _Kept(
        topic=state.topic,
        windows=state.windows,
        trends=state.trends,
        detectors=detectors.to_form(state.detectors),
        alerts=[_KeptAlert(rule, key, alert) for rule, row in state.alerts.active.items() for key, alert in row.items()],
        counted=[_KeptTimes(rule, key, times) for rule, row in state.alerts.counted.items() for key, times in row.items()],
        full=state.alerts.full,
        bounds=sorted(state.bounds),
    )
    made: JsonValue = json.loads(_KEPT.dump_json(kept))
    return made


def from_form(value: JsonValue) -> TopicState:
    """The state that `to_form` wrote. Raises DataError for anything else: the host begins anew, or folds again."""
    try:
        kept = _KEPT.validate_json(json.dumps(value))
    except ValidationError as error:
        raise DataError(f"expected the form of a topic's state, got another: {error}") from error
    active: dict[str, dict[Labels, Alert]] = {}
    for rule, key, alert in kept.alerts:
        active.setdefault(rule, {})[key] = alert
    counted: dict[str, dict[Labels, tuple[int, ...]]] = {}
    for rule, key, times in kept.counted:
        counted.setdefault(rule, {})[key] = times
    detected = detectors.from_form(kept.detectors)
    alerted = AlertState(active, counted, kept.full)
    return TopicState(kept.topic, kept.windows, kept.trends, detected, alerted, frozenset(kept.bounds))


class _KeptAlert(NamedTuple):
    rule: str
    key: Labels
    alert: Alert


class _KeptTimes(NamedTuple):
    rule: str
    key: Labels
    times: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A topic's state without maps by tuples, which JSON does not have."""

    __pydantic_config__: ClassVar[ConfigDict] = CONFIG
    topic: str
    windows: WindowState
    trends: TrendState
    detectors: JsonValue
    alerts: list[_KeptAlert]
    counted: list[_KeptTimes]
    full: bool
    bounds: list[str]


_KEPT = TypeAdapter(_Kept)


def _measured(
    state: TopicState, time_us: int, read: Measurements | None, settings: MonitorSettings, made: list[tuple[str, Sequence[Event]]]
) -> tuple[TopicState, tuple[AnomalyDetected, ...]]:
    windowed, closed = windows.step(state.windows, state.topic, time_us, read, settings.windows)
    detected, found = detectors.Detected(state.detectors, ())
    if read is not None:
        detected, found = detectors.step(state.detectors, state.topic, read, settings.detectors)
    else:  # The stream ends.
        windowed, last = windows.close(windowed, state.topic, settings.windows)
        closed += last
    trended, turns = trends.step(state.trends, state.topic, closed, settings.trends)
    made += [("windows", closed), ("trends", turns), ("detectors", found)]
    return replace(state, windows=windowed, trends=trended, detectors=detected), found


def _lasting(state: TopicState, rules: Sequence[Rule], off: Collection[str]) -> frozenset[Labels]:
    if not any(isinstance(rule.source, AnomalySource) for rule in rules):
        return frozenset()
    return frozenset(anomaly_labels(*key) for key in detectors.active(state.detectors, off))


def _bounded(state: TopicState, settings: MonitorSettings, made: list[tuple[str, Sequence[Event]]]) -> TopicState:
    reached = {name for name, full in _full(state) if full}
    if reached == state.bounds:
        return state
    limits = {"windows": settings.windows.metrics, "trends": settings.trends.metrics, "alerts": settings.alerts.most}
    made.append(("bounds", [_bound(state.topic, name, float(limits[name])) for name in sorted(reached - state.bounds)]))
    return replace(state, bounds=frozenset(reached))


def _full(state: TopicState) -> tuple[tuple[str, bool], ...]:
    return ("windows", state.windows.full), ("trends", state.trends.full), ("alerts", state.alerts.full)


def _bound(topic: str, name: str, limit: float) -> AnomalyDetected:
    return AnomalyDetected(topic=topic, detector=BOUND, metric=name, site=None, seed=None, value=limit, expected=limit, score=1.0)
