"""Training: epochs and steps of all runs, and where the newest live run stands, which `esper_run_info` names."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from esper.events.envelope import Record
from esper.events.kinds.epoch import EpochCompleted, Measured
from esper.events.kinds.run import CheckpointSaved, RunFailed, RunFinished, RunResumed, RunStarted
from esper.events.kinds.telemetry import StepsMeasured
from esper.nissa.collectors.collector import Collector
from esper.nissa.metrics.family import SECONDS, Family, Sample
from esper.nissa.metrics.model import STEPS, Handler, Model, Watched

_SPLITS = {"split": ("train", "validation")}

RUNS_STARTED = Family("esper_runs_started_total", "counter", "Runs that began.")
RUNS_ENDED = Family("esper_runs_ended_total", "counter", "Runs that ended.", {"outcome": ("finished", "failed")})
RUNS_RESUMED = Family("esper_runs_resumed_total", "counter", "Times a run went on after an interruption.")
EPOCHS = Family("esper_epochs_total", "counter", "Epochs that the runs completed.")
CHECKPOINTS = Family("esper_checkpoints_total", "counter", "Checkpoints that were saved.")
STEP_SECONDS = Family("esper_step_duration_seconds", "histogram", "How long optimizer steps took.", buckets=SECONDS)
WAIT_SECONDS = Family("esper_data_wait_seconds", "histogram", "How long optimizer steps waited for data.", buckets=SECONDS)
INFO = Family("esper_run_info", "gauge", "The newest live run, which the gauges of one run are about.", {"run": (), "task": ()})
EPOCH = Family("esper_epoch", "gauge", "Last epoch that the newest live run completed.")
PLANNED = Family("esper_epochs_planned", "gauge", "Epochs that the newest live run is to have.")
STEP = Family("esper_step", "gauge", "Last optimizer step that the newest live run spoke of.")
SPOKE = Family("esper_run_last_record_timestamp_seconds", "gauge", "When the newest live run said something last.")
LOSS = Family("esper_loss", "gauge", "Mean loss of the newest live run's last epoch.", _SPLITS)
ACCURACY = Family("esper_accuracy_ratio", "gauge", "Accuracy of the newest live run's last epoch.", _SPLITS)
STEP_LOSS = Family("esper_step_loss", "gauge", "Loss of the newest live run's last measured step.")
GRADIENT = Family("esper_gradient_norm", "gauge", "Gradient norm of the newest live run's last measured step.")
RATE = Family("esper_learning_rate", "gauge", "Learning rate of the newest live run's first parameter group.")
SAMPLES = Family("esper_samples_per_second", "gauge", "Training samples a second of the newest live run, as measured last.")
PARAMETERS = Family("esper_parameters", "gauge", "Parameters of the newest live run's host with its seeds.")
MEMORY = Family("esper_training_memory_bytes", "gauge", "Memory of the newest live run's device, as measured last.")

COUNTED = (RUNS_STARTED, RUNS_ENDED, RUNS_RESUMED, EPOCHS, STEPS, CHECKPOINTS, STEP_SECONDS, WAIT_SECONDS)
OF_ONE_RUN = (INFO, EPOCH, PLANNED, STEP, SPOKE, LOSS, ACCURACY, STEP_LOSS, GRADIENT, RATE, SAMPLES, PARAMETERS, MEMORY)
FAMILIES = (*COUNTED, *OF_ONE_RUN)


def _started(model: Model, watched: Watched, _record: Record, event: RunStarted) -> Watched:
    model.tally.add(RUNS_STARTED)
    return replace(watched, started=event)


def _ended(model: Model, watched: Watched, _record: Record, event: RunFinished | RunFailed) -> Watched:
    model.tally.add(RUNS_ENDED, "finished" if isinstance(event, RunFinished) else "failed")
    return watched


def _resumed(model: Model, watched: Watched, _record: Record, _event: RunResumed) -> Watched:
    model.tally.add(RUNS_RESUMED)
    return watched


def _completed(model: Model, watched: Watched, _record: Record, event: EpochCompleted) -> Watched:
    model.tally.add(EPOCHS)
    return replace(watched, completed=event)


def _saved(model: Model, watched: Watched, _record: Record, _event: CheckpointSaved) -> Watched:
    model.tally.add(CHECKPOINTS)
    return watched


def _measured(model: Model, watched: Watched, _record: Record, event: StepsMeasured) -> Watched:
    for family, column in ((STEP_SECONDS, event.steps.step_latency_ms), (WAIT_SECONDS, event.steps.data_wait_ms)):
        for value in column:
            if value is not None:
                model.tally.observe(family, value / 1000)
    return replace(watched, steps=event)


HANDLERS: dict[type, Handler] = {
    RunStarted: _started,
    RunFinished: _ended,
    RunFailed: _ended,
    RunResumed: _resumed,
    EpochCompleted: _completed,
    CheckpointSaved: _saved,
    StepsMeasured: _measured,
}


def collect(model: Model) -> Iterator[Sample]:
    """The samples of `FAMILIES`."""
    yield from model.samples(COUNTED)
    run = model.newest_live()
    if run is None:
        return
    yield Sample(STEP, run.step)
    if run.time is not None:
        yield Sample(SPOKE, run.time.timestamp())
    if run.started is not None:
        yield Sample(INFO, 1, (run.run, run.started.task))
        yield Sample(PARAMETERS, run.started.parameters if run.completed is None else run.completed.system.parameters)
        if run.started.epochs is not None:
            yield Sample(PLANNED, run.started.epochs)
    if run.completed is not None:
        yield from _epoch(run.completed)
    if run.steps is not None:
        yield from _steps(run.steps)


def _epoch(event: EpochCompleted) -> Iterator[Sample]:
    yield Sample(EPOCH, event.system.epoch)
    parts: tuple[tuple[str, Measured | None], ...] = (("train", event.train), ("validation", event.validation))
    for name, measured in parts:
        if measured is not None:
            yield Sample(LOSS, measured.loss, (name,))
            if "accuracy" in measured.metrics:
                yield Sample(ACCURACY, measured.metrics["accuracy"], (name,))


def _steps(event: StepsMeasured) -> Iterator[Sample]:
    last = ((STEP_LOSS, _last(event.steps.loss)), (GRADIENT, _last(event.steps.gradient_norm)), (RATE, _first(event.learning_rates)))
    for family, value in (*last, (SAMPLES, event.samples_per_s), (MEMORY, event.memory_bytes)):
        if value is not None:
            yield Sample(family, value)


def _last(column: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)


def _first(column: Sequence[float]) -> float | None:
    return next((value for value in column if not math.isnan(value)), None)


COLLECTOR = Collector("training", 1.0, FAMILIES, collect)
