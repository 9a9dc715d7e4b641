"""Alerts go from pending to firing to resolved, in event time, each change once."""

import math
from collections.abc import Collection

import pytest

from esper.events import topics
from esper.events.codec import decode
from esper.events.fields import Event
from esper.events.kinds.kernels import KernelCompiled, KernelCompileFailed
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.observability import AlertFiring, AlertResolved, AnomalyDetected
from esper.events.kinds.run import RunFailed, RunResumed, SamplesDropped, StreamEnded
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.folds.monitoring.alerting import AlertSettings, AlertState, _place, _share, update_alerts
from esper.folds.monitoring.conditions import RuleInput
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.rules import AnomalySource, Labels, Rule
from tests.folds.histories import transition
from tests.folds.monitoring.streams import Host, TimedWriter, losses, resources, spoken, watching

DISK = """
[[rule]]
name = "disk"
topic = "telemetry.system.resources"
metric = "disk_free_ratio"
below = 0.1
clear = 0.2
severity = "critical"
"""
LASTING = DISK + 'for = "30s"\n'
KEPT = DISK + 'keep_firing_for = "30s"\n'
LOSS = """
[[rule]]
name = "loss"
topic = "telemetry.training.steps"
metric = "loss"
above = 2.0
severity = "warning"
"""
QUEUE = """
[[rule]]
name = "queue"
topic = "observability.metrics.custom"
metric = "esper_custom_queue"
above = 2.0
severity = "warning"
"""
FAILED = RunFailed(kind="error", error="out of memory", where="epoch 1", tails=())
RESUMED = RunResumed(checkpoint=None, caught_up_to=1, incarnation=2, environment_changes=())


def changes(rules: str, *events: tuple[float, Event], topic: str | None = None) -> list[tuple[str, str]]:
    """The changes of alerts that events at their seconds make."""
    return Host(watching(rules)).take_all(spoken(TimedWriter(), events, topic)).changes


def test_a_value_beyond_its_limit_fires_and_one_behind_clear_resolves() -> None:
    found = changes(DISK, (0, resources(0.05)), (10, resources(0.15)), (20, resources(0.2)))
    assert found == [("disk", "firing"), ("disk", "resolved")]


def test_a_value_between_limit_and_clear_neither_fires_nor_resolves() -> None:
    assert changes(DISK, (0, resources(0.15))) == []
    assert changes(DISK, (0, resources(0.05)), (10, resources(0.19))) == [("disk", "firing")]


@pytest.mark.parametrize(("rules", "limit", "clear"), [(DISK, 0.1, 0.2), (DISK.replace("below = 0.1", "above = 0.3"), 0.3, 0.2)])
def test_a_value_on_its_limit_is_not_beyond_it_and_one_on_clear_has_cleared(rules: str, limit: float, clear: float) -> None:
    beyond = 0.0 if limit < clear else 1.0
    assert changes(rules, (0, resources(limit))) == []
    assert changes(rules, (0, resources(beyond)), (1, resources(limit))) == [("disk", "firing")]
    assert changes(rules, (0, resources(beyond)), (1, resources(clear))) == [("disk", "firing"), ("disk", "resolved")]


@pytest.mark.parametrize(("limit", "value"), [("above = 2.0", 5.0), ("below = 2.0", -1.0), ("not_finite = true", math.inf)])
def test_the_value_that_is_told_is_the_worst_of_its_record(limit: str, value: float) -> None:
    host = Host(watching(LOSS.replace("above = 2.0", limit)))
    row = losses(2.0, math.inf, 1.0, -math.inf) if limit.startswith("not") else losses(1.0, 5.0, 3.0, -1.0, 2.0)
    assert [alert.value for alert in host.take_all(spoken(TimedWriter(), [(0, row)])).alerts] == [value]


def test_for_is_pending_until_enough_event_time_has_passed() -> None:
    early = [(0.0, resources(0.05)), (29.9, resources(0.05))]
    assert changes(LASTING, *early) == [("disk", "pending")]
    assert changes(LASTING, *early, (30, resources(0.05))) == [("disk", "pending"), ("disk", "firing")]


def test_a_pending_alert_ends_with_the_first_value_within_the_limit() -> None:
    found = changes(LASTING, (0, resources(0.05)), (10, resources(0.15)), (40, resources(0.05)))
    assert found == [("disk", "pending"), ("disk", "resolved"), ("disk", "pending")]


def test_keep_firing_for_outlives_short_recoveries() -> None:
    found = changes(KEPT, (0, resources(0.05)), (5, resources(0.5)), (30, resources(0.05)), (40, resources(0.5)), (70, resources(0.5)))
    assert found == [("disk", "firing"), ("disk", "resolved")]


def test_keep_firing_for_counts_from_the_first_record_that_has_cleared() -> None:
    early = [(0.0, resources(0.05)), (40.0, resources(0.5)), (69.9, resources(0.5))]
    assert changes(KEPT, *early) == [("disk", "firing")]
    assert changes(KEPT, *early, (70, resources(0.5))) == [("disk", "firing"), ("disk", "resolved")]


def test_an_alert_and_its_resolution_share_fingerprint_and_since() -> None:
    host = Host(watching(DISK)).take_all(spoken(TimedWriter(), [(0, resources(0.05)), (20, resources(0.2))]))
    fired, resolved = host.alerts
    assert isinstance(fired, AlertFiring)
    assert isinstance(resolved, AlertResolved)
    assert (fired.fingerprint, fired.since) == (resolved.fingerprint, resolved.since)
    assert (fired.value, resolved.value) == (0.05, 0.2)
    assert fired.labels == {"metric": "disk_free_ratio"}


@pytest.mark.parametrize("side", ["above = 2.0", "below = 2.0"])
def test_nan_is_beyond_no_limit_and_clears_none(side: str) -> None:
    rules = LOSS.replace("above = 2.0", side)
    beyond = 3.0 if side.startswith("above") else 1.0
    assert changes(rules, (0, losses(math.nan))) == []
    assert changes(rules, (0, losses(beyond)), (1, losses(math.nan)), (2, losses(None))) == [("loss", "firing")]


def test_what_is_not_finite_is_told_in_the_words_of_the_log() -> None:
    rules = LOSS.replace("above = 2.0", 'not_finite = true\nannotations = { summary = "it is {value}" }')
    told = [
        Host(watching(rules)).take_all(spoken(TimedWriter(), [(0, losses(value))])).alerts[0] for value in (math.nan, math.inf, -math.inf)
    ]
    assert [alert.annotations["summary"] for alert in told] == ["it is NaN", "it is Infinity", "it is -Infinity"]


def test_nan_ends_a_pending_alert_and_what_was_not_measured_does_not() -> None:
    rules = LOSS + 'for = "10s"\n'
    assert changes(rules, (0, losses(3.0)), (5, losses(None)), (10, losses(3.0))) == [("loss", "pending"), ("loss", "firing")]
    assert changes(rules, (0, losses(3.0)), (5, losses(math.nan)), (10, losses(3.0)))[:2] == [("loss", "pending"), ("loss", "resolved")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_is_satisfied_by_what_is_no_finite_number_alone(value: float) -> None:
    rules = LOSS.replace("above = 2.0", "not_finite = true")
    assert changes(rules, (0, losses(1e308, None))) == []
    assert changes(rules, (0, losses(1.0, value, 1.0)), (1, losses(1.0))) == [("loss", "firing"), ("loss", "resolved")]


def test_without_for_one_value_of_a_record_is_enough_and_with_for_all_must_be_beyond() -> None:
    assert changes(LOSS, (0, losses(1.0, 3.0, 1.0))) == [("loss", "firing")]
    assert changes(LOSS + 'for = "1s"\n', (0, losses(1.0, 3.0, 1.0))) == []


def queue(value: float, **labels: str) -> CustomMetricRecorded:
    return CustomMetricRecorded(name="esper_custom_queue", type="gauge", labels=labels, value=value, about=None)


def told(host: Host) -> list[tuple[str, str]]:
    return [(alert.labels["metric"], type(alert).__name__) for alert in host.alerts]


def test_every_series_of_a_custom_metric_has_alerts_of_its_own() -> None:
    events = [(0, queue(3.0, of="a")), (1, queue(1.0, of="b")), (2, queue(4.0, of="b")), (3, queue(1.0, of="a"))]
    host = Host(watching(QUEUE), saving=True).take_all(spoken(TimedWriter(), events))
    assert told(host) == [
        ('esper_custom_queue{of="a"}', "AlertFiring"),
        ('esper_custom_queue{of="b"}', "AlertFiring"),
        ('esper_custom_queue{of="a"}', "AlertResolved"),
    ]
    assert len({alert.fingerprint for alert in host.alerts}) == 2


def test_a_rule_may_be_about_one_series_alone() -> None:
    rule = QUEUE.replace('"esper_custom_queue"', """'esper_custom_queue{of="b"}'""")
    host = Host(watching(rule)).take_all(spoken(TimedWriter(), [(0, queue(3.0, of="a")), (1, queue(4.0, of="b"))]))
    assert told(host) == [('esper_custom_queue{of="b"}', "AlertFiring")]


def test_a_metric_of_a_longer_name_is_another() -> None:
    longer = queue(3.0).model_copy(update={"name": "esper_custom_queue_length"})
    assert changes(QUEUE, (0, longer), (1, queue(3.0))) == [("queue", "firing")]


def test_value_is_the_event_s_own_field_of_that_name_where_the_rule_names_no_other() -> None:
    rule = """
    [[rule]]
    name = "sampled"
    topic = "observability.metrics.custom"
    event = "esper.metric.recorded.v1"
    severity = "info"
    annotations = { summary = "{name} is {value}" }
    """
    host = Host(watching(rule)).take_all(spoken(TimedWriter(), [(0, queue(3.5))]))
    assert [alert.annotations["summary"] for alert in host.alerts] == ["esper_custom_queue is 3.5"]


def test_annotations_tell_the_fields_of_the_event_that_raised_the_alert_also_when_it_is_over() -> None:
    rule = """
    [[rule]]
    name = "failed"
    topic = "system.events.run"
    event = "esper.run.failed.v1"
    until = ["esper.run.resumed.v1"]
    severity = "critical"
    annotations = { summary = "{kind}: {error} ({where})" }
    """
    failed = FAILED.model_copy(update={"error": "no {memory}\n" + "x" * 1000})
    host = Host(watching(rule), saving=True).take_all(spoken(TimedWriter(), [(0, failed), (1, RESUMED)]))
    assert [type(alert).__name__ for alert in host.alerts] == ["AlertFiring", "AlertResolved"]
    assert [alert.annotations["summary"] for alert in host.alerts] == [f"error: no {{memory}} {'x' * 288} (epoch 1)"] * 2


def test_the_end_of_a_stream_resolves_what_fires_and_what_is_pending() -> None:
    ended = StreamEnded(last_step=3)
    assert changes(LOSS, (0, losses(3.0)), (1, ended), topic=topics.STEPS) == [("loss", "firing"), ("loss", "resolved")]
    assert changes(LOSS + 'for = "1m"\n', (0, losses(3.0)), (1, ended), topic=topics.STEPS) == [("loss", "pending"), ("loss", "resolved")]


def test_a_stream_goes_on_after_its_end_and_fires_anew() -> None:
    found = changes(LOSS, (0, losses(3.0)), (1, StreamEnded(last_step=1)), (2, losses(3.0)), topic=topics.STEPS)
    assert found == [("loss", "firing"), ("loss", "resolved"), ("loss", "firing")]


FAILURE = """
[[rule]]
name = "failed"
topic = "system.events.run"
event = "esper.run.failed.v1"
until = ["esper.run.resumed.v1"]
severity = "critical"

[[rule]]
name = "dropped"
topic = "system.events.run"
event = "esper.samples.dropped.v1"
field = "count"
above = 10
keep_firing_for = "1m"
severity = "warning"
annotations = { summary = "{value} are lost" }
"""


def dropped(count: int) -> SamplesDropped:
    """So many samples found no room."""
    return SamplesDropped(topic=topics.STEPS, count=count, first_step=1, last_step=2)


def test_the_failure_of_a_run_fires_until_it_is_resumed() -> None:
    assert changes(FAILURE, (0, FAILED)) == [("failed", "firing")]
    assert changes(FAILURE, (0, FAILED), (9, RESUMED)) == [("failed", "firing"), ("failed", "resolved")]


def test_the_end_of_a_run_resolves_what_else_fires_on_its_topic() -> None:
    assert changes(FAILURE, (0, dropped(11)), (1, FAILED)) == [("dropped", "firing"), ("dropped", "resolved"), ("failed", "firing")]


def test_an_alert_about_an_event_fires_for_as_long_as_its_rule_says_after_the_last_one() -> None:
    assert changes(FAILURE, (0, dropped(11)), (59, dropped(1))) == [("dropped", "firing")]
    assert changes(FAILURE, (0, dropped(11)), (60, dropped(1))) == [("dropped", "firing"), ("dropped", "resolved")]
    again = [(0.0, dropped(11)), (50.0, dropped(99)), (109.0, dropped(1))]
    assert changes(FAILURE, *again) == [("dropped", "firing")]
    assert changes(FAILURE, *again, (110, dropped(1))) == [("dropped", "firing"), ("dropped", "resolved")]


def test_the_field_of_an_event_is_compared_and_told() -> None:
    assert changes(FAILURE, (0, dropped(10))) == []
    host = Host(watching(FAILURE)).take_all(spoken(TimedWriter(), [(0, dropped(12))]))
    assert [(alert.value, alert.annotations) for alert in host.alerts] == [(12.0, {"summary": "12 are lost"})]


KERNELS = """
[[rule]]
name = "kernel"
topic = "compilation.kernel.ready"
event = "esper.kernel.compile-failed.v1"
until = ["esper.kernel.compiled.v1"]
severity = "warning"
"""


def failed(seed: int) -> Event:
    """No kernel for a seed."""
    return KernelCompileFailed(key="ab" * 32, site="a", seed=seed, life=1, error="no compiler")


def compiled(seed: int) -> Event:
    """A kernel for a seed."""
    return KernelCompiled(key="ab" * 32, kernel="cd" * 32, site="a", seed=seed, life=1, duration_ms=1.0, from_cache=False)


def test_an_event_of_until_ends_the_alerts_whose_labels_it_does_not_contradict() -> None:
    host = Host(watching(KERNELS)).take_all(spoken(TimedWriter(), [(0, failed(1)), (1, failed(2)), (2, compiled(2)), (3, compiled(3))]))
    assert [(type(alert).__name__, alert.labels["seed"]) for alert in host.alerts] == [
        ("AlertFiring", "1"),
        ("AlertFiring", "2"),
        ("AlertResolved", "2"),
    ]


CULLS = """
[[rule]]
name = "culls"
topic = "system.events.lifecycle"
event = "esper.seed.transitioned.v1"
where = { to_stage = "CULLED" }
by = ["site"]
count = 3
within = "1m"
severity = "warning"
labels = { place = "at {site}" }
"""


def culled(site: str, seed: int = 0) -> Event:
    """A seed that was culled."""
    return transition(Stage.TRAINING, Stage.CULLED, site, seed)


def test_events_are_counted_for_each_set_of_labels_within_a_span_of_event_time() -> None:
    host = Host(watching(CULLS))
    events = [
        (0.0, culled("a")),
        (10.0, culled("b")),
        (20.0, culled("a", 1)),
        (70.0, culled("a")),
        (75.0, culled("b")),
        (79.0, culled("a")),
    ]
    host.take_all(spoken(TimedWriter(), events))
    assert [(alert.labels, alert.since[-14:]) for alert in host.alerts] == [({"site": "a", "place": "at a"}, "0:01:19.000000Z"[-14:])]


@pytest.mark.parametrize(("last", "raised"), [(60.0, 1), (60.1, 0)])
def test_a_span_includes_its_own_beginning(last: float, raised: int) -> None:
    assert len(changes(CULLS, (0, culled("a")), (1, culled("a")), (last, culled("a")))) == raised


def test_sites_that_are_counted_are_bounded_and_what_was_long_ago_makes_room() -> None:
    few = MonitorSettings(alerts=AlertSettings(most=2), rules=watching(CULLS).rules)
    writer, host = TimedWriter(), Host(few)
    host.take_all(spoken(writer, [(second, culled(site)) for second in range(3) for site in "abc"]))
    assert [alert.labels["site"] for alert in host.alerts] == ["a"]  # Half of the room is for critical rules; c was never counted.
    host.take_all(spoken(writer, [(second, culled("c")) for second in (100, 101, 102)]))
    assert [key for key, _ in host.cells[topics.LIFECYCLE].state.alerts.counted["culls"]] == [(("site", "c"),)]


def test_what_an_event_rule_does_not_ask_for_is_not_counted() -> None:
    grown = transition(Stage.DORMANT, Stage.GERMINATED, "a")
    assert changes(CULLS, (0, culled("a")), (1, grown), (2, grown), (3, culled("a"))) == []


def test_the_end_of_a_topic_of_facts_resolves_its_alerts_and_forgets_what_was_counted() -> None:
    host, writer = Host(watching(CULLS)), TimedWriter()
    host.take_all(spoken(writer, [(second, culled("a")) for second in range(3)]))
    host.take(writer.at(9, StreamEnded(last_step=1), topics.LIFECYCLE))
    host.take_all(spoken(writer, [(second, culled("a")) for second in (10, 11)]))
    assert host.changes == [("culls", "firing"), ("culls", "resolved")]


def test_an_alert_of_a_rule_that_is_gone_is_resolved_by_the_next_record() -> None:
    writer = TimedWriter()
    before = Host(watching(DISK)).take_all(spoken(writer, [(0, resources(0.05))]))
    after = Host(watching(LOSS), cells=before.cells)
    after.take(writer.at(1, resources(0.05)))
    assert after.changes == [("disk", "resolved")]
    assert after.alerts[0].fingerprint == before.alerts[0].fingerprint


def test_derived_records_stand_at_the_place_of_their_cause() -> None:
    writer = TimedWriter()
    cause = writer.at(0, resources(0.05))
    (made,) = Host(watching(DISK)).take_all([cause]).derived
    assert (made.moment, made.time, made.cause, made.generation) == (cause.moment, cause.time, cause.id, 1)
    assert (made.sequence, made.fact, made.chain, made.writer) == (None, None, None, "observer")
    assert (made.topic, made.type) == (topics.ALERTS, decode(made).KIND)


SPIKE = AnomalySource("spike")
FOUND = AnomalyDetected(topic=topics.STEPS, detector="spike", metric="loss", site=None, seed=None, value=9.0, expected=1.0, score=8.0)
LABELS = (("metric", "loss"), ("detector", "spike"))


def seen(second: int, *found: AnomalyDetected, lasting: Collection[Labels] = ()) -> RuleInput:
    """A record of the steps at which detectors found something, and something lasts."""
    return RuleInput(TimedWriter().at(second, losses(1.0)), second * 1_000_000, losses(1.0), None, found, lasting, ends=False)


def stepped(rule: Rule, *records: RuleInput) -> list[tuple[str, dict[str, str], float | None]]:
    """The changes that records make, with labels and values."""
    state = AlertState()
    made: list[tuple[str, dict[str, str], float | None]] = []
    for record in records:
        state, events = update_alerts(state, [rule], record, AlertSettings())
        made += [(type(event).__name__, event.labels, event.value) for event in events]
    return made


def test_an_anomaly_fires_from_where_it_was_found_until_it_lasts_no_more() -> None:
    rule = Rule("spikes", topics.STEPS, SPIKE, "warning")
    found = stepped(rule, seen(0), seen(1, FOUND, lasting=[LABELS]), seen(2, lasting=[LABELS]), seen(3), seen(4))
    assert found == [("AlertFiring", dict(LABELS), 9.0), ("AlertResolved", dict(LABELS), None)]


def test_an_anomaly_that_is_over_within_its_record_fires_until_the_next() -> None:
    rule = Rule("spikes", topics.STEPS, SPIKE, "warning")
    assert [name for name, _, _ in stepped(rule, seen(0, FOUND), seen(1))] == ["AlertFiring", "AlertResolved"]


def test_an_anomaly_may_have_to_last() -> None:
    rule = Rule("spikes", topics.STEPS, SPIKE, "warning", for_s=5)
    lasting = [seen(second, lasting=[LABELS]) for second in range(1, 7)]
    assert [name for name, _, _ in stepped(rule, seen(0, FOUND, lasting=[LABELS]), *lasting)] == ["AlertPending", "AlertFiring"]
    assert [name for name, _, _ in stepped(rule, seen(0, FOUND, lasting=[LABELS]), seen(1))] == ["AlertPending", "AlertResolved"]


def test_a_rule_about_one_detector_and_metric_takes_no_other() -> None:
    other = FOUND.model_copy(update={"detector": "drift"})
    of_norm = FOUND.model_copy(update={"metric": "gradient_norm"})
    assert stepped(Rule("spikes", topics.STEPS, SPIKE, "warning"), seen(0, other)) == []
    assert stepped(Rule("spikes", topics.STEPS, AnomalySource("spike", "loss"), "warning"), seen(0, of_norm)) == []


def test_anomalies_of_several_seeds_are_alerts_of_their_own() -> None:
    seeds = [FOUND.model_copy(update={"site": "layer0", "seed": seed}) for seed in (0, 1)]
    found = stepped(Rule("spikes", topics.STEPS, SPIKE, "warning"), seen(0, *seeds))
    assert [labels["seed"] for _, labels, _ in found] == ["0", "1"]


@pytest.mark.parametrize(("ratio", "words"), [(1.0, "all"), (0.75, "75 %"), (0.0412, "4.12 %"), (float("nan"), "NaN")])
def test_a_text_has_a_ratio_in_percent(ratio: float, words: str) -> None:
    assert _share(ratio) == words


def test_a_text_names_the_layer_and_whose_units_they_are() -> None:
    places = [_place(labels) for labels in ({"site": "0"}, {"site": "net.2", "seed": "3"}, {"site": ""}, {"metric": "loss"})]
    assert places == ["layer 0 (host)", "layer net.2 (seed 3)", "the model, one layer (host)", "-"]
