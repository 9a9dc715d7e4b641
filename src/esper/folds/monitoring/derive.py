"""Windows, trends, anomalies and alerts of one topic of one run, derived from each record in one step, in this order.

The result depends on the topic's records alone: not on how they are grouped, nor on when the state is saved and loaded. An observer's own
records go through the state of their topic in the same way. A topic ends with its StreamEnded, the run's own also with RunFinished or
RunFailed. After its end a state is as at first, so that a resumed run begins anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from esper.events.digests import digest_of, to_json
from esper.events.envelope import MICROSECOND, SINCE, Record
from esper.events.fields import Event, Part
from esper.events.kinds.observability import AnomalyDetected
from esper.events.kinds.run import RunFailed, RunFinished, StreamEnded
from esper.folds.monitoring.alerting import AlertSettings, AlertState, update_alerts
from esper.folds.monitoring.conditions import RuleInput
from esper.folds.monitoring.dead_or_idle import SilenceSettings
from esper.folds.monitoring.detectors.detect import DetectorState, find_anomalies, open_anomalies
from esper.folds.monitoring.detectors.thresholds import MISSING, DetectorSettings
from esper.folds.monitoring.measurements import METRICS, Measurements, measurements_of
from esper.folds.monitoring.origin import RecentSteps, update_recent
from esper.folds.monitoring.rules import AnomalySource, Labels, Rule
from esper.folds.monitoring.trends import TrendSettings, TrendState, update_trends
from esper.folds.monitoring.windows import WindowSettings, WindowState, update_windows

RULE_VERSIONS: Mapping[str, int] = {"windows": 1, "trends": 1, "detectors": 3, "missing": 1, "bounds": 1, "alerts": 2}
"""The version of each rule that derives events; it is raised when the same records would give other events."""

_BOUND = "bound"
"""The detector of an AnomalyDetected about a bound of this state that was reached."""


class MonitorSettings(Part):
    """Settings and alert rules of a run's monitoring."""

    windows: WindowSettings = WindowSettings()
    trends: TrendSettings = TrendSettings()
    detectors: DetectorSettings = DetectorSettings()
    alerts: AlertSettings = AlertSettings()
    silence: SilenceSettings = SilenceSettings()
    rules: tuple[Rule, ...] = ()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # Any: checked as always.
        """These settings with some replaced. (pydantic's own copy would keep the cached digest of the old ones.)"""
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
    """The derived state of one topic. `bounds`: those that were reached and are still in force."""

    windows: WindowState = field(default_factory=WindowState)
    trends: TrendState = field(default_factory=TrendState)
    detectors: DetectorState = field(default_factory=DetectorState)
    alerts: AlertState = field(default_factory=AlertState)
    bounds: tuple[str, ...] = ()
    recent: RecentSteps = field(default_factory=RecentSteps)


Derivation = tuple[str, Sequence[Event]]
"""The name of a rule in `RULE_VERSIONS`, and the events that it derives from a record."""


def derive_events(
    state: TopicState, record: Record, event: Event, settings: MonitorSettings, missing: int = 0
) -> tuple[TopicState, list[Derivation]]:
    """`state` after `record`, which holds `event`, and what is derived from it.

    `missing`: number of telemetry records that were lost just before it.
    """
    topic, time_us = record.topic, (record.time - SINCE) // MICROSECOND
    read = measurements_of(event) if topic in METRICS else None
    ends = isinstance(event, StreamEnded | RunFinished | RunFailed)
    made: list[Derivation] = []
    found: tuple[AnomalyDetected, ...] = ()
    if topic in METRICS:
        state, made, found = _measured(state, record, event, read, settings)
        if missing and MISSING not in settings.detectors.off:
            lost = _anomaly(topic, MISSING, "records", float(missing), expected=0.0, score=float(missing), step=record.step)
            made.append(("missing", (lost,)))
            # The end of a topic resolves its alerts: one that began with its last record would never be resolved.
            found = found if ends else (*found, lost)
    rules = settings.rules_of.get(topic, ())
    asked = not ends and any(isinstance(rule.source, AnomalySource) for rule in rules)
    open_now = open_anomalies(state.detectors, settings.detectors.off) if asked else frozenset[Labels]()
    alerted, changes = update_alerts(
        state.alerts, rules, RuleInput(record, time_us, event, read, found, open_now, ends, state.recent), settings.alerts
    )
    state = _bounded(state if alerted is state.alerts else replace(state, alerts=alerted), record, settings, made)
    made.append(("alerts", changes))
    return (TopicState(alerts=state.alerts) if ends else state), made


def _measured(
    state: TopicState, record: Record, event: Event, read: Measurements | None, settings: MonitorSettings
) -> tuple[TopicState, list[Derivation], tuple[AnomalyDetected, ...]]:
    """`state` with the measurements of `record`, what is derived from them, and the anomalies among it."""
    topic, time_us, found = record.topic, (record.time - SINCE) // MICROSECOND, tuple[AnomalyDetected, ...]()
    windowed, closed = update_windows(state.windows, topic, time_us, read, settings.windows)
    trended, turns = update_trends(state.trends, topic, closed, settings.trends)
    detected = state.detectors
    if read is not None:
        detected, found = find_anomalies(detected, topic, read, settings.detectors, record.step)
    state = replace(state, windows=windowed, trends=trended, detectors=detected, recent=update_recent(state.recent, event))
    return state, [("windows", closed), ("trends", turns), ("detectors", found)], found


def _bounded(state: TopicState, record: Record, settings: MonitorSettings, made: list[Derivation]) -> TopicState:
    limits = {
        "alerts": (state.alerts.full, settings.alerts.most),
        "trends": (state.trends.full, settings.trends.metrics),
        "windows": (state.windows.full, settings.windows.metrics),
    }
    reached = {name: float(limit) for name, (full, limit) in limits.items() if full}
    if tuple(reached) == state.bounds:
        return state
    new = [
        _anomaly(record.topic, _BOUND, name, limit, expected=limit, score=1.0, step=record.step)
        for name, limit in reached.items()
        if name not in state.bounds
    ]
    made.append(("bounds", new))
    return replace(state, bounds=tuple(reached))


def _anomaly(topic: str, detector: str, metric: str, value: float, *, expected: float, score: float, step: int) -> AnomalyDetected:
    return AnomalyDetected(
        topic=topic,
        detector=detector,
        metric=metric,
        site=None,
        seed=None,
        value=value,
        expected=expected,
        score=score,
        since_step=step,
    )
