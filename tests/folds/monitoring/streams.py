"""Streams for tests: records of one run at times that a test chooses, and a host that admits them and keeps a state for each topic."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import strategies as st

from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved
from esper.events.kinds.run import RunFinished, StreamEnded
from esper.events.kinds.telemetry import HealthColumns, ResourcesMeasured, SeedHealthMeasured, StepColumns, StepsMeasured
from esper.folds.monitoring.cell import Applied, Blocked, Cell, Outcome, advance, from_bytes, to_bytes
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.open_alerts import AlertChange
from esper.observer.rule_files import parse_rules
from tests.folds.histories import START, Writer, completed, transition


@dataclass
class TimedWriter(Writer):
    """A writer whose records stand at the times that it is told, in seconds after the start."""

    def at(self, second: float, event: Event, topic: str | None = None) -> Record:
        """The record that now holds `event`; times of one run never go back, so tests must not either."""
        self.write(event, topic=topic)
        self.records[-1] = self.records[-1]._replace(time=START + timedelta(seconds=second))
        return self.records[-1]


@dataclass
class Host:
    """A host of one run's cells; with `saving`, each cell is saved and loaded before every record."""

    settings: MonitorSettings
    saving: bool = False
    cells: dict[str, Cell] = field(default_factory=dict)
    derived: list[Record] = field(default_factory=list)
    writer: str = "observer"

    def take_all(self, records: Iterable[Record]) -> "Host":
        """This host, after `records`."""
        for record in records:
            self.take(record)
        return self

    def take(self, record: Record) -> Outcome:
        """Advances the record's cell, and keeps the derived records."""
        cell = self.cells.get(record.topic) or Cell(record.topic)
        cell, outcome = advance(from_bytes(to_bytes(cell)) if self.saving else cell, record, self.settings, self.writer)
        self.cells[record.topic] = cell
        match outcome:
            case Applied(_, derived) | Blocked(_, derived):
                self.derived += derived
            case _:
                pass
        return outcome

    @property
    def alerts(self) -> list[AlertChange]:
        """The changes of alerts so far."""
        events = [decode(record) for record in self.derived]
        return [event for event in events if isinstance(event, AlertPending | AlertFiring | AlertResolved)]

    @property
    def changes(self) -> list[tuple[str, str]]:
        """The changes of alerts so far, as rule and state."""
        return [(alert.rule, type(alert).__name__.removeprefix("Alert").lower()) for alert in self.alerts]


def watching(rules: str) -> MonitorSettings:
    """Settings with rules written as TOML."""
    return MonitorSettings(rules=parse_rules(rules, "rules.toml"))


def losses(*values: float | None, step: int = 1) -> StepsMeasured:
    """Telemetry of as many optimizer steps as losses."""
    size = len(values)
    return StepsMeasured(
        steps=StepColumns(
            step=tuple(range(step, step + size)),
            loss=values,
            gradient_norm=(1.0,) * size,
            step_latency_ms=(2.0,) * size,
            data_wait_ms=(None,) * size,
        ),
        metrics={},
        learning_rates=(0.1,),
        live_seeds=0,
        last_adaptation_step=None,
        samples_per_s=None,
        memory_bytes=None,
    )


def resources(disk_free: float = 0.5) -> ResourcesMeasured:
    """A machine with a disk of 1,000 bytes."""
    return ResourcesMeasured(
        cpu_utilization=0.5,
        memory_used_bytes=1,
        memory_total_bytes=2,
        disk_free_bytes=round(disk_free * 1000),
        disk_total_bytes=1000,
        network_received_bytes=0,
        network_sent_bytes=0,
        gpus=(),
        log_dropped_samples=None,
    )


def spoken(writer: TimedWriter, events: Sequence[tuple[float, Event]], topic: str | None = None) -> list[Record]:
    """The records of `events` at their seconds."""
    return [writer.at(second, event, topic) for second, event in events]


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
            units=(64,) * len(ratios),
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
