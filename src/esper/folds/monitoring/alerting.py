"""The states of alerts: pending, firing, resolved, one alert for each rule and set of labels, in the event time of one topic.

                 holds, `for` > 0              held for `for`
    (nothing) --------------------> pending --------------------> firing
        |                              | a value does not satisfy    | cleared, and quiet for `keep_firing_for`; `until`;
        | holds, no `for`              v                             v the stream or run ended; the rule is gone
        +--------------> firing     resolved                      resolved

Every arrow is an event; an alert takes at most one in a record, except where the end of a run, which resolves what fires, is itself the
event that a rule waits for. An alert that was only pending is resolved without having fired, and is not delivered. Event time passes with
the records of the topic: without new records its alerts stay as they are.

At most `AlertSettings.most` alerts are kept, a quarter of them for critical rules alone. What holds beyond that is not raised; it is raised
later, if it still holds when there is room (`AlertState.full`).
"""

import math
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, get_args

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from esper.events.digests import digest_of
from esper.events.envelope import MICROSECOND, SINCE, written_time
from esper.events.fields import Event, Float, Part
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved, AnomalyDetected
from esper.folds.monitoring import conditions
from esper.folds.monitoring.conditions import Condition
from esper.folds.monitoring.measurements import Measurements
from esper.folds.monitoring.open_alerts import AlertChange
from esper.folds.monitoring.rules import AnomalySource, EventSource, Labels, MetricSource, Rule, Severity, rendered, template_fields

_LONGEST = 300
"""Most characters of a text in an annotation."""


class AlertSettings(Part):
    """How many alerts of one topic are kept at once, pending and firing."""

    most: Annotated[int, Field(ge=2, le=65_536)] = 1024


class Alert(NamedTuple):
    """A pending or firing alert. `quiet_us`: the time since which its condition does not hold; None while it holds."""

    firing: bool
    since_us: int
    quiet_us: int | None
    severity: Severity
    own: Labels
    """The labels that its rule gives."""
    value: Float | None
    """The value that raised it, for its annotations."""
    about: Labels = ()
    """Fields of the event that raised it, for its annotations."""


class _AsPairs:
    """Mark of a map that is saved as a list of pairs, because the keys of a JSON object are texts."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        pair = core_schema.tuple_schema([handler.generate_schema(one) for one in get_args(source)])
        pairs = core_schema.list_schema(pair)
        items = core_schema.plain_serializer_function_ser_schema(lambda table: list(table.items()), return_schema=pairs)
        return core_schema.no_info_after_validator_function(dict, pairs, serialization=items)


@dataclass(frozen=True, slots=True)
class AlertState:
    """The alerts of a topic by rule and labels, and the last times of counted events. `full`: a condition holds that has no room."""

    active: Mapping[str, Annotated[Mapping[Labels, Alert], _AsPairs()]] = field(default_factory=dict)
    counted: Mapping[str, Annotated[Mapping[Labels, tuple[int, ...]], _AsPairs()]] = field(default_factory=dict)
    full: bool = False

    @property
    def firing(self) -> int:
        """Number of alerts that fire."""
        return sum(alert.firing for row in self.active.values() for alert in row.values())


class RuleInput(NamedTuple):
    """Input of a topic's rules: an event, its measurements, the anomalies that begin in it, and the open ones by labels."""

    topic: str
    time_us: int
    event: Event
    read: Measurements | None
    found: Sequence[AnomalyDetected]
    open: Collection[Labels]
    ends: bool
    """The topic ends with the event."""


def update_alerts(
    state: AlertState, rules: Sequence[Rule], given: RuleInput, settings: AlertSettings
) -> tuple[AlertState, tuple[AlertChange, ...]]:
    """`state` after a record, and the changes of alerts in the order of their rules; `rules` are those of the record's topic."""
    work = _Step(state, rules, given, settings)
    if state.active or state.counted:
        work.drop_gone(set() if given.ends else {rule.name for rule in rules})
    for rule in rules:
        active = work.active.get(rule.name, {})
        condition = work.condition(rule, active)
        if active or condition.holds:
            work.advance(rule, condition, active)
    return work.done(state), tuple(work.events)


class _Step:
    """A step in progress: the state after it, and the changes so far."""

    def __init__(self, state: AlertState, rules: Sequence[Rule], given: RuleInput, settings: AlertSettings) -> None:
        self.annotations = {rule.name: rule.annotations for rule in rules}
        self.given, self.most, self.now_us = given, settings.most, given.time_us
        self.active = dict(state.active)
        self.counted = dict(state.counted)
        self.refused = False
        self.events: list[AlertChange] = []

    def done(self, before: AlertState) -> AlertState:
        if not self.events and not self.refused and self.active == before.active and self.counted == before.counted and not before.full:
            return before
        return AlertState(self.active, self.counted, self.refused or (before.full and self._alerts() >= self.most * 3 // 4))

    def drop_gone(self, names: Set[str]) -> None:
        """Resolves the alerts of rules that are not in `names`, and forgets what was counted for them."""
        for name in sorted(self.active.keys() - names):
            for key, alert in sorted(self.active.pop(name).items()):
                self._change(AlertResolved, name, key, alert, None)
        for name in self.counted.keys() - names:
            del self.counted[name]

    def condition(self, rule: Rule, active: Mapping[Labels, Alert]) -> Condition:
        given, source = self.given, rule.source
        match source:
            case MetricSource():
                return conditions.of_metric(source, given.read, active, lasting=rule.for_s > 0)
            case AnomalySource():
                if not (active or given.found or given.open):
                    return conditions.NO_DATA
                return conditions.of_anomalies(source, given.found, given.open, active)
            case EventSource():
                condition = conditions.of_event(source, given.event)
                for key in sorted(conditions.ended_by(source, given.event, active)) if active else ():
                    if key not in condition.holds:  # One kind may raise and end, by its fields.
                        self._end(rule, key)
                return self._enough(rule, source, condition) if source.within_s is not None and condition.holds else condition

    def _enough(self, rule: Rule, source: EventSource, condition: Condition) -> Condition:
        assert source.within_s is not None, "counting has a span"
        oldest_us = self.now_us - source.within_s * 1_000_000
        times = {key: row for key, row in self.counted.get(rule.name, {}).items() if row[-1] >= oldest_us}
        holds = {}
        for key, value in condition.holds.items():
            if key not in times and len(times) >= self.most:
                self.refused = True
                continue
            times[key] = (*times.get(key, ()), self.now_us)[-source.count :]
            if len(times[key]) == source.count and times[key][0] >= oldest_us:
                holds[key] = value
        self.counted[rule.name] = times
        return Condition(holds)

    def _end(self, rule: Rule, key: Labels) -> None:
        alerts = dict(self.active[rule.name])
        self._change(AlertResolved, rule.name, key, alerts.pop(key), None)
        self._keep(rule.name, alerts)

    def advance(self, rule: Rule, condition: Condition, before: Mapping[Labels, Alert]) -> None:
        alerts = dict(self.active.get(rule.name, {}))
        for key in sorted(alerts):
            after = self._moved(rule, condition, key, alerts[key])
            if after is None:
                del alerts[key]
            else:
                alerts[key] = after
        for key, value in condition.holds.items():
            if key in before:
                continue
            if self._has_room(rule, len(alerts) - len(self.active.get(rule.name, {}))):
                alerts[key] = self._begun(rule, key, value)
            else:
                self.refused = True
        self._keep(rule.name, alerts)

    def _moved(self, rule: Rule, condition: Condition, key: Labels, alert: Alert) -> Alert | None:
        if not alert.firing:
            return self._pending(rule, condition, key, alert)
        if key in condition.holds:
            # An event does not last: its alert is quiet from the next moment on, if its rule gives it a time.
            quiet_us = self.now_us if isinstance(rule.source, EventSource) and rule.keep_s is not None else None
            return alert if quiet_us == alert.quiet_us else alert._replace(quiet_us=quiet_us)
        quiet_us = self.now_us if alert.quiet_us is None and key in condition.clears else alert.quiet_us
        if quiet_us is not None and self.now_us - quiet_us >= (rule.keep_s or 0) * 1_000_000:
            self._change(AlertResolved, rule.name, key, alert, condition.clears.get(key))
            return None
        return alert if quiet_us == alert.quiet_us else alert._replace(quiet_us=quiet_us)

    def _pending(self, rule: Rule, condition: Condition, key: Labels, alert: Alert) -> Alert | None:
        if key in condition.holds:
            if self.now_us - alert.since_us < rule.for_s * 1_000_000:
                return alert
            fired = alert._replace(firing=True, value=condition.holds[key])
            self._change(AlertFiring, rule.name, key, fired, fired.value)
            return fired
        if key not in condition.fails:
            return alert
        self._change(AlertResolved, rule.name, key, alert, condition.fails[key])
        return None

    def _begun(self, rule: Rule, key: Labels, value: float | None) -> Alert:
        quiet_us = self.now_us if isinstance(rule.source, EventSource) and rule.keep_s is not None else None
        own = tuple((name, rendered(template, dict(key))) for name, template in rule.labels)
        about = _about(rule, self.given.event) if isinstance(rule.source, EventSource) else ()
        alert = Alert(rule.for_s == 0, self.now_us, quiet_us, rule.severity, own, value, about)
        self._change(AlertFiring if alert.firing else AlertPending, rule.name, key, alert, value)
        return alert

    def _has_room(self, rule: Rule, more: int) -> bool:
        return self._alerts() + more < (self.most if rule.severity == "critical" else self.most * 3 // 4)

    def _alerts(self) -> int:
        return sum(map(len, self.active.values()))

    def _keep(self, name: str, alerts: dict[Labels, Alert]) -> None:
        if alerts:
            self.active[name] = alerts
        else:
            self.active.pop(name, None)

    def _change(self, kind: type[AlertChange], name: str, key: Labels, alert: Alert, value: float | None) -> None:
        labels = dict(alert.own) | dict(key)
        values = {"value": "unknown"} | dict(alert.about) | labels | ({} if alert.value is None else {"value": _written(alert.value)})
        self.events.append(
            kind(
                fingerprint=_fingerprint(self.given.topic, name, labels),
                rule=name,
                severity=alert.severity,
                topic=self.given.topic,
                labels=labels,
                annotations={label: rendered(template, values) for label, template in self.annotations.get(name, ())},
                value=value,
                since=written_time(SINCE + alert.since_us * MICROSECOND),
            )
        )


def _about(rule: Rule, event: Event) -> Labels:
    """The fields of `event` that the rule's annotations name: each on one line, cut to `_LONGEST`."""
    names = {name for _, template in rule.annotations for name in template_fields(template)} & type(event).model_fields.keys()
    told = {name: getattr(event, name) for name in sorted(names)}
    return tuple((name, " ".join(str(value).split())[:_LONGEST]) for name, value in told.items() if value is not None)


def _written(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _fingerprint(topic: str, rule: str, labels: Mapping[str, str]) -> str:
    """The identity of an alert within a run: the same topic, rule and labels give the same, 32 hex digits."""
    return digest_of([topic, rule, dict(labels)])[:32]
