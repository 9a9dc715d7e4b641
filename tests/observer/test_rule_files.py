"""Rule files become rules, and a file with a mistake is refused with its line and the reason."""

import re

import pytest

from esper.errors import SettingsError
from esper.events import topics
from esper.folds.monitoring.dead_or_idle import SilenceSettings
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.rules import AnomalySource, EventSource, Limit, MetricSource, Rule
from esper.folds.monitoring.trends import TrendSettings
from esper.observer.rule_files import changed_settings, parse_rules, parse_watching

METRIC = """
[[rule]]
name = "disk"
topic = "telemetry.system.resources"
severity = "critical"
metric = "disk_free_ratio"
below = 0.1
"""
EVENT = """
[[rule]]
name = "silent"
topic = "observability.observers"
severity = "critical"
event = "esper.run.went-silent.v1"
"""
CULLS = """
[[rule]]
name = "culls"
topic = "system.events.lifecycle"
severity = "warning"
event = "esper.seed.transitioned.v1"
"""
SPIKE = """
[[rule]]
name = "spikes"
topic = "telemetry.training.steps"
severity = "warning"
metric = "loss"
anomaly = "spike"
"""


def test_every_key_of_a_rule_about_a_metric_is_read() -> None:
    more = """clear = 0.2
for = "90s"
keep_firing_for = "2h"
labels = { team = "storage", what = "{metric}" }
annotations.summary = "{value} of {metric} for {team}"
"""
    (rule,) = parse_rules(METRIC + more, "rules.toml")
    assert rule == Rule(
        name="disk",
        topic=topics.RESOURCES,
        source=MetricSource("disk_free_ratio", Limit("below", 0.1, 0.2)),
        severity="critical",
        for_s=90,
        keep_s=7200,
        labels=(("team", "storage"), ("what", "{metric}")),
        annotations=(("summary", "{value} of {metric} for {team}"),),
    )


def test_every_key_of_a_rule_about_an_event_is_read() -> None:
    more = """
where = { to_stage = "CULLED" }
field = "life"
above = 2
by = ["site"]
count = 3
within = "1d"
until = ["esper.seed.evaluated.v1"]
"""
    (rule,) = parse_rules(CULLS + more, "rules.toml")
    assert rule.source == EventSource(
        kind="esper.seed.transitioned.v1",
        where=(("to_stage", "CULLED"),),
        field="life",
        limit=Limit("above", 2.0, 2.0),
        count=3,
        within_s=86400,
        by=("site",),
        until=("esper.seed.evaluated.v1",),
    )


def test_a_user_s_own_metric_is_known_by_its_family() -> None:
    text = METRIC.replace("telemetry.system.resources", topics.STEPS).replace("disk_free_ratio", "metric.accuracy")
    assert parse_rules(text, "r")[0].source == MetricSource("metric.accuracy", Limit("below", 0.1, 0.1))


def test_built_in_rules_stay_in_force_but_for_those_that_are_off() -> None:
    builtin = parse_rules(METRIC + EVENT + 'until = ["esper.run.heard-again.v1"]', "builtin.toml")
    assert parse_rules("", "mine.toml", builtin) == builtin
    assert [rule.name for rule in parse_rules('off = ["disk"]' + CULLS, "mine.toml", builtin)] == ["silent", "culls"]


def test_a_built_in_rule_that_is_off_may_be_written_anew() -> None:
    builtin = parse_rules(METRIC, "builtin.toml")
    mine = parse_rules('off = ["disk"]' + METRIC.replace("critical", "info"), "mine.toml", builtin)
    assert [(rule.name, rule.severity) for rule in mine] == [("disk", "info")]


def test_what_a_table_does_not_give_is_as_built_in() -> None:
    text = "[windows]\nlength_s = 60\n[detectors]\nspike_spreads = 8\nlosses = ['metric.perplexity']\n[trends]\nlimits = [['loss', 0.1]]"
    settings = parse_watching(text, "mine.toml")
    assert changed_settings(settings) == (
        ("windows.length_s", 60, 15),
        ("trends.limits", (("loss", 0.1),), TrendSettings().limits),
        ("detectors.losses", ("metric.perplexity",), ("loss",)),
        ("detectors.spike_spreads", 8.0, 5.5),
    )
    assert settings.silence == SilenceSettings()
    assert parse_watching("", "mine.toml") == MonitorSettings()


def test_with_a_detector_its_built_in_rules_are_off() -> None:
    builtin = parse_rules(
        METRIC.replace("disk_free_ratio", "loss").replace("system.resources", "training.steps").replace("below = 0.1", 'anomaly = "spike"'),
        "r",
    )
    assert parse_rules("[detectors]\noff = ['spike']", "mine.toml", builtin) == ()
    assert parse_rules("[detectors]\noff = ['drift']", "mine.toml", builtin) == builtin


MISTAKES = [
    ("[[rule]]\nname = \n", 2, "Invalid value"),
    ('[[rule]]\nname = "a', 2, "Unterminated string"),
    ("[rule]\n", 1, "rule: expected [[rule]] tables, got {}"),
    ("rule = [1]\n", 1, "rule.0: expected [[rule]] tables, got 1"),
    (
        "# rules\n\n[[rules]]\n",
        3,
        "rules: unknown key, perhaps rule; expected one of off, windows, trends, detectors, alerts, silence, rule",
    ),
    ("windows = 3", 1, "expected a table [windows], got 3"),
    ("[[windows]]\nlength_s = 1", 1, "expected a table [windows], got [{'length_s': 1}]"),
    ("[windows]\nlenght_s = 1", 2, "windows.lenght_s: unknown key, perhaps length_s; expected one of length_s, metrics"),
    ("[windows]\n\nlength_s = 0", 3, "length_s: expected a number greater than or equal to 1, got 0"),
    ("[windows]\nlength_s = 1.5", 2, "length_s: expected a whole number, got 1.5"),
    ("[detectors]\nspike_spreads = nan", 2, "spike_spreads: expected a finite number, got nan"),
    ("[detectors]\nspike_spreads = '5'", 2, "spike_spreads: expected a number, got '5'"),
    ("[detectors]\nlosses = 'loss'", 2, "losses: expected a list, got 'loss'"),
    ("[detectors]\nlosses = ['los']", 2, "losses: expected metrics of watched topics, 'los' is none"),
    ("[detectors]\noff = ['spikes']", 2, "off.0: expected 'nonfinite', "),
    ("[trends]\npoints = 4\nleast = 8", 3, "least: expected at most the 4 of points"),
    ("[trends]\nlimits = [['los', 1.0]]", 2, "limits: expected metrics of watched topics or families of them, 'los' is none"),
    ("[trends]\nlimits = [['loss']]", 2, "limits.0.1: expected this key, got nothing"),
    ("[silence]\ndead_after_s = true", 2, "dead_after_s: expected a number, got True"),
    ("[windows]\n[alerts]\nmost = 1", 3, "most: expected a number greater than or equal to 2, got 1"),
    (
        METRIC.replace("below = 0.1", 'anomaly = "drift"') + "[detectors]\noff = ['drift']",
        7,
        "detector 'drift' is off in [detectors]",
    ),
    ('off = "disk"', 1, "off: expected a list, got 'disk'"),
    ('\noff = ["disk"]', 2, "unknown built-in rule 'disk', expected one of none"),
    (METRIC + 'severty = "info"', 8, "rule.0.severty: unknown key, perhaps severity; expected one of name, topic, severity, "),
    (METRIC.replace('name = "disk"\n', ""), 2, "name: expected this key, got nothing"),
    (METRIC.replace('"disk"', '"Disk low"'), 3, "name: String should match pattern"),
    (METRIC.replace('"critical"', '"fatal"'), 5, "severity: expected 'info', 'warning' or 'critical', got 'fatal'"),
    (METRIC.replace("0.1", '"0.1"'), 7, "below: expected a number, got '0.1'"),
    (METRIC.replace("0.1", "nan"), 7, "below: expected a finite number, got nan"),
    (METRIC.replace("system.resources", "system.resource"), 4, "unknown topic 'telemetry.system.resource'"),
    (
        METRIC.replace('metric = "disk_free_ratio"\nbelow = 0.1', ""),
        3,
        "expected one source of rule 'disk', metric, anomaly or event; got none",
    ),
    (
        METRIC + 'event = "esper.resources.measured.v1"',
        3,
        "expected one source of rule 'disk', metric, anomaly or event; got metric and event",
    ),
    (
        METRIC.replace("disk_free_ratio", "disk_free"),
        6,
        "unknown metric 'disk_free' of topic telemetry.system.resources, expected one of cpu_",
    ),
    (
        METRIC.replace("telemetry.system.resources", topics.RUN),
        6,
        "unknown metric 'disk_free_ratio' of topic system.events.run, expected one of none",
    ),
    (METRIC.replace("disk_free_ratio", "gpu.first.utilization"), 6, "unknown metric 'gpu.first.utilization' of topic telemetry.system"),
    (METRIC.replace("below = 0.1", ""), 6, "expected a limit for metric 'disk_free_ratio': above, below or not_finite"),
    (METRIC.replace("below = 0.1", "clear = 0.1"), 7, "clear needs a limit, above or below"),
    (METRIC + "above = 0.9", 8, "expected one of above, below and not_finite, got above and below"),
    (METRIC + "not_finite = true", 8, "expected one of above, below and not_finite, got below and not_finite"),
    (METRIC.replace("below = 0.1", "not_finite = true\nclear = 1"), 8, "clear goes with above or below, not with not_finite"),
    (METRIC + "clear = 0.05", 8, "expected clear at least below (0.1), got 0.05"),
    (METRIC.replace("below", "above") + "clear = 0.2", 8, "expected clear at most above (0.1), got 0.2"),
    (METRIC + 'for = "5 minutes"', 8, "for: expected a duration like 30s, 5m, 2h or 1d, got '5 minutes'"),
    (METRIC + 'keep_firing_for = "-1s"', 8, "keep_firing_for: expected a duration like 30s, 5m, 2h or 1d, got '-1s'"),
    (METRIC + "for = 30", 8, "for: expected a text, got 30"),
    (METRIC + "count = 3", 8, "count is for rules about events"),
    (METRIC + 'until = ["esper.run.started.v1"]', 8, "until is for rules about events"),
    (METRIC + 'labels = { severity = "x" }', 8, "expected a label like team, none of alertname, detector, metric, rule, run, "),
    (METRIC + 'labels = { "Team 1" = "x" }', 8, "got 'Team 1'"),
    (METRIC + '[rule.labels]\n# who\nteam = "{site}"', 10, "labels.team: unknown name {site}, expected one of metric"),
    (METRIC + 'labels.team = "{value}"', 8, "labels.team: unknown name {value}, expected one of metric"),
    (METRIC + 'annotations = { summary = "{who}" }', 8, "annotations.summary: unknown name {who}, expected one of metric, value"),
    (METRIC + 'annotations = { summary = "{value:.3f}" }', 8, "annotations.summary: expected a name alone in braces, got {value:.3f}"),
    (METRIC + 'annotations = { summary = "{value.real}" }', 8, "annotations.summary: expected a name alone in braces, got {value.real}"),
    (METRIC + 'annotations = { summary = "{" }', 8, "annotations.summary: Single '{' encountered"),
    (METRIC + METRIC, 10, "two rules of the name 'disk': the other is in line 3"),
    (
        METRIC.replace('metric = "disk_free_ratio"\nbelow = 0.1', 'anomaly = "spikes"'),
        6,
        "unknown detector 'spikes', expected one of apart, dead, divergence, ",
    ),
    (
        METRIC.replace('metric = "disk_free_ratio"\nbelow = 0.1', 'anomaly = "spike"').replace("telemetry.system.resources", topics.RUN),
        4,
        "no detector reads topic system.events.run, expected one of observability.metrics.custom, ",
    ),
    (
        SPIKE.replace('metric = "loss"\nanomaly = "spike"', 'anomaly = "missing"').replace(topics.STEPS, topics.EPOCH),
        4,
        "expected a topic of telemetry, got system.events.epoch: a fact that is missing is said by esper.fold.blocked.v1",
    ),
    (METRIC + 'anomaly = "spike"', 7, "below is for rules about metrics and events: a detector has its own limits"),
    (METRIC.replace("disk_free_ratio", "x").replace("below = 0.1", 'anomaly = "spike"'), 6, "unknown metric 'x' of topic telemetry"),
    (
        EVENT.replace("silent.v1", "silent.v2"),
        6,
        "unknown event kind 'esper.run.went-silent.v2' of topic observability.observers, expected one of ",
    ),
    (EVENT.replace("observability.observers", topics.RUN), 6, "unknown event kind 'esper.run.went-silent.v1' of topic system.events.run"),
    (EVENT + 'keep_firing_for = "1m"', 6, "expected until: no run or stream ends what observers say"),
    (EVENT.replace("observability.observers", topics.ANOMALIES), 4, "no rule reads topic observability.anomalies: what stands there is"),
    (EVENT + 'until = ["esper.run.resumed.v1"]', 7, "unknown event kind 'esper.run.resumed.v1' of topic observability.observers"),
    (EVENT + 'where = { status = "dead" }', 7, "unknown field 'status' of esper.run.went-silent.v1, expected one of state, silent_s"),
    (EVENT + '[rule.where]\nstate = "ded"', 8, "where.state: esper.run.went-silent.v1 never has the value 'ded'"),
    (EVENT + "where = { silent_s = 60 }", 7, "where.silent_s: expected a field of text, whole numbers or truth values"),
    (EVENT + 'field = "silent"', 7, "unknown field 'silent' of esper.run.went-silent.v1, expected one of state, silent_s"),
    (EVENT + 'field = "state"\nabove = 1', 7, "expected a field of numbers, 'state' of esper.run.went-silent.v1 is none"),
    (EVENT + "above = 60", 7, "above: expected a field of esper.run.went-silent.v1 to be compared; name it in `field`"),
    (EVENT + 'for = "1m"', 7, "for is for rules about metrics and anomalies: an event does not last; use keep_firing_for"),
    (EVENT + "count = 2", 7, "expected count (2 or more) and within together"),
    (EVENT + 'within = "1m"', 2, "expected count (2 or more) and within together"),
    (EVENT + 'count = 1000\nwithin = "1m"', 7, "count: expected a number less than or equal to 100, got 1000"),
    (EVENT + 'by = ["site"]', 7, "by: esper.run.went-silent.v1 has no label 'site', expected some of none"),
    (EVENT + 'annotations = { summary = "{value}" }', 7, "annotations.summary: unknown name {value}, expected one of state, silent_s"),
    (CULLS + 'by = ["site"]\nlabels = { of = "{seed}" }', 8, "labels.of: unknown name {seed}, expected one of site"),
    (CULLS + 'field = "blueprint"', 7, "expected a field of numbers, 'blueprint' of esper.seed.transitioned.v1 is none"),
]


@pytest.mark.parametrize(("text", "line", "reason"), MISTAKES)
def test_a_mistake_is_refused_with_its_line_and_the_reason(text: str, line: int, reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)) as refused:
        parse_rules(text, "mine.toml")
    assert str(refused.value).startswith(f"mine.toml:{line}: ")


def test_a_name_of_a_built_in_rule_is_refused_with_the_way_out() -> None:
    with pytest.raises(SettingsError, match=r"mine.toml:3: two rules of the name 'disk': the other is a built-in rule; name it in `off`"):
        parse_rules(METRIC, "mine.toml", parse_rules(METRIC, "builtin.toml"))


def test_a_mistake_behind_long_strings_and_comments_is_found_on_its_line() -> None:
    text = METRIC + 'annotations.summary = """\n# not a comment\nfor = "a trap"\n"""\n# for = "another"\nfor = "soon"\n'
    with pytest.raises(SettingsError, match=r"mine.toml:13: for: expected a duration"):
        parse_rules(text, "mine.toml")


def test_an_anomaly_may_be_of_any_metric_or_of_one() -> None:
    assert parse_rules(SPIKE, "r")[0].source == AnomalySource("spike", "loss")
    assert parse_rules(SPIKE.replace('metric = "loss"', ""), "r")[0].source == AnomalySource("spike")
