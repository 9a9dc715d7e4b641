"""Rule files: settings of monitoring and alert rules, written as TOML. A file with a mistake is refused with its line and the reason.

A table for each part of `MonitorSettings`; its keys are that part's. A `[[rule]]` table a rule; its keys are the fields of `_Written`.
`off` names built-in rules that are not used; a rule of the same name may then be written anew. Checked is everything that can be: settings,
names of topics, metrics, detectors, event kinds and their fields.
"""

import json
import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from esper.events.fields import CONFIG, Event, Part
from esper.events.kinds import KINDS_BY_NAME, kinds_of
from esper.events.topics import DERIVED, FACTS, OBSERVERS, SEED_HEALTH, TOPICS
from esper.folds.monitoring.alerting import AlertSettings
from esper.folds.monitoring.dead_or_idle import SilenceSettings
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.detectors.thresholds import DETECTORS, MISSING, DetectorSettings
from esper.folds.monitoring.measurements import METRICS, is_known
from esper.folds.monitoring.rules import (
    SOURCE_LABELS,
    AnomalySource,
    EventSource,
    Limit,
    MetricSource,
    Rule,
    Scalar,
    Severity,
    template_fields,
)
from esper.folds.monitoring.trends import TrendSettings
from esper.folds.monitoring.windows import WindowSettings
from esper.settings import KeyPath, TomlFile

_DURATION = re.compile(r"(\d{1,6})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LABEL = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_RESERVED = frozenset((*SOURCE_LABELS, "run", "rule", "topic", "severity", "value", "alertname"))
_READ = TOPICS.keys() - DERIVED | {OBSERVERS}
"""The topics that rules read: those of the run's own writer, and the observers' own."""
_PLAIN = frozenset({str, int, float, bool, types.NoneType})
_ONLY_EVENTS = ("where", "field", "count", "within", "by", "until")


class _Written(BaseModel):
    """A [[rule]] table."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    topic: str
    severity: Severity
    metric: str | None = None
    anomaly: str | None = None
    event: str | None = None
    above: float | None = None
    below: float | None = None
    not_finite: bool = False
    clear: float | None = None
    where: dict[str, Scalar] = {}
    field: str | None = None
    count: Annotated[int, Field(ge=1, le=100)] = 1
    within: str | None = None
    by: tuple[str, ...] | None = None
    until: tuple[str, ...] = ()
    for_: Annotated[str, Field(alias="for")] = "0s"
    keep_firing_for: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, Annotated[str, Field(max_length=1000)]] = {}


KEYS = tuple(field.alias or name for name, field in _Written.model_fields.items())
"""The keys of a [[rule]] table."""

SETTINGS_TABLES: Mapping[str, Part] = {name: part for name, part in MonitorSettings() if isinstance(part, Part)}
"""The tables beside rules, with their defaults."""


class _File(BaseModel):
    """A rule file."""

    model_config = CONFIG
    off: tuple[str, ...] = ()
    windows: WindowSettings = WindowSettings()
    trends: TrendSettings = TrendSettings()
    detectors: DetectorSettings = DetectorSettings()
    alerts: AlertSettings = AlertSettings()
    silence: SilenceSettings = SilenceSettings()
    rule: tuple[_Written, ...] = ()


def parse_watching(text: str, where: str, builtin: Sequence[Rule] = ()) -> MonitorSettings:
    """The settings and rules in `text`; `where` names it in errors. A setting that it does not give has its default.

    The rules in force are those of `builtin` that `text` does not switch off, by name or with their detector, then its own. Raises
    SettingsError, with the line, for the first mistake.
    """
    file = TomlFile(text, where)
    written = file.table(_File)
    return MonitorSettings(**{name: getattr(written, name) for name in SETTINGS_TABLES}, rules=_rules(file, written, builtin))


class _Changed(NamedTuple):
    """A setting that does not have its default."""

    name: str
    value: object
    builtin: object


def changed_settings(settings: MonitorSettings) -> tuple[_Changed, ...]:
    """The settings that do not have their defaults, by their names in a rule file, like `windows.length_s`."""
    return tuple(
        _Changed(f"{table}.{key}", value, default)
        for table, part in SETTINGS_TABLES.items()
        for key, default in part
        if (value := getattr(getattr(settings, table), key)) != default
    )


def parse_rules(text: str, where: str, builtin: Sequence[Rule] = ()) -> tuple[Rule, ...]:
    """The rules alone, as `parse_watching` reads them."""
    return parse_watching(text, where, builtin).rules


def _rules(file: TomlFile, written: _File, builtin: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules in force; about anomalies of detectors that are off there can be none."""
    known = [rule.name for rule in builtin]
    for name in written.off:
        if name not in known:
            file.refuse(("off",), f"unknown built-in rule {name!r}, expected one of {', '.join(known) or 'none'}")
    off, silent = written.off, written.detectors.off
    rules = [rule for rule in builtin if rule.name not in off and getattr(rule.source, "detector", None) not in silent]
    names: dict[str, int | None] = {rule.name: None for rule in rules}
    for place, rule in enumerate(written.rule):
        reader = _RuleReader(file, ("rule", place), rule, silent)
        if rule.name in names:
            other = names[rule.name]
            builtin_one = "a built-in rule; name it in `off` to replace it"
            found = builtin_one if other is None else f"in line {file.line_of(('rule', other, 'name'))}"
            reader.refuse("name", f"two rules of the name {rule.name!r}: the other is {found}")
        names[rule.name] = place
        rules.append(reader.rule())
    return tuple(rules)


class _RuleReader:
    """Makes a rule of one [[rule]] table, everything in it checked."""

    def __init__(self, file: TomlFile, path: KeyPath, written: _Written, silent: Collection[str]) -> None:
        self.file, self.path, self.written, self.silent = file, path, written, silent

    def refuse(self, key: str, reason: str, cause: Exception | None = None, *inner: str) -> NoReturn:
        self.file.refuse((*self.path, key, *inner), reason, cause)

    def _expect(self, key: str, what: str, name: str, known: Iterable[str], *inner: str) -> None:
        if name not in (known := list(known)):
            self.refuse(key, f"unknown {what}, expected one of {', '.join(known) or 'none'}", None, *inner)

    def rule(self) -> Rule:
        written = self.written
        if written.topic not in TOPICS:
            self.refuse("topic", f"unknown topic {written.topic!r}")
        if written.topic not in _READ:
            self.refuse("topic", f"no rule reads topic {written.topic}: what stands there is derived")
        sources = [key for key in ("metric", "anomaly", "event") if getattr(written, key) is not None]
        if sources not in (["metric"], ["anomaly"], ["metric", "anomaly"], ["event"]):
            got = " and ".join(sources) or "none"
            self.refuse("name", f"expected one source of rule {written.name!r}, metric, anomaly or event; got {got}")
        if written.event is None:
            self._refuse_present(_ONLY_EVENTS, "is for rules about events")
        source = self._event() if written.event is not None else self._metric() if written.anomaly is None else self._anomaly()
        self._check_templates(source)
        if written.topic == OBSERVERS and not written.until:
            self.refuse("event", "expected until: no run or stream ends what observers say, so nothing else would end the alert")
        return Rule(
            name=written.name,
            topic=written.topic,
            source=source,
            severity=written.severity,
            for_s=self._duration("for", written.for_),
            keep_s=None if written.keep_firing_for is None else self._duration("keep_firing_for", written.keep_firing_for),
            labels=tuple(sorted(written.labels.items())),
            annotations=tuple(sorted(written.annotations.items())),
        )

    def _refuse_present(self, keys: Sequence[str], why: str) -> None:
        for key in keys:
            if ("for_" if key == "for" else key) in self.written.model_fields_set:
                self.refuse(key, f"{key} {why}")

    def _duration(self, key: str, text: str) -> int:
        found = _DURATION.fullmatch(text)
        if found is None:
            self.refuse(key, f"{key}: expected a duration like 30s, 5m, 2h or 1d, got {text!r}")
        return int(found[1]) * _SECONDS[found[2]]

    def _limit(self) -> Limit | None:
        written = self.written
        sides = [key for key in ("above", "below") if getattr(written, key) is not None] + ["not_finite"] * written.not_finite
        if not sides:
            self._refuse_present(("clear",), "needs a limit, above or below")
            return None
        if len(sides) > 1:
            later = max(sides, key=lambda side: self.file.line_of((*self.path, side)))
            self.refuse(later, f"expected one of above, below and not_finite, got {' and '.join(sides)}")
        if sides[0] == "not_finite":
            self._refuse_present(("clear",), "goes with above or below, not with not_finite")
            return Limit("not_finite")
        side: Literal["above", "below"] = "above" if written.below is None else "below"
        value = written.above if written.below is None else written.below
        assert value is not None, "one of the sides is given"
        clear = value if written.clear is None else written.clear
        if (clear > value) if side == "above" else (clear < value):
            self.refuse("clear", f"expected clear at {'most' if side == 'above' else 'least'} {side} ({value:g}), got {clear:g}")
        return Limit(side, value, clear)

    def _metric(self) -> MetricSource:
        metric, limit = self._known_metric(), self._limit()
        if limit is None:
            self.refuse("metric", f"expected a limit for metric {metric!r}: above, below or not_finite")
        return MetricSource(metric, limit)

    def _known_metric(self) -> str:
        metric, topic = self.written.metric or "", self.written.topic
        if not is_known(topic, metric):
            known = ", ".join(sorted(METRICS.get(topic, ()))) or "none"
            self.refuse("metric", f"unknown metric {metric!r} of topic {topic}, expected one of {known}")
        return metric

    def _anomaly(self) -> AnomalySource:
        own_limits = "is for rules about metrics and events: a detector has its own limits"
        self._refuse_present(("above", "below", "not_finite", "clear"), own_limits)
        detector, topic = self.written.anomaly or "", self.written.topic
        self._expect("anomaly", f"detector {detector!r}", detector, sorted(DETECTORS))
        if detector in self.silent:
            self.refuse("anomaly", f"detector {detector!r} is off in [detectors], expected one that is not")
        if topic not in METRICS:
            self.refuse("topic", f"no detector reads topic {topic}, expected one of {', '.join(sorted(METRICS))}")
        if detector == MISSING and topic in FACTS:
            self.refuse("topic", f"expected a topic of telemetry, got {topic}: a fact that is missing is said by esper.fold.blocked.v1")
        return AnomalySource(detector, None if self.written.metric is None else self._known_metric())

    def _event(self) -> EventSource:
        written = self.written
        kind = self._kind("event", written.event or "")
        self._refuse_present(("for",), "is for rules about metrics and anomalies: an event does not last; use keep_firing_for")
        for name, value in written.where.items():
            self._check_where(kind, name, value)
        number = None if written.field is None else self._field("field", kind, written.field)
        if number is not None and not _plain_types(number.annotation) <= {int, float, types.NoneType}:
            self.refuse("field", f"expected a field of numbers, {written.field!r} of {kind.KIND} is none")
        limit = self._limit()
        if limit is not None and written.field is None:
            self.refuse(limit.side, f"{limit.side}: expected a field of {kind.KIND} to be compared; name it in `field`")
        within_s = None if written.within is None else self._duration("within", written.within)
        if (written.count > 1) != (within_s is not None):
            self.refuse("count", "expected count (2 or more) and within together")
        return EventSource(
            kind=kind.KIND,
            where=tuple(sorted(written.where.items())),
            field=written.field,
            limit=limit,
            count=written.count,
            within_s=within_s,
            by=self._by(kind),
            until=tuple(self._kind("until", name).KIND for name in written.until),
        )

    def _kind(self, key: str, name: str) -> type[Event]:
        known = sorted(kind.KIND for kind in kinds_of(self.written.topic))
        self._expect(key, f"event kind {name!r} of topic {self.written.topic}", name, known)
        return KINDS_BY_NAME[name]

    def _field(self, key: str, kind: type[Event], name: str, *inner: str) -> FieldInfo:
        self._expect(key, f"field {name!r} of {kind.KIND}", name, kind.model_fields, *inner)
        return kind.model_fields[name]

    def _check_where(self, kind: type[Event], name: str, value: Scalar) -> None:
        field = self._field("where", kind, name, name)
        holder: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation  # Any: made at run time.
        try:
            found = TypeAdapter(holder, config=CONFIG).validate_json(json.dumps(value))
        except ValidationError as error:
            reason = f"where.{name}: {kind.KIND} never has the value {value!r}: {error.errors()[0]['msg']}"
            self.refuse("where", reason, error, name)
        if not isinstance(found, str | int):
            reason = f"where.{name}: expected a field of text, whole numbers or truth values, got one of {kind.KIND}"
            self.refuse("where", reason, None, name)

    def _by(self, kind: type[Event]) -> tuple[str, ...]:
        has = tuple(name for name in ("site", "seed") if name in kind.model_fields)
        for name in self.written.by or ():
            if name not in has:
                self.refuse("by", f"by: {kind.KIND} has no label {name!r}, expected some of {', '.join(has) or 'none'}")
        return has if self.written.by is None else tuple(name for name in has if name in self.written.by)

    def _check_templates(self, source: MetricSource | AnomalySource | EventSource) -> None:
        """Labels may name other labels; annotations also the rule's labels, the value and the fields of its event with one plain value."""
        fields: list[str] = []
        if isinstance(source, EventSource):
            available, kind = source.by, KINDS_BY_NAME[source.kind]
            fields = [name for name, field in kind.model_fields.items() if all(map(_is_plain, _plain_types(field.annotation)))]
        else:
            seeds = ("site", "seed") if self.written.topic == SEED_HEALTH else ()
            available = (*seeds, "metric") if isinstance(source, MetricSource) else (*seeds, "metric", "detector")
        value: tuple[str, ...] = () if isinstance(source, EventSource) and source.field is None else ("value", "share")
        value += ("expected", "since_step") if isinstance(source, AnomalySource) else ()
        place = ("place", "units") if "site" in available else ()
        for name, template in self.written.labels.items():
            if not _LABEL.fullmatch(name) or name in _RESERVED:
                self.refuse("labels", f"expected a label like team, none of {', '.join(sorted(_RESERVED))}; got {name!r}", None, name)
            self._check_template("labels", name, template, available)
        for name, template in self.written.annotations.items():
            self._check_template(
                "annotations", name, template, tuple(dict.fromkeys((*available, *self.written.labels, *value, *place, *fields)))
            )

    def _check_template(self, key: str, name: str, template: str, allowed: Sequence[str]) -> None:
        try:
            unknown = min(template_fields(template) - set(allowed), default=None)
        except ValueError as error:
            self.refuse(key, f"{key}.{name}: {error}", error, name)
        if unknown is not None:
            expected = ", ".join(allowed) or "none"
            self.refuse(key, f"{key}.{name}: unknown name {{{unknown}}}, expected one of {expected}", None, name)


def _is_plain(kind: object) -> bool:
    return kind in _PLAIN or get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def _plain_types(annotation: object) -> set[object]:
    if get_origin(annotation) is Annotated:
        return _plain_types(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return {plain for part in get_args(annotation) for plain in _plain_types(part)}
    return {annotation}
