"""Made-up records for detectors: series of losses and gradient norms cut into spans, health of a few rows, and what is found in them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from esper.events import topics
from esper.events.fields import Event
from esper.events.kinds.observability import AnomalyDetected
from esper.events.kinds.telemetry import HealthColumns, SeedHealthMeasured, StepColumns, StepsMeasured
from esper.folds.monitoring.cell import Cell, from_bytes, to_bytes
from esper.folds.monitoring.derive import TopicState
from esper.folds.monitoring.detectors.detect import DetectorState, find_anomalies
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.measurements import FloatArray, measurements_of

SETTINGS = DetectorSettings()
Row = tuple[str, int | None]


def noise(count: int, *, level: float = 1.0, spread: float = 0.1, seed: int = 0) -> FloatArray:
    """Positive values around `level`, their logarithms normal."""
    made: FloatArray = level * np.exp(spread * np.random.default_rng(seed).normal(size=count))
    return made


def spans(
    loss: Sequence[float | None] | FloatArray,
    gradient: Sequence[float | None] | FloatArray | None = None,
    *,
    cut: Iterable[int] = (),
    adapted: int | None = None,
) -> list[StepsMeasured]:
    """The steps 1, 2, 3 ... in records of 10 steps, or cut before the given steps; `adapted` is known from the first record behind it."""
    count = len(loss)
    gradient = noise(count, seed=1) if gradient is None else gradient
    edges = sorted({0, *(cut or range(10, count, 10)), count})
    return [_span(loss, gradient, first, last, adapted) for first, last in pairwise(edges)]


def _span(
    loss: Sequence[float | None] | FloatArray,
    gradient: Sequence[float | None] | FloatArray,
    first: int,
    last: int,
    adapted: int | None,
) -> StepsMeasured:
    count = last - first
    return StepsMeasured(
        steps=StepColumns(
            step=tuple(range(first + 1, last + 1)),
            loss=_column(loss[first:last]),
            gradient_norm=_column(gradient[first:last]),
            step_latency_ms=(2.0,) * count,
            data_wait_ms=(0.5,) * count,
        ),
        metrics={"accuracy": (0.5,) * count},
        learning_rates=(0.1,),
        live_seeds=0,
        last_adaptation_step=adapted if adapted is not None and adapted <= first else None,
        samples_per_s=1000.0,
        memory_bytes=1_000_000,
    )


def _column(values: Sequence[float | None] | FloatArray) -> tuple[float | None, ...]:
    return tuple(None if value is None else float(value) for value in values)


def health(rows: Sequence[Row], *, adapted: int | None = None, **columns: Sequence[float | None]) -> SeedHealthMeasured:
    """One health record; a column that is not given is measured and unremarkable."""
    count = len(rows)
    given = {name: _column(values) for name, values in columns.items()}
    return SeedHealthMeasured(
        health=HealthColumns(
            site=tuple(site for site, _ in rows),
            seed=tuple(seed for _, seed in rows),
            stage=(None,) * count,
            activation_variance=given.get("activation_variance", (None,) * count),
            gradient_variance=given.get("gradient_variance", (0.5,) * count),
            dead_neuron_ratio=given.get("dead_neuron_ratio", (0.0,) * count),
            units=(64,) * count,
            avg_correlation=given.get("avg_correlation", (0.1,) * count),
            latency_ms=(None,) * count,
            errors=tuple(int(value or 0) for value in given.get("errors", (0,) * count)),
            recovering=(False,) * count,
            alpha=(None,) * count,
            ready=(None,) * count,
            health_score=(1.0,) * count,
        ),
        last_adaptation_step=adapted,
    )


def detect(state: DetectorState, topic: str, event: Event, settings: DetectorSettings) -> tuple[DetectorState, tuple[AnomalyDetected, ...]]:
    """The state after an event, and the anomalies that begin in it."""
    read = measurements_of(event)
    return (state, ()) if read is None else find_anomalies(state, topic, read, settings)


def save(state: DetectorState) -> bytes:
    """The state as a cell saves it."""
    return to_bytes(Cell(topics.STEPS, state=TopicState(detectors=state)))


def load(saved: bytes) -> DetectorState:
    """The state that was saved."""
    return from_bytes(saved).state.detectors


def followed(
    events: Iterable[Event], settings: DetectorSettings = SETTINGS, state: DetectorState | None = None
) -> tuple[DetectorState, list[AnomalyDetected]]:
    """The state after all events, and everything that was found in them."""
    state, found = state or DetectorState(), list[AnomalyDetected]()
    for event in events:
        state, begun = detect(state, event.TOPIC, event, settings)
        found += begun
    return state, found


def names(events: Iterable[Event], settings: DetectorSettings = SETTINGS) -> list[tuple[str, str]]:
    """(detector, metric) of everything that is found in the events, in order."""
    return [(one.detector, one.metric) for one in followed(events, settings)[1]]
