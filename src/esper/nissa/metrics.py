"""Metrics of the log: counters and histograms of every record read, and the latest records of each followed run for `gauges`.

The thread that follows the log hands records in; any thread may scrape. Counters are sums over all records since the process began. Nothing
of a run that has ended is kept: history is asked of the log.
"""

import math
import threading
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from operator import itemgetter

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from esper.errors import DataError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.kernels import KernelCharacterized, KernelCompiled, KernelCompileFailed
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.observability import AlertFiring, AlertPending, AlertResolved
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunRolledBack, RunStarted, SamplesDropped
from esper.events.kinds.telemetry import CustomMetricRecorded, ResourcesMeasured, SeedHealthMeasured, StepsMeasured
from esper.folds.monitoring import open_alerts
from esper.folds.monitoring.open_alerts import OpenAlert, OpenAlerts
from esper.nissa.custom_metrics import CustomMetrics
from esper.nissa.kafka_status import KafkaStatus
from esper.nissa.metric_definitions import COUNTERS, HISTOGRAMS

_RUNS = 512  # Followed runs whose latest records are kept; beyond it those that wrote longest ago are forgotten until they write again.

_COUNTED = {kind: name for name, (_, _, kind) in COUNTERS.items() if kind is not None}
_MATCHED: tuple[type[Event], ...] = (
    SeedTransitioned, SeedHealthMeasured, StepsMeasured, ResourcesMeasured, SamplesDropped, RunFinished, RunFailed, CustomMetricRecorded,
    AlertPending, AlertFiring, AlertResolved, KernelCharacterized, KernelCompiled, KernelCompileFailed,
)  # fmt: skip
_DECODED = frozenset(kind.KIND for kind in (*_COUNTED, *_MATCHED))


@dataclass(slots=True)
class FollowedRun:
    """The latest records of one run, as far as gauges need them. None: not written yet."""

    run: RunId
    step: int = 0
    time: datetime | None = None
    started: RunStarted | None = None
    completed: EpochCompleted | None = None
    stages: dict[tuple[str, int], Stage] = field(default_factory=dict)
    steps: StepsMeasured | None = None
    health: SeedHealthMeasured | None = None
    resources: ResourcesMeasured | None = None

    def apply(self, event: Event) -> None:
        """Keeps `event`, or the stages that follow from it."""
        match event:
            case RunStarted():
                self.started = event
                self.stages = {(site.name, seed): Stage.DORMANT for site in event.sites for seed in range(site.slots)}
            case SeedTransitioned():
                self.stages[event.site, event.seed] = event.to_stage
            case RunRolledBack():
                self.stages = {(row.site, row.seed): row.stage for row in event.seeds}
            case EpochCompleted():
                self.completed = event
            case StepsMeasured():
                self.steps = event
            case SeedHealthMeasured():
                self.health = event
            case ResourcesMeasured():
                self.resources = event


@dataclass(frozen=True, slots=True)
class FollowStatus:
    """Progress of the following. `caught_up_at` is when all that stood on disk had last been read; times are of the machine's clock.
    `gone`: telemetry that followed runs lack, as far as they are copies from Kafka; None where none is.

    `live`, `interrupted` and `sealed` are trainings; `following` and `unreadable` are runs of every kind.
    """

    polled_at: float | None = None
    caught_up_at: float | None = None
    following: int = 0
    unreadable: int = 0
    live: frozenset[RunId] = frozenset()
    interrupted: int = 0
    sealed: int = 0
    gone: int | None = None


class LogMetrics:
    """Metrics of the records of one log, in a registry of their own. Any thread may read; one thread hands records in.

    `alert_handlers` are the handlers that settings name: their notifications are exposed at 0 from the start.
    """

    def __init__(self, custom: CustomMetrics, alert_handlers: Sequence[str] = ()) -> None:
        # A switch of the whole process: no series `_created` beside each counter and histogram.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.custom = custom
        self.status = FollowStatus()
        self.kafka: Callable[[], KafkaStatus] = KafkaStatus
        self._lock = threading.Lock()
        self._runs: dict[RunId, FollowedRun] = {}
        self._steps: dict[RunId, int] = {}
        self._open_alerts: OpenAlerts = {}
        self._failed: dict[RunId, datetime] = {}
        self._counters = {name: Counter(name, text, [*labels], registry=self.registry) for name, (text, labels, _) in COUNTERS.items()}
        self._histograms = {
            name: Histogram(name, text, registry=self.registry, buckets=buckets) for name, (text, buckets) in HISTOGRAMS.items()
        }
        for name, (_, labels, _) in COUNTERS.items():
            for values in product(*(alert_handlers if label == "handler" else known for label, known in labels.items())):
                self._count(name, *values, by=0)

    def take(self, run: RunId, records: Sequence[Record]) -> None:
        """Counts `records` of `run`, in their order. A record that does not decode is counted as such and changes nothing else."""
        with self._lock:
            followed = self._runs.pop(run, None) or FollowedRun(run)
            self._runs[run] = followed
            if len(self._runs) > _RUNS:
                del self._runs[next(iter(self._runs))]
        for record in records:
            ahead = record.step - self._steps.get(run, 0)
            if ahead > 0:
                self._count("esper_steps_total", by=ahead)
                self._steps[run] = record.step
            followed.time, followed.step = record.time, max(record.step, followed.step)
        self._take(records, followed)

    def take_derived(self, records: Sequence[Record]) -> None:
        """Counts records that observers derived from a run, in their order."""
        self._take(records, None)

    def forget(self, run: RunId) -> None:
        """Drops the latest records of `run`, which has ended or is gone; what was counted stays counted."""
        with self._lock:
            self._runs.pop(run, None)
        self._steps.pop(run, None)

    def live(self) -> tuple[FollowedRun, ...]:
        """Copies of the trainings that a process writes now, the newest first."""
        with self._lock:
            runs = [self._runs[run] for run in sorted(self.status.live & self._runs.keys(), reverse=True)]
            return tuple(replace(run, stages=dict(run.stages)) for run in runs)

    def machine(self) -> tuple[datetime, ResourcesMeasured] | None:
        """The resources that an agent measured last, and when."""
        with self._lock:
            measured = [(run.time, run.resources) for run in self._runs.values() if run.time is not None and run.resources is not None]
        return max(measured, key=itemgetter(0), default=None)

    def firing(self) -> tuple[OpenAlert, ...]:
        """Every alert that fires now, oldest first; none of a run that failed more than FAILED_FOR ago."""
        with self._lock:
            over = {run for run, failed in self._failed.items() if datetime.now(UTC) - failed > open_alerts.FAILED_FOR}
            return tuple(alert for alert in self._open_alerts.values() if alert.firing and alert.record.run not in over)

    def forget_alerts(self, gone: Callable[[RunId], bool]) -> None:
        """Drops the alerts of runs that are `gone`: nothing can resolve them any more."""
        lost = {run for run in {run for run, _ in self._open_alerts} if gone(run)}
        with self._lock:
            self._open_alerts = {key: alert for key, alert in self._open_alerts.items() if key[0] not in lost}
            self._failed = {run: failed for run, failed in self._failed.items() if not gone(run)}

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(by)

    def _observe(self, name: str, milliseconds: Iterable[float | None]) -> None:
        """Observes each value that is finite: any other has no place in a sum."""
        for value in milliseconds:
            if value is not None and math.isfinite(value):
                self._histograms[name].observe(value / 1000)

    def _take(self, records: Sequence[Record], followed: FollowedRun | None) -> None:
        for topic, count in Counts(record.topic for record in records).items():
            self._count("esper_records_total", topic, by=count)
        for record in records:
            if record.type in _DECODED:
                try:
                    event = decode(record)
                except DataError:
                    self._count("esper_records_unreadable_total", record.topic)
                    continue
                # Held for one record, not for a page of them: a scrape waits for it.
                with self._lock:
                    if followed is not None:
                        followed.apply(event)
                    self._open_alerts = open_alerts.apply_change(self._open_alerts, record, event)
                    if isinstance(event, RunFailed):
                        self._failed[record.run] = record.time
                    elif isinstance(event, RunResumed):
                        self._failed.pop(record.run, None)
                self._count_event(event)

    def _count_event(self, event: Event) -> None:
        if (name := _COUNTED.get(type(event))) is not None:
            self._count(name, *(getattr(event, label) for label in COUNTERS[name][1]))
        match event:
            case SeedTransitioned():
                self._count("esper_seed_transitions_total", event.to_stage)
                self._count("esper_seed_activations_total", by=event.to_stage is Stage.GRAFTING)
            case SeedHealthMeasured():
                self._count("esper_seed_errors_total", by=sum(event.health.errors))
            case StepsMeasured():
                self._observe("esper_step_duration_seconds", event.steps.step_latency_ms)
                self._observe("esper_data_wait_seconds", event.steps.data_wait_ms)
            case SamplesDropped():
                self._count("esper_samples_dropped_total", event.topic, by=event.count)
            case RunFinished() | RunFailed():
                self._count("esper_runs_ended_total", "finished" if isinstance(event, RunFinished) else "failed")
            case CustomMetricRecorded():
                self.custom.add(event)
            case AlertPending() | AlertFiring() | AlertResolved():
                self._count("esper_alerts_total", open_alerts.status_of(event), event.severity)
            case KernelCharacterized():
                self._observe("esper_kernel_latency_seconds", [event.latency_ms])
            case KernelCompiled(from_cache=True):
                self._count("esper_kernel_cache_hits_total")
            case KernelCompiled() | KernelCompileFailed():
                self._count("esper_kernel_cache_misses_total")
                self._count("esper_kernel_compiles_total", "ok" if isinstance(event, KernelCompiled) else "failed")
                if isinstance(event, KernelCompiled):
                    self._observe("esper_kernel_compile_seconds", [event.duration_ms])
