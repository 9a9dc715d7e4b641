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
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from esper.events.digests import digest_of
from esper.events.envelope import MICROSECOND, SINCE, written_time
from esper.events.fields import Event, Float, Part
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved, AnomalyDetected, Origin
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.folds.monitoring.conditions import Condition, RuleInput, condition_of
from esper.folds.monitoring.open_alerts import AlertChange
from esper.folds.monitoring.origin import origin_of
from esper.folds.monitoring.rules import AnomalySource, EventSource, Labels, Rule, Severity, rendered, source_labels, template_fields

_LONGEST = 300
"""Most characters of a text in an annotation."""


class AlertSettings(Part):
    """Limit of the alerts of one topic that are kept at once, pending and firing."""

    most: Annotated[int, Field(ge=2, le=65_536)] = 1024


class _Alert(NamedTuple):
    """A pending or firing alert. `quiet_us`: the time since which its condition does not hold; None while it holds."""

    labels: Labels
    """The labels of its source: with its rule they are its identity."""
    firing: bool
    since_us: int
    quiet_us: int | None
    severity: Severity
    own: Labels
    """The labels that its rule gives."""
    value: Float | None
    """The value that raised it, for its annotations."""
    about: Labels = ()
    """Fields of the event or anomaly that raised it, for its annotations."""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class AlertState:
    """The alerts of a topic, and the last times of counted events by labels, each by rule. `full`: a condition holds that has no room."""

    active: Mapping[str, tuple[_Alert, ...]] = field(default_factory=dict)
    counted: Mapping[str, tuple[tuple[Labels, tuple[int, ...]], ...]] = field(default_factory=dict)
    full: bool = False

    @property
    def firing(self) -> int:
        """Number of alerts that fire."""
        return sum(alert.firing for alerts in self.active.values() for alert in alerts)


def update_alerts(
    state: AlertState, rules: Sequence[Rule], given: RuleInput, settings: AlertSettings
) -> tuple[AlertState, tuple[AlertChange, ...]]:
    """`state` after a record, and the changes of alerts in the order of their rules; `rules` are those of the record's topic."""
    work = _Step(state, rules, given, settings)
    if state.active or state.counted:
        work.drop_gone(set() if given.ends else {rule.name for rule in rules})
    calm = not (given.found or given.open)  # Most records are: rules about anomalies then have alerts to end, or nothing to do.
    for rule in rules:
        source = rule.source
        idle = calm if isinstance(source, AnomalySource) else isinstance(source, EventSource) and source.kind != given.event.KIND
        if not idle or rule.name in state.active:
            work.apply(rule)
    return work.done(state), tuple(work.events)


class _Step:
    """A step in progress: the alerts after it, and the changes so far."""

    def __init__(self, state: AlertState, rules: Sequence[Rule], given: RuleInput, settings: AlertSettings) -> None:
        self.rules = rules
        self.given, self.most, self.now_us = given, settings.most, given.time_us
        self.active = {name: {alert.labels: alert for alert in alerts} for name, alerts in state.active.items()}
        self.counted = dict(state.counted)
        self.refused = False
        self.events: list[AlertChange] = []

    def done(self, before: AlertState) -> AlertState:
        active = {name: tuple(alerts.values()) for name, alerts in self.active.items() if alerts}
        full = self.refused or (before.full and self._alerts() >= self.most * 3 // 4)
        after = AlertState(active, self.counted, full)
        return before if after == before else after

    def drop_gone(self, names: Set[str]) -> None:
        """Resolves the alerts of rules that are not in `names`, and drops what was counted for them."""
        for name in sorted(self.active.keys() - names):
            for _, alert in sorted(self.active.pop(name).items()):
                self._change(AlertResolved, name, alert, None)
        for name in self.counted.keys() - names:
            del self.counted[name]

    def apply(self, rule: Rule) -> None:
        alerts = self.active.get(rule.name, {})
        before = frozenset(alerts)
        condition = condition_of(rule, self.given, before)
        if not (alerts or condition.holds):
            return
        for key in sorted(condition.ended):
            if key not in condition.holds:  # One kind may raise and end, by its fields.
                self._change(AlertResolved, rule.name, alerts.pop(key), None)
        if isinstance(rule.source, EventSource) and rule.source.within_s is not None and condition.holds:
            condition = self._enough(rule.name, rule.source, rule.source.within_s, condition)
        for key in sorted(alerts):
            after = self._moved(rule, condition, alerts[key])
            if after is None:
                del alerts[key]
            else:
                alerts[key] = after
        for key, value in condition.holds.items():
            if key in before:
                continue
            if self._alerts() < (self.most if rule.severity == "critical" else self.most * 3 // 4):
                self.active.setdefault(rule.name, alerts)[key] = self._begun(rule, key, value)
            else:
                self.refused = True

    def _enough(self, name: str, source: EventSource, within_s: int, condition: Condition) -> Condition:
        oldest_us = self.now_us - within_s * 1_000_000
        times = {key: row for key, row in self.counted.get(name, ()) if row[-1] >= oldest_us}
        holds = {}
        for key, value in condition.holds.items():
            if key not in times and len(times) >= self.most:
                self.refused = True
                continue
            times[key] = (*times.get(key, ()), self.now_us)[-source.count :]
            if len(times[key]) == source.count and times[key][0] >= oldest_us:
                holds[key] = value
        self.counted[name] = tuple(times.items())
        return Condition(holds)

    def _moved(self, rule: Rule, condition: Condition, alert: _Alert) -> _Alert | None:
        """`alert` after the record; None where it is resolved."""
        key, quiet_us = alert.labels, alert.quiet_us
        if key in condition.holds:
            if not alert.firing and self.now_us - alert.since_us >= rule.for_s * 1_000_000:
                fired = alert._replace(firing=True, value=condition.holds[key])
                self._change(AlertFiring, rule.name, fired, fired.value)
                return fired
            quiet_us = self._quiet_us(rule) if alert.firing else quiet_us
        else:
            if alert.firing and quiet_us is None and key in condition.clears:
                quiet_us = self.now_us
            ended = quiet_us is not None and self.now_us - quiet_us >= (rule.keep_s or 0) * 1_000_000
            if ended if alert.firing else key in condition.fails:
                self._change(AlertResolved, rule.name, alert, (condition.clears if alert.firing else condition.fails).get(key))
                return None
        return alert if quiet_us == alert.quiet_us else alert._replace(quiet_us=quiet_us)

    def _begun(self, rule: Rule, key: Labels, value: float | None) -> _Alert:
        own = tuple((name, rendered(template, dict(key))) for name, template in rule.labels)
        one = self._anomaly(key) if isinstance(rule.source, AnomalySource) else None
        about = _about(rule, self.given.event) if isinstance(rule.source, EventSource) else () if one is None else _about_anomaly(one)
        about += _measured_units(self.given.event, dict(key))
        since = None if one is None else one.since_step
        origin = origin_of(self.given.recent, self.given.record, self.given.event, dict(key), since)
        alert = _Alert(key, rule.for_s == 0, self.now_us, self._quiet_us(rule), rule.severity, own, value, about, origin)
        self._change(AlertFiring if alert.firing else AlertPending, rule.name, alert, value)
        return alert

    def _anomaly(self, key: Labels) -> AnomalyDetected | None:
        """The anomaly with the labels `key` that begins in the record."""
        return next((one for one in self.given.found if source_labels(one.site, one.seed, one.metric, one.detector) == key), None)

    def _quiet_us(self, rule: Rule) -> int | None:
        # An event does not last: its alert is quiet from the next moment on, if its rule gives it a time.
        return self.now_us if isinstance(rule.source, EventSource) and rule.keep_s is not None else None

    def _annotations(self, name: str) -> Labels:
        """The annotations of a rule; none where it is gone."""
        return next((rule.annotations for rule in self.rules if rule.name == name), ())

    def _alerts(self) -> int:
        return sum(map(len, self.active.values()))

    def _change(self, kind: type[AlertChange], name: str, alert: _Alert, value: float | None) -> None:
        labels = dict(alert.own) | dict(alert.labels)
        values = (
            dict.fromkeys(("value", "share", "expected", "since_step"), "unknown") | dict(alert.about) | {"place": _place(labels)} | labels
        )
        if alert.value is not None:
            values |= {"value": _written(alert.value), "share": _share(alert.value)}
        values["units"] = _units(alert, values["share"])
        self.events.append(
            kind(
                fingerprint=_fingerprint(self.given.record.topic, name, labels),
                rule=name,
                severity=alert.severity,
                topic=self.given.record.topic,
                labels=labels,
                annotations={label: rendered(template, values) for label, template in self._annotations(name)},
                value=value,
                since=written_time(SINCE + alert.since_us * MICROSECOND),
                origin=alert.origin,
            )
        )


def _about(rule: Rule, event: Event) -> Labels:
    """The fields of `event` that the rule's annotations name: each on one line, cut to `_LONGEST`."""
    names = {name for _, template in rule.annotations for name in template_fields(template)} & type(event).model_fields.keys()
    values = ((name, getattr(event, name)) for name in sorted(names))
    return tuple((name, " ".join(str(value).split())[:_LONGEST]) for name, value in values if value is not None)


def _measured_units(event: Event, labels: Mapping[str, str]) -> Labels:
    """The number of units behind a share of them, where `event` measured the health of the row that `labels` name."""
    if not isinstance(event, SeedHealthMeasured) or labels.get("metric") != "dead_neuron_ratio":
        return ()
    rows = zip(event.health.site, event.health.seed, event.health.units, strict=True)
    seed = labels.get("seed")
    return tuple(
        ("measured_units", str(units))
        for site, slot, units in rows
        if units is not None and (site, None if slot is None else str(slot)) == (labels.get("site"), seed)
    )


def _units(alert: _Alert, share: str) -> str:
    """The units that an alert about a share of them is about, as a person says it: `64 of 64 measured units`."""
    measured = dict(alert.about).get("measured_units")
    if measured is None or alert.value is None or not math.isfinite(alert.value):
        return f"{share} of the units"
    return f"{round(alert.value * int(measured))} of {measured} measured units"


def _about_anomaly(one: AnomalyDetected) -> Labels:
    known = {"expected": None if one.expected is None else _written(one.expected), "since_step": one.since_step}
    return tuple((name, str(value)) for name, value in known.items() if value is not None)


def _place(labels: Mapping[str, str]) -> str:
    """The layer that an alert is about, its own units or a seed's; "-" for one that is about none."""
    if "site" not in labels:
        return "-"
    layer = f"layer {labels['site']}" if labels["site"] else "the model, one layer"
    return f"{layer} ({'host' if 'seed' not in labels else 'seed ' + labels['seed']})"


def _share(ratio: float) -> str:
    """A ratio as a person says it."""
    return "all" if ratio == 1.0 else f"{100 * ratio:.3g} %" if math.isfinite(ratio) else _written(ratio)


def _written(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _fingerprint(topic: str, rule: str, labels: Mapping[str, str]) -> str:
    """The identity of an alert within a run: the same topic, rule and labels give the same, 32 hex digits."""
    return digest_of([topic, rule, dict(labels)])[:32]
