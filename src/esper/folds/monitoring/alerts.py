"""The states of alerts: pending, firing, resolved, one alert for each rule and set of labels, in the event time of one topic.

                 holds, `for` > 0              held for `for`
    (nothing) --------------------> pending --------------------> firing
        |                              | a value does not satisfy    | cleared, and quiet for `keep_firing_for`; `until`;
        | holds, no `for`              v                             v the stream or run ended; the rule is gone
        +--------------> firing     resolved                      resolved

Every arrow is an event; an alert takes at most one in a record, but that the end of a run, which ends what fired, may itself be what a rule
waits for. An alert that was only pending is resolved without having fired: whoever tells people skips that one. Event time passes with the
records of the topic: a topic that is still keeps its alerts as they are.

At most `AlertSettings.most` alerts are kept, a quarter of them for critical rules alone. What holds beyond that is not raised; it is raised
later, if it still holds when there is room. `AlertState.full` says so, and `stream` records it.
"""

import math
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from esper.events.digests import digest_of
from esper.events.envelope import MICROSECOND, SINCE, written_time
from esper.events.fields import Event, Float, Part
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved, AnomalyDetected
from esper.folds.monitoring import conditions
from esper.folds.monitoring.conditions import Condition
from esper.folds.monitoring.measurements import Measurements
from esper.folds.monitoring.rules import AnomalySource, EventSource, Labels, MetricSource, Rule, Severity, rendered, template_fields

AlertEvent = AlertPending | AlertFiring | AlertResolved


LONGEST = 300
"""So many characters of a text are told: a line that is read, not a traceback."""


class AlertSettings(Part):
    """How many alerts of one topic are kept at once, pending and firing."""

    most: Annotated[int, Field(ge=2, le=65_536)] = 1024


class Alert(NamedTuple):
    """One alert that is pending or firing; `quiet_us` is since when nothing holds it up, None while something does."""

    firing: bool
    since_us: int
    quiet_us: int | None
    severity: Severity
    own: Labels
    """The labels that its rule gave it."""
    value: Float | None
    """That raised it: what its annotations speak of to the end."""
    about: Labels = ()
    """What else they tell of the event that raised it."""


@dataclass(frozen=True, slots=True)
class AlertState:
    """The alerts of a topic by rule and labels, and when what is counted happened last. `full`: something holds that has no room."""

    active: Mapping[str, Mapping[Labels, Alert]] = field(default_factory=dict)
    counted: Mapping[str, Mapping[Labels, tuple[int, ...]]] = field(default_factory=dict)
    full: bool = False


class RuleInput(NamedTuple):
    """What one record brings to the rules of its topic: its event and readings, anomalies found in it, and those that last, by labels."""

    topic: str
    time_us: int
    event: Event
    read: Measurements | None
    found: Sequence[AnomalyDetected]
    lasting: Collection[Labels]
    ends: bool
    """The stream or the run ends with it."""


def step(state: AlertState, rules: Sequence[Rule], seen: RuleInput, settings: AlertSettings) -> tuple[AlertState, tuple[AlertEvent, ...]]:
    """`state` after a record, and the changes of alerts in the order of their rules; `rules` are those of the record's topic."""
    work = _Step(state, rules, seen, settings)
    if state.active or state.counted:
        work.drop_gone(set() if seen.ends else {rule.name for rule in rules})
    for rule in rules:
        active = work.active.get(rule.name, {})
        judged = work.judge(rule, active)
        if active or judged.holds:
            work.advance(rule, judged, active)
    return work.done(state), tuple(work.events)


class _Step:
    """One step under way: the state as it becomes, and the changes so far."""

    def __init__(self, state: AlertState, rules: Sequence[Rule], seen: RuleInput, settings: AlertSettings) -> None:
        self.annotations = {rule.name: rule.annotations for rule in rules}
        self.seen, self.most, self.now_us = seen, settings.most, seen.time_us
        self.active = dict(state.active)
        self.counted = dict(state.counted)
        self.refused = False
        self.events: list[AlertEvent] = []

    def done(self, before: AlertState) -> AlertState:
        if not self.events and not self.refused and self.active == before.active and self.counted == before.counted and not before.full:
            return before
        return AlertState(self.active, self.counted, self.refused or (before.full and self._alerts() >= self.most * 3 // 4))

    def drop_gone(self, names: Set[str]) -> None:
        """Resolves the alerts of rules that are not in `names`, and forgets what was counted for them."""
        for name in sorted(self.active.keys() - names):
            for key, alert in sorted(self.active.pop(name).items()):
                self._tell(AlertResolved, name, key, alert, None)
        for name in self.counted.keys() - names:
            del self.counted[name]

    def judge(self, rule: Rule, active: Mapping[Labels, Alert]) -> Condition:
        seen, source = self.seen, rule.source
        match source:
            case MetricSource():
                return conditions.judge_metric(source, seen.read, active, lasting=rule.for_s > 0)
            case AnomalySource():
                if not (active or seen.found or seen.lasting):
                    return conditions.SILENT
                return conditions.judge_anomalies(source, seen.found, seen.lasting, active)
            case EventSource():
                judged = conditions.judge_event(source, seen.event)
                for key in sorted(conditions.ended_by(source, seen.event, active)) if active else ():
                    if key not in judged.holds:  # One kind may raise and end, by its fields.
                        self._end(rule, key)
                return self._enough(rule, source, judged) if source.within_s is not None and judged.holds else judged

    def _enough(self, rule: Rule, source: EventSource, judged: Condition) -> Condition:
        assert source.within_s is not None, "counting has a span"
        oldest_us = self.now_us - source.within_s * 1_000_000
        times = {key: row for key, row in self.counted.get(rule.name, {}).items() if row[-1] >= oldest_us}
        holds = {}
        for key, value in judged.holds.items():
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
        self._tell(AlertResolved, rule.name, key, alerts.pop(key), None)
        self._keep(rule.name, alerts)

    def advance(self, rule: Rule, judged: Condition, before: Mapping[Labels, Alert]) -> None:
        alerts = dict(self.active.get(rule.name, {}))
        for key in sorted(alerts):
            after = self._moved(rule, judged, key, alerts[key])
            if after is None:
                del alerts[key]
            else:
                alerts[key] = after
        for key, value in judged.holds.items():
            if key in before:
                continue
            if self._has_room(rule, len(alerts) - len(self.active.get(rule.name, {}))):
                alerts[key] = self._begun(rule, key, value)
            else:
                self.refused = True
        self._keep(rule.name, alerts)

    def _moved(self, rule: Rule, judged: Condition, key: Labels, alert: Alert) -> Alert | None:
        if not alert.firing:
            return self._pending(rule, judged, key, alert)
        if key in judged.holds:
            # An event does not last: its alert is quiet from the next moment on, if its rule gives it a time.
            quiet_us = self.now_us if isinstance(rule.source, EventSource) and rule.keep_s is not None else None
            return alert if quiet_us == alert.quiet_us else alert._replace(quiet_us=quiet_us)
        quiet_us = self.now_us if alert.quiet_us is None and key in judged.clears else alert.quiet_us
        if quiet_us is not None and self.now_us - quiet_us >= (rule.keep_s or 0) * 1_000_000:
            self._tell(AlertResolved, rule.name, key, alert, judged.clears.get(key))
            return None
        return alert if quiet_us == alert.quiet_us else alert._replace(quiet_us=quiet_us)

    def _pending(self, rule: Rule, judged: Condition, key: Labels, alert: Alert) -> Alert | None:
        if key in judged.holds:
            if self.now_us - alert.since_us < rule.for_s * 1_000_000:
                return alert
            fired = alert._replace(firing=True, value=judged.holds[key])
            self._tell(AlertFiring, rule.name, key, fired, fired.value)
            return fired
        if key not in judged.fails:
            return alert
        self._tell(AlertResolved, rule.name, key, alert, judged.fails[key])
        return None

    def _begun(self, rule: Rule, key: Labels, value: float | None) -> Alert:
        quiet_us = self.now_us if isinstance(rule.source, EventSource) and rule.keep_s is not None else None
        own = tuple((name, rendered(template, dict(key))) for name, template in rule.labels)
        about = _about(rule, self.seen.event) if isinstance(rule.source, EventSource) else ()
        alert = Alert(rule.for_s == 0, self.now_us, quiet_us, rule.severity, own, value, about)
        self._tell(AlertFiring if alert.firing else AlertPending, rule.name, key, alert, value)
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

    def _tell(self, kind: type[AlertEvent], name: str, key: Labels, alert: Alert, value: float | None) -> None:
        labels = dict(alert.own) | dict(key)
        told = {"value": "unknown"} | dict(alert.about) | labels | ({} if alert.value is None else {"value": _written(alert.value)})
        self.events.append(
            kind(
                fingerprint=fingerprint(self.seen.topic, name, labels),
                rule=name,
                severity=alert.severity,
                topic=self.seen.topic,
                labels=labels,
                annotations={label: rendered(template, told) for label, template in self.annotations.get(name, ())},
                value=value,
                since=written_time(SINCE + alert.since_us * MICROSECOND),
            )
        )


def _about(rule: Rule, event: Event) -> Labels:
    """The fields of `event` that the rule's annotations name: each on one line, and no longer than a line should be."""
    names = {name for _, template in rule.annotations for name in template_fields(template)} & type(event).model_fields.keys()
    told = {name: getattr(event, name) for name in sorted(names)}
    return tuple((name, " ".join(str(value).split())[:LONGEST]) for name, value in told.items() if value is not None)


def _written(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def fingerprint(topic: str, rule: str, labels: Mapping[str, str]) -> str:
    """The identity of an alert within a run: the same topic, rule and labels give the same, 32 hex digits."""
    return digest_of([topic, rule, dict(labels)])[:32]
