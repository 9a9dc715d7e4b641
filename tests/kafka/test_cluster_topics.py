"""Topics are made once, checked by their settings, and refused where they differ."""

import asyncio

import pytest

from esper.errors import LogError
from esper.events.topics import ALERTS, STEPS
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import CHANGELOG, check_topics, create_topics, wanted_topics
from tests.kafka.made_cluster import Cluster

pytestmark = pytest.mark.kafka


def test_making_topics_again_makes_none(cluster: Cluster) -> None:
    assert asyncio.run(create_topics(cluster.settings)) == ()
    assert asyncio.run(check_topics(cluster.settings)) == ()


def test_facts_and_alerts_are_kept_for_ever_and_telemetry_for_three_days() -> None:
    config = {topic.name: topic.config for topic in wanted_topics(KafkaSettings(bootstrap="a:1", prefix="p."))}
    assert config[f"p.{STEPS}"]["retention.ms"] == str(72 * 3_600_000)
    assert config[f"p.{ALERTS}"]["retention.ms"] == "-1"
    assert config[f"p.{CHANGELOG}"]["cleanup.policy"] == "compact"


@pytest.mark.parametrize(("copies", "in_sync"), [(1, "1"), (2, "1"), (3, "2")])
def test_one_broker_may_be_lost(copies: int, in_sync: str) -> None:
    settings = KafkaSettings(bootstrap="a:1", replication=copies)
    assert {topic.config["min.insync.replicas"] for topic in wanted_topics(settings)} == {in_sync}


def test_fewer_copies_in_sync_than_needed_are_named(cluster: Cluster) -> None:
    problems = asyncio.run(check_topics(cluster.settings.model_copy(update={"replication": 3})))
    assert f"topic {cluster.settings.topic(STEPS)}: expected min.insync.replicas to be 2, got 1" in problems


def test_missing_topics_and_other_partition_counts_are_named(cluster: Cluster) -> None:
    other = cluster.settings.model_copy(update={"prefix": f"{cluster.settings.prefix}x."})
    assert f"topic {other.topic(STEPS)}: expected it, got none" in asyncio.run(check_topics(other))
    more = cluster.settings.model_copy(update={"partitions": 5})
    assert f"topic {more.topic(STEPS)}: expected 5 partitions, got 2" in asyncio.run(check_topics(more))
    with pytest.raises(LogError, match=r"expected 5 partitions, got 2"):
        asyncio.run(create_topics(more))


def test_more_copies_than_brokers_are_refused_in_the_broker_s_words(kafka: str) -> None:
    settings = KafkaSettings(bootstrap=kafka, prefix="never.", replication=9)
    with pytest.raises(LogError, match=r"did not make topic never\..*replication"):
        asyncio.run(create_topics(settings))


def test_a_broker_that_does_not_answer_is_said_with_its_address() -> None:
    with pytest.raises(LogError, match=r"Kafka at 127.0.0.1:9: expected a broker .*Connect call failed"):
        asyncio.run(check_topics(KafkaSettings(bootstrap="127.0.0.1:9", request_timeout_s=2)))
