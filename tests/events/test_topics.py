import pytest

from esper.events import topics
from esper.events.kinds import kinds_of
from esper.events.kinds.control import DecisionMade
from esper.events.kinds.observability import WindowAggregated
from esper.events.kinds.run import StreamEnded
from esper.events.kinds.telemetry import CustomMetricRecorded, Heartbeat, ResourcesMeasured, SeedHealthMeasured, StepsMeasured


@pytest.mark.parametrize(
    "name", [topics.RUN, topics.EPOCH, topics.LIFECYCLE, topics.DECISIONS, topics.COMMANDS, topics.OUTCOMES, topics.TRAIL]
)
def test_what_is_decided_done_and_answered_for_is_fact_and_kept_for_ever(name: str) -> None:
    assert name in topics.FACTS
    assert name not in topics.TELEMETRY
    assert topics.TOPICS[name].retention_h is None


@pytest.mark.parametrize("name", [topics.SEED_HEALTH, topics.STEPS, topics.HEARTBEAT, topics.RESOURCES, topics.CUSTOM_METRICS])
def test_what_is_measured_is_telemetry_and_hot_for_three_days(name: str) -> None:
    assert name in topics.TELEMETRY
    assert name not in topics.FACTS
    assert topics.TOPICS[name].retention_h == 72


@pytest.mark.parametrize("name", [topics.AGGREGATES, topics.ANOMALIES, topics.ALERTS, topics.OBSERVERS])
def test_what_follows_from_records_is_neither(name: str) -> None:
    assert name not in topics.FACTS
    assert name not in topics.TELEMETRY


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (topics.DECISIONS, {DecisionMade, StreamEnded}),
        (topics.AGGREGATES, {WindowAggregated}),
        (topics.SEED_HEALTH, {SeedHealthMeasured, StreamEnded}),
        (topics.STEPS, {StepsMeasured, StreamEnded}),
        (topics.HEARTBEAT, {Heartbeat, StreamEnded}),
        (topics.CUSTOM_METRICS, {CustomMetricRecorded, StreamEnded}),
        (topics.RESOURCES, {ResourcesMeasured, StreamEnded}),
    ],
)
def test_topic_takes_its_kinds_and_one_of_the_writer_an_end(name: str, kinds: set[type]) -> None:
    assert set(kinds_of(name)) == kinds
