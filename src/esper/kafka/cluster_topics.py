"""The topics of a cluster: which there must be, made where they are missing, checked where they are there.

All have the same number of partitions, so that with the same keys a run has one partition number in every topic. Facts, alerts and
observers are kept for ever; changelogs are compacted, with tombstones kept for a day.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from esper.errors import LogError
from esper.events.topics import DEAD_LETTER_RETENTION_H, DEAD_LETTER_SUFFIX, DERIVED, TOPICS
from esper.kafka.clients import LARGEST_BYTES, administering
from esper.kafka.cluster import KafkaSettings

CHANGELOG = "worker.changelog"
LEAD = "worker.lead"
CLAIMS = "bridge.claims"
INPUTS = tuple(name for name in TOPICS if name not in DERIVED)
"""The topics that runs write themselves, which a ledger reads."""

# A claim is written with every transaction, and all are read where a bridge begins: a segment that is written is not compacted.
_CLAIMS_SEGMENT = str(2 * 1024 * 1024)
_READY_S = 30.0
_POLL_S = 0.05
_EXISTS = 36
_IN_SYNC = "min.insync.replicas"
_HOUR_MS = 3_600_000


class WantedTopic(NamedTuple):
    """A topic of the cluster, by its whole name, with Kafka's settings of it."""

    name: str
    config: Mapping[str, str]


def wanted_topics(settings: KafkaSettings) -> Iterator[WantedTopic]:
    """Every topic that Esper needs on the cluster.

    All copies but one must have what is acknowledged: so any one broker may be lost at any time, and writing goes on.
    """
    in_sync = {_IN_SYNC: str(max(1, settings.replication - 1))}
    for name, config in _configs():
        yield WantedTopic(settings.topic(name), config | in_sync)


def _configs() -> Iterator[tuple[str, dict[str, str]]]:
    for name, topic in TOPICS.items():
        yield name, _kept(topic.retention_h)
        if name in INPUTS:
            yield name + DEAD_LETTER_SUFFIX, _kept(DEAD_LETTER_RETENTION_H)
    yield CHANGELOG, {"cleanup.policy": "compact", "max.message.bytes": str(LARGEST_BYTES)}
    yield LEAD, _kept(1)
    yield CLAIMS, {"cleanup.policy": "compact", "segment.bytes": _CLAIMS_SEGMENT}


def _kept(hours: int | None) -> dict[str, str]:
    retention = -1 if hours is None else hours * _HOUR_MS
    return {"cleanup.policy": "delete", "retention.ms": str(retention), "retention.bytes": "-1", "max.message.bytes": str(LARGEST_BYTES)}


async def create_topics(settings: KafkaSettings) -> tuple[str, ...]:
    """The names of the topics that were missing and are there now, each with leaders for its partitions.

    Raises LogError where the cluster refuses one, and where one that was there differs (see `check_topics`).
    """
    async with administering(settings) as admin:
        there = set(await admin.list_topics())
        missing = [topic for topic in wanted_topics(settings) if topic.name not in there]
        made = [NewTopic(topic.name, settings.partitions, settings.replication, topic_configs=dict(topic.config)) for topic in missing]
        if made:
            answer = await admin.create_topics(made, timeout_ms=int(settings.request_timeout_s * 1000))
            for name, code, message in answer.topic_errors:
                if code not in (0, _EXISTS):
                    raise LogError(f"Kafka at {settings.bootstrap} did not make topic {name}: {message} (error {code})")
        await _led(admin, settings)
        if problems := await _problems(admin, settings):
            raise LogError(f"Kafka at {settings.bootstrap}: {'; '.join(problems)}")
    return tuple(topic.name for topic in missing)


async def check_topics(settings: KafkaSettings) -> tuple[str, ...]:
    """Differences between the cluster's topics and those that Esper needs, each as a sentence."""
    async with administering(settings) as admin:
        return tuple(await _problems(admin, settings))


async def _problems(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> list[str]:
    wanted = {topic.name: topic for topic in wanted_topics(settings)}
    there = set(await admin.list_topics())
    problems = [f"topic {name}: expected it, got none" for name in wanted if name not in there]
    known = [name for name in wanted if name in there]
    if not known:
        return problems
    for described in await admin.describe_topics(known):
        count = len(described["partitions"])
        if count != settings.partitions:
            problems.append(f"topic {described['topic']}: expected {settings.partitions} partitions, got {count}")
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in known]
    for answer in await admin.describe_configs(resources):
        for resource in answer.resources:
            name, entries = resource[3], {entry[0]: entry[1] for entry in resource[4]}
            for key, expected in wanted[name].config.items():
                if entries.get(key) != expected and not (key == _IN_SYNC and int(entries.get(key) or 0) > int(expected)):
                    problems.append(f"topic {name}: expected {key} to be {expected}, got {entries.get(key)}")
    return problems


async def _led(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    """Waits for a leader of every partition: making a topic is answered before it can be written."""
    names = [topic.name for topic in wanted_topics(settings)]
    async with asyncio.timeout(_READY_S):
        while True:
            described = await admin.describe_topics(names)
            if all(part["leader"] >= 0 for topic in described for part in topic["partitions"]) and all(t["partitions"] for t in described):
                return
            await asyncio.sleep(_POLL_S)
