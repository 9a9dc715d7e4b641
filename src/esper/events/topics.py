"""The topics of the log: their names, their classes (may a record be dropped, can it be made again), and their writers."""

from enum import StrEnum
from typing import NamedTuple


class TopicClass(StrEnum):
    """Facts are never dropped; telemetry may be, which SamplesDropped counts; derived events can be made again."""

    FACT = "fact"
    TELEMETRY = "telemetry"
    DERIVED = "derived"


class Topic(NamedTuple):
    """A named sequence in the log. `retention_h` is Kafka's, None for ever; a run's directory keeps everything."""

    name: str
    kind: TopicClass
    writers: tuple[str, ...]
    retention_h: int | None
    meaning: str


RUN = "system.events.run"
EPOCH = "system.events.epoch"
LIFECYCLE = "system.events.lifecycle"
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

_TRAINER = ("trainer",)
_OBSERVER = ("observer",)
_HOT_H, _DERIVED_H = 72, 30 * 24

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic(RUN, TopicClass.FACT, _TRAINER, None, "A run's start, checkpoints, rollbacks and end."),
        Topic(EPOCH, TopicClass.FACT, _TRAINER, None, "Losses and metrics of each epoch, and the state that decisions follow from."),
        Topic(LIFECYCLE, TopicClass.FACT, _TRAINER, None, "Stages of seeds, and evaluations of their effect."),
        Topic(DECISIONS, TopicClass.FACT, _TRAINER, None, "Decisions of Tamiyo, whether or not they pass the gate."),
        Topic(COMMANDS, TopicClass.FACT, _TRAINER, None, "Decisions that passed the gate."),
        Topic(OUTCOMES, TopicClass.FACT, _TRAINER, None, "The outcome of each command, and decisions that did not pass the gate."),
        Topic(FIELD_REPORTS, TopicClass.FACT, _TRAINER, None, "Results of blueprints, as feedback to Tamiyo."),
        Topic(BLUEPRINTS, TopicClass.FACT, _TRAINER, None, "Blueprints on their way to the compiler."),
        Topic(KERNELS, TopicClass.FACT, _TRAINER, None, "Compiled kernels, and failed compilations."),
        Topic(CHARACTERIZED, TopicClass.FACT, _TRAINER, None, "Costs of kernels, and the checks they passed."),
        Topic(SEED_HEALTH, TopicClass.TELEMETRY, _TRAINER, _HOT_H, "The health of sites and seeds."),
        Topic(STEPS, TopicClass.TELEMETRY, _TRAINER, _HOT_H, "Loss, gradient norm and timing of optimizer steps."),
        Topic(HEARTBEAT, TopicClass.TELEMETRY, _TRAINER, _HOT_H, "Signs of life of the writer; never sampled."),
        Topic(RESOURCES, TopicClass.TELEMETRY, ("agent",), _HOT_H, "Machines, and the logs on them."),
        Topic(AGGREGATES, TopicClass.DERIVED, _OBSERVER, _DERIVED_H, "Statistics of metrics over windows of time."),
        Topic(ANOMALIES, TopicClass.DERIVED, _OBSERVER, _DERIVED_H, "Values and trends that detectors found."),
        Topic(ALERTS, TopicClass.DERIVED, ("observer", "nissa"), None, "Alerts, and their deliveries."),
        Topic(OBSERVERS, TopicClass.DERIVED, _OBSERVER, None, "Observers, what blocks them, and silent runs."),
        Topic(CUSTOM_METRICS, TopicClass.TELEMETRY, ("trainer", "nissa"), _HOT_H, "The user's own metrics."),
    )
}

FACTS = frozenset(name for name, topic in TOPICS.items() if topic.kind is TopicClass.FACT)

DEAD_LETTER_SUFFIX = ".dead-letter"
DEAD_LETTER_RETENTION_H = 30 * 24


def is_telemetry(topic: str) -> bool:
    """True for a topic whose records may be dropped before they are taken."""
    return TOPICS[topic].kind is TopicClass.TELEMETRY
