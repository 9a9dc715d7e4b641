"""The steps of a span, collected on the device and read once: one transfer per span, never one per value.

Shapes: S steps of a span.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from esper.events.fields import float32_column
from esper.events.kinds.telemetry import StepColumns, StepsMeasured

_process = psutil.Process()


@dataclass(frozen=True, slots=True)
class StepResult:
    """Numbers of an optimizer step: loss, gradient norm and metrics as 0-dim detached tensors, still on the device."""

    step: int
    loss: Tensor
    norm: Tensor
    metrics: Mapping[str, Tensor]
    samples: int
    latency_s: float
    data_wait_s: float


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """The same numbers of a span, as floats: one per step."""

    first_step: int
    samples: list[int]
    losses: list[float]
    norms: list[float]
    metrics: dict[str, list[float]]


class StepRecorder:
    """The steps since the last record."""

    def __init__(self) -> None:
        self._steps: list[StepResult] = []
        self._started = self._ended = time.perf_counter()

    def add(self, step: StepResult) -> None:
        """Keeps one step."""
        self._steps.append(step)
        self._ended = time.perf_counter()

    def __len__(self) -> int:
        return len(self._steps)

    def read(self) -> StepNumbers:
        """All numbers as floats. The CPU waits for the device here, once."""
        names = list(self._steps[0].metrics)
        losses_S = torch.stack([step.loss for step in self._steps]).double()
        rows = [losses_S, torch.stack([step.norm for step in self._steps]).to(losses_S)]
        rows += [torch.stack([step.metrics[name] for step in self._steps]).to(losses_S) for name in names]
        losses, norms, *metrics = torch.stack(rows).cpu().tolist()
        samples = [step.samples for step in self._steps]
        return StepNumbers(self._steps[0].step, samples, losses, norms, dict(zip(names, metrics, strict=True)))

    def record(
        self, read: StepNumbers, *, learning_rates: tuple[float, ...], live_seeds: int, last_adaptation_step: int | None
    ) -> StepsMeasured:
        """The event for this span. Losses are float64, all else float32; memory is the process's, or the device's where it is CUDA."""
        steps = self._steps
        on_cuda = steps[0].loss.is_cuda
        return StepsMeasured(
            steps=StepColumns(
                step=tuple(step.step for step in steps),
                loss=tuple(read.losses),
                gradient_norm=float32_column(read.norms),
                step_latency_ms=float32_column([1e3 * step.latency_s for step in steps]),
                data_wait_ms=float32_column([1e3 * step.data_wait_s for step in steps]),
            ),
            metrics={name: float32_column(values) for name, values in read.metrics.items()},
            learning_rates=learning_rates,
            live_seeds=live_seeds,
            last_adaptation_step=last_adaptation_step,
            samples_per_s=sum(read.samples) / (self._ended - self._started),
            memory_bytes=torch.cuda.memory_allocated(steps[0].loss.device) if on_cuda else _process.memory_info().rss,
        )
