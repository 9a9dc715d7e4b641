"""The derived state of a topic: alerts of metrics and seeds, ends, bounds."""

import math
from importlib.resources import files

import pytest
from hypothesis import given

from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.observability import AlertFiring, AnomalyDetected
from esper.events.kinds.run import StreamEnded
from esper.folds.monitoring.alerting import AlertSettings
from esper.folds.monitoring.cell import to_bytes
from esper.folds.monitoring.derive import _BOUND, MonitorSettings, TopicState
from esper.folds.monitoring.windows import WindowSettings
from esper.observer.rule_files import parse_rules
from tests.folds.monitoring.streams import RULES, SETTINGS, Host, TimedWriter, health, histories, losses, resources, spoken, watching


def test_a_copy_with_other_settings_has_another_digest() -> None:
    settings = MonitorSettings()
    assert settings.settings_digest != settings.model_copy(update={"windows": WindowSettings(length_s=1)}).settings_digest
    assert settings.settings_digest == settings.model_copy().settings_digest


LEGAL = {
    None: {"AlertPending", "AlertFiring"},
    "AlertPending": {"AlertFiring", "AlertResolved"},
    "AlertFiring": {"AlertResolved"},
    "AlertResolved": {"AlertPending", "AlertFiring"},
}


@given(histories())
def test_an_alert_goes_from_state_to_state_in_legal_order_and_is_over_when_the_run_is(records: list[Record]) -> None:
    states: dict[str, str] = {}
    for alert in Host(SETTINGS).take_all(records).alerts:
        now = type(alert).__name__
        assert now in LEGAL[states.get(alert.fingerprint)]
        states[alert.fingerprint] = now
    assert set(states.values()) <= {"AlertResolved"}


def test_a_seed_that_is_no_longer_measured_is_no_longer_alerted_about() -> None:
    host = Host(SETTINGS).take_all(spoken(TimedWriter(), [(0, health(0.0, 1.0, 1.0)), (1, health(0.0, 1.0))]))
    assert [(alert.labels.get("seed"), type(alert).__name__) for alert in host.alerts] == [
        ("0", "AlertFiring"),
        ("1", "AlertFiring"),
        ("1", "AlertResolved"),
    ]


def test_a_seed_whose_value_was_not_measured_keeps_its_alert() -> None:
    host = Host(SETTINGS).take_all(spoken(TimedWriter(), [(0, health(0.0, 1.0)), (1, health(0.0, None)), (2, health(0.0, math.nan))]))
    assert host.changes == [("dead", "firing")]


@pytest.mark.parametrize(
    ("middle", "end"), [(1.0, "AlertFiring"), (None, "AlertFiring"), (math.nan, "AlertResolved"), (0.5, "AlertResolved")]
)
def test_what_is_pending_for_a_seed_ends_with_a_value_that_does_not_satisfy(middle: float | None, end: str) -> None:
    lasting = watching(RULES.replace("above = 0.9", 'above = 0.9\nfor = "10s"'))
    host = Host(lasting).take_all(spoken(TimedWriter(), [(0, health(0.0, 1.0)), (5, health(0.0, middle)), (10, health(0.0, 1.0))]))
    assert [type(alert).__name__ for alert in host.alerts[:2]] == ["AlertPending", end]


def test_a_seed_that_is_gone_is_pending_no_more() -> None:
    lasting = watching(RULES.replace("above = 0.9", 'above = 0.9\nfor = "10s"'))
    host = Host(lasting).take_all(spoken(TimedWriter(), [(0, health(0.0, 1.0)), (5, health(0.0))]))
    assert [type(alert).__name__ for alert in host.alerts] == ["AlertPending", "AlertResolved"]


def test_a_resolution_has_the_value_that_cleared_it_and_speaks_of_the_one_that_raised_it() -> None:
    host = Host(SETTINGS).take_all(spoken(TimedWriter(), [(0, health(0.0, 1.0)), (5, health(0.0, 0.5))]))
    assert [(alert.value, alert.annotations["summary"]) for alert in host.alerts] == [(1.0, "0 at layer0: 1"), (0.5, "0 at layer0: 1")]


def test_a_site_s_own_alert_has_no_seed() -> None:
    (alert,) = Host(SETTINGS).take_all(spoken(TimedWriter(), [(0, health(1.0))])).alerts
    assert (alert.labels, alert.annotations) == ({"site": "layer0", "metric": "dead_neuron_ratio"}, {"summary": "- at layer0: 1"})


def test_an_alert_about_dead_units_gives_their_number_until_it_is_over() -> None:
    rule = f'[[rule]]\nname = "dead"\ntopic = "{topics.SEED_HEALTH}"\nmetric = "dead_neuron_ratio"\nabove = 0.9\nseverity = "critical"\n'
    rules = watching(rule + 'annotations = { summary = "{units} of {place} are dead" }')
    spoke = spoken(TimedWriter(), [(0, health(1.0, 0.95)), (5, health(0.0, 0.5))])
    told = [(type(alert).__name__, alert.annotations["summary"]) for alert in Host(rules, saving=True).take_all(spoke).alerts]
    units = ["64 of 64 measured units of layer layer0 (host) are dead", "61 of 64 measured units of layer layer0 (seed 0) are dead"]
    assert told == [("AlertFiring", units[0]), ("AlertFiring", units[1]), ("AlertResolved", units[0]), ("AlertResolved", units[1])]


def test_what_detectors_find_is_recorded_and_alerted_about_until_it_is_over() -> None:
    rules = RULES.replace('anomaly = "nonfinite"\nfor = "10s"', 'anomaly = "nonfinite"\nmetric = "loss"')
    rows = [(0.0, losses(1.0)), (1.0, losses(math.nan)), (2.0, losses(math.nan)), (3.0, losses(1.0)), (4.0, losses(math.nan))]
    ended = [*rows, (5.0, StreamEnded(last_step=5))]
    host = Host(watching(rules), saving=True).take_all(spoken(TimedWriter(), ended, topics.STEPS))
    found = [event for event in map(decode, host.derived) if isinstance(event, AnomalyDetected)]
    assert [(one.detector, one.metric, math.isnan(one.value)) for one in found] == [("nonfinite", "loss", True)] * 2
    broken = [(state, alert.labels) for alert, (rule, state) in zip(host.alerts, host.changes, strict=True) if rule == "broken"]
    labels = {"metric": "loss", "detector": "nonfinite"}
    assert broken == [("firing", labels), ("resolved", labels), ("firing", labels), ("resolved", labels)]


def test_other_settings_give_other_ids() -> None:
    writer = TimedWriter()
    records = spoken(writer, [(0, losses(1.0)), (20, losses(1.0))])
    one = {record.id for record in Host(SETTINGS).take_all(records).derived}
    other = {record.id for record in Host(MonitorSettings()).take_all(records).derived}
    assert len(one) == len(other) > 0
    assert not one & other


def test_the_state_after_a_stream_s_end_is_as_at_first() -> None:
    ended = [(0.0, losses(3.0)), (1.0, StreamEnded(last_step=1))]
    host = Host(SETTINGS).take_all(spoken(TimedWriter(), ended, topics.STEPS))
    assert host.cells[topics.STEPS].state == TopicState()


FEW = MonitorSettings(alerts=AlertSettings(most=8), rules=SETTINGS.rules)


def bounds(host: Host) -> list[AnomalyDetected]:
    """What was said about bounds."""
    return [event for event in map(decode, host.derived) if isinstance(event, AnomalyDetected) and event.detector == _BOUND]


def test_alerts_beyond_the_bound_are_not_raised_and_that_is_recorded_once() -> None:
    host = Host(FEW).take_all(spoken(TimedWriter(), [(second, health(*(1.0,) * 20)) for second in range(3)]))
    assert len(host.alerts) == 6
    assert [(said.metric, said.value) for said in bounds(host)] == [("alerts", 8.0)]


def test_a_bound_that_is_reached_again_is_recorded_again() -> None:
    full, still, nearly, empty = (health(*(1.0,) * dead, *(0.0,) * (20 - dead)) for dead in (20, 20, 6, 0))
    rows = [(0.0, full), (1.0, still), (2.0, nearly), (3.0, empty), (4.0, full)]
    assert len(bounds(Host(FEW).take_all(spoken(TimedWriter(), rows)))) == 2
    assert len(bounds(Host(FEW).take_all(spoken(TimedWriter(), [(0.0, full), (1.0, nearly), (2.0, full)])))) == 1


def test_room_is_counted_over_records() -> None:
    rows = [(0.0, health(*(1.0,) * 4, *(0.0,) * 16)), (1.0, health(*(1.0,) * 20))]
    assert len(Host(FEW).take_all(spoken(TimedWriter(), rows)).alerts) == 6


def test_what_had_no_room_is_raised_when_there_is_room_and_it_still_holds() -> None:
    full, later = health(*(1.0,) * 9), health(*(0.0,) * 7, 1.0, 1.0)
    host = Host(FEW).take_all(spoken(TimedWriter(), [(0, full), (1, later), (2, later)]))
    fired = [alert.labels.get("seed") for alert in host.alerts if isinstance(alert, AlertFiring)]
    assert fired == [None, "0", "1", "2", "3", "4", "6", "7"]


def test_critical_rules_have_room_of_their_own() -> None:
    critical = """
[[rule]]
name = "very-dead"
topic = "telemetry.seed.health"
metric = "dead_neuron_ratio"
above = 0.99
severity = "critical"
"""
    few = MonitorSettings(alerts=AlertSettings(most=8), rules=(*SETTINGS.rules, *parse_rules(critical, "r")))
    host = Host(few).take_all(spoken(TimedWriter(), [(0, health(*(1.0,) * 20))]))
    assert [rule for rule, _ in host.changes] == ["dead"] * 6 + ["very-dead"] * 2


def test_the_state_of_a_thousand_seeds_that_all_alert_stays_below_a_megabyte() -> None:
    rules = "".join(
        f'[[rule]]\nname = "r{place}"\ntopic = "{topics.SEED_HEALTH}"\nmetric = "dead_neuron_ratio"\nabove = 0.5\nseverity = "critical"\n'
        for place in range(2)
    )
    size = 1000
    wide = health(*(1.0,) * size)
    names = tuple(f"backbone.stage3.block{seed // 4}.convolution" for seed in range(size))
    columns = wide.health.model_copy(update={"site": names, "seed": tuple(seed % 4 for seed in range(size))})
    host = Host(watching(rules))
    writer = TimedWriter()
    for second in range(0, 150, 15):
        host.take(writer.at(second, wide.model_copy(update={"health": columns})))
    assert len(host.alerts) == host.settings.alerts.most
    assert len(to_bytes(host.cells[topics.SEED_HEALTH])) < 1_000_000


def test_the_built_in_rules_are_rules() -> None:
    text = files("esper.observer").joinpath("builtin.toml").read_text(encoding="utf-8")
    rules = parse_rules(text, "builtin.toml")
    assert len({rule.name for rule in rules}) == len(rules) > 10
    host = Host(MonitorSettings(rules=rules)).take_all(spoken(TimedWriter(), [(0, losses(1.0, math.nan)), (1, resources(0.01))]))
    assert ("loss-not-finite", "firing") in host.changes
    assert ("disk-low", "firing") in host.changes
