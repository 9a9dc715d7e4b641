"""The steps of a span, collected on the device and written as one record: one transfer per span, never one per value.

Shapes: S steps of a span.
"""

import time

import torch
from torch import Tensor

from esper.events.fields import float32_column
from esper.events.kinds.telemetry import StepColumns, StepsMeasured


class Span:
    """Losses and gradient norms of the steps since the last record, still on the device, with their latencies."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._latency_ms: list[float] = []
        self._data_wait_ms: list[float] = []
        self.samples: list[int] = []
        self._started = self._ended = time.perf_counter()

    def add(self, step: int, loss: Tensor, norm: Tensor, *, samples: int, latency_s: float, data_wait_s: float) -> None:
        """Keeps one step; `loss` and `norm` are 0-dim and detached."""
        self._steps.append(step)
        self._losses.append(loss)
        self._norms.append(norm)
        self.samples.append(samples)
        self._latency_ms.append(latency_s * 1e3)
        self._data_wait_ms.append(data_wait_s * 1e3)
        self._ended = time.perf_counter()

    def __len__(self) -> int:
        return len(self._steps)

    def values(self) -> tuple[list[float], list[float]]:
        """Losses and gradient norms as floats. Waits for the device."""
        losses_S = torch.stack(self._losses).double()
        norms_S = torch.stack(self._norms).to(losses_S)
        both = torch.stack([losses_S, norms_S])
        losses, norms = both.cpu().tolist()
        return losses, norms

    @property
    def first_step(self) -> int:
        """The first step of the span."""
        return self._steps[0]

    def record(
        self,
        losses: list[float],
        norms: list[float],
        *,
        learning_rates: tuple[float, ...],
        live_seeds: int,
        last_adaptation_step: int | None,
    ) -> StepsMeasured:
        """The event for this span. Losses are float64, gradient norms float32, latencies in milliseconds."""
        return StepsMeasured(
            steps=StepColumns(
                step=tuple(self._steps),
                loss=tuple(losses),
                gradient_norm=float32_column(norms),
                step_latency_ms=float32_column(self._latency_ms),
                data_wait_ms=float32_column(self._data_wait_ms),
            ),
            metrics={},
            learning_rates=learning_rates,
            loss_scale=None,
            skipped_steps=0,
            live_seeds=live_seeds,
            last_adaptation_step=last_adaptation_step,
            samples_per_s=sum(self.samples) / (self._ended - self._started),
            memory_bytes=None,
        )
