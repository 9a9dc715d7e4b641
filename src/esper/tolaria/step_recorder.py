"""The steps of a span, collected on the device and read once: one transfer per span, never one per value.

Shapes: S steps of a span.
"""

import hashlib
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import psutil
import torch
from torch import Tensor

from esper.events.envelope import EventId
from esper.events.fields import float32_column
from esper.events.kinds.epoch import Measured
from esper.events.kinds.telemetry import BatchColumns, StepColumns, StepsMeasured
from esper.tolaria.objective import Batch, tensors_of

_process = psutil.Process()
_SAMPLED = 32
"""Values of each tensor that stand for a batch."""


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
    batch: int
    """The number of its first batch in the epoch, from 1."""
    sample: tuple[Tensor, Tensor] | None
    """Values of that batch; see `sample_of`."""


@dataclass(frozen=True, slots=True)
class StepSpan:
    """Consecutive steps; their losses, norms and metrics as floats, one per step."""

    steps: list[StepResult]
    losses: list[float]
    norms: list[float]
    metrics: dict[str, list[float]]
    duration_s: float
    samples: list[bytes]
    """The values of each step's first batch; empty where a batch has no tensor."""

    def record(
        self,
        *,
        learning_rates: tuple[float, ...],
        live_seeds: int,
        last_adaptation_step: int | None,
        last_adaptation: EventId | None = None,
    ) -> StepsMeasured:
        """The event for this span. Losses are float64, all else float32; memory is the process's, or the device's where it is CUDA."""
        steps, device = self.steps, self.steps[0].loss.device
        return StepsMeasured(
            steps=StepColumns(
                step=tuple(step.step for step in steps),
                loss=tuple(self.losses),
                gradient_norm=float32_column(self.norms),
                step_latency_ms=float32_column([1e3 * step.latency_s for step in steps]),
                data_wait_ms=float32_column([1e3 * step.data_wait_s for step in steps]),
            ),
            metrics={name: float32_column(values) for name, values in self.metrics.items()},
            learning_rates=learning_rates,
            live_seeds=live_seeds,
            last_adaptation_step=last_adaptation_step,
            samples_per_s=sum(step.samples for step in steps) / self.duration_s,
            batches=self._batches() if self.samples else None,
            last_adaptation=last_adaptation,
            memory_bytes=torch.cuda.memory_allocated(device) if device.type == "cuda" else _process.memory_info().rss,
        )

    def _batches(self) -> BatchColumns:
        return BatchColumns(
            step=tuple(step.step for step in self.steps),
            number=tuple(step.batch for step in self.steps),
            sample=tuple(hashlib.sha256(values).hexdigest()[:12] for values in self.samples),
        )


def sample_of(batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Values, evenly spread, of the first and the last tensor of a batch, on their device: no transfer, whatever the size of the batch.

    None for a batch without a dense tensor.
    """
    tensors = [tensor for tensor in tensors_of(batch) if tensor.layout is torch.strided and tensor.numel()]
    return (_spread(tensors[0].detach()), _spread(tensors[-1].detach())) if tensors else None


def _spread(tensor: Tensor) -> Tensor:
    return torch.take(tensor, _places(tensor.numel(), tensor.device))


@lru_cache(maxsize=64)
def _places(size: int, device: torch.device) -> Tensor:
    return (torch.arange(_SAMPLED) * size // _SAMPLED).to(device)


def _values_of(steps: list[StepResult]) -> list[bytes]:
    """The sampled values of each step's first batch. The CPU waits for the device here, once per span."""
    samples = [step.sample for step in steps if step.sample is not None]
    if len(samples) < len(steps):
        return []
    rows = [torch.stack([sample[part] for sample in samples]).double() for part in (0, 1)]
    return [row.tobytes() for row in torch.cat(rows, 1).cpu().numpy()]


class StepRecorder:
    """The steps of one epoch: those since the last span ended, and sums over the spans before."""

    def __init__(self) -> None:
        self.started = self._since = self._added = time.perf_counter()
        self.samples = self.optimizer_steps = 0
        self._steps: list[StepResult] = []
        self._sums: dict[str, float] = {}
        self._losses = array("d")

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: StepResult) -> None:
        """Add a step to the present span."""
        self._steps.append(step)
        self._added = time.perf_counter()

    def end_span(self) -> StepSpan:
        """The steps since the last span ended. The CPU waits for the device here, once per span."""
        steps, self._steps = self._steps, []
        duration_s, self._since = self._added - self._since, time.perf_counter()
        names = list(steps[0].metrics)
        losses_S = torch.stack([step.loss for step in steps]).double()
        rows = [losses_S, torch.stack([step.norm for step in steps]).to(losses_S)]
        rows += [torch.stack([step.metrics[name] for step in steps]).to(losses_S) for name in names]
        losses, norms, *others = torch.stack(rows).cpu().tolist()
        metrics = dict(zip(names, others, strict=True))
        self._losses.extend(losses)
        self.optimizer_steps += len(steps)
        self.samples += sum(step.samples for step in steps)
        for name, values in {"loss": losses, **metrics}.items():
            total = sum(value * step.samples for value, step in zip(values, steps, strict=True))
            self._sums[name] = self._sums.get(name, 0.0) + total
        return StepSpan(steps, losses, norms, metrics, duration_s, _values_of(steps))

    @property
    def measured(self) -> Measured:
        """The sample-weighted means over all spans that have ended."""
        means = {name: total / self.samples for name, total in self._sums.items()}
        return Measured(loss=means.pop("loss"), metrics=means, samples=self.samples)

    @property
    def spread(self) -> float:
        """The standard deviation of the steps' losses over all spans that have ended."""
        return float(np.std(self._losses))
