"""Streams for tests: records of one run at times that a test chooses, and a host that admits them and keeps a state for each topic."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved
from esper.events.kinds.telemetry import ResourcesMeasured, StepColumns, StepsMeasured
from esper.folds.admit import Apply, Expired, Guard, admit
from esper.folds.monitoring import topic as stream
from esper.folds.monitoring.topic import MonitorSettings, TopicState
from esper.observer.rule_files import parse_rules
from tests.folds.histories import START, Writer

AlertEvent = AlertPending | AlertFiring | AlertResolved


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
    """What an observer does with one run: admit, step, keep what was derived; with `saving`, through its saved form at every record."""

    settings: MonitorSettings
    saving: bool = False
    guard: Guard = field(default_factory=Guard.start)
    states: dict[str, TopicState] = field(default_factory=dict)
    derived: list[Record] = field(default_factory=list)

    def take_all(self, records: Iterable[Record]) -> "Host":
        """This host, after `records`."""
        for record in records:
            self.take(record)
        return self

    def take(self, record: Record) -> None:
        """Admits one record and derives what follows."""
        verdict = admit(self.guard, record)
        if isinstance(verdict, Expired):
            self.guard = verdict.guard
            verdict = admit(self.guard, record)
        if not isinstance(verdict, Apply):
            return
        self.guard = verdict.guard
        event = decode(record)
        self._step(record.topic, record, event)

    def _step(self, topic: str, record: Record, event: Event) -> None:
        state = self.states.get(topic, stream.initial(topic))
        if self.saving:
            state = stream.from_form(json.loads(json.dumps(stream.to_form(state), allow_nan=False)))
        self.states[topic], derivations = stream.step(state, record, event, self.settings)
        self.derived += stream.derived(record, derivations, self.settings.settings_digest, "observer")

    @property
    def alerts(self) -> list[AlertEvent]:
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
