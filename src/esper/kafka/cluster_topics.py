"""The topics of a cluster: which there must be, made where they are missing, checked where they are there.

All have the same number of partitions, so that with the same keys a run has one partition number in every topic. Facts, alerts and
observers are kept for ever; changelogs are compacted, with tombstones kept for a day.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from esper.errors import LogError
from esper.events.topics import DEAD_LETTER_RETENTION_H, DEAD_LETTER_SUFFIX, DERIVED, TOPICS
from esper.kafka.clients import LARGEST_BYTES, administering
from esper.kafka.cluster import KafkaSettings
from esper.kafka.probing import DENIED_TOPIC, UNKNOWN_TOPIC, FoundTopic, RefusedError, Right, probing

CHANGELOG = "worker.changelog"
LEAD = "worker.lead"
CLAIMS = "bridge.claims"
INPUTS = tuple(name for name in TOPICS if name not in DERIVED)
"""The topics that runs write themselves, which a ledger reads."""

# A claim is written with every transaction, and all are read where a bridge begins: a segment that is written is not compacted.
_CLAIMS_SEGMENT = str(2 * 1024 * 1024)


class Needs(NamedTuple):
    """The rights that a process needs on the cluster: topics that it reads and writes, the start of its transactional ids, its group."""

    reads: frozenset[str]
    writes: frozenset[str]
    transactional_id: str | None = None
    group: str | None = None


_DEAD_LETTERS = tuple(name + DEAD_LETTER_SUFFIX for name in INPUTS)
BRIDGE = Needs(frozenset({CLAIMS}), frozenset({*INPUTS, CLAIMS}), "bridge-")
WORKER = Needs(frozenset({*INPUTS, CHANGELOG, LEAD}), frozenset({*DERIVED, *_DEAD_LETTERS, CHANGELOG}), "ledger-", "worker")

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
    wanted = {topic.name: topic for topic in wanted_topics(settings)}
    async with probing(settings) as probe:
        there = {name for name, topic in (await probe.topics(wanted)).items() if not topic.error}
    async with administering(settings) as admin:
        missing = [topic for name, topic in wanted.items() if name not in there]
        made = [NewTopic(topic.name, settings.partitions, settings.replication, topic_configs=dict(topic.config)) for topic in missing]
        if made:
            answer = await admin.create_topics(made, timeout_ms=int(settings.request_timeout_s * 1000))
            for name, code, message in answer.topic_errors:
                if code not in (0, _EXISTS):
                    raise LogError(f"Kafka at {settings.bootstrap} did not make topic {name}: {message} (error {code})")
        await _led(settings)
        if problems := await _problems(admin, settings):
            raise LogError(f"Kafka at {settings.bootstrap}: {'; '.join(problems)}")
    return tuple(topic.name for topic in missing)


async def check_topics(settings: KafkaSettings) -> tuple[str, ...]:
    """Differences between the cluster's topics and those that Esper needs, their settings too, each as a sentence."""
    async with administering(settings) as admin:
        return tuple(await _problems(admin, settings))


async def check_needs(settings: KafkaSettings, needs: Needs) -> dict[str, str]:
    """The ids of the topics that a process needs, by whole name: all are there with the right number of partitions and its rights.

    Returns or raises within seconds. Raises RefusedError with what is missing, LogError where no broker answers.
    """
    rights = {
        settings.topic(name): {right for right, topics in ((Right.READ, needs.reads), (Right.WRITE, needs.writes)) if name in topics}
        for name in [*TOPICS, *_DEAD_LETTERS, CLAIMS, CHANGELOG, LEAD]
        if name in needs.reads | needs.writes
    }
    async with probing(settings) as probe:
        found = await probe.topics(rights)
        problems = [problem for name, wanted in rights.items() for problem in _lacks(name, found[name], wanted, settings.partitions)]
        if needs.transactional_id and await probe.is_denied(transactional_id=settings.topic(needs.transactional_id)):
            problems.append(f"transactional ids {settings.topic(needs.transactional_id)}*: expected the right to write, got none")
        if needs.group and await probe.is_denied(group=settings.topic(needs.group)):
            problems.append(f"group {settings.topic(needs.group)}: expected the right to read, got none")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        told = "; make or check them: esper topics create" if any(topic.error == UNKNOWN_TOPIC for topic in found.values()) else ""
        raise RefusedError(f"Kafka at {settings.bootstrap}: {'; '.join(problems[:3])}{more}{told}")
    return {name: topic.id for name, topic in found.items()}


def _lacks(name: str, topic: FoundTopic, wanted: Iterable[Right], partitions: int) -> Iterator[str]:
    if topic.error and topic.error != DENIED_TOPIC:
        yield f"topic {name}: expected it, got none"
        return
    if lacking := [right.name.lower() for right in wanted if topic.error or not topic.may(right)]:
        yield f"topic {name}: expected the right to {' and '.join(lacking)}, got none"
    if not topic.error and topic.partitions != partitions:
        yield f"topic {name}: expected {partitions} partitions, got {topic.partitions}"


async def _problems(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> list[str]:
    wanted = {topic.name: topic for topic in wanted_topics(settings)}
    async with probing(settings) as probe:
        found = await probe.topics(wanted)
    problems = [problem for name, topic in found.items() for problem in _lacks(name, topic, (), settings.partitions)]
    problems += [
        f"topic {name}: expected {settings.replication} copies, got {topic.copies}"
        for name, topic in found.items()
        if not topic.error and topic.copies != settings.replication
    ]
    known = [name for name, topic in found.items() if not topic.error]
    if not known:
        return problems
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in known]
    for answer in await admin.describe_configs(resources):
        for resource in answer.resources:
            if resource[0] == DENIED_TOPIC:
                problems.append(f"topic {resource[3]}: expected the right to describe its settings, got none")
                continue
            name, entries = resource[3], {entry[0]: entry[1] for entry in resource[4]}
            for key, expected in wanted[name].config.items():
                if entries.get(key) != expected and not (key == _IN_SYNC and int(entries.get(key) or 0) > int(expected)):
                    problems.append(f"topic {name}: expected {key} to be {expected}, got {entries.get(key)}")
    return problems


async def _led(settings: KafkaSettings) -> None:
    """Waits for a leader of every partition: making a topic is answered before it can be written."""
    names = [topic.name for topic in wanted_topics(settings)]
    try:
        async with asyncio.timeout(_READY_S), probing(settings) as probe:
            while unled := [name for name, topic in (await probe.topics(names)).items() if topic.led < max(1, topic.partitions)]:
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise LogError(f"Kafka at {settings.bootstrap}: expected leaders within {_READY_S:g} s, topic {unled[0]} has none") from error
