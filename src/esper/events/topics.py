"""The topics of the log: their names, what class of promise each one makes, and who writes it."""

from enum import StrEnum
from typing import NamedTuple


class TopicClass(StrEnum):
    """Facts are never dropped; telemetry may be dropped before it is taken, and says so; derived events can be made again."""

    FACT = "fact"
    TELEMETRY = "telemetry"
    DERIVED = "derived"


class Topic(NamedTuple):
    """One named sequence in the log. `retention_h` is Kafka's, None for ever; a run's directory keeps everything."""

    name: str
    kind: TopicClass
    writers: tuple[str, ...]
    retention_h: int | None


RUN = "system.events.run"
EPOCH = "system.events.epoch"
LIFECYCLE = "system.events.lifecycle"
PROPOSALS = "control.tamiyo.proposals"
DECISIONS = "control.tamiyo.decisions"
COMMANDS = "control.kasmina.commands"
OUTCOMES = "control.kasmina.outcomes"
FIELD_REPORTS = "innovation.field_reports"
BLUEPRINTS = "compilation.blueprint.submitted"
KERNELS = "compilation.kernel.ready"
CHARACTERIZED = "validation.kernel.characterized"
SEED_HEALTH = "telemetry.seed.health"
STEPS = "telemetry.training.steps"
HEARTBEAT = "telemetry.run.heartbeat"
RESOURCES = "telemetry.system.resources"
AGGREGATES = "observability.aggregates"
ANOMALIES = "observability.anomalies"
ALERTS = "observability.alerts"
OBSERVERS = "observability.observers"
CUSTOM_METRICS = "observability.metrics.custom"
HEADS = "audit.heads"

_TRAINER = ("trainer",)
_DERIVERS = ("observer", "worker")
_HOT_H, _DERIVED_H, _PROPOSALS_H = 72, 30 * 24, 7 * 24

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        *(
            Topic(name, TopicClass.FACT, _TRAINER, None)
            for name in (RUN, EPOCH, LIFECYCLE, DECISIONS, COMMANDS, OUTCOMES, FIELD_REPORTS, BLUEPRINTS, KERNELS, CHARACTERIZED)
        ),
        *(Topic(name, TopicClass.TELEMETRY, _TRAINER, _HOT_H) for name in (SEED_HEALTH, STEPS, HEARTBEAT)),
        Topic(RESOURCES, TopicClass.TELEMETRY, ("agent",), _HOT_H),
        Topic(CUSTOM_METRICS, TopicClass.TELEMETRY, ("trainer", "nissa"), _HOT_H),
        Topic(PROPOSALS, TopicClass.DERIVED, ("worker",), _PROPOSALS_H),
        Topic(AGGREGATES, TopicClass.DERIVED, _DERIVERS, _DERIVED_H),
        Topic(ANOMALIES, TopicClass.DERIVED, _DERIVERS, _DERIVED_H),
        Topic(ALERTS, TopicClass.DERIVED, (*_DERIVERS, "nissa"), None),
        Topic(OBSERVERS, TopicClass.DERIVED, _DERIVERS, None),
        Topic(HEADS, TopicClass.DERIVED, ("notary",), None),
    )
}


def is_fact(topic: str) -> bool:
    """True for a topic whose records are never dropped and are numbered in the run's order of facts."""
    return TOPICS[topic].kind is TopicClass.FACT


def is_telemetry(topic: str) -> bool:
    """True for a topic whose records may be dropped before they are taken."""
    return TOPICS[topic].kind is TopicClass.TELEMETRY
