"""A run's log read from its start, as it grows: the fold's state, the timeline, and the latest telemetry after the last record taken.

Everything that shows a run stands on this: the live display, `show`, `replay`, `runs`. It sees the log and nothing else.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from esper.errors import DataError
from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.telemetry import Heartbeat, StepsMeasured
from esper.folds.run_state import BlockedError, RunState, initial, step
from esper.folds.timeline import Timeline
from esper.oona.contract import Log, Position

PAGE = 1000


@dataclass(slots=True)
class _Pulse:
    """What telemetry said last. A value that was never measured is None."""

    records: int = 0
    step: int = 0
    first_time: datetime | None = None
    last_time: datetime | None = None
    step_ms: float | None = None
    data_wait: float | None = None
    learning_rate: float | None = None
    doing: str | None = None

    def take(self, record: Record) -> None:
        """Takes the coordinates of `record`."""
        self.records += 1
        self.first_time = self.first_time or record.time
        self.last_time = record.time
        self.step = max(self.step, record.step)

    def measure(self, record: Record) -> None:
        """Takes the numbers of `record`; one that does not decode is telemetry that nobody can read, and says nothing."""
        try:
            event = decode(record)
        except DataError:
            return
        if isinstance(event, Heartbeat):
            self.doing = event.doing
        elif isinstance(event, StepsMeasured):
            self._steps(event)

    def _steps(self, event: StepsMeasured) -> None:
        self.step_ms = mean(event.steps.step_latency_ms)
        waited = mean(event.steps.data_wait_ms)
        # Written so that an unknown or zero step latency gives no share.
        self.data_wait = waited / self.step_ms if waited is not None and self.step_ms else None
        self.learning_rate = event.learning_rates[0] if event.learning_rates else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known and finite in `values`; None where nothing is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


_MEASURED = frozenset({Heartbeat.KIND, StepsMeasured.KIND})


@dataclass(slots=True)
class Reading:
    """One run, read so far: `take` accepts records in the log's order, `read` the next page of a log."""

    run: RunId
    position: Position | None = None
    state: RunState = field(init=False)
    timeline: Timeline = field(default_factory=Timeline)
    pulse: _Pulse = field(default_factory=_Pulse)
    blocked: BlockedError | None = None

    def __post_init__(self) -> None:
        self.state = initial(self.run)

    def take(self, records: Iterable[Record]) -> None:
        """Folds `records`. Raises BlockedError at a fact that this version cannot understand, and from then on.

        What was taken before it stands. Of telemetry only the last record of each kind is decoded: a display shows no more.
        """
        if self.blocked is not None:
            raise self.blocked
        latest: dict[str, Record] = {}
        try:
            for record in records:
                self.state = step(self.state, record)
                self.timeline.add(record)
                self.pulse.take(record)
                if record.type in _MEASURED:
                    latest[record.type] = record
        except BlockedError as error:
            self.blocked = error
            raise
        finally:
            for record in latest.values():
                self.pulse.measure(record)

    def read(self, log: Log, limit: int = PAGE, topics: frozenset[str] | None = None) -> tuple[Record, ...]:
        """Takes and returns the next page of `log`; empty at its end as it is now."""
        page = log.read(self.position, limit, topics)
        self.take(page.records)
        self.position = page.position
        return page.records
