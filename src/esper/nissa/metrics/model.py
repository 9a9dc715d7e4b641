"""What the metrics are made of: one pass over the records of every run that is followed, keeping little of each run.

The thread that follows the log hands records in; collectors ask from threads of their own. What they get is frozen, so nobody holds the
lock for long. Counters are sums over all records taken since the process began. Of a run that is followed the last word on everything
is kept, as columns where it came as columns, and nothing of a run that has ended. Who needs history asks the log.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from esper.errors import DataError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import RunStarted
from esper.events.kinds.telemetry import CustomMetricRecorded, ResourcesMeasured, SeedHealthMeasured, StepsMeasured
from esper.events.topics import TOPICS
from esper.nissa.metrics.family import Family, Sample
from esper.nissa.metrics.tally import Tally

RUNS = 512  # Followed runs that are remembered; with more, those heard from longest ago are forgotten until they speak again.
CUSTOM_METRICS = 500
CUSTOM_SERIES = 100  # Of one metric; as many as may be recorded.

RECORDS = Family("esper_records_total", "counter", "Records read from the log, by topic.", {"topic": tuple(TOPICS)})
UNREADABLE = Family(
    "esper_records_unreadable_total",
    "counter",
    "Records that this version could not decode, by topic.",
    {"topic": tuple(TOPICS)},
)
STEPS = Family("esper_steps_total", "counter", "Optimizer steps that the runs made.")


@dataclass(frozen=True, slots=True)
class Watched:
    """The last word on one run that is followed. None: never said."""

    run: RunId
    writer: str = ""
    epoch: int = 0
    step: int = 0
    time: datetime | None = None
    started: RunStarted | None = None
    completed: EpochCompleted | None = None
    stages: Mapping[tuple[str, int], Stage] = field(default_factory=dict)
    steps: StepsMeasured | None = None
    health: SeedHealthMeasured | None = None
    resources: ResourcesMeasured | None = None


@dataclass(frozen=True, slots=True)
class Custom:
    """One of the user's metrics: its type, label names, help, and its value under each set of label values."""

    name: str
    type: str
    labels: tuple[str, ...]
    series: Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Progress:
    """How the following goes. `caught_up_at` is when all that stood on disk had last been read; times are of the machine's clock.

    `live`, `interrupted` and `sealed` are trainings; `following` and `troubled` are runs of every kind.
    """

    polled_at: float | None = None
    caught_up_at: float | None = None
    following: int = 0
    troubled: int = 0
    live: frozenset[RunId] = frozenset()
    interrupted: int = 0
    sealed: int = 0


# Any: a handler is found by the event's own type, and takes that.
Handler = Callable[["Model", Watched, Record, Any], Watched]


class Model:
    """The numbers behind the metrics. Any thread may ask; one thread takes records."""

    def __init__(self, families: Iterable[Family], handlers: Mapping[type[Event], tuple[Handler, ...]]) -> None:
        self._lock = threading.Lock()
        self._handlers = {kind.KIND: found for kind, found in handlers.items()}
        self._runs: dict[RunId, Watched] = {}
        self._custom: dict[str, Custom] = {}
        self._progress = Progress()
        self._steps: dict[RunId, int] = {}
        self._firing: dict[tuple[RunId, str], tuple[str, Record]] = {}
        self.tally = Tally(families)

    def take(self, run: RunId, records: Iterable[Record]) -> None:
        """Counts `records` of `run`, in their order. A record that does not decode is counted as such and says nothing else."""
        with self._lock:
            watched = self._runs.pop(run, None) or Watched(run)
            for record in records:
                watched = self._taken(watched, record)
            self._runs[run] = watched
            if len(self._runs) > RUNS:
                del self._runs[next(iter(self._runs))]

    def take_derived(self, run: RunId, records: Iterable[Record]) -> None:
        """Counts records that observers derived from `run`, in their order; they say nothing about where the run itself stands."""
        with self._lock:
            for record in records:
                self._counted(self._runs.get(run) or Watched(run), record)

    def forget(self, run: RunId) -> None:
        """Keeps nothing more of `run`, which has ended or is gone; what was counted stays counted."""
        with self._lock:
            self._runs.pop(run, None)
            self._steps.pop(run, None)

    def set_progress(self, progress: Progress) -> None:
        """Takes note of how the following goes."""
        with self._lock:
            self._progress = progress

    @property
    def progress(self) -> Progress:
        """How the following goes."""
        with self._lock:
            return self._progress

    def samples(self, families: Iterable[Family]) -> list[Sample]:
        """The counters and histograms of `families` as they stand, all at one instant."""
        with self._lock:
            return [sample for family in families for sample in self.tally.samples(family)]

    def live(self) -> tuple[Watched, ...]:
        """The trainings that a process writes now, the newest first."""
        with self._lock:
            return tuple(self._runs[name] for name in sorted(self._progress.live, reverse=True) if name in self._runs)

    def newest_live(self) -> Watched | None:
        """The newest run that a process writes now."""
        return next(iter(self.live()), None)

    def machine(self) -> Watched | None:
        """The machine whose resources were measured last."""
        with self._lock:
            measured = [run for run in self._runs.values() if run.resources is not None and run.time is not None]
            return max(measured, key=lambda run: run.time or datetime.min, default=None)

    def custom(self) -> tuple[Custom, ...]:
        """The user's metrics, by name."""
        with self._lock:
            return tuple(self._custom[name] for name in sorted(self._custom))

    def firing(self) -> tuple[tuple[str, Record], ...]:
        """The alerts that fire now: their severities, and the records that say so, oldest first."""
        with self._lock:
            return tuple(self._firing.values())

    def fires(self, fingerprint: str, severity: str, record: Record) -> None:
        """Takes note that an alert fires; called by a handler."""
        self._firing[record.run, fingerprint] = (severity, record)

    def fires_no_more(self, fingerprint: str, run: RunId) -> None:
        """Takes note that an alert does not fire any more; called by a handler."""
        self._firing.pop((run, fingerprint), None)

    def forget_alerts(self, gone: Callable[[RunId], bool]) -> None:
        """Keeps no alert of a run that is `gone`, its directory with it: nothing can say any more that it is over."""
        with self._lock:
            runs = {run for run, _ in self._firing}
        lost = {run for run in runs if gone(run)}
        with self._lock:
            self._firing = {key: fires for key, fires in self._firing.items() if key[0] not in lost}

    def record_custom(self, event: CustomMetricRecorded) -> None:
        """Takes a sample of a user's metric; called by a handler. One that does not fit what is known of the metric is left out."""
        labels = tuple(sorted(event.labels))
        known = self._custom.get(event.name) or Custom(event.name, event.type, labels, {})
        values = tuple(event.labels[name] for name in labels)
        full = len(self._custom) >= CUSTOM_METRICS and event.name not in self._custom
        full = full or (values not in known.series and len(known.series) >= CUSTOM_SERIES)
        if full or (known.type, known.labels) != (event.type, labels):
            return
        value = event.value + (known.series.get(values, 0.0) if event.type == "counter" else 0.0)
        self._custom[event.name] = replace(known, series={**known.series, values: value})

    def _taken(self, watched: Watched, record: Record) -> Watched:
        ahead = record.step - self._steps.get(watched.run, 0)
        if ahead > 0:
            self.tally.add(STEPS, by=ahead)
            self._steps[watched.run] = record.step
        here = replace(watched, writer=record.writer, epoch=record.epoch, step=max(record.step, watched.step), time=record.time)
        return self._counted(here, record)

    def _counted(self, watched: Watched, record: Record) -> Watched:
        self.tally.add(RECORDS, record.topic)
        handlers = self._handlers.get(record.type)
        if handlers is None:
            return watched
        try:
            event = decode(record)
        except DataError:
            self.tally.add(UNREADABLE, record.topic)
            return watched
        for handle in handlers:
            watched = handle(self, watched, record, event)
        return watched
