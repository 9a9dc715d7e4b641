"""However records come, whenever the state is saved: what is derived from a topic is the same, to the ids."""

import json
import math
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError, RuleError
from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.observability import AlertFiring, AnomalyDetected
from esper.events.kinds.run import RunFinished, StreamEnded
from esper.events.kinds.telemetry import HealthColumns, SeedHealthMeasured
from esper.folds.monitoring import topic as stream
from esper.folds.monitoring.alerts import AlertSettings
from esper.folds.monitoring.topic import MonitorSettings
from esper.folds.monitoring.windows import WindowSettings
from esper.observer.rule_files import parse_rules
from tests.folds.histories import completed, transition
from tests.folds.monitoring.streams import Host, TimedWriter, losses, resources, spoken, watching
from tests.folds.readers import Repeat, interleaved, repeated

RULES = """
[[rule]]
name = "high"
topic = "telemetry.training.steps"
metric = "loss"
above = 2.0
clear = 1.0
for = "20s"
keep_firing_for = "20s"
severity = "critical"

[[rule]]
name = "wild"
topic = "telemetry.training.steps"
metric = "loss"
not_finite = true
severity = "critical"

[[rule]]
name = "dead"
topic = "telemetry.seed.health"
metric = "dead_neuron_ratio"
above = 0.9
severity = "warning"
annotations = { summary = "{seed} at {site}: {value}" }

[[rule]]
name = "culls"
topic = "system.events.lifecycle"
event = "esper.seed.transitioned.v1"
where = { to_stage = "CULLED" }
by = ["site"]
count = 2
within = "1m"
keep_firing_for = "30s"
severity = "warning"

[[rule]]
name = "broken"
topic = "telemetry.training.steps"
anomaly = "nonfinite"
for = "10s"
severity = "warning"

[[rule]]
name = "epoch"
topic = "system.events.epoch"
metric = "train.loss"
above = 2.0
severity = "warning"
"""
SETTINGS = watching(RULES)
END = RunFinished(metrics={}, model_digest="ab" * 32, parameters=1, stopped_early=False, tails=())


def health(*ratios: float | None) -> SeedHealthMeasured:
    """The health of a site and of its seeds, of whose units so many are dead."""
    size = len(ratios)
    nothing = (None,) * size
    return SeedHealthMeasured(
        health=HealthColumns(
            site=("layer0",) * size,
            seed=(None, *range(size - 1)),
            stage=nothing,
            activation_variance=(1.0,) * size,
            gradient_variance=nothing,
            dead_neuron_ratio=ratios,
            avg_correlation=(0.5,) * size,
            latency_ms=nothing,
            errors=(0,) * size,
            recovering=(False,) * size,
            alpha=nothing,
            ready=nothing,
            health_score=(0.5,) * size,
        ),
        last_adaptation_step=None,
    )


LOSSES = st.sampled_from([0.5, 1.5, 3.0, 3.0, math.nan, math.inf, None])
RATIOS = st.sampled_from([0.0, 0.95, 1.0, None, math.nan])
EVENTS: st.SearchStrategy[tuple[Event, str]] = st.one_of(
    st.lists(LOSSES, min_size=1, max_size=3).map(lambda row: (losses(*row), topics.STEPS)),
    st.lists(RATIOS, min_size=1, max_size=3).map(lambda row: (health(*row), topics.SEED_HEALTH)),
    st.sampled_from(["a", "b"]).map(lambda site: (transition(Stage.TRAINING, Stage.CULLED, site), topics.LIFECYCLE)),
    st.sampled_from([1.0, 3.0]).map(lambda loss: (completed(1, loss=loss), topics.EPOCH)),
    st.sampled_from([topics.STEPS, topics.SEED_HEALTH]).map(lambda topic: (StreamEnded(last_step=1), topic)),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """A run of at least one record, and the ends of its topics."""
    writer, second = TimedWriter(), 0
    for event, topic in draw(st.lists(EVENTS, min_size=1, max_size=25)):
        second += draw(st.sampled_from([0, 1, 10, 16]))
        writer.at(second, event, topic)
    for topic in sorted(writer.sequences):
        writer.at(second + 1, StreamEnded(last_step=1), topic)
    writer.at(second + 1, END)
    return writer.records


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Record], list[Record]]:
    """A history, and one way in which it comes: topics in any order, and stretches sent again."""
    records = draw(histories())
    order = draw(st.permutations(range(len(records))))
    repeats: list[Repeat] = draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 9)), max_size=3))
    return records, repeated(interleaved(records, order), repeats)


def forms(host: Host) -> dict[str, str]:
    """The states of a host as text: NaN equals NaN there."""
    return {topic: json.dumps(stream.to_form(state)) for topic, state in host.states.items()}


def by_id(host: Host) -> list[Record]:
    """What a host derived, in an order that does not depend on how it came."""
    return sorted(host.derived, key=lambda record: record.id)


def test_a_copy_with_other_settings_has_another_digest() -> None:
    settings = MonitorSettings()
    assert settings.settings_digest != settings.model_copy(update={"windows": WindowSettings(length_s=1)}).settings_digest
    assert settings.settings_digest == settings.model_copy().settings_digest


@given(arrivals())
def test_any_interleaving_of_topics_and_any_repetition_derives_the_same_records(arrival: tuple[list[Record], list[Record]]) -> None:
    records, delivery = arrival
    assert by_id(Host(SETTINGS).take_all(delivery)) == by_id(Host(SETTINGS).take_all(records))


@given(histories())
def test_a_state_that_is_saved_and_loaded_at_every_record_derives_the_same_records(records: list[Record]) -> None:
    straight, saving = Host(SETTINGS).take_all(records), Host(SETTINGS, saving=True).take_all(records)
    assert saving.derived == straight.derived
    assert forms(saving) == forms(straight)


@given(histories())
def test_no_id_is_derived_twice(records: list[Record]) -> None:
    ids = [record.id for record in Host(SETTINGS).take_all(records).derived]
    assert len(set(ids)) == len(ids)


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


@given(histories())
def test_a_step_never_changes_the_state_before_it(records: list[Record]) -> None:
    host = Host(SETTINGS)
    for record in records:
        states, before = dict(host.states), forms(host)
        host.take(record)
        assert forms(Host(SETTINGS, states=states)) == before


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


def test_a_record_of_another_topic_is_refused_with_both_names() -> None:
    record = TimedWriter().at(0, losses(1.0))
    with pytest.raises(RuleError, match=r"expected records of topic system.events.epoch, got esper.steps.measured.v1 of topic telemetry"):
        stream.step(stream.initial(topics.EPOCH), record, decode(record), SETTINGS)


@pytest.mark.parametrize("value", [None, 3, {}, {"topic": "x"}, {"topic": 3}])
def test_a_form_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="expected the form of a topic's state"):
        stream.from_form(value)  # type: ignore[arg-type]


def test_the_state_after_a_stream_s_end_is_as_at_first() -> None:
    ended = [(0.0, losses(3.0)), (1.0, StreamEnded(last_step=1))]
    host = Host(SETTINGS).take_all(spoken(TimedWriter(), ended, topics.STEPS))
    assert host.states[topics.STEPS] == stream.initial(topics.STEPS)


FEW = MonitorSettings(alerts=AlertSettings(most=8), rules=SETTINGS.rules)


def bounds(host: Host) -> list[AnomalyDetected]:
    """What was said about bounds."""
    return [event for event in map(decode, host.derived) if isinstance(event, AnomalyDetected) and event.detector == stream.BOUND]


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
    assert len(json.dumps(stream.to_form(host.states[topics.SEED_HEALTH]))) < 1_000_000


def test_the_built_in_rules_are_rules() -> None:
    text = files("esper.observer").joinpath("builtin.toml").read_text(encoding="utf-8")
    rules = parse_rules(text, "builtin.toml")
    assert len({rule.name for rule in rules}) == len(rules) > 10
    host = Host(MonitorSettings(rules=rules)).take_all(spoken(TimedWriter(), [(0, losses(1.0, math.nan)), (1, resources(0.01))]))
    assert ("loss-not-finite", "firing") in host.changes
    assert ("disk-low", "firing") in host.changes
