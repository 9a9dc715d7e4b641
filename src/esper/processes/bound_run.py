"""The run that `esper.measure` records for on a thread: bound to it while something of the user's is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from esper.events.envelope import RunId
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.nissa.custom_metrics import CustomMetrics

bound_run: ContextVar[tuple[RunId | None, CustomMetrics] | None] = ContextVar("esper_training", default=None)
"""The run that trains on this thread, None before it has begun, and where it takes metrics of the user's own; None where no run does."""


@contextmanager
def bind_metrics(run: RunId | None, record: Callable[[CustomMetricRecorded], None] = lambda _event: None) -> Iterator[None]:
    """Within, `esper.measure` on this thread records for `run`; nothing without `record`."""
    token = bound_run.set((run, CustomMetrics(lambda samples: record(*samples))))
    try:
        yield
    finally:
        bound_run.reset(token)
