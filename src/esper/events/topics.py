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


TOPICS: dict[str, Topic] = {}


def _topic(name: str, kind: TopicClass, writers: str, retention_h: int | None, meaning: str) -> str:
    TOPICS[name] = Topic(name, kind, tuple(writers.split()), retention_h, meaning)
    return name


_FACT, _TELEMETRY, _DERIVED = TopicClass
_HOT_H, _DERIVED_H = 72, 30 * 24

RUN = _topic("system.events.run", _FACT, "trainer", None, "A run's start, checkpoints, rollbacks and end.")
EPOCH = _topic("system.events.epoch", _FACT, "trainer", None, "Losses and metrics of each epoch, and the state that decisions follow from.")
LIFECYCLE = _topic("system.events.lifecycle", _FACT, "trainer", None, "Stages of seeds, and evaluations of their effect.")
DECISIONS = _topic("control.tamiyo.decisions", _FACT, "trainer", None, "Decisions of Tamiyo, whether or not they pass the gate.")
COMMANDS = _topic("control.kasmina.commands", _FACT, "trainer", None, "Decisions that passed the gate.")
OUTCOMES = _topic(
    "control.kasmina.outcomes", _FACT, "trainer", None, "The outcome of each command, and decisions that did not pass the gate."
)
FIELD_REPORTS = _topic("innovation.field_reports", _FACT, "trainer", None, "Results of blueprints, as feedback to Tamiyo.")
BLUEPRINTS = _topic("compilation.blueprint.submitted", _FACT, "trainer", None, "Blueprints on their way to the compiler.")
KERNELS_READY = _topic("compilation.kernel.ready", _FACT, "trainer", None, "Compiled kernels, and failed compilations.")
CHARACTERIZED = _topic("validation.kernel.characterized", _FACT, "trainer", None, "Costs of kernels, and the checks they passed.")
SEED_HEALTH = _topic("telemetry.seed.health", _TELEMETRY, "trainer", _HOT_H, "The health of sites and seeds.")
STEPS = _topic("telemetry.training.steps", _TELEMETRY, "trainer", _HOT_H, "Loss, gradient norm and timing of optimizer steps.")
HEARTBEAT = _topic("telemetry.run.heartbeat", _TELEMETRY, "trainer", _HOT_H, "Signs of life of the writer; never sampled.")
RESOURCES = _topic("telemetry.system.resources", _TELEMETRY, "agent", _HOT_H, "Machines, and the logs on them.")
AGGREGATES = _topic("observability.aggregates", _DERIVED, "observer", _DERIVED_H, "Statistics of metrics over windows of time.")
ANOMALIES = _topic("observability.anomalies", _DERIVED, "observer", _DERIVED_H, "Values and trends that detectors found.")
ALERTS = _topic("observability.alerts", _DERIVED, "observer nissa", None, "Alerts, and their deliveries.")
OBSERVERS = _topic("observability.observers", _DERIVED, "observer", None, "Observers, what blocks them, and silent runs.")
CUSTOM_METRICS = _topic("observability.metrics.custom", _TELEMETRY, "trainer nissa", _HOT_H, "The user's own metrics.")
TRAIL = _topic("audit.trail", _FACT, "audit", None, "Checks, sign-offs and holds of runs: who asked, and what was found.")

FACTS, TELEMETRY, DERIVED = (frozenset(name for name, topic in TOPICS.items() if topic.kind is kind) for kind in TopicClass)

DEAD_LETTER_SUFFIX = ".dead-letter"
DEAD_LETTER_RETENTION_H = 30 * 24
