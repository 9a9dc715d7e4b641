"""Objectives of a training, over batches of any shape.

A batch is a tensor, or a tuple, list or dict of batches; its size is the first dimension of the first tensor in it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from esper.errors import DataError, SettingsError

Batch = object
Batches = Iterable[Batch]
Loss = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]
"""Losses of a model on a batch, [N] of its samples or a scalar, their mean; and metrics by name, likewise."""


@dataclass(frozen=True)
class Supervised:
    """`loss(model(inputs), targets)` on batches of (inputs, targets); `metrics` take the same (output, target)."""

    loss: Loss
    metrics: Mapping[str, Loss] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "loss" in self.metrics:
            raise SettingsError("expected metrics of other names than 'loss', which is the loss's own")

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and every metric of one output."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            found = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, tuple | list | dict) else type(batch).__name__
            raise DataError(f"expected batches of (inputs, targets) with loss=, got a {found}: use objective= for other batches")
        inputs, targets = batch
        output = model(inputs)
        return self.loss(output, targets), {name: metric(output, targets) for name, metric in self.metrics.items()}


def without_metrics(loss: Callable[[nn.Module, Batch], Tensor]) -> Objective:
    """The objective `loss(model, batch)` of the user's own."""
    return lambda model, batch: (loss(model, batch), {})


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with every tensor on `device`; named tuples keep their names."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple | list):
        moved = [to_device(part, device) for part in batch]
        return getattr(batch, "_make", tuple)(moved) if isinstance(batch, tuple) else moved
    if isinstance(batch, Mapping):
        return {name: to_device(part, device) for name, part in batch.items()}
    return batch


def size_of(batch: Batch) -> int:
    """Number of samples in the batch. Raises DataError for none, or without a tensor with a first dimension."""
    tensor = _first_tensor(batch)
    if tensor is None or tensor.dim() == 0:
        raise DataError(f"expected a batch with a tensor whose first dimension are the samples, got a {type(batch).__name__}")
    if len(tensor) == 0:
        raise DataError(f"expected a batch with at least one sample, got {type(batch).__name__} with none")
    return len(tensor)


def _first_tensor(batch: Batch) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((tensor for part in parts if (tensor := _first_tensor(part)) is not None), None)
