"""The beginning of a ledger: what stands on the cluster must go with the positions that its predecessor saved."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from esper.errors import LogError
from esper.events.topics import FACTS
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import INPUTS
from esper.kafka.ledgers.ledger_states import Positions


class Beginning(NamedTuple):
    """The offset to derive from, and that to apply from; `expired`: offsets that retention had cut before anything followed from them."""

    position: int
    refold_from: int
    expired: int


def beginning(topic: str, named: str, begin: int, end: int, saved: Positions) -> Beginning:
    """The first offsets of `topic`, which holds [begin, end). Raises LogError, with `named`, where that does not go with what was saved."""
    derived_to = saved.derived_to.get(topic, begin)
    refold_from = saved.refold_from.get(topic, derived_to)
    if derived_to > end:
        raise LogError(f"{named}: expected an end at {derived_to} or later, got {end}: the topic was made anew, or lost records")
    if refold_from < begin and topic in FACTS:
        raise LogError(f"{named}: expected records from offset {refold_from} on, got the first at {begin}: facts were deleted")
    return Beginning(max(derived_to, begin), max(refold_from, begin), max(0, begin - derived_to))


def check_partitions(consumer: AIOKafkaConsumer, settings: KafkaSettings) -> None:
    """Raises LogError where a topic has not the number of partitions that all have: a run's records would be in several ledgers."""
    for topic in INPUTS:
        found = consumer.partitions_for_topic(settings.topic(topic))
        if found is not None and len(found) != settings.partitions:
            where = f"Kafka at {settings.bootstrap}, topic {settings.topic(topic)}"
            raise LogError(
                f"{where}: expected {settings.partitions} partitions, got {len(found)}; `esper topics check` names all that differ"
            )


async def offsets_of(
    ask: Callable[[list[TopicPartition]], Awaitable[dict[TopicPartition, int]]], places: Mapping[str, TopicPartition]
) -> dict[str, int]:
    """The answer of a consumer's `beginning_offsets` or `end_offsets`, by topic."""
    found = await ask(list(places.values()))
    return {topic: found[place] for topic, place in places.items()}
